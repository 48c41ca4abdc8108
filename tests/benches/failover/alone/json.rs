//! The same for programs.

use serde_json::{Map, Value, json};
use vipd::clock::Monotonic;
use vipd_tests::crowd::Fate;

use super::cell::Outcome;
use super::proofs::Proof;
use super::run::Run;
use super::table::figures;
use vipd::probe::figures::Spread;

/// Everything.
pub fn document(outcomes: &[Outcome], proofs: &[Proof]) -> Value {
    let proofs = proofs.iter().map(|proof| {
        json!({
            "proof": proof.letter.to_string(),
            "what": proof.what,
            "found": proof.found,
            "holds": proof.holds,
        })
    });
    json!({
        "failovers": outcomes.iter().map(cell).collect::<Value>(),
        "proofs": proofs.collect::<Value>(),
    })
}

fn cell(outcome: &Outcome) -> Value {
    let Outcome { cell, runs } = outcome;
    let figures = figures().map(|(what, figure)| {
        let spread = Spread::of(runs.iter().map(figure)).map(|it| {
            json!({
                "count": it.count,
                "median": it.median,
                "min": it.min,
                "q1": it.lower,
                "q3": it.upper,
                "max": it.max,
            })
        });
        (what.to_owned(), spread.into())
    });
    json!({
        "mode": cell.mode.name(),
        "scenario": cell.scenario.name(),
        "fast_fail": cell.fast_fail,
        "down_after_ms": cell.down_after().as_millis() as u64,
        "milliseconds": Value::Object(Map::from_iter(figures)),
        "runs": runs.iter().map(run).collect::<Value>(),
    })
}

fn run(run: &Run) -> Value {
    let moments = run
        .failover
        .timeline
        .moments()
        .map(|(what, at)| (what.to_owned(), run.since_fault(at.map(Monotonic)).into()));
    let figures = figures().map(|(what, figure)| (what.to_owned(), figure(run).into()));
    json!({
        "milliseconds": Value::Object(Map::from_iter(figures)),
        "since_fault": Value::Object(Map::from_iter(moments)),
        "role_since_fault": run.since_fault(run.role),
        "first_write_since_fault": run.since_fault(Some(run.first_write)),
        "trigger": run.failover.trigger,
        "outcome": run.failover.outcome,
        "syns_replayed": run.failover.syns_replayed,
        "clients_freed": run.failover.clients_freed,
        "waiting_clients": run.learned(),
        "patient_clients": {
            "before_the_flip": run.in_the_gap().count(),
            "connected": run.attempts_that(Fate::Established),
            "refused": run.attempts_that(Fate::Refused),
            "timed_out": run.attempts_that(Fate::TimedOut),
        },
        "writes": run.writes,
        "lost": run.lost,
        "lost_after_fencing": run.unfenced,
        "late": run.late,
    })
}
