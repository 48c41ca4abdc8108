//! Fencing: from the moment at which a failover is under way nobody gets to the old master, and so
//! no write is acknowledged that the new master doesn't have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd_tests::client::Dialer;
use vipd_tests::crowd::Arrivals;
use vipd_tests::heal;
use vipd_tests::ledger::{Ledger, Write};
use vipd_tests::scenario::{scenario, verify};
use vipd_tests::status::Failover;
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};
use vipd_tests::{Family, Habit, Lab, Mode, Options, Writer};

/// Between two clients that come one after another.
const PACE: Duration = Duration::from_millis(3);
/// Failovers of one lab.
const ROUNDS: usize = 3;

#[test]
fn nat_loses_no_write_in_planned_failovers() {
    scenario(Options::mode(Mode::Nat), no_write_is_lost);
}

#[test]
fn dsr_loses_no_write_in_planned_failovers() {
    scenario(Options::mode(Mode::Dsr), no_write_is_lost);
}

#[test]
fn host_loses_no_write_in_planned_failovers() {
    scenario(Options::mode(Mode::Host), no_write_is_lost);
}

#[test]
fn ipv6_loses_no_write_in_planned_failovers() {
    for mode in [Mode::Nat, Mode::Dsr, Mode::Host] {
        scenario(Options::mode(mode).family(Family::V6), no_write_is_lost);
    }
}

/// They go on to the old host until they look for the VIP again.
#[test]
fn host_loses_no_write_of_clients_that_ignore_announcements() {
    scenario(Options::mode(Mode::Host), |lab| {
        let vips: Vec<_> = lab.services().into_iter().map(|service| service.ip()).collect();
        lab.client.ignore_announcements(&vips)?;
        no_write_is_lost(lab)
    });
}

/// The old master is alive and takes writes for some 10 s; through the VIP none reach it.
fn no_write_is_lost(lab: &mut Lab) -> Result<()> {
    heal::wait_ready(lab)?;
    for round in 0..ROUNDS {
        let old = lab.master()?;
        // Names of this round only: what an earlier one wrote under the same key is not lost.
        let writer =
            |name: &str| lab.writer(&format!("{name}{round}"), Habit::Persistent, lab.service());
        let writers = [writer("one-"), writer("two-")];
        let hasty = Dialer { connect_timeout: Duration::from_secs(1), ..lab.dialer() };
        let arrivals = Arrivals::start(&format!("arrivals{round}"), &hasty, PACE)?;
        arrivals.wait_served_by(&lab.nodes[old])?;
        for writer in &writers {
            writer.wait_acknowledged_by(lab.nodes[old].run_id())?;
        }
        wait_until("Sentinel takes the order", PATIENCE, || {
            Ok(lab.sentinels[round % lab.sentinels.len()].fail_over().is_ok())
        })?;
        let new = lab.wait_failed_over(old)?;
        arrivals.wait_served_by(&lab.nodes[new])?;
        for writer in &writers {
            writer.wait_acknowledged_by(lab.nodes[new].run_id())?;
        }
        let mut ledgers: Vec<_> = writers.into_iter().map(Writer::stop).collect();
        ledgers.push(arrivals.stop());
        let lost = lost(&ledgers, lab, new)?;
        ensure!(lost.is_empty(), "round {round}: {} lost: {:?}", lost.len(), lost[0]);
        verify_parked(&ledgers, lab, old, &told(lab, new)?)?;
        verify(lab, &ledgers, new)?;
        heal::heal(lab, old, new)?;
    }
    Ok(())
}

/// Fails if the old master acknowledged a write that was sent after the leader told the replica to
/// become master: by then nothing may reach it.
fn verify_parked(ledgers: &[Ledger], lab: &Lab, old: usize, failover: &Failover) -> Result<()> {
    let timeline = &failover.timeline;
    let (parked, promoting) = (timeline.parked_ns, timeline.promoting_ns);
    ensure!(parked.is_some() && parked < promoting, "it was not parked in time: {failover:?}");
    let promoting = Monotonic(promoting.context("nobody was promoted")?);
    let by_old = ledgers.iter().flat_map(|it| it.acknowledged_by(lab.nodes[old].run_id()));
    let late: Vec<_> = by_old.filter(|write| write.sent > promoting).collect();
    ensure!(late.is_empty(), "{} writes to the parked master, such as {:?}", late.len(), late[0]);
    Ok(())
}

fn told(lab: &Lab, new: usize) -> Result<Failover> {
    let daemon = if lab.options().mode == Mode::Host { new } else { 0 };
    let to = lab.nodes[new].address();
    wait_for("vipd tells of the failover", PATIENCE, || {
        Ok(lab.daemons[daemon].status()?.failovers.into_iter().rfind(|it| it.to == to))
    })
}

fn lost(ledgers: &[Ledger], lab: &Lab, master: usize) -> Result<Vec<Write>> {
    let mut lost = Vec::new();
    for ledger in ledgers {
        lost.extend(ledger.lost(&lab.nodes[master])?.into_iter().cloned());
    }
    Ok(lost)
}
