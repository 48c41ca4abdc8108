//! Bringing the kernel in line with what the core wants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};
use vipd_common::maps::ServiceState;

use super::{Driver, host};
use crate::clock::Monotonic;
use crate::failover::{Event, Target};
use crate::model::MasterId;
use crate::plan::{self, Plan, Problem, Step, Wanted};

/// What is solved sooner than this was no problem: a next hop that is just being resolved, say.
const LASTING: Duration = Duration::from_secs(1);

impl Driver {
    /// Compares what should be with what is, and takes the steps between them.
    pub(super) fn reconcile(&mut self) {
        let claimed = self.claimed();
        let granted = self.granted(&claimed);
        self.possession.grant(granted);
        let mut plan = self.plan();
        if !self.hold(&plan.hold) {
            // Not announced, then.
            plan = self.plan();
        }
        let flips = self.apply(&plan.steps);
        self.release(&plan.release);
        self.report_problems(plan.problems);
        for (master, at) in flips {
            let desired = self.failover.desired().get(master.0);
            if let Some(target) = desired.and_then(|desired| desired.target) {
                self.flipped(master, target, at);
            }
        }
        let ports = self.running_ports();
        self.possession.update(&claimed, &ports, &self.actual, Instant::now());
        self.self_probe.update(&self.held_services(), Instant::now());
    }

    fn plan(&self) -> Plan {
        let interfaces = self.interfaces();
        let refused = |vip: &&IpAddr| self.holding.is_refused(**vip);
        let may_announce: BTreeSet<IpAddr> =
            self.possession.held().iter().filter(|vip| !refused(vip)).copied().collect();
        let own = host::own_addresses(&self.config, &self.network);
        let nodes = self.knowledge.nodes(self.failover.desired());
        let wanted = Wanted {
            desired: self.failover.desired(),
            nodes: &nodes,
            next_hops: &self.next_hops,
            interfaces: &interfaces,
            own: &own,
            may_announce: &may_announce,
        };
        plan::diff(&self.topology, &wanted, &self.actual)
    }

    /// Takes the steps; returns the masters whose services point elsewhere now, each with the
    /// moment before its first write.
    fn apply(&mut self, steps: &[Step]) -> BTreeMap<MasterId, Monotonic> {
        let mut flips = BTreeMap::new();
        for step in steps {
            let at = Monotonic::now();
            if let Err(error) = self.datapath.apply(step) {
                error!("{:#}", anyhow::Error::from(error));
                // What was not done shows in what is; the next reconciliation tries again.
                match self.datapath.read_actual() {
                    Ok(actual) => self.actual = actual,
                    Err(error) => error!("{:#}", anyhow::Error::from(error)),
                }
                return flips;
            }
            if let Step::SetActive { service, active } = *step
                && active.state() == ServiceState::Up
                && active.generation() != self.actual.active(service).generation()
                && let Some((_, it)) = self.topology.service_at(&self.actual, service)
            {
                flips.entry(it.master).or_insert(at);
            }
            self.actual.apply(step);
        }
        flips
    }

    fn flipped(&mut self, master: MasterId, target: Target, at: Monotonic) {
        let commands = self.failover.handle(at, Event::Committed { master, target });
        info!(
            master = self.knowledge.name(master),
            to = %target.addr,
            epoch = target.epoch.0,
            "flip"
        );
        self.obey(commands);
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
