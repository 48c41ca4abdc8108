//! vipd dies in the middle of a failover: what it left in the kernel neither cuts anybody off for
//! good nor brings the old master back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd_tests::heal;
use vipd_tests::ledger;
use vipd_tests::scenario::{Traffic, scenario, verify};
use vipd_tests::status::Status;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Mode, Options};

#[test]
fn nat_serves_the_old_master_again_when_vipd_is_killed_while_parked() {
    scenario(long_park(Mode::Nat), killed_while_parked);
}

#[test]
fn dsr_serves_the_old_master_again_when_vipd_is_killed_while_parked() {
    scenario(long_park(Mode::Dsr), killed_while_parked);
}

#[test]
fn nat_stays_with_a_provisional_master_when_vipd_is_killed_and_started_again() {
    scenario(Options::mode(Mode::Nat), killed_while_provisional);
}

#[test]
fn dsr_stays_with_a_provisional_master_when_vipd_is_killed_and_started_again() {
    scenario(Options::mode(Mode::Dsr), killed_while_provisional);
}

/// Sentinel takes its time to give up, and so does vipd.
fn long_park(mode: Mode) -> Options {
    Options {
        failover_timeout: Duration::from_secs(20),
        daemon: "[failover]\npark_ms = 30000\n".to_owned(),
        ..Options::mode(mode)
    }
}

/// Nobody is there to end the parking; the lease does.
fn killed_while_parked(lab: &mut Lab) -> Result<()> {
    heal::wait_ready(lab)?;
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    let replicas: Vec<_> = (0..lab.nodes.len()).filter(|&it| it != old).collect();
    for &replica in &replicas {
        lab.nodes[replica].freeze()?;
    }
    lab.sentinels[0].fail_over()?;
    wait_state(lab, "parked")?;
    lab.daemon_mut().kill()?;
    traffic.wait_served_by(&lab.nodes[old])?;

    // Whoever starts again sees the failover end, however it does.
    lab.daemon_mut().start()?;
    for &replica in &replicas {
        lab.nodes[replica].thaw()?;
    }
    let master = wait_settled_on_any(lab)?;
    traffic.wait_served_by(&lab.nodes[master])?;
    verify(lab, &traffic.stop(), master)
}

/// The Sentinels name the old master for a second still.
fn killed_while_provisional(lab: &mut Lab) -> Result<()> {
    heal::wait_ready(lab)?;
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.sentinels[0].fail_over()?;
    wait_state(lab, "provisional")?;
    lab.daemon_mut().kill()?;
    let before = lab.sentinels.iter().filter_map(|it| it.master().ok());
    let still_old = before.filter(|&it| it == lab.nodes[old].address()).count();
    ensure!(still_old > 1, "the Sentinels have announced it already: the test proves nothing");
    lab.daemon_mut().start()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    let ledgers = traffic.stop();
    verify(lab, &ledgers, new)?;
    ledger::verify_one_master_after(&ledgers, lab.nodes[new].run_id())
}

fn wait_state(lab: &Lab, state: &str) -> Result<()> {
    wait_until(format_args!("the service is {state}"), PATIENCE, || {
        let Status { services, failovers, .. } = lab.daemon().status()?;
        let service = services.first().context("no service")?;
        ensure!(service.state == state, "{service:?}, {failovers:?}");
        Ok(true)
    })
}

/// The node that is the master when all is quiet again.
fn wait_settled_on_any(lab: &Lab) -> Result<usize> {
    wait_until("all is quiet again", PATIENCE, || {
        let master = lab.master()?;
        for (number, node) in lab.nodes.iter().enumerate() {
            let is_master = node.role()? == vipd_tests::redis_node::Role::Master;
            ensure!(is_master == (number == master), "{} is something else", node.name());
        }
        Ok(true)
    })?;
    lab.master()
}
