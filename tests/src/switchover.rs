//! `vipd switchover`: how a test calls it, and the proof that it loses nothing.

use std::collections::HashMap;
use std::fmt;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::ledger::{self, Ledger, Write};
use crate::redis_node::RedisNode;
use crate::scenario;
use crate::sentinel::MASTER_NAME;
use crate::wait::{PATIENCE, wait_until};
use crate::writer::{Habit, Writer};

/// Clients that write during the proof.
const WRITERS: usize = 6;

/// How `vipd switchover` ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit status 0.
    pub success: bool,
    /// What it printed, to either output.
    pub text: String,
}

impl Ended {
    /// The stall that it tells, if it tells one.
    pub fn stall(&self) -> Option<Duration> {
        let told = self.text.split("were stalled for ").nth(1)?;
        let ms: f64 = told.split(' ').next()?.parse().ok()?;
        Some(Duration::from_secs_f64(ms / 1e3))
    }
}

/// Runs `vipd switchover` with further arguments, and waits for its end.
pub fn switch_over(daemon: &Daemon, arguments: &[&str]) -> Result<Ended> {
    ended(begin(daemon, arguments)?)
}

/// Starts it.
pub fn begin(daemon: &Daemon, arguments: &[&str]) -> Result<Child> {
    let mut command = daemon.command("switchover");
    command.arg(MASTER_NAME).args(arguments).arg("--socket").arg(daemon.socket());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot run vipd switchover")
}

/// Waits for the end of what [`begin`] started.
pub fn ended(child: Child) -> Result<Ended> {
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Ended { success: output.status.success(), text })
}

/// Waits until every Sentinel has heard of the replicas' offsets, for which it asks every 10 s: in a
/// lab that has just begun they are 0, which looks like replicas that were never in sync.
pub fn wait_replicas_known(lab: &Lab) -> Result<()> {
    lab.wait_settled()?;
    for sentinel in lab.sentinels.iter().filter(|it| it.is_running()) {
        wait_until(format_args!("{} knows the replicas", sentinel.name()), PATIENCE, || {
            let replicas: Vec<HashMap<String, String>> =
                sentinel.ask(&["SENTINEL", "REPLICAS", MASTER_NAME])?;
            let known = |it: &HashMap<String, String>| {
                it.get("slave-repl-offset").is_some_and(|offset| offset != "0")
            };
            Ok(replicas.iter().all(known))
        })?;
    }
    Ok(())
}

/// The writes of `ledgers`, whoever acknowledged them, that `node` does not have.
pub fn lost(ledgers: &[Ledger], node: &RedisNode) -> Result<Vec<String>> {
    let mut lost = Vec::new();
    for ledger in ledgers {
        let missing = ledger.lost(node)?;
        let told =
            |it: &Write| format!("{} (by {})", Ledger::key(&ledger.client, it.number), it.by);
        lost.extend(missing.into_iter().map(told));
    }
    Ok(lost)
}

/// One of the runs of a [`Proof`].
#[derive(Clone, Debug)]
pub struct Run {
    /// As vipd tells it.
    pub told: Duration,
    /// From the last acknowledgement of the old master to the first of the new one, over all
    /// clients.
    pub blackout: Duration,
    /// The longest that any single client was without an acknowledgement around the flip.
    pub longest: Duration,
    /// Writes acknowledged.
    pub acknowledged: usize,
    /// Of these, those that the new master doesn't have.
    pub lost: Vec<String>,
}

/// What came of several switchovers under a write load.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// In their order.
    pub runs: Vec<Run>,
}

impl Proof {
    /// Switches over so many times in a lab that serves, while clients write through the VIP.
    pub fn run(lab: &Lab, runs: usize) -> Result<Self> {
        let mut proof = Self::default();
        for run in 0..runs {
            proof.runs.push(measure(lab, run).with_context(|| format!("run {run}"))?);
        }
        Ok(proof)
    }

    /// Writes that were acknowledged and are not there.
    pub fn lost(&self) -> usize {
        self.runs.iter().map(|run| run.lost.len()).sum()
    }

    /// Median and maximum of one figure.
    pub fn median_and_max(&self, figure: impl Fn(&Run) -> Duration) -> (Duration, Duration) {
        let mut values: Vec<_> = self.runs.iter().map(figure).collect();
        values.sort_unstable();
        let of = |index: usize| values.get(index).copied().unwrap_or_default();
        (of(values.len() / 2), of(values.len().saturating_sub(1)))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledged: usize = self.runs.iter().map(|run| run.acknowledged).sum();
        writeln!(f, "{} switchovers under the load of {WRITERS} writers:", self.runs.len())?;
        let mut line = |name: &str, figure: fn(&Run) -> Duration| {
            let (median, max) = self.median_and_max(figure);
            let ms = |it: Duration| it.as_secs_f64() * 1e3;
            writeln!(f, "  {name:<28} median {:>7.1} ms, max {:>7.1} ms", ms(median), ms(max))
        };
        line("stall, as vipd tells it", |run| run.told)?;
        line("blackout of writes", |run| run.blackout)?;
        line("longest wait of one client", |run| run.longest)?;
        writeln!(f, "  {acknowledged} writes acknowledged, {} of them lost", self.lost())
    }
}

/// One switchover, begun once all clients write.
fn measure(lab: &Lab, run: usize) -> Result<Run> {
    wait_replicas_known(lab)?;
    let old = lab.master()?;
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let habit = if number % 3 == 2 { Habit::Fresh } else { Habit::Persistent };
            lab.writer(&format!("run{run}w{number}"), habit, lab.service())
        })
        .collect();
    writers.iter().try_for_each(|it| it.wait_acknowledged_by(lab.nodes[old].run_id()))?;
    let asked = lab.daemons.get(old).unwrap_or_else(|| lab.daemon());
    let ended = switch_over(asked, &[])?;
    ensure!(ended.success, "vipd switchover failed:\n{}", ended.text);
    let told = ended.stall().with_context(|| format!("no stall was told:\n{}", ended.text))?;
    let new = lab.wait_failed_over(old)?;
    let node = &lab.nodes[new];
    writers.iter().try_for_each(|it| it.wait_acknowledged_by(node.run_id()))?;
    let ledgers: Vec<_> = writers.into_iter().map(Writer::stop).collect();
    scenario::verify(lab, &ledgers, new)?;
    ledger::verify_one_master_after(&ledgers, node.run_id())?;
    let single = ledgers.iter().map(std::slice::from_ref);
    let longest = single.filter_map(|it| ledger::blackout(it, node.run_id())).max();
    Ok(Run {
        told,
        blackout: ledger::blackout(&ledgers, node.run_id()).context("no blackout")?,
        longest: longest.context("no client went over")?,
        acknowledged: ledgers.iter().map(|ledger| ledger.writes.len()).sum(),
        lost: lost(&ledgers, node)?,
    })
}
