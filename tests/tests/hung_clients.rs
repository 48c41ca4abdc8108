//! Clients that only wait learn at the flip that their master is gone: nobody else would tell them.

use anyhow::{Context, Result, ensure};
use vipd_tests::crowd::{Blocked, How};
use vipd_tests::heal;
use vipd_tests::scenario::scenario;
use vipd_tests::wait::PATIENCE;
use vipd_tests::{Family, Lab, Mode, Options};

/// Clients that wait.
const CROWD: usize = 60;

#[test]
fn nat_frees_the_clients_of_a_master_that_is_frozen() {
    scenario(Options::mode(Mode::Nat), frozen);
}

#[test]
fn dsr_frees_the_clients_of_a_master_that_is_frozen() {
    scenario(Options::mode(Mode::Dsr), frozen);
}

#[test]
fn host_frees_the_clients_of_a_master_that_is_frozen() {
    scenario(Options::mode(Mode::Host), frozen);
}

#[test]
fn ipv6_clients_of_a_master_that_is_frozen_are_freed() {
    for mode in [Mode::Nat, Mode::Dsr, Mode::Host] {
        scenario(Options::mode(mode).family(Family::V6), frozen);
    }
}

#[test]
fn clients_of_a_host_that_vanished_are_freed() {
    for mode in [Mode::Nat, Mode::Dsr] {
        scenario(Options::mode(mode), |lab| {
            freed(lab, |lab, old| lab.nodes[old].host().link_down())
        });
    }
}

#[test]
fn clients_are_freed_at_a_planned_failover() {
    for mode in [Mode::Nat, Mode::Dsr, Mode::Host] {
        scenario(Options::mode(mode), |lab| {
            heal::wait_ready(lab)?;
            freed(lab, |lab, _| lab.sentinels[0].fail_over())
        });
    }
}

#[test]
fn nobody_is_freed_if_that_is_switched_off() {
    let daemon = "[failover]\nfree_clients = false\n".to_owned();
    scenario(Options { daemon, ..Options::default() }, |lab| {
        let old = lab.master()?;
        let blocked = Blocked::start(&lab.dialer(), CROWD)?;
        lab.nodes[old].freeze()?;
        let new = lab.wait_failed_over(old)?;
        let mut after = lab.dialer().connect()?;
        let served_by = vipd_tests::client::run_id(&mut after)?;
        ensure!(served_by == lab.nodes[new].run_id(), "the new master does not serve yet");
        ensure!(blocked.last() == (None, CROWD), "somebody was told: {:?}", blocked.waiters());
        Ok(())
    });
}

fn frozen(lab: &mut Lab) -> Result<()> {
    freed(lab, |lab, old| lab.nodes[old].freeze())
}

/// Every waiting client learns of it by a reset, and none of them before the flip.
fn freed(lab: &mut Lab, strike: impl FnOnce(&mut Lab, usize) -> Result<()>) -> Result<()> {
    let old = lab.master()?;
    let blocked = Blocked::start(&lab.dialer(), CROWD)?;
    strike(lab, old)?;
    blocked.wait_all_know(PATIENCE)?;
    let new = lab.wait_failed_over(old)?;
    let waiters = blocked.waiters();
    let other = waiters.iter().find(|it| it.ended.is_none_or(|it| it.how != How::Reset));
    ensure!(other.is_none(), "not by a reset: {other:?}");

    if lab.options().mode != Mode::Host {
        let failovers = lab.daemon().status()?.failovers;
        let failover = failovers.last().context("vipd tells of no failover")?;
        ensure!(failover.to == lab.nodes[new].address(), "{failover:?}");
        let flip = failover.timeline.flip_ns.context("no flip")?;
        let first = waiters.iter().filter_map(|it| it.ended).map(|it| it.at.0).min();
        ensure!(first > Some(flip), "told before the flip: {first:?}, {failover:?}");
        let freed = failover.clients_freed.context("vipd does not say how many it freed")?;
        ensure!(freed >= CROWD as u64, "{freed} freed: {failover:?}");
    }
    Ok(())
}
