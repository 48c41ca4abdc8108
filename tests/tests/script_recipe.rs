//! The peer: the script recipe fails over in this lab as it does elsewhere.

use vipd_tests::Options;
use vipd_tests::ledger;
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::wait::{PATIENCE, wait_until};

#[test]
fn the_script_recipe_moves_the_vip() {
    scenario(Options::script_recipe(), |lab| {
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        let ledgers = traffic.stop();
        verify_after_failover(lab, &ledgers, new)?;
        let vip = lab.service().ip();
        // Each Sentinel runs its script when it learns of the failover: the leader last.
        wait_until("the old host has let the VIP go", PATIENCE, || {
            Ok(!lab.nodes[old].host().has_address(vip)?)
        })?;
        let blackout = ledger::blackout(&ledgers, lab.nodes[new].run_id());
        println!("blackout of the script recipe: {blackout:?}");
        Ok(())
    });
}
