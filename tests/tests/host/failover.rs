//! The master goes, in every way that there is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd_tests::Lab;
use vipd_tests::redis_node::Role;
use vipd_tests::witness::{Witness, witnessed, witnessed_on};

use crate::daemon::terms;
use crate::{host_mode, wait_demoted, wait_withdrawn};

#[test]
fn the_vip_moves_when_the_master_is_shut_down_and_the_old_host_never_answers_again() {
    witnessed(host_mode(), shut_down);
}

#[test]
fn the_vip_moves_when_redis_is_killed_and_there_and_back_again() {
    witnessed(host_mode(), killed_twice);
}

#[test]
fn the_vip_moves_when_redis_freezes_and_stays_when_it_thaws() {
    witnessed(host_mode(), frozen);
}

#[test]
fn the_vip_moves_when_the_host_is_gone() {
    witnessed(host_mode(), host_gone);
}

#[test]
fn a_cable_that_is_pulled_and_put_back_does_not_bring_the_vip_back() {
    witnessed(host_mode(), cable_pulled);
}

#[test]
fn a_host_that_only_clients_can_reach_lets_the_vip_go() {
    witnessed(host_mode(), cut_off);
}

#[test]
fn a_host_that_is_cut_off_is_silent_before_another_one_answers() {
    // Shorter than Sentinel's patience, as `check` wants it.
    let lease = Duration::from_secs(2);
    witnessed_on(terms(lease), host_mode().lease(lease), |lab, witness| {
        let (old, begun) = (lab.master()?, Monotonic::now());
        let new = cut_off(lab, witness)?;
        for recorder in witness.recorders() {
            let taken = recorder.record().announced(lab.nodes[new].host().mac, begun);
            let taken = taken.context("the new owner has announced nothing")?;
            witness.verify_no_answer_since(lab, old, taken)?;
        }
        Ok(new)
    });
}

#[test]
fn a_planned_failover_moves_the_vip() {
    witnessed(host_mode(), planned);
}

pub fn shut_down(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.nodes[old].shut_down()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    lab.wait_serving(new)?;
    comes_back(lab, witness, old, new)
}

pub fn killed_twice(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let first = lab.master()?;
    lab.nodes[first].kill()?;
    let second = lab.wait_failed_over(first)?;
    witness.wait_served_by(lab, second)?;
    lab.nodes[first].start()?;
    wait_demoted(lab, first)?;
    lab.wait_settled()?;
    lab.nodes[second].kill()?;
    let third = lab.wait_failed_over(second)?;
    witness.wait_served_by(lab, third)?;
    lab.nodes[second].start()?;
    wait_demoted(lab, second)?;
    Ok(third)
}

pub fn frozen(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.nodes[old].freeze()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    lab.wait_serving(new)?;
    let thawed = Monotonic::now();
    lab.nodes[old].thaw()?;
    wait_demoted(lab, old)?;
    witness.verify_no_answer_since(lab, old, thawed)?;
    Ok(new)
}

pub fn host_gone(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.nodes[old].host().link_down()?;
    lab.daemons[old].kill()?;
    lab.nodes[old].kill()?;
    lab.sentinels[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    Ok(new)
}

pub fn cable_pulled(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.nodes[old].host().link_down()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    lab.nodes[old].host().link_up()?;
    wait_demoted(lab, old)?;
    lab.wait_serving(new)?;
    Ok(new)
}

pub fn cut_off(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    // Its Redis is a master for these clients still, and its link works.
    lab.nodes[old].host().cut_off_except(&[&lab.client, &lab.observer])?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    wait_withdrawn(lab, old)?;
    let withdrawn = Monotonic::now();
    ensure!(lab.nodes[old].role()? == Role::Master, "it was to go on as a master");
    lab.nodes[old].host().rejoin()?;
    wait_demoted(lab, old)?;
    lab.wait_serving(new)?;
    witness.verify_no_answer_since(lab, old, withdrawn)?;
    Ok(new)
}

pub fn planned(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.sentinels[0].fail_over()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    // Sentinel leaves the old master alone for some time: it still takes writes, if any reach
    // it.
    wait_demoted(lab, old)?;
    Ok(new)
}

/// The old master starts again: first as a master, then as a replica, and never with the VIP.
fn comes_back(lab: &mut Lab, witness: &Witness, old: usize, new: usize) -> Result<usize> {
    let back = Monotonic::now();
    lab.nodes[old].start()?;
    ensure!(lab.nodes[old].role()? == Role::Master, "it was to come back as a master");
    wait_demoted(lab, old)?;
    lab.wait_serving(new)?;
    witness.wait_served_by(lab, new)?;
    witness.verify_no_answer_since(lab, old, back)?;
    for service in lab.services() {
        let held = lab.nodes[old].host().has_address(service.ip())?;
        ensure!(!held, "the old host still has {service}");
    }
    Ok(new)
}
