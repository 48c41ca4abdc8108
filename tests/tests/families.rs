//! Directors on IPv6, and with a VIP of each family.

use anyhow::Result;
use vipd_tests::redis_node::Role;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::{Witness, witnessed};
use vipd_tests::{Family, Lab, Mode, Options};

#[test]
fn nat_follows_on_ipv6() {
    witnessed(Options::mode(Mode::Nat).family(Family::V6), killed_and_back);
}

#[test]
fn nat_follows_with_a_vip_of_each_family() {
    witnessed(Options::mode(Mode::Nat).family(Family::Both), killed_and_back);
}

#[test]
fn dsr_follows_on_ipv6() {
    witnessed(Options::mode(Mode::Dsr).family(Family::V6), killed_and_back);
}

#[test]
fn dsr_follows_with_a_vip_of_each_family() {
    witnessed(Options::mode(Mode::Dsr).family(Family::Both), killed_and_back);
}

#[test]
fn nat_follows_a_planned_failover_with_a_vip_of_each_family() {
    witnessed(Options::mode(Mode::Nat).family(Family::Both), |lab, witness| {
        let old = lab.master()?;
        lab.sentinels[0].fail_over()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        Ok(new)
    });
}

#[test]
fn no_client_of_either_family_notices_that_vipd_was_killed_and_restarted() {
    witnessed(Options::mode(Mode::Nat).family(Family::Both), |lab, witness| {
        let master = lab.master()?;
        lab.daemon_mut().kill()?;
        lab.daemon_mut().start()?;
        lab.wait_serving(master)?;
        witness.wait_served_by(lab, master)?;
        let failures = witness.traffic().ledgers().into_iter().flat_map(|it| it.failures);
        anyhow::ensure!(failures.count() == 0, "a client noticed");
        Ok(master)
    });
}

fn killed_and_back(lab: &mut Lab, witness: &Witness) -> Result<usize> {
    let old = lab.master()?;
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    lab.nodes[old].start()?;
    wait_until("Sentinel has made the old master a replica", PATIENCE, || {
        Ok(lab.nodes[old].role()? == Role::Replica { in_sync: true })
    })?;
    Ok(new)
}
