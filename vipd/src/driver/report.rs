//! From what others report to the core's events, and from what the daemon holds to its status.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::{info, warn};
use vipd_common::maps::{Address, ServiceState as Kernel};

use super::Driver;
use super::reconcile::Told;
use crate::clock::Monotonic;
use crate::failover::{Event, Role, State, Target};
use crate::model::MasterId;
use crate::model::unmapped_ip;
use crate::plan::{Service, Vip};
use crate::redis_node;
use crate::sentinel::Report;
use crate::status::{self, ServiceState, Status};
use crate::timeline::Sighting;

impl Driver {
    /// A Sentinel said something.
    pub(super) fn sentinel_said(&mut self, report: Report) {
        if self.knowledge.sentinel_said(&report) {
            self.nodes_changed();
        }
        self.sentinels_changed();
        let now = Monotonic::now();
        match report {
            Report::Up { sentinel, .. } => {
                info!(sentinel = self.knowledge.endpoint(sentinel), "connected");
            }
            Report::Claim { sentinel, master, addr, epoch, asked } => {
                let target = Target { addr, epoch };
                self.tell(now, Event::Claim { sentinel, master, target, asked });
            }
            Report::UnknownMaster { sentinel, master } => {
                self.tell(now, Event::UnknownMaster { sentinel, master });
            }
            Report::Lost { sentinel, error } => {
                warn!(sentinel = self.knowledge.endpoint(sentinel), "lost: {error}");
                self.tell(now, Event::SentinelLost { sentinel });
            }
            Report::Forgotten { sentinel } => self.tell(now, Event::SentinelLost { sentinel }),
            Report::Seen { sentinel, master, what, at } => {
                info!(
                    sentinel = self.knowledge.endpoint(sentinel),
                    master = self.knowledge.name(master),
                    "{what:?}"
                );
                self.noticed(master, what);
                self.tell(at, Event::Seen { sentinel, master, what: self.believed(master, what) });
            }
            Report::Unresolvable { sentinel, master, error } => warn!(
                sentinel = self.knowledge.endpoint(sentinel),
                master = self.knowledge.name(master),
                "names a master that has no address: {error}"
            ),
            Report::Tilt { sentinel, tilt } => {
                warn!(sentinel = self.knowledge.endpoint(sentinel), tilt, "TILT");
            }
            Report::Nodes { .. } => self.reconcile(),
            Report::View { .. } | Report::Found { .. } => {}
        }
    }

    /// A Redis node said something.
    pub(super) fn node_said(&mut self, report: redis_node::Report) {
        let before = self.knowledge.health(report.node, report.at);
        let lineage = self.knowledge.lineage(&report);
        self.knowledge.node_said(&report);
        if self.knowledge.health(report.node, report.at) != before && self.topology.has_readers() {
            self.reconcile();
        }
        let role = match &report.answer {
            Ok(redis_node::Role::Master { .. }) => Role::Master(lineage),
            Ok(redis_node::Role::Replica { .. } | redis_node::Role::Sentinel) => Role::Replica,
            Err(_) => Role::NoAnswer,
        };
        self.tell(report.at, Event::Role { node: report.node, role });
        self.suspect(&report);
    }

    /// What a Sentinel says of a node that no Sentinel has named as a replica is no reason to park:
    /// only its result will be.
    fn believed(&self, master: MasterId, what: Sighting) -> Sighting {
        let known = |node: &SocketAddr| self.knowledge.is_replica(master, *node);
        match what {
            Sighting::Selected(node) => Sighting::Selected(node.filter(known)),
            Sighting::Promoting(node) => Sighting::Promoting(node.filter(known)),
            Sighting::Promoted(node) => Sighting::Promoted(node.filter(known)),
            Sighting::Sdown
            | Sighting::Odown
            | Sighting::SwitchMaster
            | Sighting::End
            | Sighting::Aborted => what,
        }
    }

    /// The status document.
    pub(super) fn status(&self) -> Result<Status> {
        let counters = self.datapath.counters().context("the counters can't be read")?;
        let pins = self.config.daemon.pin_dir.display();
        let attached = self.datapath.interfaces().iter();
        let attached: Vec<_> = attached.filter(|it| !self.detached.contains(&it.name)).collect();
        let links = attached.iter().map(|it| format!("XDP link on {}, pinned in {pins}", it.name));
        let maps = format!("{} maps, pinned in {pins}", vipd_common::maps::ALL.len());
        let mut problems: Vec<String> = self.problems.keys().map(ToString::to_string).collect();
        problems.extend(self.possession.problems());
        problems.extend(self.holding.problems());
        problems.extend(self.rounds.problems());
        problems.extend(self.host_problems.iter().cloned());
        problems.extend(self.requests.problem());
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: Some(std::process::id()),
            interfaces: attached
                .iter()
                .map(|it| status::Interface {
                    name: it.name.clone(),
                    xdp_mode: it.xdp_mode.name().to_owned(),
                    program_id: it.program_id,
                })
                .collect(),
            services: self.topology.services().map(|(vip, it)| self.service(vip, it)).collect(),
            failovers: self.told(),
            counters: counters
                .into_iter()
                .map(|(verdict, it)| {
                    let counter = status::Counter { packets: it.packets, bytes: it.bytes };
                    (verdict.name().to_owned(), counter)
                })
                .collect::<BTreeMap<_, _>>(),
            sentinels: self.knowledge.sentinels(),
            nodes: self.nodes(),
            problems,
            host: links.chain([maps]).chain(self.held()).chain(self.holding.changed()).collect(),
        })
    }

    fn service(&self, vip: &Vip, service: &Service) -> status::Service {
        let index = self.actual.services.get(&vip.key(service)).copied();
        let active = index.map(|index| self.actual.active(index)).unwrap_or_default();
        let confirmed = index.map(|index| self.actual.confirmed(index)).unwrap_or_default();
        let backend = index
            .filter(|_| active.state() != Kernel::Down)
            .and_then(|index| self.actual.backend(index))
            .map(|it| SocketAddr::new(unmapped_ip(it.addr), u16::from_be_bytes(it.port)));
        let desired = self.failover.desired().get(service.master.0);
        let state = match desired.map(|desired| desired.state) {
            None | Some(State::Learning) => ServiceState::Learning,
            Some(State::Confirming) => ServiceState::Confirming,
            Some(State::Withdrawn) => ServiceState::Withdrawn,
            Some(State::Parked) => ServiceState::Parked,
            Some(State::Serving | State::Promoting | State::Provisional)
                if !matches!(active.state(), Kernel::Up | Kernel::Group) =>
            {
                ServiceState::Down
            }
            Some(State::Serving) => ServiceState::Serving,
            Some(State::Promoting) => ServiceState::Promoting,
            Some(State::Provisional) => ServiceState::Provisional,
        };
        let address = self.actual.addresses.get(&vip.addr);
        status::Service {
            vip: vip.addr,
            port: service.port,
            mode: vip.mode.name().to_owned(),
            master: self.knowledge.name(service.master).to_owned(),
            role: service.role.name().to_owned(),
            members: index.map(|index| self.members(index)).unwrap_or_default(),
            state,
            backend,
            epoch: (confirmed.valid != 0).then_some(confirmed.epoch),
            generation: active.generation(),
            announcing: address.is_some_and(|address| address.has(Address::ANNOUNCE)),
            owner: vip.mode.holds_the_address() && self.is_own(vip.addr),
        }
    }

    /// The nodes that a read-only service is spread over, and those that keep connections.
    fn members(&self, index: u32) -> Vec<status::Member> {
        let up = self.actual.members(index).filter(|it| it.is_up);
        up.map(|it| status::Member { addr: it.node, serving: it.is_listed }).collect()
    }

    /// The VIPs that are addresses of this host.
    fn held(&self) -> impl Iterator<Item = String> {
        let vips = self.topology.vips.iter().filter(|vip| vip.mode.holds_the_address());
        vips.filter_map(|vip| {
            let own = self.network.addresses.iter().find(|own| own.address == vip.addr)?;
            let name = self.network.links.get(&own.ifindex).map_or("?", |link| &link.name);
            Some(format!("the VIP {}/{} on {name}", own.address, own.prefix))
        })
    }

    /// The newest failovers, as many as the answer has room for: one entry for each service that
    /// the master has.
    fn told(&self) -> Vec<status::Failover> {
        let mut room = status::MAX_FAILOVER_ENTRIES;
        let mut newest = Vec::new();
        for told in self.failovers.iter().rev() {
            let entries: Vec<_> = self.failover(told).take(room).collect();
            room -= entries.len();
            newest.push(entries);
        }
        newest.into_iter().rev().flatten().collect()
    }

    fn failover<'a>(&'a self, told: &'a Told) -> impl Iterator<Item = status::Failover> + 'a {
        let Told { record, cutover } = told;
        let services = self.topology.services();
        services.filter(|(_, it)| it.master == record.master).map(|(vip, it)| status::Failover {
            service: vip.key(it).to_string(),
            master: self.knowledge.name(record.master).to_owned(),
            from: record.from,
            to: record.to,
            epoch: record.epoch.map(|epoch| epoch.0),
            trigger: record.trigger.name().to_owned(),
            outcome: record.outcome.name().to_owned(),
            parked_for_ns: record.timeline.parked_for().map(duration_ns),
            ahead_of_switch_master_ns: record.timeline.ahead().map(duration_ns),
            syns_replayed: record.clients.map(|clients| clients.syns_replayed),
            clients_freed: record.clients.map(|clients| clients.freed),
            timeline: record.into(),
            services: cutover.map_or(1, |cutover| cutover.services),
            last_flip_ns: cutover.map(|cutover| cutover.last.0),
            planned_ns: cutover.map(|cutover| duration_ns(cutover.planned)),
        })
    }

    fn nodes(&self) -> Vec<status::Node> {
        let by_master = self.knowledge.nodes(self.failover.desired());
        let nodes: std::collections::BTreeSet<SocketAddr> =
            by_master.into_iter().flatten().collect();
        nodes
            .into_iter()
            .map(|addr| {
                let (role, mut note) = match self.knowledge.role(addr) {
                    None => (None, None),
                    Some(Ok(redis_node::Role::Master { .. })) => (Some("master"), None),
                    Some(Ok(redis_node::Role::Replica { .. })) => (Some("replica"), None),
                    Some(Ok(redis_node::Role::Sentinel)) => {
                        (None, Some("a Sentinel answers there".to_owned()))
                    }
                    Some(Err(error)) => (None, Some(error.to_string())),
                };
                let next_hop = match self.network.next_hops.get(&addr.ip()) {
                    Some(Ok(hop)) => Some(hop.mac.to_string()),
                    Some(Err(why)) => {
                        note = note.or_else(|| Some(why.to_string()));
                        None
                    }
                    None => None,
                };
                status::Node { addr, role: role.map(str::to_owned), note, next_hop }
            })
            .collect()
    }
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
