//! Clients that begin to connect while there is nobody to connect to: they are connected at the flip,
//! and not when TCP gets round to asking again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd_tests::crowd::Patient;
use vipd_tests::heal;
use vipd_tests::scenario::scenario;
use vipd_tests::wait::PATIENCE;
use vipd_tests::{Family, Lab, Mode, Options};

/// Clients that connect.
const CROWD: usize = 60;
/// Less than it takes until a silent master is replaced.
const GAP: Duration = Duration::from_millis(1000);

#[test]
fn nat_connects_those_who_waited_while_the_host_was_gone() {
    scenario(Options::mode(Mode::Nat), host_gone);
}

#[test]
fn dsr_connects_those_who_waited_while_the_host_was_gone() {
    scenario(Options::mode(Mode::Dsr), host_gone);
}

#[test]
fn ipv6_clients_who_waited_while_the_host_was_gone_are_connected() {
    for mode in [Mode::Nat, Mode::Dsr] {
        scenario(Options::mode(mode).family(Family::V6), host_gone);
    }
}

#[test]
fn nobody_is_refused_or_times_out_in_a_planned_failover() {
    for mode in [Mode::Nat, Mode::Dsr, Mode::Host] {
        scenario(Options::mode(mode), |lab| {
            heal::wait_ready(lab)?;
            let old = lab.master()?;
            let patient = Patient::start(&lab.dialer(), CROWD, GAP)?;
            lab.sentinels[0].fail_over()?;
            patient.wait_all_over(PATIENCE)?;
            let attempts = patient.attempts();
            let failed = attempts.iter().find(|it| it.established().is_none());
            ensure!(failed.is_none(), "not connected: {failed:?}");
            lab.wait_failed_over(old).map(drop)
        });
    }
}

#[test]
fn nobody_is_connected_by_vipd_if_that_is_switched_off() {
    let daemon = "[failover]\nreplay_syns_s = 0\n".to_owned();
    scenario(Options { daemon, ..Options::default() }, |lab| {
        let replayed = gone(lab)?.1;
        ensure!(replayed == 0, "{replayed} were");
        Ok(())
    });
}

fn host_gone(lab: &mut Lab) -> Result<()> {
    let (waited, replayed) = gone(lab)?;
    ensure!(waited == CROWD, "{waited} of {CROWD} waited for the flip");
    ensure!(replayed >= CROWD as u64, "{replayed} of {CROWD} were connected by vipd");
    Ok(())
}

/// How many of the crowd were still waiting at the flip, and how many SYNs vipd sent on. All are
/// connected in the end.
fn gone(lab: &mut Lab) -> Result<(usize, u64)> {
    let old = lab.master()?;
    lab.nodes[old].host().link_down()?;
    // So patient that nobody gives up before a new master is there.
    let dialer = vipd_tests::client::Dialer { connect_timeout: PATIENCE, ..lab.dialer() };
    let patient = Patient::start(&dialer, CROWD, GAP)?;
    patient.wait_all_over(PATIENCE)?;
    let new = lab.wait_failed_over(old)?;
    let failovers = lab.daemon().status()?.failovers;
    let failover = failovers.last().context("vipd tells of no failover")?;
    ensure!(failover.to == lab.nodes[new].address(), "{failover:?}");
    let flip = failover.timeline.flip_ns.context("no flip")?;
    let established: Vec<_> =
        patient.attempts().iter().filter_map(|it| it.established()).map(|at| at.0).collect();
    ensure!(established.len() == CROWD, "only {} were connected", established.len());
    let waited = established.iter().filter(|&&at| at > flip).count();
    Ok((waited, failover.syns_replayed.unwrap_or(0)))
}
