//! vipd itself goes, or the Sentinels that it listens to.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use vipd::clock::Monotonic;
use vipd_tests::peers::script::ScriptRecipe;
use vipd_tests::scenario::{Traffic, verify_after_failover};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::{Terms, Witness, witnessed, witnessed_on};
use vipd_tests::{Family, Lab, Options};

use crate::{host_mode, wait_demoted, wait_withdrawn};

/// Longer than a failover takes: the two hosts answer at the same time for a while.
pub const LONG_LEASE: Duration = Duration::from_secs(8);

#[test]
fn no_client_notices_a_vipd_that_is_killed_and_started_again() {
    witnessed(host_mode(), |lab, witness| {
        let master = lab.master()?;
        for node in [master, (master + 1) % lab.nodes.len()] {
            lab.daemons[node].kill()?;
            lab.daemons[node].start()?;
            lab.wait_serving(master)?;
            witness.wait_served_by(lab, master)?;
        }
        let failures = witness.traffic().ledgers().into_iter().flat_map(|it| it.failures);
        let failures: Vec<_> = failures.collect();
        ensure!(failures.is_empty(), "a client noticed: {failures:?}");
        Ok(master)
    });
}

#[test]
fn a_vipd_that_was_killed_stops_to_answer_and_connections_live_on() {
    witnessed(host_mode(), |lab, witness| {
        let old = lab.master()?;
        lab.daemons[old].kill()?;
        witness.wait_unanswered()?;
        // Who knows the way still finds it.
        witness.wait_served_by(lab, old)?;
        lab.daemons[old].start()?;
        witness.wait_answered_by(lab, old)?;
        lab.wait_serving(old)?;
        let failures = witness.traffic().ledgers().into_iter().flat_map(|it| it.failures);
        let failures: Vec<_> = failures.collect();
        ensure!(failures.is_empty(), "a client noticed: {failures:?}");

        // The new vipd does what the old one did.
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        Ok(new)
    });
}

#[test]
fn the_vip_moves_away_from_a_host_whose_vipd_was_killed_and_stays_when_it_is_back() {
    witnessed_on(terms(LONG_LEASE), host_mode().lease(LONG_LEASE), |lab, witness| {
        let old = lab.master()?;
        lab.daemons[old].kill()?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        lab.daemons[old].start()?;
        lab.wait_serving(new)?;
        let back = Monotonic::now();
        lab.nodes[old].start()?;
        wait_demoted(lab, old)?;
        witness.verify_no_answer_since(lab, old, back)?;
        Ok(new)
    });
}

#[test]
fn the_vip_moves_away_from_a_host_whose_vipd_is_frozen_and_stays_when_it_thaws() {
    witnessed_on(terms(LONG_LEASE), host_mode().lease(LONG_LEASE), vipd_frozen);
}

#[test]
fn a_vipd_that_was_frozen_for_longer_than_the_lease_answers_again_when_it_thaws() {
    let lease = Duration::from_millis(1000);
    witnessed_on(terms(lease), host_mode().lease(lease), |lab, witness| {
        let master = lab.master()?;
        lab.daemons[master].freeze()?;
        witness.wait_unanswered()?;
        witness.wait_served_by(lab, master)?;
        lab.daemons[master].thaw()?;
        witness.wait_answered_by(lab, master)?;
        Ok(master)
    });
}

/// It withdraws until it has heard what is new, and that is over before a client notices.
#[test]
fn a_vipd_that_stood_still_ends_no_connection() {
    let lease = Duration::from_secs(2);
    for standstill in [lease * 7 / 8, lease * 3 / 2] {
        witnessed_on(terms(lease), host_mode().lease(lease), |lab, witness| {
            let master = lab.master()?;
            lab.daemons[master].freeze()?;
            thread::sleep(standstill);
            lab.daemons[master].thaw()?;
            witness.wait_answered_by(lab, master)?;
            lab.wait_serving(master)?;
            witness.wait_served_by(lab, master)?;
            verify_unbroken(witness)?;
            Ok(master)
        });
    }
}

#[test]
fn a_vipd_that_is_stopped_leaves_nothing_and_takes_the_vip_again() {
    witnessed(host_mode(), |lab, witness| {
        let master = lab.master()?;
        lab.daemons[master].stop()?;
        witness.wait_unanswered()?;
        for service in lab.services() {
            let held = lab.nodes[master].host().has_address(service.ip())?;
            ensure!(!held, "{service} is still there");
        }
        lab.daemons[master].start()?;
        lab.wait_serving(master)?;
        Ok(master)
    });
}

#[test]
fn a_failover_needs_no_sentinel_on_the_old_host() {
    witnessed(host_mode(), |lab, witness| {
        let old = lab.master()?;
        lab.sentinels[old].kill()?;
        witness.wait_served_by(lab, old)?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        lab.wait_serving(new)?;
        lab.sentinels[old].start()?;
        Ok(new)
    });
}

#[test]
fn without_a_majority_of_the_sentinels_the_vip_is_withdrawn_until_they_are_back() {
    witnessed(host_mode(), |lab, witness| {
        let master = lab.master()?;
        lab.sentinels[0].kill()?;
        lab.sentinels[1].kill()?;
        wait_withdrawn(lab, master)?;
        witness.wait_unanswered()?;
        lab.sentinels[0].start()?;
        lab.sentinels[1].start()?;
        lab.wait_serving(master)?;
        witness.wait_answered_by(lab, master)?;
        Ok(master)
    });
}

#[test]
fn without_a_majority_of_the_sentinels_the_vip_is_held_if_so_configured() {
    let daemon = "on_minority = \"hold\"\nlease_ms = 500".to_owned();
    witnessed(Options { daemon, ..host_mode() }, |lab, witness| {
        let master = lab.master()?;
        lab.sentinels[0].freeze()?;
        lab.sentinels[1].freeze()?;
        let asked = witness.recorders().next().map_or(0, |it| it.record().asked.len());
        // Some leases later.
        wait_until("the recorder has asked on", PATIENCE, || {
            let recorder = witness.recorders().next();
            Ok(recorder.is_none_or(|it| it.record().asked.len() > asked + 150))
        })?;
        witness.wait_answered_by(lab, master)?;
        lab.sentinels[0].thaw()?;
        lab.sentinels[1].thaw()?;
        Ok(master)
    });
}

/// An IPv6 VIP must be where it is silent, so the one on the interface goes; it is served all the same.
#[test]
fn an_ipv6_vip_that_somebody_binds_to_the_interface_as_well_is_taken_off_and_no_connection_ends() {
    let lease = Duration::from_secs(1);
    let options = host_mode().lease(lease).family(Family::V6);
    witnessed_on(terms(lease), options, |lab, witness| {
        let master = lab.master()?;
        // A vipd that has just started ends nobody's connections anyway.
        thread::sleep(lease * 3 / 2);
        let host = lab.nodes[master].host();
        for service in lab.services() {
            let vip = service.ip();
            host.namespace.ip_batch(&format!("addr add {vip}/64 dev eth0 nodad\n"))?;
            wait_until("the interface has it no more", PATIENCE, || {
                Ok(!host.has_address_on("eth0", vip)?)
            })?;
            ensure!(host.has_address(vip)?, "it is nowhere");
        }
        witness.wait_served_by(lab, master)?;
        verify_unbroken(witness)?;
        Ok(master)
    });
}

/// Fails if the client that keeps its connection had to make another.
fn verify_unbroken(witness: &Witness) -> Result<()> {
    for ledger in
        witness.traffic().ledgers().iter().filter(|it| it.client.starts_with("persistent"))
    {
        ensure!(ledger.connections == 1, "its connection ended: {:?}", ledger.failures);
    }
    Ok(())
}

pub fn vipd_frozen(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.daemons[old].freeze()?;
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    lab.nodes[old].start()?;
    wait_demoted(lab, old)?;
    let thawed = Monotonic::now();
    lab.daemons[old].thaw()?;
    lab.wait_serving(new)?;
    witness.verify_no_answer_since(lab, old, thawed)?;
    Ok(new)
}

pub fn terms(lease: Duration) -> Terms {
    Terms { lease }
}

#[test]
fn a_vip_that_the_script_has_bound_is_taken_over_where_it_is() -> Result<()> {
    let mut lab = Lab::up(host_mode())?;
    let old = lab.master()?;
    let host = lab.nodes[old].host().clone();
    ScriptRecipe::bind_by_hand(&host)?;
    let traffic = Traffic::start(&lab, old)?;
    lab.serve()?;
    traffic.wait_served_by(&lab.nodes[old])?;
    for ledger in traffic.ledgers() {
        ensure!(ledger.failures.is_empty(), "{} noticed: {:?}", ledger.client, ledger.failures);
    }
    lab.sentinels[0].fail_over()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    for service in lab.services() {
        ensure!(!host.has_address(service.ip())?, "the old host still has {}", service.ip());
    }
    verify_after_failover(&lab, &traffic.stop(), new)
}
