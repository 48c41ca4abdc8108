//! What the demos have in common: telling what happens while it happens, and what happened.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, Value, json};
use vipd::clock::Monotonic;
use vipd_tests::Lab;
use vipd_tests::ledger::Ledger;
use vipd_tests::redis_node::RedisNode;
use vipd_tests::scenario::Traffic;
use vipd_tests::status::{Failover, Timeline};
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};

/// Writes before the master goes, and by the new one before the curtain falls.
const ENOUGH_WRITES: usize = 300;

/// The leading Sentinel announces the new master some 2 s after a promotion.
const ANNOUNCED_BY: Duration = Duration::from_secs(6);

/// Says what happens while it happens.
pub struct Narrator {
    /// Says nothing.
    pub silent: bool,
}

impl Narrator {
    /// Does `work` between "…" and "done".
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        if !self.silent {
            print!("{what} ... ");
            // Cosmetic: the line is complete with `done`.
            let _unflushed = std::io::stdout().flush();
        }
        let done = work()?;
        self.line(&format!("done ({:.1} s)", started.elapsed().as_secs_f64()));
        Ok(done)
    }

    /// Says a line.
    pub fn line(&self, text: &str) {
        if !self.silent {
            println!("{text}");
        }
    }
}

/// What vipd tells of the failover, once Sentinel's own announcement, which comes last, is part of
/// it. A Sentinel that never makes one shall not spoil the story.
pub fn complete_failover(lab: &Lab, daemon: usize, new: usize) -> Result<Failover> {
    let told = || {
        let failovers = lab.daemons[daemon].status()?.failovers;
        Ok(failovers.into_iter().rfind(|it| it.to == lab.nodes[new].address()))
    };
    let complete = wait_for("Sentinel has announced the new master", ANNOUNCED_BY, || {
        Ok(told()?.filter(|it| it.timeline.switch_master_ns.is_some()))
    });
    complete.or_else(|_| wait_for("vipd tells of the failover", PATIENCE, told))
}

/// Waits until the node has acknowledged enough writes of each client.
pub fn wait_writes(traffic: &Traffic, node: &RedisNode) -> Result<()> {
    wait_until("there are enough writes", PATIENCE, || {
        let ledgers = traffic.ledgers();
        let enough = |ledger: &Ledger| ledger.acknowledged_by(node.run_id()).count();
        Ok(ledgers.iter().all(|ledger| enough(ledger) >= ENOUGH_WRITES))
    })
}

/// What was seen of a failover, in order of time.
pub fn moments(timeline: &Timeline) -> Vec<(&'static str, Monotonic)> {
    let seen = timeline.moments();
    let mut moments: Vec<_> =
        seen.into_iter().filter_map(|(what, at)| Some((what, Monotonic(at?)))).collect();
    moments.sort_by_key(|&(_, at)| at);
    moments
}

/// Prints a moment of a timeline.
pub fn tell_moment(since: Duration, what: &str) {
    println!("{:>7.1} ms  {what}", milliseconds(since));
}

/// The moments of a failover by name, in milliseconds since the master went.
pub fn timeline_to_json(timeline: &Timeline, gone: Monotonic) -> Value {
    let seen = [
        ("sdown_ms", timeline.sdown_ns),
        ("odown_ms", timeline.odown_ns),
        ("ordered_ms", timeline.ordered_ns),
        ("selected_ms", timeline.selected_ns),
        ("parked_ms", timeline.parked_ns),
        ("promoting_ms", timeline.promoting_ns),
        ("promoted_ms", timeline.promoted_ns),
        ("switch_master_ms", timeline.switch_master_ns),
        ("role_confirmed_ms", timeline.role_confirmed_ns),
        ("flip_ms", timeline.flip_ns),
        ("first_packet_ms", timeline.first_packet_ns),
        ("replayed_ms", timeline.replayed_ns),
        ("freed_ms", timeline.freed_ns),
        ("confirmed_ms", timeline.confirmed_ns),
    ];
    let since = seen.map(|(name, at)| {
        let at = at.map(|at| milliseconds(Monotonic(at).since(gone)));
        (name.to_owned(), json!(at))
    });
    Value::Object(Map::from_iter(since))
}

/// Tells of each client.
pub fn tell_clients(ledgers: &[Ledger], old: &RedisNode, new: &RedisNode) {
    for ledger in ledgers {
        let (by_old, by_new) = acknowledgements(ledger, old, new);
        println!(
            "The {} client never changed its address: {} writes acknowledged by {}, then {} \
             by {}; {} attempts failed in between.",
            ledger.client,
            by_old,
            old.name(),
            by_new,
            new.name(),
            ledger.failures.len(),
        );
    }
}

/// What each client noticed.
pub fn clients_to_json(ledgers: &[Ledger], old: &RedisNode, new: &RedisNode) -> Value {
    let clients = ledgers.iter().map(|ledger| {
        let (by_old, by_new) = acknowledgements(ledger, old, new);
        json!({
            "client": ledger.client,
            "acknowledged_by_old": by_old,
            "acknowledged_by_new": by_new,
            "failed_attempts": ledger.failures.len(),
            "connections": ledger.connections,
        })
    });
    clients.collect()
}

/// How many writes each acknowledged, in this or an earlier start.
fn acknowledgements(ledger: &Ledger, old: &RedisNode, new: &RedisNode) -> (usize, usize) {
    let by = |node: &RedisNode| ledger.writes.iter().filter(|it| node.was(&it.by)).count();
    (by(old), by(new))
}

/// With three decimals.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
