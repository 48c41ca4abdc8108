//! The peers: each fails over in this lab as it does elsewhere. They are measured, and not held to
//! what vipd promises.

use anyhow::{Context, ensure};
use vipd_tests::ledger::blackout;
use vipd_tests::scenario::{Traffic, scenario, verify};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::Witness;
use vipd_tests::{Mover, Options};

#[test]
fn keepalived_moves_the_vip_to_the_new_master() {
    moves_the_vip_to_the_new_master(Mover::Keepalived);
}

#[test]
fn haproxy_leads_to_the_new_master() {
    moves_the_vip_to_the_new_master(Mover::HaProxy);
}

#[test]
fn a_listener_with_nftables_leads_to_the_new_master() {
    moves_the_vip_to_the_new_master(Mover::NftListener);
}

fn moves_the_vip_to_the_new_master(mover: Mover) {
    scenario(Options::moved_by(mover), |lab| {
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        let ledgers = traffic.stop();
        verify(lab, &ledgers, new)?;
        let blackout = blackout(&ledgers, lab.nodes[new].run_id());
        println!("{mover:?}: blackout {:?}", blackout.context("no blackout")?);
        Ok(())
    });
}

#[test]
fn the_script_recipe_moves_the_vip() {
    scenario(Options::moved_by(Mover::Script), |lab| {
        let witness = Witness::start(lab)?;
        let old = lab.master()?;
        lab.nodes[old].shut_down()?;
        let new = lab.wait_failed_over(old)?;
        witness.wait_served_by(lab, new)?;
        witness.wait_answered_by(lab, new)?;
        // Each Sentinel runs its script when it learns of the failover: the leader last.
        let vip = lab.service().ip();
        wait_until("the old host has let the VIP go", PATIENCE, || {
            Ok(!lab.nodes[old].host().has_address(vip)?)
        })?;
        let findings = witness.stop(lab)?;
        verify(lab, &findings.ledgers, new)?;
        let claims: Vec<_> =
            findings.findings[0].record.claims().iter().map(|&(_, mac)| mac).collect();
        let hosts = [old, new].map(|node| lab.nodes[node].host().mac);
        ensure!(claims == hosts, "the recorder saw another story: {claims:?}");
        let blackout = findings.blackout(lab.nodes[new].run_id());
        println!("{findings}\nblackout: {:?}", blackout.context("no blackout")?);
        Ok(())
    });
}
