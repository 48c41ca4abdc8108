//! What `vipd status` shows: a document whose JSON form is a contract, and its form for people.
//!
//! Fields are only ever added. Times are CLOCK_MONOTONIC nanoseconds; what was not seen is `null`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::clock::Monotonic;
use crate::timeline::{self, Clients, FailoverRecord};

/// The whole document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// vipd's version.
    pub version: String,
    /// The daemon's process; `null` if none runs and this was read from what is pinned.
    pub pid: Option<u32>,
    /// Interfaces that have the program.
    pub interfaces: Vec<Interface>,
    /// One for each VIP and port, in the order of the configuration.
    pub services: Vec<Service>,
    /// The last changes of a master, oldest first; see [`MAX_FAILOVERS`].
    pub failovers: Vec<Failover>,
    /// Every way out of the XDP program, by name, since the maps were made.
    pub counters: BTreeMap<String, Counter>,
    /// The Sentinels followed.
    pub sentinels: Vec<Sentinel>,
    /// The Redis nodes watched.
    pub nodes: Vec<Node>,
    /// What isn't as it should be, in words.
    pub problems: Vec<String>,
    /// What vipd has done to this host and will undo: links, pinned maps.
    pub host: Vec<String>,
}

/// Failovers kept.
pub const MAX_FAILOVERS: usize = 64;

/// Entries that those have at most, one for each service of the master; the oldest are left out.
pub const MAX_FAILOVER_ENTRIES: usize = 2048;

/// An interface.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The kernel's id of the program there.
    pub program_id: u32,
}

/// A VIP and port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Service {
    /// The virtual address.
    pub vip: IpAddr,
    /// TCP port on it.
    pub port: u16,
    /// `nat`, `dsr` or `host`.
    pub mode: String,
    /// Sentinel's name of the master.
    pub master: String,
    /// `master`, or `replica`: new connections are spread over `members`.
    #[serde(default = "master")]
    pub role: String,
    /// With role `replica`: the nodes that carry connections.
    #[serde(default)]
    pub members: Vec<Member>,
    /// See [`ServiceState`].
    pub state: ServiceState,
    /// Where its packets go now.
    pub backend: Option<SocketAddr>,
    /// The config-epoch that named it.
    pub epoch: Option<u64>,
    /// Counts the masters this service had.
    pub generation: u32,
    /// Whether ARP for the VIP is answered.
    pub announcing: bool,
    /// Mode `host`: whether the VIP is an address of this host now.
    #[serde(default)]
    pub owner: bool,
}

/// A node of a service with role `replica`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it gets new connections. If not, it keeps those that it has.
    pub serving: bool,
}

fn master() -> String {
    "master".to_owned()
}

/// How a service is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// No majority of the Sentinels names a master yet.
    Learning,
    /// A new master is named and has not answered ROLE = master; the old one, if any, is served.
    Confirming,
    /// Packets reach the master.
    Serving,
    /// A failover is on its way: packets are held back from the old master.
    Parked,
    /// The same, for longer than packets may be held back: they reach the old master again.
    Promoting,
    /// Packets reach the promoted replica; no Sentinel's epoch has confirmed it yet.
    Provisional,
    /// The master is known, but no packet can reach it; `problems` says why.
    Down,
    /// Not announced, because no Sentinel answers and `on_sentinel_loss = "withdraw"`.
    Withdrawn,
    /// Forwarding goes on without a daemon.
    Pinned,
}

/// A change of master.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// `VIP:port`.
    pub service: String,
    /// Sentinel's name of the master.
    pub master: String,
    /// The node before; `null` at the first start.
    pub from: Option<SocketAddr>,
    /// The node after.
    pub to: SocketAddr,
    /// The config-epoch that named it; `null` while none has.
    pub epoch: Option<u64>,
    /// Why: `down`, `planned`, `fast_fail`, `switchover`, `claim` (only its result was seen) or
    /// `revert`.
    #[serde(default)]
    pub trigger: String,
    /// `provisional`, `confirmed`, `reverted`, or `abandoned`: parked, and nothing came of it.
    #[serde(default)]
    pub outcome: String,
    /// How long packets were held back.
    #[serde(default)]
    pub parked_for_ns: Option<u64>,
    /// How long before the first `+switch-master` the flip was.
    #[serde(default)]
    pub ahead_of_switch_master_ns: Option<u64>,
    /// SYNs that were sent on to the new master in their senders' name.
    #[serde(default)]
    pub syns_replayed: Option<u32>,
    /// Connections of the old master that were reset.
    #[serde(default)]
    pub clients_freed: Option<u32>,
    /// When.
    pub timeline: Timeline,
    /// How many services were moved together.
    #[serde(default = "one")]
    pub services: u32,
    /// When the last of them was; `timeline.flip_ns` is when the first was.
    #[serde(default)]
    pub last_flip_ns: Option<u64>,
    /// How long finding out what to write took, before the first.
    #[serde(default)]
    pub planned_ns: Option<u64>,
}

fn one() -> u32 {
    1
}

/// The moments of a failover; see [`timeline::Timeline`] and [`timeline::Clients`] for what each
/// is.
#[expect(missing_docs, reason = "the fields are those of `timeline`, in nanoseconds")]
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeline {
    pub ordered_ns: Option<u64>,
    pub sdown_ns: Option<u64>,
    pub odown_ns: Option<u64>,
    pub selected_ns: Option<u64>,
    pub parked_ns: Option<u64>,
    pub promoting_ns: Option<u64>,
    pub role_confirmed_ns: Option<u64>,
    pub flip_ns: Option<u64>,
    pub first_packet_ns: Option<u64>,
    pub replayed_ns: Option<u64>,
    pub freed_ns: Option<u64>,
    pub unparked_ns: Option<u64>,
    pub promoted_ns: Option<u64>,
    pub switch_master_ns: Option<u64>,
    pub confirmed_ns: Option<u64>,
}

/// A counter.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Their bytes as they arrived.
    pub bytes: u64,
}

/// A Sentinel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sentinel {
    /// As configured, or as another Sentinel named it.
    pub endpoint: String,
    /// False for one that another Sentinel named: it doesn't count towards the majority.
    pub configured: bool,
    /// Whether it answers.
    pub up: bool,
    /// Why it doesn't, or that it is in TILT.
    pub note: Option<String>,
}

/// A Redis node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Where it listens.
    pub addr: SocketAddr,
    /// `master`, `replica`, or `null` while it doesn't answer.
    pub role: Option<String>,
    /// Why it doesn't.
    pub note: Option<String>,
    /// Link-layer address of its next hop, if that is known.
    pub next_hop: Option<String>,
}

impl From<&FailoverRecord> for Timeline {
    fn from(record: &FailoverRecord) -> Self {
        let (it, clients) = (&record.timeline, record.clients.unwrap_or_default());
        let ns = |at: Option<Monotonic>| at.map(|at| at.0);
        Self {
            ordered_ns: ns(it.ordered),
            sdown_ns: ns(it.sdown),
            odown_ns: ns(it.odown),
            selected_ns: ns(it.selected),
            parked_ns: ns(it.parked),
            promoting_ns: ns(it.promoting),
            role_confirmed_ns: ns(it.role_confirmed),
            flip_ns: ns(it.flip),
            first_packet_ns: ns(it.first_packet),
            replayed_ns: ns(clients.replayed),
            freed_ns: ns(clients.freed_at),
            unparked_ns: ns(it.unparked),
            promoted_ns: ns(it.promoted),
            switch_master_ns: ns(it.switch_master),
            confirmed_ns: ns(it.confirmed),
        }
    }
}

impl Timeline {
    /// Its moments by name, those that were seen, in order of time.
    pub fn moments(&self) -> Vec<(&'static str, Monotonic)> {
        let at = |ns: Option<u64>| ns.map(Monotonic);
        let timeline = timeline::Timeline {
            ordered: at(self.ordered_ns),
            sdown: at(self.sdown_ns),
            odown: at(self.odown_ns),
            selected: at(self.selected_ns),
            parked: at(self.parked_ns),
            promoting: at(self.promoting_ns),
            role_confirmed: at(self.role_confirmed_ns),
            flip: at(self.flip_ns),
            first_packet: at(self.first_packet_ns),
            unparked: at(self.unparked_ns),
            promoted: at(self.promoted_ns),
            switch_master: at(self.switch_master_ns),
            confirmed: at(self.confirmed_ns),
        };
        let clients = Clients {
            replayed: at(self.replayed_ns),
            freed_at: at(self.freed_ns),
            ..Clients::default()
        };
        timeline::moments(&timeline, &clients)
    }
}

/// For people: a few aligned lines each; counters that never moved are left out.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => writeln!(f, "vipd {}, pid {pid}", self.version)?,
            None => writeln!(f, "vipd is not running; this is what is pinned")?,
        }
        for it in &self.interfaces {
            writeln!(f, "interface {}: XDP {}, program {}", it.name, it.xdp_mode, it.program_id)?;
        }
        for it in &self.services {
            writeln!(f, "{it}")?;
        }
        for it in &self.sentinels {
            let state = if it.up { "up" } else { "down" };
            let kind = if it.configured { "" } else { ", not configured" };
            writeln!(f, "sentinel {}: {state}{kind}{}", it.endpoint, Note(&it.note))?;
        }
        for it in &self.nodes {
            let role = it.role.as_deref().unwrap_or("no answer");
            let next_hop = it.next_hop.as_deref().unwrap_or("unknown");
            writeln!(f, "node {}: {role}, next hop {next_hop}{}", it.addr, Note(&it.note))?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        let mut before: Option<&Failover> = None;
        for it in &self.failovers {
            // One for all services that moved together.
            if before.is_none_or(|before| !before.is_with(it)) {
                write!(f, "{it}")?;
            }
            before = Some(it);
        }
        let moved: Vec<_> = self.counters.iter().filter(|(_, it)| it.packets > 0).collect();
        if !moved.is_empty() {
            writeln!(f, "counters (packets):")?;
        }
        for (name, it) in moved {
            writeln!(f, "  {name:<18} {}", it.packets)?;
        }
        for line in &self.host {
            writeln!(f, "on this host: {line}")?;
        }
        Ok(())
    }
}

struct Note<'a>(&'a Option<String>);

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |note| write!(f, " ({note})"))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = serde_json::to_value(self.state).ok();
        let state = state.as_ref().and_then(|it| it.as_str()).unwrap_or_default();
        let socket = SocketAddr::new(self.vip, self.port);
        write!(f, "service {socket} ({}, {}): {state}", self.mode, self.master)?;
        if let Some(backend) = self.backend {
            write!(f, ", master {backend}")?;
        }
        if self.role == "replica" {
            let serving = self.members.iter().filter(|it| it.serving);
            let serving: Vec<_> = serving.map(|it| it.addr.to_string()).collect();
            write!(f, ", read from {}", serving.join(" "))?;
        }
        if let Some(epoch) = self.epoch {
            write!(f, ", epoch {epoch}")?;
        }
        let announcing = if self.announcing { "announced" } else { "not announced" };
        write!(f, ", generation {}, {announcing}", self.generation)
    }
}

impl Failover {
    /// Whether it is the same change of the same master.
    pub fn is_with(&self, other: &Self) -> bool {
        (&self.master, self.to, self.epoch, self.timeline)
            == (&other.master, other.to, other.epoch, other.timeline)
    }
}

/// The rest of this many.
struct Others(u32);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            services => write!(f, " and {} more", services - 1),
        }
    }
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
        writeln!(
            f,
            "failover of {}{} from {from} to {}{} ({}{}):",
            self.service,
            Others(self.services),
            self.to,
            self.epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default(),
            self.trigger.replace('_', " "),
            match self.outcome.as_str() {
                "" | "confirmed" => String::new(),
                outcome => format!(", {outcome}"),
            }
        )?;
        let moments = self.timeline.moments();
        let Some((_, start)) = moments.first().copied() else { return Ok(()) };
        let mut lines = String::new();
        for (name, at) in moments {
            writeln!(lines, "  {:>10.3} ms  {name}", at.since(start).as_secs_f64() * 1e3)?;
        }
        f.write_str(&lines)?;
        let milliseconds = |ns: u64| ns as f64 / 1e6;
        if let Some(ns) = self.parked_for_ns {
            writeln!(f, "  held back for {:.3} ms", milliseconds(ns))?;
        }
        if let Some(ns) = self.ahead_of_switch_master_ns {
            writeln!(f, "  {:.3} ms before the first +switch-master", milliseconds(ns))?;
        }
        if let (Some(syns), Some(clients)) = (self.syns_replayed, self.clients_freed) {
            writeln!(f, "  {syns} SYNs replayed, {clients} clients of the old master reset")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_prints_in_milliseconds_from_its_first_moment() {
        let failover = Failover {
            service: "198.18.0.250:6379".to_owned(),
            master: "mymaster".to_owned(),
            from: Some("198.18.0.101:8000".parse().unwrap()),
            to: "198.18.0.102:8000".parse().unwrap(),
            epoch: Some(1),
            trigger: "down".to_owned(),
            outcome: "confirmed".to_owned(),
            parked_for_ns: Some(81_000_000),
            ahead_of_switch_master_ns: None,
            syns_replayed: Some(3),
            clients_freed: Some(8),
            timeline: Timeline {
                sdown_ns: Some(1_000_000_000),
                flip_ns: Some(2_260_500_000),
                first_packet_ns: Some(2_261_000_000),
                ..Timeline::default()
            },
            services: 1,
            last_flip_ns: None,
            planned_ns: None,
        };
        assert_eq!(
            failover.to_string(),
            "failover of 198.18.0.250:6379 from 198.18.0.101:8000 to 198.18.0.102:8000, epoch 1 \
             (down):\n\
             \u{20}      0.000 ms  +sdown\n\
             \u{20}   1260.500 ms  flip\n\
             \u{20}   1261.000 ms  first packet\n\
             \u{20} held back for 81.000 ms\n\
             \u{20} 3 SYNs replayed, 8 clients of the old master reset\n"
        );
    }
}
