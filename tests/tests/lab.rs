//! The lab itself, without vipd: what every other scenario relies on.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use vipd_tests::redis_node::Role;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Nics, Options, Placement};

#[test]
fn sentinel_fails_over_by_itself_and_the_old_master_is_taken_back() -> Result<()> {
    let mut lab = Lab::up(Options::default())?;
    let old = lab.master()?;
    lab.nodes[old].kill()?;
    wait_until("another node is master", PATIENCE, || Ok(lab.master()? != old))?;
    lab.nodes[old].start()?;
    ensure!(lab.nodes[old].role()? == Role::Master, "a restarted master first says it is one");
    wait_until("Sentinel has made it a replica", PATIENCE, || {
        Ok(lab.nodes[old].role()? == Role::Replica { in_sync: true })
    })
}

#[test]
fn a_sentinel_that_is_cut_off_keeps_its_view_and_learns_the_new_one_later() -> Result<()> {
    let mut lab =
        Lab::up(Options { sentinels: Placement::Apart, nics: Nics::Two, ..Options::default() })?;
    let old = lab.master()?;
    let (cut_off, view) = (&lab.sentinels[2], lab.nodes[old].address());
    cut_off.host().cut_off_except(&[lab.director()])?;
    lab.nodes[old].kill()?;
    wait_until("another node is master", PATIENCE, || Ok(lab.master()? != old))?;
    let cut_off = &lab.sentinels[2];
    ensure!(cut_off.master()? == view, "the one that was cut off has heard of it");
    cut_off.host().rejoin()?;
    wait_until("it learns of it", PATIENCE, || Ok(lab.sentinels[2].master()? != view))
}

#[test]
fn a_password_is_used_everywhere() -> Result<()> {
    let lab = Lab::up(Options { password: Some("secret".to_owned()), ..Options::default() })?;
    lab.sentinels[0].fail_over()?;
    wait_until("another node is master", PATIENCE, || Ok(lab.master()? != 0))
}

#[test]
fn nothing_is_left_of_a_lab_that_was_dropped() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let name = lab.name().to_owned();
    drop(lab);
    let listed = Command::new("ip").args(["netns", "list"]).output()?;
    ensure!(!String::from_utf8_lossy(&listed.stdout).contains(&name), "a namespace is left");
    ensure!(!std::env::temp_dir().join(&name).exists(), "its directory is left");
    ensure!(!Path::new("/sys/fs/bpf").join(&name).exists(), "its pins are left");
    Ok(())
}
