//! vipd itself goes: the kernel carries on, and a new vipd takes over where the old one was.

use std::time::Duration;

use anyhow::{Result, ensure};
use vipd_tests::client::Dialer;
use vipd_tests::scenario::{Traffic, scenario, verify, verify_after_failover};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Mode, Nics, Options};

#[test]
fn no_client_of_nat_notices_that_vipd_was_killed_and_restarted() {
    scenario(Options::mode(Mode::Nat), vipd_is_killed_under_load);
}

#[test]
fn no_client_of_dsr_notices_that_vipd_was_killed_and_restarted() {
    scenario(Options::mode(Mode::Dsr), vipd_is_killed_under_load);
}

#[test]
fn no_client_notices_it_with_two_nics_either() {
    scenario(Options { nics: Nics::Two, ..Options::default() }, vipd_is_killed_under_load);
}

#[test]
fn a_failover_that_vipd_slept_through_is_followed_when_it_is_back() {
    scenario(Options::default(), |lab| {
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        lab.daemon_mut().kill()?;
        lab.nodes[old].kill()?;
        wait_until("Sentinel has made another node master", PATIENCE, || Ok(lab.master()? != old))?;
        lab.daemon_mut().start()?;
        let new = lab.wait_failed_over(old)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        verify_after_failover(lab, &traffic.stop(), new)
    });
}

#[test]
fn sigterm_takes_the_vip_off_the_network() {
    scenario(Options::default(), |lab| {
        lab.daemon_mut().stop()?;
        ensure!(!has_xdp(lab)?, "the program is still attached");
        ensure!(!is_reachable(lab), "the VIP still answers");
        // And it can be put back.
        let master = lab.master()?;
        lab.serve()?;
        verify(lab, &[], master)
    });
}

#[test]
fn sigterm_leaves_traffic_flowing_if_so_configured_until_detach() {
    let daemon = "on_stop = \"keep\"".to_owned();
    scenario(Options { daemon, ..Options::default() }, |lab| {
        let master = lab.master()?;
        let traffic = Traffic::start(lab, master)?;
        lab.daemon_mut().stop()?;
        traffic.wait_served_by(&lab.nodes[master])?;
        let ledgers = traffic.stop();
        ensure!(ledgers.iter().all(|ledger| ledger.failures.is_empty()), "a client noticed");
        lab.daemon().detach()?;
        ensure!(!has_xdp(lab)?, "the program is still attached");
        ensure!(!is_reachable(lab), "the VIP still answers");
        Ok(())
    });
}

fn vipd_is_killed_under_load(lab: &mut Lab) -> Result<()> {
    let master = lab.master()?;
    let traffic = Traffic::start(lab, master)?;
    let before = lab.daemon().status()?;
    lab.daemon_mut().kill()?;
    traffic.wait_served_by(&lab.nodes[master])?;
    lab.daemon_mut().start()?;
    lab.daemon().wait_serving(lab.nodes[master].address())?;
    traffic.wait_served_by(&lab.nodes[master])?;
    let after = lab.daemon().status()?;
    let programs = |status: &vipd_tests::status::Status| {
        status
            .interfaces
            .iter()
            .map(|it| (it.name.clone(), it.xdp_mode.clone()))
            .collect::<Vec<_>>()
    };
    ensure!(programs(&before) == programs(&after), "the program is attached differently");
    ensure!(
        before.services[0].generation == after.services[0].generation,
        "the restart counted as a cutover"
    );
    for ledger in traffic.ledgers() {
        ensure!(ledger.failures.is_empty(), "{} noticed: {:?}", ledger.client, ledger.failures);
    }

    // The new vipd does what the old one did.
    lab.nodes[master].kill()?;
    let new = lab.wait_failed_over(master)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    verify_after_failover(lab, &traffic.stop(), new)
}

/// Whether the director's `eth0` has an XDP program.
fn has_xdp(lab: &Lab) -> Result<bool> {
    let mut command = lab.director().namespace.command("ip");
    let output = command.args(["link", "show", "dev", "eth0"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("prog/xdp"))
}

fn is_reachable(lab: &Lab) -> bool {
    Dialer { connect_timeout: Duration::from_secs(1), ..lab.dialer() }.connect().is_ok()
}
