//! One master name: what it waits for, and what each event does to it.

use std::net::SocketAddr;
use std::time::Duration;

use super::claims::{Claims, Election, Support};
use super::phase::{Input, Phase};
use super::{Adopted, Command, Desired, LossPolicy, Notice, PATIENCE, Role, Target};
use crate::clock::Monotonic;
use crate::config::OnSentinelLoss;
use crate::model::{Epoch, MasterId, SentinelId};
use crate::timeline::Timelines;

/// One master name.
#[derive(Clone, Debug)]
pub(super) struct Master {
    claims: Claims,
    pub(super) phase: Phase,
    policy: LossPolicy,
    waiting: Waiting,
    /// When patience with `waiting` ends; none once it has.
    pub(super) due: Option<Monotonic>,
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
    /// Enough claims: any at all, or a majority.
    Sentinels,
}

impl Master {
    pub(super) fn new(
        configured: usize,
        policy: LossPolicy,
        adopted: Option<Adopted>,
        now: Monotonic,
    ) -> Self {
        let phase = match adopted {
            None => Phase::Learning,
            Some(Adopted { target, announced: true }) => Phase::Serving { target },
            Some(Adopted { target, announced: false }) => Phase::Withdrawn { target },
        };
        let claims = Claims::new(configured);
        let waiting = Waiting::new(phase, claims.support(), policy);
        let due = waiting.patience(policy).map(|patience| now + patience);
        Self { claims, phase, policy, waiting, due, demoted: false, split: None }
    }

    pub(super) fn desired(&self) -> Desired {
        Desired {
            target: self.phase.target(),
            announce: self.phase.announces(),
            state: self.phase.state(),
        }
    }
}

impl Waiting {
    fn new(phase: Phase, support: Support, policy: LossPolicy) -> Self {
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
            (Phase::Serving { .. }, support) => {
                if policy.is_loss(support) {
                    Self::Sentinels
                } else {
                    Self::Nothing
                }
            }
            // Nothing more can be lost; the return of a majority is not expected at any time.
            (Phase::Withdrawn { .. }, Support::Nobody | Support::Minority | Support::Majority) => {
                Self::Nothing
            }
        }
    }
}

impl Waiting {
    /// How long it may take before an operator hears of it.
    fn patience(self, policy: LossPolicy) -> Option<Duration> {
        match self {
            Self::Nothing => None,
            Self::Majority => Some(PATIENCE),
            Self::Answer(_) if !policy.needs_majority => Some(PATIENCE),
            Self::Answer(_) | Self::Sentinels => Some(policy.patience),
        }
    }

    fn is_answer(self) -> bool {
        match self {
            Self::Answer(_) => true,
            Self::Nothing | Self::Majority | Self::Sentinels => false,
        }
    }
}

/// One event's turn at one master.
pub(super) struct Turn<'a> {
    pub(super) master: &'a mut Master,
    pub(super) id: MasterId,
    pub(super) now: Monotonic,
    pub(super) timelines: &'a mut Timelines,
    pub(super) out: &'a mut Vec<Command>,
}

impl Turn<'_> {
    pub(super) fn claim(&mut self, sentinel: SentinelId, target: Target) {
        if let Some(present) = self.master.phase.target()
            && target.epoch < present.epoch
            && self.master.claims.refuse(sentinel, target)
        {
            self.notice(Notice::LowerEpoch { sentinel, claimed: target, present });
        }
        self.master.claims.claim(sentinel, target);
        self.count();
    }

    pub(super) fn unknown(&mut self, sentinel: SentinelId) {
        if self.master.claims.unknown(sentinel) {
            self.notice(Notice::UnknownMaster { sentinel });
        }
        self.count();
    }

    pub(super) fn lost(&mut self, sentinel: SentinelId) {
        self.master.claims.lost(sentinel);
        self.count();
    }

    pub(super) fn role(&mut self, node: SocketAddr, role: Role) {
        let served = self.master.phase.target().is_some_and(|target| target.addr == node);
        if served && self.master.phase.candidate().is_none() {
            self.watch_served(node, role);
        }
        self.step(Input::Role { node, role });
    }

    pub(super) fn tick(&mut self) {
        if self.master.due.is_none_or(|due| self.now < due) {
            return;
        }
        self.master.due = None;
        let action = self.master.policy.action_after(self.master.waiting.is_answer());
        let present = self.master.phase.target();
        match (self.master.waiting, present) {
            // A split was reported already, and in better words.
            (Waiting::Majority, _) if self.master.split.is_some() => {}
            (Waiting::Majority, _) => {
                let (live, needed) = (self.master.claims.live(), self.master.claims.majority());
                self.notice(Notice::NoMajority { live, needed });
            }
            (Waiting::Answer(candidate), present) => {
                let served = present.filter(|_| action == OnSentinelLoss::Hold);
                self.notice(Notice::Unconfirmed { candidate, present: served });
            }
            (Waiting::Sentinels, Some(present)) => {
                self.notice(Notice::SentinelsLost { present, policy: self.master.policy });
            }
            (Waiting::Sentinels, None) | (Waiting::Nothing, _) => {}
        }
        let support = self.master.claims.support();
        self.step(Input::Overdue { action, support });
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
        let support = self.master.claims.support();
        self.wait_for(Waiting::new(after, support, self.master.policy));
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
        let patience = waiting.patience(self.master.policy);
        self.master.due = patience.map(|patience| self.now + patience);
    }

    fn notice(&mut self, notice: Notice) {
        self.out.push(Command::Notice { master: self.id, notice });
    }
}
