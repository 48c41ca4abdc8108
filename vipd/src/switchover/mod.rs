//! Planned switchover: another node becomes master, and no acknowledged write is lost.
//!
//! ```text
//!  survey ──▶ hint ──▶ rehearse ──▶ pause ──▶ park ──▶ catch up ──▶ order ──▶ flip ──▶ settle
//!    │          │          │          │         │          │          │         │
//!    ▼          └──────────┴──────────┴────┬────┴──────────┴──────────┘         ▼
//!  refused                                 ▼                               the new master's
//!  (nothing was touched)        undo: resume, unpark, priorities
//! ```
//!
//! What has been done and must be undone is kept in [`debts::Debts`], which is written before the
//! deed: a request whose answer never came may have been carried out. What would outlast vipd
//! itself is on disk, too: [`record`].
//!
//! From the order on, whoever gives it, nothing is given up to the old master before the leader
//! does, or the longest time for pause and park is over: what is written there until a replica is
//! promoted would be lost.
//!
//! **Why nothing is lost.** The master is paused for writers (`CLIENT PAUSE … WRITE`), so what it
//! has acknowledged is within its replication offset of that moment; the failover is ordered once
//! every replica that Sentinel may select has that offset. The clients of the VIP are parked in the
//! kernel besides, for the pause is the node's and may end before its clients' connections do.
//! A write that the pause holds back is never executed by the demoted node and acknowledged: the
//! clients are killed *before* the pause ends (measured on Redis 7.0: what a killed client had in
//! its buffers is not executed; what a client still has when the pause ends is executed, or after
//! REPLICAOF answered READONLY).
//!
//! **Why the pause is short.** `PUBLISH` counts as a write. A Sentinel greets by PUBLISH every 2 s,
//! on the connection that its PINGs follow on: a pause that is longer than
//! `down-after-milliseconds` looks like a master that is down (measured), and a second failover may
//! be elected meanwhile. So a pause lasts four fifths of the shortest `down-after-milliseconds` at
//! most ([`pause_limit`]).
//!
//! **Permissions.** On the Redis nodes: `+client|pause +client|unpause +client|kill +client|list +role`; with
//! `--to` also `+config|get +config|set`; useful are `+acl|dryrun`, without which it is found
//! out late that one of them lacks (Redis 7; nothing else tells without ending an operator's own
//! pause), and `+replicaof +config|rewrite`, without which it
//! is Sentinel who makes the old master a replica, some 10 s later. On the Sentinels:
//! `+sentinel|failover +sentinel|ckquorum`.

mod checks;
mod debts;
mod hint;
mod nodes;
mod procedure;
mod record;
mod remote;
mod report;
mod settle;
mod site;
#[cfg(test)]
mod tests;
mod undo;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::nodes::Nodes;
pub use self::procedure::run;
pub use self::record::{Record, pay};
pub use self::remote::{Line, Remote};
pub use self::report::{Failure, Progress};
pub use self::site::{Ask, Lost, View};

/// How long the replicas may take to catch up, if nobody says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that can be allowed.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest between two steps, beside the time that the replicas are allowed.
pub const LONGEST_STEP: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Sentinel's name of the master.
    pub master: String,
    /// The replica that Sentinel is to prefer, with or without its port.
    #[serde(default)]
    pub to: Option<Preferred>,
    /// How long the replicas may take to catch up.
    pub timeout_ms: u64,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

impl Order {
    /// How long the replicas may take to catch up; bounded, whoever asks.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms).min(MAX_TIMEOUT)
    }
}

/// A replica as one names it on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Preferred {
    /// With its port.
    Node(SocketAddr),
    /// There is one there.
    Host(IpAddr),
}

impl Preferred {
    /// Whether it is that node.
    pub fn is(&self, node: SocketAddr) -> bool {
        match self {
            Self::Node(this) => *this == node,
            Self::Host(host) => *host == node.ip(),
        }
    }
}

impl std::str::FromStr for Preferred {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let node = text.parse().map(Self::Node);
        node.or_else(|_| text.parse().map(Self::Host))
            .map_err(|_| "write the replica's address, with or without :PORT".to_owned())
    }
}

impl fmt::Display for Preferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

/// Something is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Since vipd was asked.
    pub after_us: u64,
    /// In words.
    pub what: String,
}

/// How a switchover went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Switched {
    /// The master before.
    pub from: SocketAddr,
    /// The master now.
    pub to: SocketAddr,
    /// From the pause to the first packet that went to the new master; to the flip if none did yet.
    pub stall_us: u64,
    /// From the pause to the flip.
    pub flip_us: u64,
    /// For how long the old master took no writes.
    pub paused_us: u64,
    /// The old master is a replica already.
    pub demoted: bool,
    /// What an operator must see to.
    pub warnings: Vec<String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} ms  {}", self.after_us as f64 / 1e3, self.what)
    }
}

impl fmt::Display for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |us| Millis(Duration::from_micros(us));
        writeln!(f, "{} has taken over from {}.", self.to, self.from)?;
        writeln!(
            f,
            "Clients of the VIP were stalled for {}; {} took no writes for {}.",
            us(self.stall_us),
            self.from,
            us(self.paused_us)
        )?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

/// In milliseconds.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// Part of the pause that is left for Sentinel: its state machine takes three turns of up to
/// 100 ms each between the order and SLAVEOF NO ONE.
const PROMOTION: Duration = Duration::from_millis(350);

/// How long a pause may last, and for how long of it the replicas are waited for; `None` if
/// `down_after` is too short for any.
pub fn pause_limit(timeout: Duration, down_after: Duration) -> Option<(Duration, Duration)> {
    /// Nothing is gained by keeping the old master paused for longer after the flip.
    const SETTLING: Duration = Duration::from_secs(3);
    let safe = down_after * 4 / 5;
    let catching_up = timeout.min(safe.checked_sub(PROMOTION)?);
    let limit = safe.min(catching_up + PROMOTION + SETTLING);
    (catching_up >= Duration::from_millis(20)).then_some((limit, catching_up))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
