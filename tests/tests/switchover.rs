//! `vipd switchover`: nothing is lost when it works, and nothing is changed when it doesn't.

use anyhow::{Result, ensure};
use vipd_tests::scenario::scenario;
use vipd_tests::switchover::Proof;
use vipd_tests::{Lab, Mode, Options};

#[test]
fn nat_twenty_switchovers_under_load_lose_nothing() {
    scenario(Options::mode(Mode::Nat), |lab| nothing_is_lost(lab, 20));
}

#[test]
fn dsr_switchovers_under_load_lose_nothing() {
    scenario(Options::mode(Mode::Dsr), |lab| nothing_is_lost(lab, 5));
}

#[test]
fn host_switchovers_under_load_lose_nothing() {
    scenario(Options::mode(Mode::Host), |lab| nothing_is_lost(lab, 5));
}

fn nothing_is_lost(lab: &mut Lab, runs: usize) -> Result<()> {
    let proof = Proof::run(lab, runs)?;
    eprintln!("{:?}:\n{proof}", lab.options().mode);
    let lost: Vec<_> = proof.runs.iter().flat_map(|run| &run.lost).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}
