//! What `vipd status` shows: a document whose JSON form is a contract, and its form for people.
//!
//! Fields are only ever added. Times are CLOCK_MONOTONIC nanoseconds; what was not seen is `null`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::clock::Monotonic;
use crate::timeline;

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
    /// The config-epoch that named it.
    pub epoch: u64,
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

/// The moments of a failover; see [`timeline::Timeline`] for what each is.
#[expect(missing_docs, reason = "the fields are those of `timeline::Timeline`, in nanoseconds")]
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    pub sdown_ns: Option<u64>,
    pub odown_ns: Option<u64>,
    pub selected_ns: Option<u64>,
    pub switch_master_ns: Option<u64>,
    pub role_confirmed_ns: Option<u64>,
    pub flip_ns: Option<u64>,
    pub first_packet_ns: Option<u64>,
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

impl From<&timeline::Timeline> for Timeline {
    fn from(it: &timeline::Timeline) -> Self {
        Self {
            sdown_ns: it.sdown.map(|at| at.0),
            odown_ns: it.odown.map(|at| at.0),
            selected_ns: it.selected.map(|at| at.0),
            switch_master_ns: it.switch_master.map(|at| at.0),
            role_confirmed_ns: it.role_confirmed.map(|at| at.0),
            flip_ns: it.flip.map(|at| at.0),
            first_packet_ns: it.first_packet.map(|at| at.0),
        }
    }
}

impl From<&Timeline> for timeline::Timeline {
    fn from(it: &Timeline) -> Self {
        Self {
            sdown: it.sdown_ns.map(Monotonic),
            odown: it.odown_ns.map(Monotonic),
            selected: it.selected_ns.map(Monotonic),
            switch_master: it.switch_master_ns.map(Monotonic),
            role_confirmed: it.role_confirmed_ns.map(Monotonic),
            flip: it.flip_ns.map(Monotonic),
            first_packet: it.first_packet_ns.map(Monotonic),
        }
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
    fn is_with(&self, other: &Self) -> bool {
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
            "failover of {}{} from {from} to {}, epoch {}:",
            self.service,
            Others(self.services),
            self.to,
            self.epoch
        )?;
        let moments = timeline::Timeline::from(&self.timeline).moments();
        let Some((_, start)) = moments.first().copied() else { return Ok(()) };
        let mut lines = String::new();
        for (name, at) in moments {
            writeln!(lines, "  {:>10.3} ms  {name}", at.since(start).as_secs_f64() * 1e3)?;
        }
        f.write_str(&lines)
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
            epoch: 1,
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
            "failover of 198.18.0.250:6379 from 198.18.0.101:8000 to 198.18.0.102:8000, epoch 1:\n\
             \u{20}      0.000 ms  +sdown\n\
             \u{20}   1260.500 ms  flip\n\
             \u{20}   1261.000 ms  first packet\n"
        );
    }
}
