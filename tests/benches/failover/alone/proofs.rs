//! What vipd promises, held against what was measured.

use vipd_tests::Mode;

use super::cell::{Cell, Outcome};
use super::run::Run;
use crate::scenario::Scenario;
use vipd::probe::figures::{Spread, milliseconds};

/// One promise, for one kind of failover.
pub struct Proof {
    pub letter: char,
    /// The promise, with its bound, and where.
    pub what: String,
    /// What was found.
    pub found: String,
    pub holds: bool,
}

/// Bounds in milliseconds, of medians.
const EARLY: f64 = 10.0;
const FAST_FAIL: f64 = 400.0;
const STALL: f64 = 300.0;
const FREED: f64 = 50.0;
const CONNECTED: f64 = 50.0;

/// Every promise for every kind of failover that it is made for.
pub fn judge(outcomes: &[Outcome]) -> Vec<Proof> {
    let mut proofs: Vec<Proof> = outcomes.iter().flat_map(judge_one).collect();
    proofs.sort_by_key(|proof| proof.letter);
    proofs
}

fn judge_one(outcome: &Outcome) -> Vec<Proof> {
    let Outcome { cell, runs } = outcome;
    let mut proofs = Vec::new();
    let mut add = |letter, what: &str, (found, holds)| {
        proofs.push(Proof { letter, what: format!("{what} [{cell}]"), found, holds });
    };
    let what = format!("the first write is acknowledged ≤ {EARLY} ms after ROLE = master, median");
    add('a', &what, within(runs, EARLY, Run::role_to_first_write));
    if cell.scenario == Scenario::Kill && cell.fast_fail {
        let what = format!("fast fail: blackout ≤ {FAST_FAIL} ms, median");
        add('b', &what, within(runs, FAST_FAIL, blackout));
    }
    if cell.scenario.is_planned() {
        let what = format!("planned: stall ≤ {STALL} ms, median");
        add('c', &what, within(runs, STALL, blackout));
        let what = format!("planned: no write lost in {} runs", runs.len());
        let (lost, writes) = (sum(runs, |run| run.lost), sum(runs, |run| run.writes));
        add('c', &what, (format!("{lost} of {writes}"), lost == 0));
    }
    if is_freed(cell) {
        let what = format!("the last waiting client knows ≤ {FREED} ms after the flip, median");
        let hung = sum(runs, Run::hung);
        let (found, holds) = within(runs, FREED, Run::last_freed);
        add('d', &what, (format!("{found}; {hung} hang"), holds && hung == 0));
    }
    if cell.scenario == Scenario::Gone && cell.mode != Mode::Host {
        let what =
            format!("the last patient client is connected ≤ {CONNECTED} ms after the flip, median");
        let failed = runs.iter().flat_map(Run::in_the_gap).filter(|it| it.established().is_none());
        let (failed, begun) = (failed.count(), sum(runs, |run| run.in_the_gap().count()));
        let (found, holds) = within(runs, CONNECTED, Run::last_connected);
        let found = format!("{found}; {failed} of {begun} never");
        add('e', &what, (found, holds && failed == 0 && begun > 0));
    }
    let what = "nothing sent after the old master was fenced is acknowledged and lost";
    let unfenced = sum(runs, |run| run.unfenced) + sum(runs, |run| run.late);
    add('f', what, (format!("{unfenced} writes"), unfenced == 0));
    proofs
}

/// Whether there is somebody to tell the waiting clients: in mode `host` nobody is, when the host
/// itself is gone.
fn is_freed(cell: &Cell) -> bool {
    cell.mode != Mode::Host || cell.scenario != Scenario::Gone
}

/// What was found of a figure that every run must have, and whether its median is within the bound.
fn within(runs: &[Run], bound: f64, figure: impl Fn(&Run) -> Option<f64>) -> (String, bool) {
    match Spread::of(runs.iter().map(figure)) {
        Some(it) if it.count == runs.len() => {
            (format!("{:.1} ms ({:.1} – {:.1})", it.median, it.min, it.max), it.median <= bound)
        }
        Some(it) => (format!("{:.1} ms, seen in {} runs only", it.median, it.count), false),
        None => ("not seen".to_owned(), false),
    }
}

fn blackout(run: &Run) -> Option<f64> {
    run.blackout.map(milliseconds)
}

fn sum(runs: &[Run], of: impl Fn(&Run) -> usize) -> usize {
    runs.iter().map(of).sum()
}
