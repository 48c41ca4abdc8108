//! Bringing the kernel in line with what the core wants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};
use vipd_common::maps::{Active, ServiceState};

use super::clients::Turned;
use super::possession::Situation;
use super::{Driver, host};
use crate::clock::Monotonic;
use crate::config::Mode;
use crate::failover::{Desired, Event};
use crate::model::MasterId;
use crate::plan::{self, Plan, Problem, Service, Step, Vip, Wanted};
use crate::timeline::FailoverRecord;

/// What is solved sooner than this was no problem: a next hop that is just being resolved, say.
const LASTING: Duration = Duration::from_secs(1);

/// How one master's services came to point elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cutover {
    /// How many did.
    pub(super) services: u32,
    /// Just before the first was written.
    pub(super) first: Monotonic,
    /// Just before the last was.
    pub(super) last: Monotonic,
    /// What finding out what to write has taken.
    pub(super) planned: Duration,
}

/// A line of ACTIVE that was changed.
#[derive(Clone, Copy, Debug)]
struct Written {
    line: u32,
    before: Active,
    after: Active,
    /// Just before it was.
    at: Monotonic,
}

impl Written {
    /// It points at another node than before.
    fn is_flip(&self) -> bool {
        self.after.state() == ServiceState::Up
            && self.after.generation() != self.before.generation()
    }

    /// Connections through it have ended, or it is no longer parked.
    fn frees(&self) -> bool {
        let unparked = self.before.state() == ServiceState::Parked;
        self.after.generation() != self.before.generation()
            || (unparked && self.after.state() == ServiceState::Up)
    }
}

/// A failover, with what only the driver knows of it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Told {
    pub(super) record: FailoverRecord,
    pub(super) cutover: Option<Cutover>,
}

impl Driver {
    /// Compares what should be with what is, and takes the steps between them.
    pub(super) fn reconcile(&mut self) {
        let claimed = self.claimed();
        let granted = self.granted(&claimed);
        self.possession.grant(granted);
        let begun = Monotonic::now();
        let mut plan = self.plan();
        if !self.hold(&plan.hold) {
            // Not announced, then.
            plan = self.plan();
        }
        let planned = Monotonic::now().since(begun);
        let (written, done) = self.apply(&plan.steps);
        self.release(&plan.release, &claimed);
        if done {
            self.end_abandoned();
        }
        self.report_problems(plan.problems);
        self.parked(&written);
        let cutovers = self.cutovers(&written, planned);
        // Before anything is said of it: clients wait.
        for turned in self.turned(&written, &cutovers) {
            self.requests.ask(&self.config.failover, turned);
        }
        for (master, cutover) in cutovers {
            let desired = self.failover.desired().get(master.0);
            if let Some(node) = desired.and_then(Desired::serves) {
                self.flipped(master, node, cutover);
            }
        }
        let hosts = self.topology.vips.iter().filter(|vip| vip.mode == Mode::Host);
        let situation = Situation {
            wanted: &claimed,
            shared: &hosts.map(|vip| vip.addr).collect(),
            ports: &self.ports(),
            network: &self.network,
            actual: &self.actual,
        };
        self.possession.update(&situation, Instant::now());
        self.rounds.update(&self.questions(), Instant::now());
        self.tell_witness();
    }

    fn plan(&self) -> Plan {
        let interfaces = self.interfaces();
        let refused = |vip: &&IpAddr| self.holding.is_refused(**vip);
        let may_announce: BTreeSet<IpAddr> =
            self.possession.held().iter().filter(|vip| !refused(vip)).copied().collect();
        let own = host::own_addresses(&self.config, &self.network);
        let nodes = self.knowledge.nodes(self.failover.desired());
        let replicas = self.knowledge.replicas(&nodes, Monotonic::now());
        let wanted = Wanted {
            desired: self.failover.desired(),
            nodes: &nodes,
            replicas: &replicas,
            next_hops: &self.next_hops,
            interfaces: &interfaces,
            own: &own,
            may_announce: &may_announce,
        };
        plan::diff(&self.topology, &wanted, &self.actual)
    }

    /// Takes the steps; returns the lines of ACTIVE that it changed, and whether all was done.
    fn apply(&mut self, steps: &[Step]) -> (Vec<Written>, bool) {
        let mut written = Vec::new();
        for step in steps {
            let at = Monotonic::now();
            if let Err(error) = self.datapath.apply(step) {
                error!("{:#}", anyhow::Error::from(error));
                // What was not done shows in what is; the next reconciliation tries again.
                match self.datapath.read_actual() {
                    Ok(actual) => self.actual = actual,
                    Err(error) => error!("{:#}", anyhow::Error::from(error)),
                }
                return (written, false);
            }
            if let Step::SetActive { service, active } = *step {
                let before = self.actual.active(service);
                written.push(Written { line: service, before, after: active, at });
            }
            self.actual.apply(step);
        }
        (written, true)
    }

    /// By master, what was written for its services. Looked up only now: between the first service
    /// of a master and its last nothing is done but write.
    fn cutovers(&self, written: &[Written], planned: Duration) -> BTreeMap<MasterId, Cutover> {
        let mut cutovers = BTreeMap::new();
        let flips: Vec<_> = written.iter().filter(|it| it.is_flip()).collect();
        if flips.is_empty() {
            return cutovers;
        }
        let masters = self.masters_of_lines();
        for Written { line, at, .. } in flips {
            let Some((master, _)) = masters.get(line) else { continue };
            let one = Cutover { services: 0, first: *at, last: *at, planned };
            let cutover: &mut Cutover = cutovers.entry(*master).or_insert(one);
            cutover.services += 1;
            cutover.last = *at;
        }
        cutovers
    }

    /// Whose clients something is to be done for: in modes that carry connections, of lines that lead
    /// to another node now, or nowhere, or are no longer parked.
    fn turned(&self, written: &[Written], cutovers: &BTreeMap<MasterId, Cutover>) -> Vec<Turned> {
        let mut turned: BTreeMap<Option<MasterId>, Turned> = BTreeMap::new();
        if written.iter().all(|it| !it.frees()) {
            return Vec::new();
        }
        let masters = self.masters_of_lines();
        for it in written.iter().filter(|it| it.frees()) {
            let service = masters.get(&it.line).copied();
            // There the hosts' own kernels know the connections.
            if service.is_some_and(|(_, mode)| mode == Mode::Host) {
                continue;
            }
            let master = service.map(|(master, _)| master);
            let flip = master.and_then(|master| cutovers.get(&master)).map(|it| it.first);
            let none = Turned { master, flip, lines: BTreeSet::new() };
            turned.entry(master).or_insert(none).lines.insert(it.line);
        }
        turned.into_values().collect()
    }

    fn masters_of_lines(&self) -> HashMap<u32, (MasterId, Mode)> {
        let services = self.topology.services();
        let line = |(vip, it): (&Vip, &Service)| {
            Some((*self.actual.services.get(&vip.key(it))?, (it.master, vip.mode)))
        };
        services.filter_map(line).collect()
    }

    /// Tells whose services are held back from now on.
    fn parked(&mut self, written: &[Written]) {
        let parks = |it: &&Written| it.after.state() == ServiceState::Parked;
        let lines: Vec<u32> = written.iter().filter(parks).map(|it| it.line).collect();
        if lines.is_empty() {
            return;
        }
        let now = Monotonic::now();
        let masters = self.masters_of_lines();
        let masters: BTreeSet<MasterId> =
            lines.iter().filter_map(|line| Some(masters.get(line)?.0)).collect();
        for master in masters {
            info!(master = self.knowledge.name(master), "parked: a failover is on its way");
            let commands = self.failover.handle(now, Event::Parked { master });
            self.obey(commands);
        }
    }

    fn flipped(&mut self, master: MasterId, node: SocketAddr, cutover: Cutover) {
        let at = cutover.first;
        let commands = self.failover.handle(at, Event::Committed { master, node });
        let desired = self.failover.desired().get(master.0);
        let state = desired.map(|desired| desired.state);
        info!(
            master = self.knowledge.name(master),
            to = %node,
            ?state,
            services = cutover.services,
            "flip"
        );
        self.obey(commands);
        // Told of by now, unless the node is the one before.
        let told = self.failovers.iter_mut().rev().find(|it| {
            it.record.master == master && it.record.timeline.flip == Some(cutover.first)
        });
        if let Some(told) = told {
            told.cutover = Some(cutover);
        }
    }

    fn report_problems(&mut self, problems: Vec<Problem>) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.problems);
        for problem in problems {
            let since = before.get(&problem).copied().unwrap_or(now);
            self.problems.insert(problem, since);
            if now.duration_since(since) >= LASTING && self.reported.insert(problem) {
                warn!("{problem}");
            }
        }
        self.reported.retain(|problem| {
            let lasts = self.problems.contains_key(problem);
            if !lasts {
                info!("no longer: {problem}");
            }
            lasts
        });
    }
}
