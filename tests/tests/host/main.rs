//! Mode `host`: vipd on each Redis host, the VIP on the master's. In every story clients write and
//! recorders ask for the VIP throughout, and all is judged by `vipd_tests::witness`.

mod daemon;
mod failover;
mod families;
mod network;

use anyhow::Result;
use vipd_tests::redis_node::Role;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Mode, Options};

fn host_mode() -> Options {
    Options::mode(Mode::Host)
}

/// Waits until Sentinel has made node `old` a replica, which takes it some 10 s.
fn wait_demoted(lab: &Lab, old: usize) -> Result<()> {
    wait_until("Sentinel has made the old master a replica", PATIENCE, || {
        Ok(lab.nodes[old].role()? == Role::Replica { in_sync: true })
    })
}

/// Waits until no VIP is announced or held by the host of node `node`, as its vipd says.
fn wait_withdrawn(lab: &Lab, node: usize) -> Result<()> {
    wait_until("the host has withdrawn the VIP", PATIENCE, || {
        let services = lab.daemons[node].status()?.services;
        Ok(!services.is_empty() && services.iter().all(|it| !it.announcing))
    })
}
