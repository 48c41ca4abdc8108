//! Turns what should be into steps: the difference between what the maps hold and what
//! [`crate::failover`] wants. Pure; run after every event and once in a while, so that whatever an
//! event missed is repaired.
//!
//! The order of the steps is the safety argument:
//!
//! 1. un-announce what goes away, then take services down or park them;
//! 2. prepare: interfaces, addresses, slots, services. Nothing of it carries a packet yet, and no
//!    slot that ACTIVE names is written;
//! 3. commit: CONFIRMED, then ACTIVE. A daemon that dies between the two finds the newer master in
//!    CONFIRMED and finishes the flip;
//! 4. announce what is up;
//! 5. remove what nothing uses any more.
//!
//! A failover to a prepared replica is step 3 alone.

mod actual;
mod addresses;
mod backend;
mod group;
mod holding;
mod problem;
#[cfg(test)]
mod proptests;
mod slots;
#[cfg(test)]
mod tests;
mod topology;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use vipd_common::maps::{
    Active, Address, Backend, Confirmed, ForwardMode, Interface, MAX_SERVICES, ServiceState,
};

pub use self::actual::{Actual, Step};
pub use self::group::{Health, Replicas};
pub use self::holding::OwnAddresses;
pub use self::problem::{Problem, Unreachable};
pub use self::topology::{Service, Topology, Vip};

use self::addresses::{addresses, kept};
use self::backend::Route;
use self::group::Groups;
use self::slots::Slots;
use crate::config::Mode;
use crate::failover::Desired;
use crate::model::NextHop;
use crate::netdev::HostAddress;

/// What should be, from every part of the daemon.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// By `MasterId`: [`crate::failover::Failover::desired`].
    pub desired: &'a [Desired],
    /// By `MasterId`: nodes that may be promoted, whose slots are written beforehand. The present
    /// target may be among them or not.
    pub nodes: &'a [Vec<SocketAddr>],
    /// By `MasterId`: how they are as readers', for services with `role = "replica"`.
    pub replicas: &'a [Replicas],
    /// How each node is reached now. One that isn't there isn't known (yet).
    pub next_hops: &'a HashMap<IpAddr, NextHop>,
    /// Interfaces the program is attached to, by index.
    pub interfaces: &'a BTreeMap<u32, Interface>,
    /// The addresses of this host, VIPs that it holds included.
    pub own: &'a OwnAddresses,
    /// VIPs that nobody else on the link holds (RFC 5227 probe passed).
    pub may_announce: &'a BTreeSet<IpAddr>,
}

/// What [`diff`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// VIPs that become addresses of this host, before the first step: what the program lets pass
    /// from then on, the stack takes.
    pub hold: Vec<HostAddress>,
    /// To be applied in this order. Empty if the maps are as they should be.
    pub steps: Vec<Step>,
    /// VIPs that are no addresses of this host any more, after the last step: nobody is told to
    /// come here by then.
    pub release: Vec<HostAddress>,
    /// Why something isn't as it should be, for status; the same ones until they are solved.
    pub problems: Vec<Problem>,
}

/// The steps from `actual` to `wanted`. After all of them are applied, there are none left.
///
/// * A service keeps its index for as long as its key is configured, across restarts.
/// * The generation rises exactly when the (address, port) that a service points at changes, or
///   NAT's source address towards it, which its connections can't survive; a new MAC or route is a
///   new slot in the same generation.
/// * A target that can't be reached on the link layer takes its service down rather than leave it
///   with the old master. Only when the same node's MAC is momentarily unknown, ACTIVE stays.
pub fn diff(topology: &Topology, wanted: &Wanted<'_>, actual: &Actual) -> Plan {
    let mut problems = Vec::new();
    let places = place(topology, wanted, actual, &mut problems);
    // Targets first: should slots run out, replicas go without.
    let backends: Vec<Backend> = places
        .iter()
        .filter_map(|place| place.target.and_then(|(_, backend)| backend.ok()))
        .chain(places.iter().flat_map(|place| place.replicas.iter().map(|(_, backend)| *backend)))
        .collect();
    let slots = Slots::assign(actual, &backends);
    problems.extend(places.iter().flat_map(|place| place.without_slot(&slots)));
    let groups = Groups::new(&places, wanted, &slots, actual, &mut problems);
    let lines: Vec<Line<'_>> = places
        .into_iter()
        .map(|place| {
            let active = groups.active(place.index);
            Line { active: active.unwrap_or_else(|| decide(&place, &slots, actual)), place }
        })
        .collect();
    let addresses = addresses(&lines, &groups, topology, wanted, actual);

    let mut steps = Vec::new();
    withdraw(&mut steps, &lines, &addresses, actual);
    groups.withdraw(&mut steps, actual);
    prepare(&mut steps, wanted, &lines, &addresses, &slots, actual);
    groups.prepare(&mut steps, actual);
    confirm(&mut steps, &lines, actual);
    groups.commit(&mut steps, actual);
    commit(&mut steps, &lines, actual);
    announce(&mut steps, &addresses, actual);
    groups.clean_up(&mut steps, actual);
    clean_up(&mut steps, wanted, &lines, &addresses, actual);
    let held = holding::wanted(&lines, topology, wanted);
    Plan {
        hold: holding::missing(&held, wanted.own),
        steps,
        release: holding::surplus(&held, &lines, topology, wanted.own, actual),
        problems,
    }
}

/// A service that has an index.
struct Place<'a> {
    route: Route<'a>,
    key: SocketAddr,
    index: u32,
    /// Not in SERVICES yet.
    is_new: bool,
    /// The node that is served, and its slot's content.
    target: Option<(SocketAddr, Result<Backend, Unreachable>)>,
    /// What a restart goes on from.
    confirmed: Option<Confirmed>,
    parked: bool,
    announce: bool,
    /// The slots to be written beforehand.
    replicas: Vec<(SocketAddr, Backend)>,
}

impl Place<'_> {
    /// Reports the nodes for which no slot was left.
    fn without_slot(&self, slots: &Slots) -> impl Iterator<Item = Problem> {
        let target = self.target.and_then(|(node, backend)| Some((node, backend.ok()?)));
        let nodes = target.into_iter().chain(self.replicas.iter().copied());
        let service = self.route.vip.key(self.route.service);
        nodes
            .filter(|(_, backend)| slots.of(backend).is_none())
            .map(move |(node, _)| Problem::NoSlot { service, node })
    }
}

/// A service, and what ACTIVE must be for it.
struct Line<'a> {
    place: Place<'a>,
    active: Active,
}

/// What a VIP shows to its link: taken away first, given last.
const SHOWN: u16 = Address::ANNOUNCE | Address::ECHO;

fn place<'a>(
    topology: &'a Topology,
    wanted: &'a Wanted<'a>,
    actual: &Actual,
    problems: &mut Vec<Problem>,
) -> Vec<Place<'a>> {
    let mut used = vec![false; MAX_SERVICES as usize];
    for index in actual.services.values() {
        if let Some(used) = used.get_mut(*index as usize) {
            *used = true;
        }
    }
    let mut free = (0..).zip(used).filter_map(|(index, used)| (!used).then_some(index));
    let mut places = Vec::new();
    for (vip, service) in topology.services() {
        let key = vip.key(service);
        let known = actual.services.get(&key).copied();
        let Some(index) = known.or_else(|| free.next()) else {
            problems.push(Problem::NoIndex { service: vip.key(service) });
            continue;
        };
        let route = Route { topology, wanted, vip, service };
        let desired = wanted.desired.get(service.master.0);
        let target = desired.and_then(Desired::serves);
        let name = topology.masters.get(service.master.0).copied().unwrap_or_default();
        let mut resolve = |node, master| {
            let backend = route.to(node);
            if let Err(why) = backend {
                let service = vip.key(service);
                problems.push(Problem::Unreachable { service, node, master, why });
            }
            backend
        };
        let nodes = wanted.nodes.get(service.master.0).map_or(&[][..], Vec::as_slice);
        places.push(Place {
            route,
            key,
            index,
            is_new: known.is_none(),
            target: target.map(|node| (node, resolve(node, true))),
            confirmed: desired.and_then(|it| topology::confirmed(name, it)),
            parked: desired.is_some_and(|desired| desired.parked),
            announce: desired.is_some_and(|desired| desired.announce),
            replicas: nodes
                .iter()
                .filter(|node| target != Some(**node))
                .filter_map(|&node| Some((node, resolve(node, false).ok()?)))
                .collect(),
        });
    }
    places
}

/// What ACTIVE must be.
fn decide(place: &Place<'_>, slots: &Slots, actual: &Actual) -> Active {
    let active = actual.active(place.index);
    let present = actual.backend(place.index);
    let down = match active.state() {
        ServiceState::Down => active,
        // Slot and generation stay: what comes next depends on which node this was.
        ServiceState::Up | ServiceState::Parked | ServiceState::Group => {
            Active::new(ServiceState::Down, active.slot(), active.generation())
        }
    };
    let Some((target, backend)) = place.target else { return down };
    if place.parked {
        // Slot and generation stay: whoever it was is who it is again if nothing comes of it.
        let fits = present.is_some_and(|it| place.route.may_be(it));
        return match active.state() {
            ServiceState::Up | ServiceState::Parked if fits => {
                Active::new(ServiceState::Parked, active.slot(), active.generation())
            }
            _ => down,
        };
    }
    let identity = place.route.identity(target);
    let same_node = present.is_some_and(|present| (present.addr, present.port) == identity);

    match backend {
        Ok(backend) => {
            // A second slot with the same content is no reason to move.
            let stays = present == Some(&backend);
            let slot = if stays { Some(active.slot()) } else { slots.of(&backend) };
            let Some(slot) = slot else { return down };
            let generation = active.generation();
            // Connections live on as long as their tuple towards the node means the same.
            let same_tuples = same_node && present.is_some_and(|it| it.source == backend.source);
            let generation =
                if same_tuples { generation } else { generation.wrapping_add(1).max(1) };
            Active::new(ServiceState::Up, slot, generation)
        }
        Err(Unreachable::NextHopUnknown)
            if same_node
                && carries(active)
                // Under another configuration the VIP may have had another mode.
                && present.is_some_and(|it| it.mode == place.route.mode_to(target) as u32) =>
        {
            Active::new(ServiceState::Up, active.slot(), active.generation())
        }
        Err(
            Unreachable::NextHopUnknown
            | Unreachable::OtherFamily
            | Unreachable::NotAttached { .. }
            | Unreachable::ThroughRouter { .. }
            | Unreachable::Port { .. },
        ) => down,
    }
}

/// Whether it stands for a master whose packets it carries, or holds back for the moment.
fn carries(active: Active) -> bool {
    matches!(active.state(), ServiceState::Up | ServiceState::Parked)
}

impl Line<'_> {
    /// Whether it carries packets, or holds them back for the moment.
    fn is_up(&self) -> bool {
        carries(self.active) || self.active.state() == ServiceState::Group
    }

    /// Whether its VIP is to be answered for on its account. In mode `host` only the host that has
    /// the master does.
    fn may_announce(&self, wanted: &Wanted<'_>) -> bool {
        let vip = self.place.route.vip;
        self.is_up()
            && self.place.announce
            && wanted.may_announce.contains(&vip.addr)
            && (vip.mode != Mode::Host || self.is_local())
    }

    /// Whether its master is on this host.
    fn is_local(&self) -> bool {
        let backend = self.place.target.and_then(|(_, backend)| backend.ok());
        backend.is_some_and(|backend| backend.mode == ForwardMode::Local as u32)
    }

    /// Every backend this service uses now or may use at the next failover.
    fn backends(&self, actual: &Actual) -> impl Iterator<Item = Backend> {
        let target = match self.place.target {
            Some((_, Ok(backend))) => Some(backend),
            // Its MAC is unknown for the moment and ACTIVE stays.
            Some((_, Err(_))) if carries(self.active) => actual.backend(self.place.index).copied(),
            Some((_, Err(_))) | None => None,
        };
        target.into_iter().chain(self.place.replicas.iter().map(|(_, backend)| *backend))
    }
}

/// Step 1: nobody is told to come here any more, then what is left gets nowhere.
fn withdraw(
    steps: &mut Vec<Step>,
    lines: &[Line<'_>],
    addresses: &BTreeMap<IpAddr, Address>,
    actual: &Actual,
) {
    for (&addr, present) in &actual.addresses {
        match addresses.get(&addr) {
            Some(wanted) => {
                let stays = kept(Some(present), wanted) & wanted.flags;
                if present.flags & SHOWN != stays {
                    let flags = present.flags & !SHOWN | stays;
                    steps.push(Step::PutAddress { addr, address: Address { flags, ..*present } });
                }
            }
            None if present.has(Address::VIRTUAL) => steps.push(Step::RemoveAddress { addr }),
            None => {}
        }
    }
    for line in lines {
        let (service, active) = (line.place.index, line.active);
        let ends = matches!(active.state(), ServiceState::Down | ServiceState::Parked);
        if ends && active != actual.active(service) {
            steps.push(Step::SetActive { service, active });
        }
    }
    for (_, service) in removed(lines, actual) {
        let active = actual.active(service);
        match active.state() {
            ServiceState::Down => {}
            ServiceState::Up | ServiceState::Parked | ServiceState::Group => {
                let active = Active::new(ServiceState::Down, active.slot(), active.generation());
                steps.push(Step::SetActive { service, active });
            }
        }
    }
}

/// Step 2: everything that is slow or comes in several parts.
fn prepare(
    steps: &mut Vec<Step>,
    wanted: &Wanted<'_>,
    lines: &[Line<'_>],
    addresses: &BTreeMap<IpAddr, Address>,
    slots: &Slots,
    actual: &Actual,
) {
    for (&ifindex, &interface) in wanted.interfaces {
        if actual.interfaces.get(&ifindex) != Some(&interface) {
            steps.push(Step::PutInterface { ifindex, interface });
        }
    }
    for (&addr, wanted) in addresses {
        let present = actual.addresses.get(&addr);
        let is_other = |present: &Address| {
            (present.flags ^ wanted.flags) & !SHOWN != 0 || present.service != wanted.service
        };
        if present.is_none_or(is_other) {
            let flags = wanted.flags & (kept(present, wanted) | !SHOWN);
            steps.push(Step::PutAddress { addr, address: Address { flags, ..*wanted } });
        }
    }
    for &(slot, backend) in &slots.writes {
        steps.push(Step::WriteSlot { slot, backend });
    }
    for line in lines {
        let Place { key, index, is_new, .. } = line.place;
        if is_new {
            // What an earlier owner of the index left must not be taken for this one's.
            if actual.confirmed(index) != Confirmed::default() {
                let confirmed = Confirmed::default();
                steps.push(Step::SetConfirmed { service: index, confirmed });
            }
            steps.push(Step::PutService { key, index });
        }
    }
}

/// Step 3: what is going to be true, then the cutover.
fn confirm(steps: &mut Vec<Step>, lines: &[Line<'_>], actual: &Actual) {
    for line in lines {
        let service = line.place.index;
        let Some(confirmed) = line.place.confirmed else { continue };
        // A new service's was erased before.
        if line.place.is_new || actual.confirmed(service) != confirmed {
            steps.push(Step::SetConfirmed { service, confirmed });
        }
    }
}

fn commit(steps: &mut Vec<Step>, lines: &[Line<'_>], actual: &Actual) {
    for line in lines {
        let (service, active) = (line.place.index, line.active);
        let is_up = matches!(active.state(), ServiceState::Up | ServiceState::Group);
        if is_up && active != actual.active(service) {
            steps.push(Step::SetActive { service, active });
        }
    }
}

/// Step 4.
fn announce(steps: &mut Vec<Step>, addresses: &BTreeMap<IpAddr, Address>, actual: &Actual) {
    for (&addr, &address) in addresses {
        let shown = kept(actual.addresses.get(&addr), &address);
        if address.has(SHOWN & !shown) {
            steps.push(Step::PutAddress { addr, address });
        }
    }
}

/// Step 5: what nothing names any more.
fn clean_up(
    steps: &mut Vec<Step>,
    wanted: &Wanted<'_>,
    lines: &[Line<'_>],
    addresses: &BTreeMap<IpAddr, Address>,
    actual: &Actual,
) {
    for (key, service) in removed(lines, actual) {
        if actual.confirmed(service) != Confirmed::default() {
            steps.push(Step::SetConfirmed { service, confirmed: Confirmed::default() });
        }
        steps.push(Step::RemoveService { key });
    }
    for (&addr, present) in &actual.addresses {
        if !addresses.contains_key(&addr) && !present.has(Address::VIRTUAL) {
            steps.push(Step::RemoveAddress { addr });
        }
    }
    for &ifindex in actual.interfaces.keys() {
        if !wanted.interfaces.contains_key(&ifindex) {
            steps.push(Step::RemoveInterface { ifindex });
        }
    }
}

/// Services in the maps that are not configured any more, with their indexes.
fn removed(lines: &[Line<'_>], actual: &Actual) -> Vec<(SocketAddr, u32)> {
    let mut configured = vec![false; MAX_SERVICES as usize];
    for line in lines.iter().filter(|line| !line.place.is_new) {
        if let Some(configured) = configured.get_mut(line.place.index as usize) {
            *configured = true;
        }
    }
    let is_configured = |index: u32| configured.get(index as usize).copied().unwrap_or_default();
    let services = actual.services.iter().map(|(&key, &index)| (key, index));
    services.filter(|(_, index)| !is_configured(*index)).collect()
}
