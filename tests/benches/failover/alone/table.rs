//! What is shown.

use std::collections::BTreeMap;

use vipd::clock::Monotonic;
use vipd_tests::crowd::Fate;
use vipd_tests::status::Timeline;

use super::cell::Outcome;
use super::proofs::Proof;
use super::run::Run;
use vipd::probe::figures::{Spread, milliseconds};

/// Prints the figures of one kind of failover, and the timeline beside.
pub fn print(outcome: &Outcome) {
    let Outcome { cell, runs } = outcome;
    println!("{cell}; {} failovers", runs.len());
    println!("  {:<52} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "median", "min", "q1", "q3", "max");
    for (what, figure) in figures() {
        row(what, Spread::of(runs.iter().map(figure)));
    }
    let sum = |of: fn(&Run) -> usize| runs.iter().map(of).sum::<usize>();
    println!(
        "  {} of {} acknowledged writes lost, {} of them sent after the old master was fenced; {} \
         acknowledged by it after the new one's first",
        sum(|run| run.lost),
        sum(|run| run.writes),
        sum(|run| run.unfenced),
        sum(|run| run.late)
    );
    let mut learned: BTreeMap<&str, usize> = BTreeMap::new();
    for (how, count) in runs.iter().flat_map(Run::learned) {
        *learned.entry(how).or_default() += count;
    }
    println!(
        "  waiting clients: {learned:?}; patient clients: {} connected ({} had begun before the flip), \
         {} refused, {} timed out",
        sum(|run| run.attempts_that(Fate::Established)),
        sum(|run| run.in_the_gap().count()),
        sum(|run| run.attempts_that(Fate::Refused)),
        sum(|run| run.attempts_that(Fate::TimedOut)),
    );
    println!("  since the fault:");
    for (number, (what, _)) in Timeline::default().moments().into_iter().enumerate() {
        let moments = runs.iter().map(|run| {
            let (_, at) = run.failover.timeline.moments()[number];
            run.since_fault(at.map(Monotonic))
        });
        row(&format!("  {what}"), Spread::of(moments));
    }
    row(
        "  the new master's log says that it is one",
        Spread::of(runs.iter().map(|run| run.since_fault(run.role))),
    );
    row(
        "  the first write by the new master",
        Spread::of(runs.iter().map(|run| run.since_fault(Some(run.first_write)))),
    );
    println!();
}

/// A figure of a run, in milliseconds.
type Figure = fn(&Run) -> Option<f64>;

/// What is told of each run, with a name for people.
pub fn figures() -> [(&'static str, Figure); 8] {
    [
        ("blackout", |run| run.blackout.map(milliseconds)),
        ("ROLE = master to the first write acknowledged", Run::role_to_first_write),
        ("ROLE = master to the flip", Run::role_to_flip),
        ("the flip was ahead of the first +switch-master by", Run::ahead),
        ("the last waiting client knew, after the flip", Run::last_freed),
        ("the last patient client connected, after the flip", Run::last_connected),
        ("parked for", |run| run.failover.parked_for_ns.map(|ns| ns as f64 / 1e6)),
        ("two hosts answered for the VIP for", |run| run.two_owners.map(milliseconds)),
    ]
}

/// Prints what holds and what doesn't.
pub fn print_proofs(proofs: &[Proof]) {
    for proof in proofs {
        let verdict = if proof.holds { "holds " } else { "MISSED" };
        println!("{verdict} ({}) {}: {}", proof.letter, proof.what, proof.found);
    }
}

fn row(what: &str, spread: Option<Spread>) {
    let Some(Spread { min, lower, median, upper, max, .. }) = spread else { return };
    println!("  {what:<52} {median:>9.1} {min:>9.1} {lower:>9.1} {upper:>9.1} {max:>9.1}");
}
