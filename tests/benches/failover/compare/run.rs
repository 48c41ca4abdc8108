//! One failover, as `vipd probe` sees it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vipd::probe::figures::{milliseconds, ns_as_ms};
use vipd::probe::report::{self, LayerName, Source};
use vipd_tests::Lab;
use vipd_tests::redis_node::RedisNode;
use vipd_tests::switchover;
use vipd_tests::wait::PATIENCE;

use super::cell::Cell;
use super::cue::Cue;
use super::figures::FIGURES;
use super::probe::{Probe, layer};
use crate::scenario::Scenario;

/// What passes is over after this.
const PASSES_AFTER: Duration = Duration::from_secs(4);

/// What the clients noticed, in milliseconds where nothing else is said. `null` is what there is not.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Run {
    /// From 1 on, in its cell.
    pub number: usize,
    /// No write was acknowledged: from the last by the old master to the first by the new one, or
    /// longest.
    pub blackout_ms: f64,
    /// The new master has acknowledged a write before the end.
    pub is_served: bool,
    /// No SYN was answered.
    pub syn_blackout_ms: Option<f64>,
    /// No echo request was answered.
    pub icmp_blackout_ms: Option<f64>,
    /// The new master's first acknowledgement, after the first `+switch-master`; negative is before.
    pub first_write_after_switch_ms: Option<f64>,
    /// The same after the fault.
    pub first_write_after_fault_ms: Option<f64>,
    /// The last of the connections that only wait learned that its master is gone, after the fault; the
    /// end of the run for those that hang.
    pub last_told_ms: Option<f64>,
    /// Connections that held on to a lost master at the end, those of them that only wait, and all
    /// that there were.
    pub hung: u64,
    pub hung_idle: u64,
    pub connections: u64,
    /// Writes that somebody acknowledged, those of them that the new master doesn't have, and those
    /// that the old one acknowledged after the new one's first. The second is not known if clients are
    /// still led to the old master at the end.
    pub acknowledged: u64,
    pub lost: Option<u64>,
    pub late: u64,
    /// Two hosts answered ARP for the VIP.
    pub two_owners_ms: Option<f64>,
    /// How the probes' own schedules were kept.
    pub schedules: Vec<Schedule>,
}

/// How one layer kept its schedule.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Schedule {
    pub layer: LayerName,
    /// Probes a second.
    pub rate: f64,
    pub sent: u64,
    /// Left out because the probe itself was too late.
    pub skipped: u64,
    /// 99 of 100 were sent earlier than this after they were due.
    pub late_p99_ms: f64,
}

/// Who was the master, who is, and what was found.
pub struct Measured {
    pub old: usize,
    pub new: usize,
    /// When it was done.
    pub fault: Instant,
    pub run: Run,
}

/// Makes the master go while the probes watch. What does not pass by itself is not undone.
pub fn measure(lab: &mut Lab, cell: &Cell, number: usize, keep: Option<&Path>) -> Result<Measured> {
    let (way, scenario) = (cell.way, cell.scenario);
    let directory = lab.directory().join(format!("run{number}"));
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let old = lab.master()?;
    let mut cue = Cue::prepare(&directory)?;
    let watched = watched(scenario);
    let owners = way.has_vip().then(|| Probe::of_owners(lab, &directory)).transpose()?;
    let mut clients = Probe::of_clients(lab, way, &directory, &cue.trigger(), watched)?;

    cue.wait(clients.process())?;
    let ordered = scenario.strike(lab, old)?;
    let fault = Instant::now();
    cue.done()?;
    if scenario.is_passing() {
        thread::sleep(PASSES_AFTER.saturating_sub(fault.elapsed()));
        scenario.undo(lab, old)?;
    }
    let clients = clients.finish(watched + PATIENCE)?;
    let owners = owners.map(Probe::interrupt).transpose()?;
    if let Some(command) = ordered {
        let ended = switchover::ended(command)?;
        ensure!(ended.success, "vipd switchover: {}", ended.text);
    }
    if let Some(keep) = keep {
        keep_documents(&directory, keep, &format!("{cell}-{number}").replace([' ', ','], ""))?;
    }
    let new = lab.master()?;
    ensure!(new != old, "the Sentinels have not made another node the master");
    let run = Run::of(number, &clients, owners.as_ref(), &lab.nodes[new])?;
    Ok(Measured { old, new, fault, run })
}

/// How long the clients are watched after the fault: until they have done what they do about it. Where
/// the old master lives, or lives again, until Sentinel has made a replica of it, which takes it some
/// 10 s: only then is it known which writes are lost.
fn watched(scenario: Scenario) -> Duration {
    Duration::from_secs(match scenario {
        Scenario::Kill | Scenario::Gone => 6,
        Scenario::Planned | Scenario::Switchover => 14,
        Scenario::Stop | Scenario::Partition | Scenario::Back => 17,
    })
}

fn keep_documents(from: &Path, to: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for what in ["clients", "owners"] {
        let document = from.join(format!("{what}.json"));
        if document.exists() {
            let kept = to.join(format!("{name}-{what}.json"));
            fs::copy(&document, &kept)
                .with_context(|| format!("cannot write {}", kept.display()))?;
        }
    }
    Ok(())
}

impl Run {
    /// Reads it from what the probes found.
    fn of(
        number: usize,
        clients: &report::Run,
        owners: Option<&report::Run>,
        new: &RedisNode,
    ) -> Result<Self> {
        let redis = layer(clients, LayerName::Redis)?;
        let idle = layer(clients, LayerName::Idle)?;
        let writes = redis.writes.as_ref().context("the probe tells nothing of its writes")?;
        let waiting = [redis, idle].map(|layer| layer.waiting.as_ref());
        let sum = |of: fn(&report::Waiting) -> u64| waiting.into_iter().flatten().map(of).sum();
        let first_write =
            redis.nodes.iter().find(|node| node.id == new.run_id()).map(|node| node.first_ns);
        let fault = clients.zero_ns();
        let switch = clients.marks.iter().filter(|mark| {
            mark.source == Source::Sentinel
                && mark.at_ns >= fault
                && mark.what.starts_with("+switch-master")
        });
        let switch = switch.map(|mark| mark.at_ns).min();
        let blackout = |name| {
            let length = |layer: &report::Layer| {
                layer.blackout.as_ref().map_or(0.0, |it| ns_as_ms(it.length_ns))
            };
            clients.layer(name).map(length)
        };
        // Those that were read back from elsewhere may be lost yet.
        let address = new.address().to_string();
        let is_final = writes.read_back_from.as_ref().is_some_and(|it| it.starts_with(&address));
        let owned = owners.map(|run| layer(run, LayerName::Arp)).transpose()?;
        let owned = owned.and_then(|layer| layer.owners.as_ref());
        Ok(Self {
            number,
            blackout_ms: blackout(LayerName::Redis).unwrap_or_default(),
            is_served: first_write.is_some(),
            syn_blackout_ms: blackout(LayerName::Syn),
            icmp_blackout_ms: blackout(LayerName::Icmp),
            first_write_after_switch_ms: first_write.zip(switch).map(|(at, zero)| since(zero, at)),
            first_write_after_fault_ms: first_write.map(|at| since(fault, at)),
            last_told_ms: idle.waiting.as_ref().and_then(|it| last_told(clients, it)),
            hung: sum(|it| it.hung),
            hung_idle: idle.waiting.as_ref().map_or(0, |it| it.hung),
            connections: sum(|it| it.connections),
            acknowledged: writes.acknowledged,
            lost: writes.lost.filter(|_| is_final),
            late: writes.late,
            two_owners_ms: owned.map(|it| ns_as_ms(it.both_ns)),
            schedules: clients
                .layers
                .iter()
                .chain(owners.iter().flat_map(|run| &run.layers))
                .filter_map(Schedule::of)
                .collect(),
        })
    }
}

impl Schedule {
    fn of(layer: &report::Layer) -> Option<Self> {
        let schedule = layer.schedule?;
        Some(Self {
            layer: layer.name,
            rate: schedule.rate,
            sent: schedule.sent,
            skipped: schedule.skipped,
            late_p99_ms: ns_as_ms(schedule.late_p99_ns),
        })
    }
}

fn last_told(run: &report::Run, waiting: &report::Waiting) -> Option<f64> {
    let last = waiting.ended.iter().map(|it| it.at_ns).max();
    let last = if waiting.hung > 0 { Some(run.length_ns) } else { last };
    last.map(|at| since(run.zero_ns(), at))
}

/// Milliseconds from one moment to the other.
fn since(zero: u64, at: u64) -> f64 {
    let between = milliseconds(Duration::from_nanos(at.abs_diff(zero)));
    if at >= zero { between } else { -between }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, figure) in FIGURES.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            let value = (figure.of)(self).map_or("–".to_owned(), |it| format!("{it:.1}"));
            write!(f, "{separator}{} {value}", figure.name)?;
        }
        if !self.is_served {
            write!(f, ", the new master served nobody")?;
        }
        Ok(())
    }
}
