//! Finds out that a master's process is provably gone, so that nobody need wait for
//! `down-after-milliseconds`. No I/O, no clock: what nodes answer and the time go in, commands come
//! out.
//!
//! ```text
//!               refused                    refused for the grace, and all the rest
//!   watching ────────────▶ suspecting ───────────────────────────────────────────▶ ordered
//!      ▲                     │    │                                                    │
//!      ├── answered, silent ─┘    └── anything missing ──▶ resting ──▶ suspecting …    │
//!      └──────────────────── another node is served, the interval is over ─────────────┘
//! ```
//!
//! **What proves it**, all of it at once:
//!
//! * the node answered as master until just before ([`SEEN`]);
//! * since then its host refuses every connection, attempt after attempt, for the grace time. An
//!   answer of any kind, and silence, begin everything anew;
//! * a replica that was connected to it until just before says that it no longer is, and none says
//!   that it still is. A firewall that rejects vipd looks like a process that is gone, and to
//!   replicas it doesn't;
//! * on the node's own host, nobody listens on its port (the driver's check);
//! * no Sentinel has noticed it yet: from then on a failover of its own may begin at any time;
//! * the Sentinel to be asked has a quorum, no TILT, no failover in progress, a fit replica, and
//!   names that very node as the master (`order::preconditions`).
//!
//! The last two are looked at while the grace runs, so that they cost no time.
//!
//! **Whoever may be promoted** is fresh: each replica that Sentinel may select was connected to the
//! node until just before. What Sentinel knows of that is up to ten seconds old, and one fresh replica
//! is no use if it selects another.
//!
//! **Not again within the interval**, and what counts is every failover of that master, not only those
//! that this vipd asked for: the new master's host may have a vipd of its own (mode `host`), and a node
//! that dies seconds after its promotion is the Sentinels' business. So the interval runs from the
//! latest of
//!
//! * an order of this vipd's own;
//! * a failover that it saw: a leader selects or promotes a replica, another node is served, an epoch
//!   higher than the last one is confirmed;
//! * its own start, if it took over what an earlier vipd had confirmed of that master: that one may have
//!   asked for a failover a moment ago, and died. One that finds nothing pinned (the first on this host
//!   since it booted, or after `on_stop = "detach"`) doesn't wait.

mod heard;
mod never;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::never::Never;

use self::heard::Heard;
use self::watch::{Turn, Watch};
use crate::clock::Monotonic;
use crate::model::{Epoch, MasterId};

/// A node counts as alive until just before if its last answer is not older. Nodes are asked each
/// second.
pub const SEEN: Duration = Duration::from_secs(3);
/// What is missing when the grace is over may still come for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Then it is looked at again after this long, while the node goes on refusing.
const REST: Duration = Duration::from_secs(1);
/// Refusals that are further apart prove nothing about the time between them (unless the grace is
/// longer).
const GAP: Duration = Duration::from_millis(100);

/// What does not change while the daemon runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How long a host must refuse.
    pub grace: Duration,
    /// After a failover, no order for the same master for so long.
    pub interval: Duration,
}

/// What a node answered to a connection of vipd's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is a master.
    Master,
    /// It is a replica; of whom, if it is connected to it.
    Replica(Option<SocketAddr>),
    /// Something else that only a process can say: `LOADING`, `NOAUTH`.
    Present,
    /// Its host refused the connection.
    Refused,
    /// Nothing came, or the connection was cut. Never a reason for anything.
    Silent,
}

/// A master that is served, and for which this vipd is the witness.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// Where its Redis listens.
    pub node: SocketAddr,
    /// Its replicas, as far as any Sentinel names them.
    pub replicas: BTreeSet<SocketAddr>,
}

/// What the Sentinels are good for, as far as vipd hears them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sentinels {
    /// A majority of the configured ones answers, and none of those is in TILT.
    Ready,
    /// One is in TILT.
    Tilt,
    /// Fewer than a majority answer.
    Minority,
}

/// What the machine is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// From the core: who is served. `None` while that is not certain (parked, withdrawn, another
    /// node on its way), or if the witness is somebody else.
    Served(MasterId, Option<Served>),
    /// A node answered, or did not.
    Node(SocketAddr, Answer),
    /// What the Sentinels are good for, if that has changed.
    Sentinels(Sentinels),
    /// From the core: where packets for this master go, certain or not, and the last epoch that was
    /// confirmed.
    Leads(MasterId, SocketAddr, Epoch),
    /// A Sentinel has found this master down.
    Noticed(MasterId),
    /// A Sentinel selects a replica of this master, or promotes it.
    Begun(MasterId),
    /// The answer to [`Command::Check`] of that number: the replicas that Sentinel may select.
    Checked(MasterId, u64, Result<BTreeSet<SocketAddr>, Never>),
    /// The answer to [`Command::Order`]: `Ok` also if it may be under way without an answer.
    Asked(MasterId, Result<(), Never>),
    /// Nothing happened but time: [`FastFail::deadline`] is reached.
    Tick,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// Ask this node every few milliseconds, until [`Command::Release`].
    Press(SocketAddr),
    /// Ask it each second again.
    Release(SocketAddr),
    /// Find out whether a failover of this master could be asked for, and whether somebody listens
    /// on that port after all; answer with [`Event::Checked`] and this number.
    Check(MasterId, SocketAddr, u64),
    /// Its process is gone: park the service and ask for a failover; answer with [`Event::Asked`].
    Order(MasterId, Death),
    /// It refused connections and is back: nothing happens.
    Recovered(MasterId, Duration),
    /// Nothing is done, and an operator should know why. Each reason once for each death.
    GiveUp(MasterId, Never),
}

/// A process that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Death {
    /// Whose.
    pub node: SocketAddr,
    /// The first refusal.
    pub since: Monotonic,
    /// The last one.
    pub until: Monotonic,
    /// Refusals in all.
    pub refusals: u32,
}

/// The machine, for all masters.
#[derive(Clone, Debug)]
pub struct FastFail {
    settings: Settings,
    sentinels: Sentinels,
    heard: Heard,
    masters: Vec<Watch>,
}

impl FastFail {
    /// Watches these masters; nobody is served yet. For each, since when this vipd goes on from what
    /// an earlier one had confirmed, if it does.
    pub fn new(settings: Settings, masters: impl IntoIterator<Item = Option<Monotonic>>) -> Self {
        let masters = masters.into_iter().map(Watch::new).collect();
        Self { settings, sentinels: Sentinels::Minority, heard: Heard::default(), masters }
    }

    /// Goes on from what was ordered and seen under another configuration; `same` finds a master there by its
    /// number here before.
    pub fn inherit(&mut self, earlier: &Self, same: impl Fn(MasterId) -> Option<MasterId>) {
        for (id, watch) in earlier.masters.iter().enumerate() {
            let later = same(MasterId(id)).and_then(|id| self.masters.get_mut(id.0));
            if let Some(later) = later {
                later.inherit(watch);
            }
        }
    }

    /// Takes one event. One about a master that doesn't exist is ignored.
    pub fn handle(&mut self, now: Monotonic, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Served(master, served) => {
                self.with(now, master, &mut out, |it| it.served(served));
            }
            Event::Node(node, answer) => {
                self.heard.note(now, node, answer);
                self.each(now, &mut out, |it| it.heard(node, answer));
            }
            Event::Sentinels(sentinels) => {
                self.sentinels = sentinels;
                self.each(now, &mut out, |it| it.decide());
            }
            Event::Leads(master, node, epoch) => {
                self.with(now, master, &mut out, |it| it.leads(node, epoch));
            }
            Event::Noticed(master) => self.with(now, master, &mut out, |it| it.noticed()),
            Event::Begun(master) => self.with(now, master, &mut out, |it| it.begun()),
            Event::Checked(master, number, result) => {
                self.with(now, master, &mut out, |it| it.checked(number, result));
            }
            Event::Asked(master, result) => {
                self.with(now, master, &mut out, |it| it.asked(result));
            }
            Event::Tick => self.each(now, &mut out, |it| it.decide()),
        }
        out
    }

    /// The kernel saw this master's host refuse a client: it is looked at at once.
    pub fn hinted(&mut self, now: Monotonic, master: MasterId) -> Vec<Command> {
        let mut out = Vec::new();
        self.with(now, master, &mut out, |it| it.hinted());
        out
    }

    /// As of the last [`Event::Sentinels`].
    pub fn sentinels(&self) -> Sentinels {
        self.sentinels
    }

    /// When [`Event::Tick`] is wanted next.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.masters.iter().filter_map(|watch| watch.deadline(self.settings.grace)).min()
    }

    fn with(
        &mut self,
        now: Monotonic,
        id: MasterId,
        out: &mut Vec<Command>,
        act: impl FnOnce(&mut Turn<'_>),
    ) {
        let Self { settings, sentinels, heard, masters } = self;
        if let Some(watch) = masters.get_mut(id.0) {
            act(&mut Turn { watch, id, now, settings, sentinels: *sentinels, heard, out });
        }
    }

    fn each(&mut self, now: Monotonic, out: &mut Vec<Command>, act: impl Fn(&mut Turn<'_>)) {
        for id in 0..self.masters.len() {
            self.with(now, MasterId(id), out, &act);
        }
    }
}
