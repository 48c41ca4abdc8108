//! Decides which node each master name's services must point at. No I/O, no clock: events and the
//! time go in, commands come out, and [`Failover::desired`] says what the kernel should look like
//! (`plan::diff` turns that into steps).
//!
//! * `claims` keeps what each Sentinel says and applies the epoch fence.
//! * `phase` is the state diagram and the transition table.
//! * this file connects them, keeps the timers and derives the commands from a change of phase.

mod claims;
mod notice;
mod phase;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::notice::Notice;
pub use crate::timeline::Sighting;

use self::claims::{Claims, Election, Support};
use self::phase::{Input, Phase};
use crate::clock::Monotonic;
use crate::config::OnSentinelLoss;
use crate::model::{Epoch, MasterId, SentinelId};
use crate::timeline::{FailoverRecord, Timelines};

/// How long something may stay away before an operator hears of it: a majority at the start, a
/// candidate's answer, any Sentinel at all. For the last, this is also the grace before
/// `on_sentinel_loss = "withdraw"` takes effect: a vipd that restarts, or Sentinels that do, are
/// back well within it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What does not change while the daemon runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `SentinelId`s below this are configured; only they count towards a majority.
    pub configured_sentinels: usize,
    /// What to do when no Sentinel answers.
    pub on_sentinel_loss: OnSentinelLoss,
    /// `MasterId`s are below this.
    pub masters: usize,
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
    Master,
    /// It does not (a Sentinel, should one answer there, does not either).
    Replica,
    /// Refused, reset, timed out, or an error (`LOADING`, `NOAUTH`).
    NoAnswer,
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
    /// A pub/sub event, only for the timeline: decisions come from [`Event::Claim`].
    Seen {
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
    /// The datapath points at what [`Failover::desired`] said for this master (its first service
    /// does; the rest follow within microseconds). The event's time is the flip's: best read just
    /// before ACTIVE is written.
    Committed {
        /// Which name.
        master: MasterId,
        /// What was applied.
        target: Target,
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
    Record(FailoverRecord),
    /// Something an operator must know.
    Notice {
        /// About which name.
        master: MasterId,
        /// What.
        notice: Notice,
    },
}

/// What the kernel should look like for one master name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Desired {
    /// Where its services point; confirmed by an epoch and by ROLE. None until the first one.
    pub target: Option<Target>,
    /// Whether its VIPs may be announced on its account.
    pub announce: bool,
    /// For status.
    pub state: State,
}

/// Where a master name stands, for status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No majority of the Sentinels names a master yet.
    Learning,
    /// A new master is known and has not answered ROLE = master; the old one, if there is one,
    /// goes on.
    Confirming,
    /// All is well.
    Serving,
    /// Not announced, because no Sentinel answers.
    Withdrawn,
}

/// The state machines of all master names.
#[derive(Clone, Debug)]
pub struct Failover {
    settings: Settings,
    masters: Vec<Master>,
    desired: Vec<Desired>,
    timelines: Timelines,
}

impl Failover {
    /// `adopted` is, for each master, what pinned maps say was confirmed before a restart; it is
    /// served on at once. Missing entries are `None`.
    pub fn new(settings: Settings, adopted: Vec<Option<Target>>, now: Monotonic) -> Self {
        let adopted = (0..settings.masters).map(|n| adopted.get(n).copied().flatten());
        let masters: Vec<Master> = adopted
            .map(|adopted| Master::new(settings.configured_sentinels, adopted, now))
            .collect();
        Self {
            settings,
            desired: masters.iter().map(Master::desired).collect(),
            timelines: Timelines::new(
                masters.iter().map(|master| master.phase.target().map(|target| target.addr)),
            ),
            masters,
        }
    }

    /// Takes one event. An event about a master that doesn't exist is ignored.
    pub fn handle(&mut self, now: Monotonic, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Claim { sentinel, master, target } => {
                self.with(master, now, &mut out, |it| it.claim(sentinel, target));
            }
            Event::UnknownMaster { sentinel, master } => {
                self.with(master, now, &mut out, |it| it.unknown(sentinel));
            }
            Event::SentinelLost { sentinel } => {
                for id in 0..self.masters.len() {
                    self.with(MasterId(id), now, &mut out, |it| it.lost(sentinel));
                }
            }
            Event::Seen { master, what } => {
                out.extend(self.timelines.seen(now, master, what).map(Command::Record));
            }
            Event::Role { node, role } => {
                for id in 0..self.masters.len() {
                    self.with(MasterId(id), now, &mut out, |it| it.role(node, role));
                }
            }
            Event::Committed { master, target } => {
                out.extend(self.timelines.committed(now, master, target).map(Command::Record));
            }
            Event::FirstPacket { master, at } => {
                out.extend(self.timelines.first_packet(master, at).map(Command::Record));
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
        self.masters.iter().filter_map(|master| master.due).min()
    }

    /// What the kernel should look like now, one for each master.
    pub fn desired(&self) -> &[Desired] {
        &self.desired
    }

    fn with(
        &mut self,
        id: MasterId,
        now: Monotonic,
        out: &mut Vec<Command>,
        act: impl FnOnce(&mut Turn<'_>),
    ) {
        let Some(master) = self.masters.get_mut(id.0) else { return };
        let policy = self.settings.on_sentinel_loss;
        act(&mut Turn { master, id, now, policy, timelines: &mut self.timelines, out });
        self.desired[id.0] = master.desired();
    }
}

/// One master name.
#[derive(Clone, Debug)]
struct Master {
    claims: Claims,
    phase: Phase,
    waiting: Waiting,
    /// When patience with `waiting` ends; none once it has.
    due: Option<Monotonic>,
    /// The served node said that it is a replica.
    demoted: bool,
    /// The split that was reported and has not ended.
    split: Option<Epoch>,
}

/// What a phase waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waiting {
    Nothing,
    /// The first target.
    Majority,
    /// ROLE = master from this one.
    Answer(Target),
    /// Any claim at all.
    Sentinels,
}

impl Master {
    fn new(configured: usize, adopted: Option<Target>, now: Monotonic) -> Self {
        let phase = adopted.map_or(Phase::Learning, |target| Phase::Serving { target });
        let claims = Claims::new(configured);
        let waiting = Waiting::new(phase, claims.support());
        let due = Some(now + PATIENCE);
        Self { claims, phase, waiting, due, demoted: false, split: None }
    }

    fn desired(&self) -> Desired {
        Desired {
            target: self.phase.target(),
            announce: self.phase.announces(),
            state: self.phase.state(),
        }
    }
}

impl Waiting {
    fn new(phase: Phase, support: Support) -> Self {
        match (phase, support) {
            (Phase::Learning, Support::Nobody | Support::Minority | Support::Majority) => {
                Self::Majority
            }
            (
                Phase::Confirming { candidate }
                | Phase::Replacing { candidate, .. }
                | Phase::Returning { candidate, .. },
                Support::Nobody | Support::Minority | Support::Majority,
            ) => Self::Answer(candidate),
            (Phase::Serving { .. }, Support::Nobody) => Self::Sentinels,
            (Phase::Serving { .. }, Support::Minority | Support::Majority) => Self::Nothing,
            // Nothing more can be lost; the return of a majority is not expected at any time.
            (Phase::Withdrawn { .. }, Support::Nobody | Support::Minority | Support::Majority) => {
                Self::Nothing
            }
        }
    }
}

/// One event's turn at one master.
struct Turn<'a> {
    master: &'a mut Master,
    id: MasterId,
    now: Monotonic,
    policy: OnSentinelLoss,
    timelines: &'a mut Timelines,
    out: &'a mut Vec<Command>,
}

impl Turn<'_> {
    fn claim(&mut self, sentinel: SentinelId, target: Target) {
        if let Some(present) = self.master.phase.target()
            && target.epoch < present.epoch
            && self.master.claims.refuse(sentinel, target)
        {
            self.notice(Notice::LowerEpoch { sentinel, claimed: target, present });
        }
        self.master.claims.claim(sentinel, target);
        self.count();
    }

    fn unknown(&mut self, sentinel: SentinelId) {
        if self.master.claims.unknown(sentinel) {
            self.notice(Notice::UnknownMaster { sentinel });
        }
        self.count();
    }

    fn lost(&mut self, sentinel: SentinelId) {
        self.master.claims.lost(sentinel);
        self.count();
    }

    fn role(&mut self, node: SocketAddr, role: Role) {
        let served = self.master.phase.target().is_some_and(|target| target.addr == node);
        if served && self.master.phase.candidate().is_none() {
            self.watch_served(node, role);
        }
        self.step(Input::Role { node, role });
    }

    fn tick(&mut self) {
        if self.master.due.is_none_or(|due| self.now < due) {
            return;
        }
        self.master.due = None;
        let present = self.master.phase.target();
        match (self.master.waiting, present) {
            // A split was reported already, and in better words.
            (Waiting::Majority, _) if self.master.split.is_some() => {}
            (Waiting::Majority, _) => {
                let (live, needed) = (self.master.claims.live(), self.master.claims.majority());
                self.notice(Notice::NoMajority { live, needed });
            }
            (Waiting::Answer(candidate), present) => {
                self.notice(Notice::Unconfirmed { candidate, present });
            }
            (Waiting::Sentinels, Some(present)) => {
                self.notice(Notice::SentinelsLost { present, policy: self.policy });
            }
            (Waiting::Sentinels, None) | (Waiting::Nothing, _) => {}
        }
        self.step(Input::Overdue(self.policy));
    }

    /// Draws the conclusion from the claims.
    fn count(&mut self) {
        let present = self.master.phase.target();
        let (successor, split) = match self.master.claims.elect(present) {
            Election::Unchanged => (None, None),
            Election::Successor(target) => (Some(target), None),
            Election::Split(epoch) => (None, Some(epoch)),
        };
        if let Some(epoch) = split
            && self.master.split != split
        {
            self.notice(Notice::Split { epoch, present });
        }
        self.master.split = split;
        self.step(Input::Claims { support: self.master.claims.support(), successor });
    }

    /// The served node's own view, where no newer master is known. It never causes a flip: only
    /// an epoch does.
    fn watch_served(&mut self, node: SocketAddr, role: Role) {
        let demoted = match role {
            Role::Master => false,
            Role::Replica => true,
            Role::NoAnswer => return,
        };
        if std::mem::replace(&mut self.master.demoted, demoted) != demoted {
            self.notice(if demoted {
                Notice::ServedIsReplica { node }
            } else {
                Notice::ServedIsMasterAgain { node }
            });
        }
    }

    /// Moves the phase; all effects follow from comparing it before and after.
    fn step(&mut self, input: Input) {
        let before = self.master.phase;
        let after = before.next(input);
        self.master.phase = after;

        if let Some(target) = after.target()
            && before.target() != Some(target)
        {
            self.timelines.confirmed(self.now, self.id, target);
            self.master.demoted = false;
        }
        self.ask(before, after);
        if let (Phase::Withdrawn { .. } | Phase::Returning { .. }, Phase::Serving { target }) =
            (before, after)
        {
            self.notice(Notice::AnnouncedAgain { present: target });
        }
        self.wait_for(Waiting::new(after, self.master.claims.support()));
    }

    fn ask(&mut self, before: Phase, after: Phase) {
        let asked = before.candidate().map(|candidate| candidate.addr);
        let wanted = after.candidate().map(|candidate| candidate.addr);
        if asked == wanted {
            return;
        }
        match wanted {
            Some(node) => self.out.push(Command::AskRole { master: self.id, node }),
            // Who has answered master is asked no more anyway.
            None if after.target() == before.candidate() => {}
            None => self.out.push(Command::StopAsking { master: self.id }),
        }
    }

    fn wait_for(&mut self, waiting: Waiting) {
        if waiting == self.master.waiting {
            return;
        }
        let overdue = self.master.due.is_none();
        if self.master.waiting == Waiting::Sentinels && overdue && self.master.phase.announces() {
            self.notice(Notice::SentinelsBack);
        }
        self.master.waiting = waiting;
        self.master.due = match waiting {
            Waiting::Nothing => None,
            Waiting::Majority | Waiting::Answer(_) | Waiting::Sentinels => {
                Some(self.now + PATIENCE)
            }
        };
    }

    fn notice(&mut self, notice: Notice) {
        self.out.push(Command::Notice { master: self.id, notice });
    }
}
