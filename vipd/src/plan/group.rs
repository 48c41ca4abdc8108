//! Services with `role = "replica"`: new connections are spread over the healthy replicas.
//!
//! Such a service has a line in ACTIVE like every other, in state `Group`: it names an entry of
//! GROUPS, a list of further lines, one for each node. Those *member lines* have indexes that no
//! service has ([`MEMBERS`]); a connection belongs to the line of its node, so it is that line
//! which keeps or ends it:
//!
//! * a node that is fit no longer (its link to the master is down, it was promoted) leaves the list
//!   and gets no new connection; its line stays up, and its connections live on;
//! * a node that died goes down with a higher generation: its clients are reset when they next say
//!   something;
//! * while no replica is fit the master is the list; while that is dead as well (a failover), the
//!   replicas that it left behind are.
//!
//! CONFIRMED says whose a member line is, so a line keeps its index for as long as its node is
//! named, over restarts too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Range;

use vipd_common::maps::{
    Active, Backend, Confirmed, Group, MAX_GROUPS, MAX_LINES, MAX_SERVICES, ServiceState,
};

use super::actual::names_a_slot;
use super::slots::Slots;
use super::{Actual, Place, Problem, Step, Unreachable, Wanted};
use crate::config::ServiceRole;
use crate::model::{mapped_ip, unmapped_ip};

/// Indexes of member lines.
const MEMBERS: Range<u32> = MAX_SERVICES..MAX_LINES;
/// `Confirmed::valid` of a member line, whose `epoch` is then the index of its service, and address
/// and port are its node's.
const MEMBER: u32 = 2;

/// How a node of a master is, as a reader's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Not heard of yet: it stays as it is.
    Unknown,
    /// A replica whose link to its master is up.
    Fit,
    /// A replica that has lost its master: what it has is of that moment.
    Stale,
    /// It is there, or was a moment ago, but is no replica to read from.
    Unfit,
    /// It has not answered for some time.
    Dead,
}

/// The nodes of one master, as readers'.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replicas {
    /// Sentinels have told which nodes there are. Until then, whoever is not named stays as it is.
    pub known: bool,
    /// Of each node that was heard of.
    pub health: BTreeMap<SocketAddr, Health>,
}

impl Replicas {
    fn of(&self, node: SocketAddr, named: bool) -> Health {
        match self.health.get(&node) {
            _ if self.known && !named => Health::Dead,
            Some(health) => *health,
            None => Health::Unknown,
        }
    }
}

/// What ACTIVE, GROUPS and CONFIRMED must be for all services of this kind.
pub(super) struct Groups {
    /// By the service's index.
    services: HashMap<u32, Active>,
    lists: BTreeMap<u32, Group>,
    members: Vec<Member>,
    /// Member lines that nobody needs any more.
    freed: Vec<(u32, Active)>,
}

struct Member {
    line: u32,
    owner: Confirmed,
    active: Active,
}

impl Groups {
    pub(super) fn new(
        places: &[Place<'_>],
        wanted: &Wanted<'_>,
        slots: &Slots,
        actual: &Actual,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut groups = Self {
            services: HashMap::new(),
            lists: BTreeMap::new(),
            members: Vec::new(),
            freed: Vec::new(),
        };
        let present = members(actual);
        let mut free = Free::new(actual, &present);
        let is_group = |place: &&Place<'_>| place.route.service.role == ServiceRole::Replica;
        for place in places.iter().filter(is_group) {
            groups.add(place, wanted, slots, actual, &present, &mut free, problems);
        }
        let needed: BTreeSet<u32> = groups.members.iter().map(|member| member.line).collect();
        groups.freed = present
            .values()
            .filter(|line| !needed.contains(line))
            .map(|line| (*line, ended(actual.active(*line))))
            .collect();
        groups
    }

    /// ACTIVE of a service of this kind; none for others.
    pub(super) fn active(&self, service: u32) -> Option<Active> {
        self.services.get(&service).copied()
    }

    /// What members that stay as they are reach their nodes by, although the way is unknown now.
    pub(super) fn kept(&self, actual: &Actual) -> impl Iterator<Item = Backend> {
        let stays = |it: &&Member| {
            it.active.state() == ServiceState::Up && it.active == actual.active(it.line)
        };
        let slots = self.members.iter().filter(stays).map(|it| it.active.slot());
        slots.filter_map(|slot| actual.slots.get(&slot).copied())
    }

    /// Step 1: lines that carry nothing any more.
    pub(super) fn withdraw(&self, steps: &mut Vec<Step>, actual: &Actual) {
        let members = self.members.iter().map(|member| (member.line, member.active));
        for (service, active) in members.chain(self.freed.iter().copied()) {
            if active.state() == ServiceState::Down && active != actual.active(service) {
                steps.push(Step::SetActive { service, active });
            }
        }
    }

    /// Step 2: whose each line is.
    pub(super) fn prepare(&self, steps: &mut Vec<Step>, actual: &Actual) {
        for member in &self.members {
            if actual.confirmed(member.line) != member.owner {
                let confirmed = member.owner;
                steps.push(Step::SetConfirmed { service: member.line, confirmed });
            }
        }
    }

    /// Step 3: the lines, then the lists that name them; the services that name the lists follow.
    pub(super) fn commit(&self, steps: &mut Vec<Step>, actual: &Actual) {
        for &Member { line: service, active, .. } in &self.members {
            if active.state() == ServiceState::Up && active != actual.active(service) {
                steps.push(Step::SetActive { service, active });
            }
        }
        for (&group, &members) in &self.lists {
            if actual.groups.get(&group) != Some(&members) {
                steps.push(Step::PutGroup { group, members });
            }
        }
    }

    /// Step 5: what nobody needs any more.
    pub(super) fn clean_up(&self, steps: &mut Vec<Step>, actual: &Actual) {
        for &group in actual.groups.keys() {
            if !self.lists.contains_key(&group) {
                steps.push(Step::PutGroup { group, members: Group::EMPTY });
            }
        }
        for &(service, _) in &self.freed {
            steps.push(Step::SetConfirmed { service, confirmed: Confirmed::default() });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all beside it")]
    fn add(
        &mut self,
        place: &Place<'_>,
        wanted: &Wanted<'_>,
        slots: &Slots,
        actual: &Actual,
        present: &BTreeMap<(u32, SocketAddr), u32>,
        free: &mut Free,
        problems: &mut Vec<Problem>,
    ) {
        let service = place.route.vip.key(place.route.service);
        let before = actual.active(place.index);
        let listed = listed(actual, before);
        let none = Replicas::default();
        let replicas = wanted.replicas.get(place.route.service.master.0).unwrap_or(&none);
        let target = place.target.map(|(node, _)| node);

        let named = wanted.nodes.get(place.route.service.master.0);
        let named = named.into_iter().flatten().copied().chain(target);
        let backends: BTreeMap<SocketAddr, Result<Backend, Unreachable>> =
            named.map(|node| (node, place.route.to(node))).collect();
        let adopted = present
            .range((place.index, FIRST)..)
            .map_while(|((owner, node), line)| (*owner == place.index).then_some((*node, *line)));
        let adopted: BTreeMap<SocketAddr, u32> = adopted.collect();
        let nodes: BTreeSet<SocketAddr> = adopted.keys().chain(backends.keys()).copied().collect();
        let candidates: Vec<Candidate> = nodes
            .into_iter()
            .map(|node| {
                let line = adopted.get(&node).copied();
                Candidate {
                    node,
                    line,
                    health: replicas.of(node, backends.contains_key(&node)),
                    is_listed: line.is_some_and(|line| listed.contains(&line)),
                    backend: backends.get(&node).copied(),
                }
            })
            .collect();

        let fit = |it: &&Candidate| match it.health {
            _ if target == Some(it.node) => false,
            Health::Fit => true,
            Health::Unknown => it.is_listed,
            Health::Stale | Health::Unfit | Health::Dead => false,
        };
        let master = |it: &&Candidate| target == Some(it.node) && it.health != Health::Dead;
        let stale = |it: &&Candidate| it.health == Health::Stale;
        let those = |choice: &dyn Fn(&&Candidate) -> bool| -> BTreeSet<SocketAddr> {
            let up = |it: &&Candidate| it.active(true, slots, actual).state() == ServiceState::Up;
            candidates.iter().filter(choice).filter(up).map(|it| it.node).collect()
        };
        let choices: [&dyn Fn(&&Candidate) -> bool; 3] = [&fit, &master, &stale];
        let found = choices.into_iter().map(those).find(|chosen| !chosen.is_empty());
        let mut chosen = found.unwrap_or_else(|| target.into_iter().collect());
        if chosen.len() > Group::MAX {
            problems.push(Problem::GroupFull { service });
            chosen = chosen.into_iter().take(Group::MAX).collect();
        }

        let mut lines = Vec::new();
        for it in &candidates {
            let is_chosen = chosen.contains(&it.node);
            let active = it.active(is_chosen, slots, actual);
            let is_up = active.state() == ServiceState::Up;
            // A line that is down is kept as long as its node may come back.
            let is_kept = it.line.is_some() && (it.health != Health::Dead || it.backend.is_some());
            if !is_up && !is_kept {
                continue;
            }
            let Some(line) = it.line.or_else(|| free.line()) else {
                problems.push(Problem::NoLine { service, node: it.node });
                continue;
            };
            // A line that was another's goes on in a generation of its own.
            let own = Candidate { line: Some(line), ..*it };
            let active = own.active(is_chosen, slots, actual);
            if is_up && is_chosen {
                // It is below MAX_LINES.
                lines.push(line as u16);
            }
            self.members.push(Member { line, owner: owner(place.index, it.node), active });
        }

        let down = match before.state() {
            ServiceState::Down => before,
            ServiceState::Up | ServiceState::Parked | ServiceState::Group => {
                Active::new(ServiceState::Down, before.slot(), before.generation())
            }
        };
        let group = match before.state() {
            _ if lines.is_empty() => None,
            ServiceState::Group => Some((before.slot(), before.generation())),
            // Connections from when it was no group are not its own.
            ServiceState::Down | ServiceState::Up | ServiceState::Parked => {
                let generation = before.generation().wrapping_add(1).max(1);
                let group = free.group();
                if group.is_none() {
                    problems.push(Problem::NoGroup { service });
                }
                group.map(|group| (group, generation))
            }
        };
        let active = match group {
            Some((group, generation)) => {
                self.lists.insert(group.into(), list(&lines));
                Active::new(ServiceState::Group, group, generation)
            }
            None => down,
        };
        self.services.insert(place.index, active);
    }
}

/// The smallest address, before every other in a range.
const FIRST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// A node that has a member line, or may get one.
#[derive(Clone, Copy)]
struct Candidate {
    node: SocketAddr,
    line: Option<u32>,
    health: Health,
    /// In the list as it is now.
    is_listed: bool,
    /// None if nobody names the node.
    backend: Option<Result<Backend, Unreachable>>,
}

impl Candidate {
    /// What its line must be.
    fn active(&self, chosen: bool, slots: &Slots, actual: &Actual) -> Active {
        let active = self.line.map(|line| actual.active(line)).unwrap_or_default();
        let was_up = active.state() == ServiceState::Up;
        if self.health == Health::Dead || !(chosen || was_up) {
            return ended(active);
        }
        let present = match names_a_slot(active) {
            true => actual.slots.get(&active.slot()),
            false => None,
        };
        match self.backend {
            Some(Ok(backend)) => {
                let stays = present == Some(&backend);
                let slot = if stays { Some(active.slot()) } else { slots.of(&backend) };
                let Some(slot) = slot else { return ended(active) };
                let tuples = |it: &Backend| (it.addr, it.port, it.source);
                let same_tuples = present.is_some_and(|it| tuples(it) == tuples(&backend));
                // Of a line that was down no connection lives.
                let generation = match was_up && !same_tuples {
                    true => active.generation().wrapping_add(1),
                    false => active.generation(),
                };
                Active::new(ServiceState::Up, slot, generation.max(1))
            }
            // For the moment; the line knows the way.
            Some(Err(Unreachable::NextHopUnknown)) | None if was_up => active,
            Some(Err(_)) | None => ended(active),
        }
    }
}

/// A line after the end of its connections.
fn ended(active: Active) -> Active {
    match active.state() {
        ServiceState::Down => active,
        ServiceState::Up | ServiceState::Parked | ServiceState::Group => {
            let generation = active.generation().wrapping_add(1).max(1);
            Active::new(ServiceState::Down, active.slot(), generation)
        }
    }
}

/// The list's whole length is filled: whoever reads it while it is written finds a member.
fn list(lines: &[u16]) -> Group {
    let mut members = [0; Group::MAX];
    for (member, line) in members.iter_mut().zip(lines.iter().cycle()) {
        *member = *line;
    }
    Group { count: lines.len() as u32, members }
}

fn listed(actual: &Actual, active: Active) -> BTreeSet<u32> {
    if active.state() != ServiceState::Group {
        return BTreeSet::new();
    }
    let group = actual.groups.get(&active.slot().into());
    group.into_iter().flat_map(|it| it.members.iter().map(|line| (*line).into())).collect()
}

fn owner(service: u32, node: SocketAddr) -> Confirmed {
    Confirmed {
        epoch: service.into(),
        addr: mapped_ip(node.ip()),
        master: 0,
        port: node.port().into(),
        valid: MEMBER,
        ..Confirmed::default()
    }
}

/// Every member line, by the service's index and the node.
fn members(actual: &Actual) -> BTreeMap<(u32, SocketAddr), u32> {
    let member = |(line, it): (&u32, &Confirmed)| {
        let service = u32::try_from(it.epoch).ok().filter(|_| it.valid == MEMBER)?;
        let node = SocketAddr::new(unmapped_ip(it.addr), u16::try_from(it.port).ok()?);
        Some(((service, node), *line))
    };
    actual.confirmed.range(MEMBERS).filter_map(member).collect()
}

/// A member line as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberLine {
    /// Its node.
    pub node: SocketAddr,
    /// Whether it carries connections.
    pub is_up: bool,
    /// Whether new ones come to it.
    pub is_listed: bool,
}

impl Actual {
    /// The member lines of the service with this index, if it has role `replica`.
    pub fn members(&self, service: u32) -> impl Iterator<Item = MemberLine> {
        let listed = listed(self, self.active(service));
        let own = members(self).into_iter().filter(move |((owner, _), _)| *owner == service);
        own.map(move |((_, node), line)| MemberLine {
            node,
            is_up: self.active(line).state() == ServiceState::Up,
            is_listed: listed.contains(&line),
        })
    }
}

/// Indexes that nobody has.
struct Free {
    lines: Box<dyn Iterator<Item = u32>>,
    groups: Box<dyn Iterator<Item = u16>>,
}

impl Free {
    fn new(actual: &Actual, present: &BTreeMap<(u32, SocketAddr), u32>) -> Self {
        let lines: BTreeSet<u32> = present.values().copied().collect();
        let grouped = actual.active.values().filter(|it| it.state() == ServiceState::Group);
        let groups: BTreeSet<u16> = grouped.map(|it| it.slot()).collect();
        Self {
            lines: Box::new(MEMBERS.filter(move |line| !lines.contains(line))),
            groups: Box::new((0..MAX_GROUPS as u16).filter(move |group| !groups.contains(group))),
        }
    }

    fn line(&mut self) -> Option<u32> {
        self.lines.next()
    }

    fn group(&mut self) -> Option<u16> {
        self.groups.next()
    }
}
