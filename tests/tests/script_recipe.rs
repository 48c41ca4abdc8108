//! The peer: the script recipe fails over in this lab as it does elsewhere. It is measured, and not
//! held to what vipd promises.

use anyhow::{Context, ensure};
use vipd_tests::Options;
use vipd_tests::scenario::{scenario, verify};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::Witness;

#[test]
fn the_script_recipe_moves_the_vip() {
    scenario(Options::script_recipe(), |lab| {
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
