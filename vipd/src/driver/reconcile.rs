//! Bringing the kernel in line with what the core wants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};
use vipd_common::maps::ServiceState;

use super::{Driver, host};
use crate::announce::Port;
use crate::clock::Monotonic;
use crate::failover::{Event, Target};
use crate::model::MasterId;
use crate::plan::{self, Problem, Step, Wanted};

/// What is solved sooner than this was no problem: a next hop that is just being resolved, say.
const LASTING: Duration = Duration::from_secs(1);

impl Driver {
    /// Compares what should be with what is, and takes the steps between them.
    pub(super) fn reconcile(&mut self) {
        let interfaces = self.interfaces();
        let announceable = self.possession.held().clone();
        let own = host::own_addresses(&self.config, &self.network);
        let nodes = self.knowledge.nodes(self.failover.desired());
        let wanted = Wanted {
            desired: self.failover.desired(),
            nodes: &nodes,
            next_hops: &self.next_hops,
            interfaces: &interfaces,
            own: &own,
            may_announce: &announceable,
        };
        let plan = plan::diff(&self.topology, &wanted, &self.actual);
        let flips = self.apply(&plan.steps);
        self.report_problems(plan.problems);
        for (master, at) in flips {
            let desired = self.failover.desired().get(master.0);
            if let Some(target) = desired.and_then(|desired| desired.target) {
                self.flipped(master, target, at);
            }
        }
        self.possess();
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

    /// VIPs that have something to announce are probed for, held, announced, or given up.
    fn possess(&mut self) {
        let wanted: BTreeSet<IpAddr> = self
            .topology
            .services()
            .filter(|(_, service)| {
                let desired = self.failover.desired().get(service.master.0);
                desired.is_some_and(|desired| desired.announce && desired.target.is_some())
            })
            .map(|(vip, _)| vip.addr)
            .collect();
        let up =
            |port: &Port| self.network.links.get(&port.ifindex).is_some_and(|link| link.running);
        let ports: Vec<Port> = self.ports().into_iter().filter(up).collect();
        self.possession.update(&wanted, &ports, &self.actual, Instant::now());
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
