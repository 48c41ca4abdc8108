//! The master goes, in every way that there is: the VIP follows, and no promise is broken.

use anyhow::{Result, ensure};
use vipd_tests::redis_node::Role;
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Mode, Options};

#[test]
fn nat_follows_when_the_master_is_killed() {
    scenario(Options::mode(Mode::Nat), the_master_is_killed);
}

#[test]
fn dsr_follows_when_the_master_is_killed() {
    scenario(Options::mode(Mode::Dsr), the_master_is_killed);
}

#[test]
fn nat_follows_when_the_master_freezes_and_stays_when_it_thaws() {
    scenario(Options::mode(Mode::Nat), the_master_freezes_and_thaws);
}

#[test]
fn dsr_follows_when_the_master_freezes_and_stays_when_it_thaws() {
    scenario(Options::mode(Mode::Dsr), the_master_freezes_and_thaws);
}

#[test]
fn nat_follows_when_the_masters_cable_is_pulled_and_stays_when_it_is_back() {
    scenario(Options::mode(Mode::Nat), the_masters_cable_is_pulled);
}

#[test]
fn dsr_follows_when_the_masters_cable_is_pulled_and_stays_when_it_is_back() {
    scenario(Options::mode(Mode::Dsr), the_masters_cable_is_pulled);
}

#[test]
fn nat_follows_a_planned_failover() {
    scenario(Options::mode(Mode::Nat), a_planned_failover);
}

#[test]
fn dsr_follows_a_planned_failover() {
    scenario(Options::mode(Mode::Dsr), a_planned_failover);
}

#[test]
fn nat_does_not_return_to_an_old_master_that_comes_back_as_a_master() {
    scenario(Options::mode(Mode::Nat), the_old_master_comes_back);
}

#[test]
fn dsr_does_not_return_to_an_old_master_that_comes_back_as_a_master() {
    scenario(Options::mode(Mode::Dsr), the_old_master_comes_back);
}

#[test]
fn the_vip_follows_one_failover_after_another() {
    scenario(Options::default(), |lab| {
        let mut master = lab.master()?;
        let mut generations = vec![generation(lab)?];
        for sentinel in 0..2 {
            let traffic = Traffic::start(lab, master)?;
            lab.sentinels[sentinel].fail_over()?;
            master = lab.wait_failed_over(master)?;
            traffic.wait_served_by(&lab.nodes[master])?;
            verify_after_failover(lab, &traffic.stop(), master)?;
            generations.push(generation(lab)?);
            lab.wait_settled()?;
        }
        ensure!(generations.is_sorted_by(|a, b| a < b), "generations: {generations:?}");
        Ok(())
    });
}

fn the_master_is_killed(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    verify_after_failover(lab, &traffic.stop(), new)
}

fn the_master_freezes_and_thaws(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.nodes[old].freeze()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    lab.nodes[old].thaw()?;
    stays_on(lab, traffic, old, new)
}

fn the_masters_cable_is_pulled(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.nodes[old].host().link_down()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    lab.nodes[old].host().link_up()?;
    stays_on(lab, traffic, old, new)
}

fn a_planned_failover(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.sentinels[0].fail_over()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    // Sentinel leaves the old master alone for some time: it still takes writes, if any reach it.
    stays_on(lab, traffic, old, new)
}

fn the_old_master_comes_back(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    lab.nodes[old].start()?;
    ensure!(lab.nodes[old].role()? == Role::Master, "it was to come back as a master");
    stays_on(lab, traffic, old, new)
}

/// Waits until Sentinel has made the old master a replica, which takes it some 10 s, and then
/// verifies that the clients never left the new one.
fn stays_on(lab: &Lab, traffic: Traffic, old: usize, new: usize) -> Result<()> {
    wait_until("Sentinel has made the old master a replica", PATIENCE, || {
        Ok(lab.nodes[old].role()? == Role::Replica { in_sync: true })
    })?;
    traffic.wait_served_by(&lab.nodes[new])?;
    verify_after_failover(lab, &traffic.stop(), new)
}

fn generation(lab: &Lab) -> Result<Option<u32>> {
    Ok(lab.daemon().status()?.services[0].generation)
}
