//! What a probe found: the document of `vipd probe --json`, from which the text and the page are made.
//!
//! Fields are only ever added. `…_ns` are nanoseconds; moments (`at_ns`, `from_ns`, `to_ns`,
//! `first_ns`, `last_ns`) count from the beginning of their run, `origin_ns` is CLOCK_MONOTONIC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::{Latency, Spread};

/// The whole document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// vipd's version.
    pub version: String,
    /// What was probed: `ADDR`, `ADDR:PORT`, or a master by way of its Sentinels.
    pub target: String,
    /// When it began, by the wall clock (RFC 3339).
    pub started: String,
    /// Each repetition.
    pub runs: Vec<Run>,
    /// Figures of all runs together.
    pub summary: Vec<Figure>,
    /// What was expected, and whether it came so.
    pub expectations: Vec<Judgement>,
}

/// One number of each run, over all runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Of which layer.
    pub layer: LayerName,
    /// What it is, such as `blackout`.
    pub name: String,
    /// `ms`, or empty for a count.
    pub unit: String,
    /// The values, one of each run that has it.
    pub values: Vec<f64>,
    /// Where they lie.
    pub spread: Spread,
    /// Blackouts among them that had not ended at the end: those were longer.
    #[serde(default)]
    pub open: usize,
}

/// One expectation of `--expect`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Judgement {
    /// As it was written.
    pub expected: String,
    /// What was found, for people.
    pub found: String,
    /// Whether it came so, in every run.
    pub holds: bool,
}

/// One repetition.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// From 1 on.
    pub number: u32,
    /// Its beginning by CLOCK_MONOTONIC; every other moment counts from here.
    pub origin_ns: u64,
    /// How long it took.
    pub length_ns: u64,
    /// Somebody ended it early.
    pub interrupted: bool,
    /// What was run to cause the failover.
    pub trigger: Option<Trigger>,
    /// In the order of [`LayerName`].
    pub layers: Vec<Layer>,
    /// What happened, in order of time: the trigger, Sentinels' events, vipd's record.
    pub marks: Vec<Mark>,
    /// What one must know to read the figures, in words.
    pub notes: Vec<String>,
}

/// A command of `--trigger`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Trigger {
    /// The command.
    pub command: String,
    /// Just before it was started.
    pub at_ns: u64,
    /// When it had ended.
    pub ended_ns: Option<u64>,
    /// How: `exit status 0`.
    pub outcome: String,
    /// Exit status 0.
    pub succeeded: bool,
}

/// What is probed, from the link upwards.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum LayerName {
    /// Who answers ARP for the VIP (IPv4).
    Arp,
    /// Who answers neighbour solicitations for the VIP (IPv6).
    Nd,
    /// Echo requests.
    Icmp,
    /// TCP connections that are begun and never completed.
    Syn,
    /// Writes.
    Redis,
    /// Connections that only wait.
    Idle,
}

impl LayerName {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Nd => "nd",
            Self::Icmp => "icmp",
            Self::Syn => "syn",
            Self::Redis => "redis",
            Self::Idle => "idle",
        }
    }
}

/// What one layer found in one run. What a layer can't know is `null` or empty.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Layer {
    /// Which.
    pub name: LayerName,
    /// How the schedule was kept; none for `idle`, which sends nothing.
    pub schedule: Option<Schedule>,
    /// How many probes ended how: `syn_ack`, `rst`, `silence`, `acknowledged`, …
    pub fates: BTreeMap<String, u64>,
    /// Errors, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Probes that had no good answer.
    pub lost: u64,
    /// Good answers to a probe that had one already.
    pub duplicated: u64,
    /// The longest of [`Self::outages`] (after the trigger, if there is one).
    pub blackout: Option<Outage>,
    /// Times without a good answer, and changes of the node that answers.
    pub outages: Vec<Outage>,
    /// From the moment at which a probe was due to its answer, outside of outages: what a client
    /// that comes at that moment waits.
    pub latency: Option<Latency>,
    /// From the packet's sending to the answer's arrival, by the kernel's time, outside of outages.
    pub wire: Option<Latency>,
    /// `redis`: the same as `latency` for writes that each come on a connection of their own, with its
    /// handshake and login.
    pub fresh: Option<Latency>,
    /// For the timeline: one for the layer, and one for each node that answered it.
    pub lanes: Vec<Lane>,
    /// Who answered: MAC addresses, or Redis nodes by `run_id`.
    pub nodes: Vec<Node>,
    /// `redis`: what became of the writes.
    pub writes: Option<Writes>,
    /// `idle`, and the persistent connections of `redis`.
    pub waiting: Option<Waiting>,
    /// `arp` and `nd`: who had the VIP.
    pub owners: Option<Owners>,
}

/// How a schedule was kept. It never waits for answers.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// Probes a second.
    pub rate: f64,
    /// Probes that were due.
    pub planned: u64,
    /// Probes that were sent, or tried to.
    pub sent: u64,
    /// Probes that were left out because the probe itself was too late.
    pub skipped: u64,
    /// How late probes were sent: 99 of 100 were earlier.
    pub late_p99_ns: u64,
    /// The latest.
    pub late_max_ns: u64,
}

/// A time without a good answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outage {
    /// The last good answer before (by the old node, if they can be told apart).
    pub from_ns: u64,
    /// The first good answer after (by the new one); none if there was none.
    pub to_ns: Option<u64>,
    /// From the one to the other, or to the end of the run.
    pub length_ns: u64,
    /// The node before.
    pub old: Option<String>,
    /// The node after.
    pub new: Option<String>,
}

/// A line of the timeline.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lane {
    /// The node's label, or empty for the layer as a whole.
    pub label: String,
    /// In order, without overlap; where there is none, nothing was sent or heard.
    pub spans: Vec<Span>,
}

/// A piece of a [`Lane`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// The worst that happened in it.
    pub state: State,
}

/// How probes fared; a worse one is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Good answers, in time.
    Good,
    /// Good answers that took much longer than usual.
    Late,
    /// Somebody refused: RST, READONLY, an ICMP error.
    Refused,
    /// Nobody said anything.
    Silent,
}

/// Who answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// A MAC address, or a `run_id`.
    pub id: String,
    /// For people: the address too, where it is known.
    pub label: String,
    /// Good answers.
    pub answers: u64,
    /// The first.
    pub first_ns: u64,
    /// The last.
    pub last_ns: u64,
}

/// What became of the writes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Writes {
    /// Writes that somebody acknowledged.
    pub acknowledged: u64,
    /// The node that they were read back from at the end.
    pub read_back_from: Option<String>,
    /// Acknowledged writes that it does not have; `null` if they could not be read back.
    pub lost: Option<u64>,
    /// The first of them.
    pub lost_sample: Vec<LostWrite>,
    /// Writes that were sent after the new node's first acknowledgement and acknowledged by an
    /// earlier one: two masters.
    pub late: u64,
    /// Writes that are there twice.
    pub duplicated: u64,
    /// Writes that are there though nobody acknowledged them.
    pub unacknowledged: u64,
}

/// A write that was acknowledged and is gone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LostWrite {
    /// Which connection wrote it.
    pub connection: String,
    /// Its number there.
    pub number: u64,
    /// When it was acknowledged.
    pub at_ns: u64,
    /// The node that did.
    pub by: String,
}

/// What became of connections that were open when it happened.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// How many there were.
    pub connections: u64,
    /// Those that learned that their node is gone, in order of time.
    pub ended: Vec<Ended>,
    /// Those that still hold on to a node that the VIP no longer leads to, and don't know it.
    pub hung: u64,
}

/// The end of a connection, as its client saw it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at_ns: u64,
    /// What it waited in: `read`, `blpop`, `subscribe`, or `write`.
    pub waiting_in: String,
    /// How it learned: `reset`, `closed`, `timeout`, `told`, `readonly`, ….
    pub how: String,
}

/// Who had the VIP, on the link.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Owners {
    /// Each time that the answer to "who has it?" changed.
    pub changes: Vec<OwnerChange>,
    /// The longest time in which two hosts both answered; if that was within one question, how far
    /// apart their answers were.
    pub both_ns: u64,
    /// Questions that two hosts answered.
    pub answered_by_both: u64,
    /// Announcements that nobody asked for (gratuitous ARP, unsolicited advertisements).
    pub announcements: Vec<OwnerChange>,
}

/// Somebody has the VIP from some moment on, or says so.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OwnerChange {
    /// When.
    pub at_ns: u64,
    /// Whose MAC address.
    pub mac: String,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at_ns: u64,
    /// Who says so.
    pub source: Source,
    /// Which Sentinel; empty for the others.
    pub who: String,
    /// What: `+switch-master`, `flip`, the trigger's command.
    pub what: String,
}

/// Where a [`Mark`] comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `--trigger`.
    Trigger,
    /// `--sentinel`.
    Sentinel,
    /// `--vipd`: its record, with the kernel's times.
    Vipd,
}

impl Schedule {
    /// At `rate` probes a second, of which those that were sent were so late, in nanoseconds.
    pub fn of(rate: f64, late: impl Iterator<Item = u64>, skipped: u64) -> Self {
        let late = Latency::of(late.collect());
        let sent = late.as_ref().map_or(0, |it| it.count);
        Self {
            rate,
            planned: sent + skipped,
            sent,
            skipped,
            late_p99_ns: late.as_ref().map_or(0, |it| it.p99_ns),
            late_max_ns: late.as_ref().map_or(0, |it| it.max_ns),
        }
    }
}

impl Run {
    /// The moment that figures are told from: the trigger's, or the beginning.
    pub fn zero_ns(&self) -> u64 {
        self.trigger.as_ref().map_or(0, |trigger| trigger.at_ns)
    }

    /// What one layer found.
    pub fn layer(&self, name: LayerName) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.name == name)
    }
}

impl Layer {
    /// How long its blackout was; zero without one, and none if it sends nothing, so that it can't
    /// know.
    pub fn blackout_ns(&self) -> Option<u64> {
        self.schedule?;
        Some(self.blackout.as_ref().map_or(0, |it| it.length_ns))
    }

    /// It was still going on at the end: it is longer than that, nobody knows by how much.
    pub fn has_open_blackout(&self) -> bool {
        self.blackout.as_ref().is_some_and(|it| it.to_ns.is_none())
    }

    /// A layer that has found nothing yet.
    pub fn new(name: LayerName) -> Self {
        Self {
            name,
            schedule: None,
            fates: BTreeMap::new(),
            errors: BTreeMap::new(),
            lost: 0,
            duplicated: 0,
            blackout: None,
            outages: vec![],
            latency: None,
            wire: None,
            fresh: None,
            lanes: vec![],
            nodes: vec![],
            writes: None,
            waiting: None,
            owners: None,
        }
    }
}
