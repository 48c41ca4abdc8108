//! `vipd switchover`: nothing is lost when it works, and nothing is changed when it doesn't.

use anyhow::{Result, ensure};
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::switchover::{lost, switch_over, wait_replicas_known};
use vipd_tests::{Lab, Mode, Options};

#[test]
fn nat_switches_over_and_loses_no_write() {
    scenario(Options::mode(Mode::Nat), no_write_is_lost);
}

fn no_write_is_lost(lab: &mut Lab) -> Result<()> {
    wait_replicas_known(lab)?;
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    let ended = switch_over(lab.daemons.get(old).unwrap_or_else(|| lab.daemon()), &[])?;
    eprintln!("{}", ended.text);
    ensure!(ended.success, "{}", ended.text);
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    let ledgers = traffic.stop();
    verify_after_failover(lab, &ledgers, new)?;
    let lost = lost(&ledgers, &lab.nodes[new])?;
    ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}
