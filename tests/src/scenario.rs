//! What every end-to-end test has in common: traffic, and what must hold after it.

use anyhow::{Context, Result, ensure};

use crate::client;
use crate::lab::Lab;
use crate::ledger::{self, Ledger};
use crate::options::Options;
use crate::redis_node::{RedisNode, Role};
use crate::writer::{Habit, Writer};

/// Builds a lab, starts vipd and runs `story`. When it fails, the lab's report is printed.
///
/// # Panics
///
/// If the lab cannot be built or `story` fails.
pub fn scenario(options: Options, story: impl FnOnce(&mut Lab) -> Result<()>) {
    let mut lab = Lab::up(options).unwrap_or_else(|error| panic!("no lab: {error:#}"));
    let outcome = lab.serve().context("the VIP is not served").and_then(|()| story(&mut lab));
    if let Err(error) = outcome {
        // The lab reports while this panic unwinds.
        panic!("{error:#}");
    }
}

/// Two clients for each VIP that write through it: one with a connection that it keeps, one with a
/// fresh connection for each write.
pub struct Traffic {
    writers: Vec<Writer>,
}

impl Traffic {
    /// Starts them, and waits until `node` has acknowledged writes of each.
    pub fn start(lab: &Lab, node: usize) -> Result<Self> {
        let writers = lab.services().into_iter().flat_map(|service| {
            let family = if service.is_ipv4() { "" } else { "6" };
            [("persistent", Habit::Persistent), ("fresh", Habit::Fresh)]
                .map(|(name, habit)| lab.writer(&format!("{name}{family}"), habit, service))
        });
        let traffic = Self { writers: writers.collect() };
        traffic.wait_served_by(&lab.nodes[node])?;
        Ok(traffic)
    }

    /// Waits until `node` acknowledges writes of each that are sent from now on.
    pub fn wait_served_by(&self, node: &RedisNode) -> Result<()> {
        self.writers.iter().try_for_each(|writer| writer.wait_acknowledged_by(node.run_id()))
    }

    /// Ends them.
    pub fn stop(self) -> Vec<Ledger> {
        self.writers.into_iter().map(Writer::stop).collect()
    }

    /// What they have written so far.
    pub fn ledgers(&self) -> Vec<Ledger> {
        self.writers.iter().map(Writer::ledger).collect()
    }
}

/// Fails unless node `master` is what Sentinel, the node itself, who moves the VIP, and the VIP all
/// call the master, and it holds every write that it acknowledged.
pub fn verify(lab: &Lab, ledgers: &[Ledger], master: usize) -> Result<()> {
    let node = &lab.nodes[master];
    ensure!(lab.master()? == master, "Sentinel does not name {} as the master", node.name());
    ensure!(node.role()? == Role::Master, "{} is not a master", node.name());
    lab.wait_serving(master)?;
    for service in lab.services() {
        let mut connection = lab.dialer_to(service).connect().context("through the VIP")?;
        let served_by = client::run_id(&mut connection)?;
        ensure!(served_by == node.run_id(), "{service} does not lead to {}", node.name());
    }
    for ledger in ledgers {
        ledger.verify_on(node)?;
    }
    Ok(())
}

/// [`verify`] after one failover: vipd tells of it, and once the new master had acknowledged a
/// write, no other node acknowledged a later one.
pub fn verify_after_failover(lab: &Lab, ledgers: &[Ledger], master: usize) -> Result<()> {
    verify(lab, ledgers, master)?;
    for daemon in lab.daemons.iter().filter(|daemon| daemon.is_alive()) {
        let failovers = daemon.status()?.failovers;
        let told = failovers.last().is_some_and(|it| it.to == lab.nodes[master].address());
        ensure!(told, "vipd does not tell of the failover: {failovers:?}");
    }
    ledger::verify_one_master_after(ledgers, lab.nodes[master].run_id())
}
