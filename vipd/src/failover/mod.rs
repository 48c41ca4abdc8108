//! Decides which node each master name's services must point at. No I/O, no clock: events and the
//! time go in, commands come out, and [`Failover::desired`] says what the kernel should look like
//! (`plan::diff` turns that into steps).
//!
//! * `claims` keeps what each Sentinel says and applies the epoch fence.
//! * `phase` is the state diagram, `phase::next` the transition table.
//! * `master` connects them, keeps the timers and derives the commands from a change of phase.
//! * `limit` bounds what a failover on its way may take.
//! * `policy` says when the Sentinels count as lost, and what follows.

mod claims;
mod limit;
mod master;
mod notice;
mod phase;
mod policy;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::notice::Notice;
pub use self::policy::LossPolicy;
pub use crate::timeline::Sighting;

use self::master::{Master, Turn};
use crate::clock::Monotonic;
use crate::config::Cutover;
use crate::model::{Epoch, MasterId, SentinelId};
use crate::timeline::{Clients, FailoverRecord, Timelines, Trigger};

/// How long something may stay away before an operator hears of it: a majority at the start, a
/// candidate's answer, any Sentinel at all. For the last, this is also the grace before
/// `on_sentinel_loss = "withdraw"` takes effect: a vipd that restarts, or Sentinels that do, are
/// back well within it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What does not change while the daemon runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `SentinelId`s below this are configured; only they count towards a majority.
    pub configured_sentinels: usize,
    /// By `MasterId`: what to do when too few Sentinels answer.
    pub policies: Vec<LossPolicy>,
    /// Whether a failover is followed before an epoch is known.
    pub cutover: Cutover,
    /// The longest that a Sentinel's word parks a service.
    pub park: Duration,
}

/// What an earlier vipd left for one master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// What was confirmed.
    pub target: Target,
    /// What was served instead, after a promotion that no epoch had confirmed.
    pub provisional: Option<SocketAddr>,
    /// A failover was on its way; whose, is not known any more. It stays parked for a while.
    pub parked: bool,
    /// Whether it is still answered for. If not, the lease of mode `host` has run out and others
    /// may have moved on: a majority must agree before it is again.
    pub announced: bool,
    /// When the last majority was asked that answered, or the earliest that it may have been; now, if
    /// unknown. A new daemon doesn't begin a new lease.
    pub heard: Option<Monotonic>,
}

/// A node, and the config-epoch that made it master.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Where its Redis listens.
    pub addr: SocketAddr,
    /// Sentinel's config-epoch.
    pub epoch: Epoch,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {})", self.addr, self.epoch)
    }
}

/// What a node answered to ROLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It takes writes.
    Master(Lineage),
    /// It does not (a Sentinel, should one answer there, does not either).
    Replica,
    /// Refused, reset, timed out, or an error (`LOADING`, `NOAUTH`).
    NoAnswer,
}

/// What a master's replication history says of how it became one (INFO replication).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lineage {
    /// Its `master_replid2` is the history that it was on as a replica: it was promoted.
    Heir,
    /// It is not: it was started as a master, and holds who knows what.
    Stranger,
    /// INFO was not read, or it was never seen as a replica.
    Unknown,
}

/// What the core is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A consistent (address, config-epoch) pair, read from one Sentinel.
    Claim {
        /// Who says so.
        sentinel: SentinelId,
        /// About which name.
        master: MasterId,
        /// What it says.
        target: Target,
        /// Before it was asked: what it said can be as old as that.
        asked: Monotonic,
    },
    /// That Sentinel answers, but does not know the name. Withdraws its claim.
    UnknownMaster {
        /// Who says so.
        sentinel: SentinelId,
        /// About which name.
        master: MasterId,
    },
    /// Its connection is lost; withdraws all its claims.
    SentinelLost {
        /// Which one.
        sentinel: SentinelId,
    },
    /// A pub/sub event. Whom a Sentinel has selected is a reason to park and to ask; everything else
    /// is only for the timeline: decisions come from [`Event::Claim`] and [`Event::Role`].
    Seen {
        /// Who published it.
        sentinel: SentinelId,
        /// About which name.
        master: MasterId,
        /// What was announced.
        what: Sighting,
    },
    /// A node answered ROLE, or did not.
    Role {
        /// Which node.
        node: SocketAddr,
        /// What it answered.
        role: Role,
    },
    /// vipd is about to ask a Sentinel for a failover: parked from here on.
    Ordered {
        /// Of which name.
        master: MasterId,
        /// Why.
        why: Trigger,
        /// The longest that the services may be parked for it.
        limit: Duration,
    },
    /// This Sentinel has taken it on: if it gives up, the park ends.
    Taken {
        /// Of which name.
        master: MasterId,
        /// Which one.
        sentinel: SentinelId,
    },
    /// It did not ask after all, or no Sentinel took it on.
    Cancelled {
        /// Of which name.
        master: MasterId,
    },
    /// The datapath holds back what [`Failover::desired`] wanted to be parked: every service of this
    /// master, at the event's time.
    Parked {
        /// Which name.
        master: MasterId,
    },
    /// The datapath points at what [`Failover::desired`] said for this master (its first service
    /// does; the rest follow within microseconds). The event's time is the flip's: best read just
    /// before ACTIVE is written.
    Committed {
        /// Which name.
        master: MasterId,
        /// The node that is served from now on.
        node: SocketAddr,
    },
    /// What was done for the clients after a flip, or after a park.
    Released {
        /// Which name.
        master: MasterId,
        /// The flip; none after a park without one.
        flip: Option<Monotonic>,
        /// What was done.
        clients: Clients,
    },
    /// From the kernel: the first packet after a flip went to the new master.
    FirstPacket {
        /// Which name.
        master: MasterId,
        /// The kernel's time.
        at: Monotonic,
    },
    /// Nothing happened but time: [`Failover::deadline`] is reached.
    Tick,
}

/// What the core wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Ask this node for ROLE until it answers master, or until another `AskRole` or `StopAsking`
    /// for this master: at once, then every few milliseconds, backing off to 100 ms.
    AskRole {
        /// For which name.
        master: MasterId,
        /// Whom.
        node: SocketAddr,
    },
    /// The last `AskRole` for this master has no purpose any more. (Not sent after the node has
    /// answered master.)
    StopAsking {
        /// For which name.
        master: MasterId,
    },
    /// A failover is complete enough to show, or is amended (same `id`).
    Record(Box<FailoverRecord>),
    /// Something an operator must know.
    Notice {
        /// About which name.
        master: MasterId,
        /// What.
        notice: Notice,
    },
}

/// What the kernel should look like for one master name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Desired {
    /// The master; confirmed by an epoch and by ROLE. None until the first one.
    pub target: Option<Target>,
    /// The replica that was promoted since, by its own word only: it is served instead.
    pub provisional: Option<SocketAddr>,
    /// Nothing reaches whom it serves: a failover is on its way.
    pub parked: bool,
    /// Whether its VIPs may be announced on its account.
    pub announce: bool,
    /// For status.
    pub state: State,
}

impl Desired {
    /// Where its services point.
    pub fn serves(&self) -> Option<SocketAddr> {
        self.provisional.or(self.target.map(|target| target.addr))
    }
}

/// Where a master name stands, for status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// No majority of the Sentinels names a master yet.
    #[default]
    Learning,
    /// A new master is known and has not answered ROLE = master; the old one, if there is one,
    /// goes on.
    Confirming,
    /// All is well.
    Serving,
    /// A failover is on its way: held back from the old master.
    Parked,
    /// A failover is on its way for longer than packets may be held back: the old master is served
    /// until a replica is promoted.
    Promoting,
    /// The promoted replica is served; no epoch has confirmed it yet.
    Provisional,
    /// Not announced, because too few Sentinels answer.
    Withdrawn,
}

/// The state machines of all master names. Each is a `Phase`, whose documentation is the state
/// diagram.
#[derive(Clone, Debug)]
pub struct Failover {
    masters: Vec<Master>,
    desired: Vec<Desired>,
    timelines: Timelines,
}

impl Failover {
    /// `adopted` is, for each master, what pinned maps say was confirmed before a restart; it is
    /// served on at once. Missing entries are `None`.
    pub fn new(settings: &Settings, adopted: &[Option<Adopted>], now: Monotonic) -> Self {
        let masters = settings.policies.iter().enumerate().map(|(n, policy)| {
            Master::new(settings, *policy, adopted.get(n).copied().flatten(), now)
        });
        let masters: Vec<Master> = masters.collect();
        Self {
            desired: masters.iter().map(Master::desired).collect(),
            timelines: Timelines::new(masters.iter().map(|master| master.desired().serves())),
            masters,
        }
    }

    /// Takes one event. An event about a master that doesn't exist is ignored.
    pub fn handle(&mut self, now: Monotonic, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Claim { sentinel, master, target, asked } => {
                self.with(master, now, &mut out, |it| it.claim(sentinel, target, asked));
            }
            Event::UnknownMaster { sentinel, master } => {
                self.with(master, now, &mut out, |it| it.unknown(sentinel));
            }
            Event::SentinelLost { sentinel } => {
                for id in 0..self.masters.len() {
                    self.with(MasterId(id), now, &mut out, |it| it.lost(sentinel));
                }
            }
            Event::Seen { sentinel, master, what } => {
                out.extend(self.timelines.seen(now, master, what).map(record));
                self.with(master, now, &mut out, |it| match what {
                    Sighting::Selected(Some(node))
                    | Sighting::Promoting(Some(node))
                    | Sighting::Promoted(Some(node)) => it.selected(sentinel, node),
                    Sighting::Aborted => it.aborted(sentinel),
                    Sighting::Selected(None)
                    | Sighting::Promoting(None)
                    | Sighting::Promoted(None)
                    | Sighting::Sdown
                    | Sighting::Odown
                    | Sighting::SwitchMaster
                    | Sighting::End => {}
                });
            }
            Event::Ordered { master, why, limit } => {
                self.with(master, now, &mut out, |it| it.ordered(why, limit));
            }
            Event::Taken { master, sentinel } => {
                self.with(master, now, &mut out, |it| it.taken(sentinel));
            }
            Event::Cancelled { master } => {
                self.with(master, now, &mut out, |it| it.cancelled());
            }
            Event::Released { master, flip, clients } => {
                out.extend(self.timelines.released(master, flip, clients).map(record));
            }
            Event::Role { node, role } => {
                for id in 0..self.masters.len() {
                    self.with(MasterId(id), now, &mut out, |it| it.role(node, role));
                }
            }
            Event::Parked { master } => {
                if self.desired.get(master.0).is_some_and(|desired| desired.parked) {
                    self.timelines.parked(now, master);
                }
            }
            Event::Committed { master, node } => {
                let desired = self.desired.get(master.0);
                let target = desired.and_then(|it| it.target).filter(|it| it.addr == node);
                let epoch = target.map(|target| target.epoch);
                out.extend(self.timelines.committed(now, master, node, epoch).map(record));
            }
            Event::FirstPacket { master, at } => {
                out.extend(self.timelines.first_packet(master, at).map(record));
            }
            Event::Tick => {
                for id in 0..self.masters.len() {
                    self.with(MasterId(id), now, &mut out, |it| it.tick());
                }
            }
        }
        out
    }

    /// When [`Event::Tick`] is wanted next.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.masters.iter().filter_map(Master::deadline).min()
    }

    /// What the kernel should look like now, one for each master.
    pub fn desired(&self) -> &[Desired] {
        &self.desired
    }

    /// When the last majority of the Sentinels was asked that answered, as far as is known.
    pub fn heard(&self, master: MasterId) -> Option<Monotonic> {
        self.masters.get(master.0).map(Master::heard)
    }

    fn with(
        &mut self,
        id: MasterId,
        now: Monotonic,
        out: &mut Vec<Command>,
        act: impl FnOnce(&mut Turn<'_>),
    ) {
        let Some(master) = self.masters.get_mut(id.0) else { return };
        let mut turn = Turn { master, id, now, timelines: &mut self.timelines, out };
        act(&mut turn);
        turn.end();
        self.desired[id.0] = master.desired();
    }
}

fn record(record: FailoverRecord) -> Command {
    Command::Record(Box::new(record))
}
