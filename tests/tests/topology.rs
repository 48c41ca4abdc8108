//! Networks and deployments other than the simplest.

use anyhow::{Result, ensure};
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::{Lab, Mode, Nics, Options, Placement};

#[test]
fn nat_crosses_two_nics() {
    scenario(Options { nics: Nics::Two, ..Options::default() }, |lab| {
        let interfaces = lab.daemon().status()?.interfaces;
        ensure!(interfaces.len() == 2, "vipd is to answer on both: {interfaces:?}");
        a_failover(lab)
    });
}

#[test]
fn nat_crosses_two_nics_in_generic_mode() {
    let daemon = "xdp_mode = \"generic\"".to_owned();
    scenario(Options { nics: Nics::Two, daemon, ..Options::default() }, |lab| {
        let interfaces = lab.daemon().status()?.interfaces;
        ensure!(interfaces.iter().all(|it| it.xdp_mode == "generic"), "{interfaces:?}");
        a_failover(lab)
    });
}

#[test]
fn nat_works_on_a_stick_in_generic_mode() {
    let daemon = "xdp_mode = \"generic\"".to_owned();
    scenario(Options { daemon, ..Options::default() }, a_failover);
}

#[test]
fn veth_gets_the_native_mode_when_the_choice_is_vipds() {
    scenario(Options::default(), |lab| {
        let interfaces = lab.daemon().status()?.interfaces;
        ensure!(interfaces.iter().all(|it| it.xdp_mode == "native"), "{interfaces:?}");
        Ok(())
    });
}

#[test]
fn nat_works_with_passwords() {
    scenario(Options { password: secret(), ..Options::default() }, |lab| {
        a_failover(lab)?;
        let log = std::fs::read_to_string(lab.daemon().log())?;
        ensure!(!log.contains("open-sesame"), "the password is in vipd's log");
        Ok(())
    });
}

#[test]
fn dsr_works_with_passwords() {
    scenario(Options { password: secret(), ..Options::mode(Mode::Dsr) }, a_failover);
}

#[test]
fn sentinels_may_have_hosts_of_their_own() {
    let sentinels = Placement::Apart;
    scenario(Options { sentinels, nics: Nics::Two, ..Options::default() }, a_failover);
}

#[test]
fn check_finds_nothing_wrong_with_a_lab() {
    scenario(Options::default(), |lab| {
        let checked = lab.daemon().check()?;
        for node in &lab.nodes {
            let address = node.address().to_string();
            ensure!(checked.contains(&address), "nothing about {address}:\n{checked}");
        }
        Ok(())
    });
}

fn secret() -> Option<String> {
    Some("open-sesame".to_owned())
}

fn a_failover(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    verify_after_failover(lab, &traffic.stop(), new)
}
