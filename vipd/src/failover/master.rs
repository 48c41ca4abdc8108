//! One master name: what it waits for, and what each event does to it.

use std::net::SocketAddr;
use std::time::Duration;

use super::claims::{Claims, Election, Support};
use super::limit::{HOLD_OFF, Limit};
use super::phase::{Input, Phase, Provisional, Served};
use super::{Adopted, Command, Desired, LossPolicy, Notice, PATIENCE, Role, Settings, Target};
use crate::clock::Monotonic;
use crate::config::{Cutover, OnSentinelLoss};
use crate::model::{Epoch, MasterId, SentinelId};
use crate::timeline::{Timelines, Trigger};

/// One master name.
#[derive(Clone, Debug)]
pub(super) struct Master {
    claims: Claims,
    pub(super) phase: Phase,
    policy: LossPolicy,
    cutover: Cutover,
    waiting: Waiting,
    /// When patience with `waiting` ends; none once it has.
    due: Option<Monotonic>,
    /// When no majority was heard for the lease; none where nothing depends on that, or once it has
    /// had its consequences.
    lapse_at: Option<Monotonic>,
    /// That moment, once it has had them, until a majority was heard since.
    lapsed: Option<Monotonic>,
    /// The longest that a Sentinel's word parks the services.
    park: Duration,
    /// What a failover that is on its way is allowed, and until when.
    limit: Limit,
    limit_at: Option<Monotonic>,
    /// Nothing came of the last park: until then, a Sentinel's word doesn't park again.
    no_park_before: Option<Monotonic>,
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
    /// Any claim at all. (How long ago a majority was heard is another matter: [`Turn::end`].)
    Sentinels,
}

impl Master {
    pub(super) fn new(
        settings: &Settings,
        policy: LossPolicy,
        adopted: Option<Adopted>,
        now: Monotonic,
    ) -> Self {
        let phase = match adopted {
            None => Phase::Learning,
            Some(Adopted { target, provisional, parked, announced, heard: _ }) => {
                let provisional = provisional.map(|node| Provisional { node, leader: None });
                let served = Served { target, provisional };
                match (announced, parked) {
                    (false, _) => Phase::Withdrawn { served },
                    (true, false) => Phase::Serving { served },
                    (true, true) => Phase::Serving { served }.next(Input::Ordered),
                }
            }
        };
        let since = adopted.and_then(|adopted| adopted.heard).unwrap_or(now);
        let claims = Claims::new(settings.configured_sentinels, policy.lease(), since);
        let waiting = Waiting::new(phase, claims.support(now), policy);
        let due = waiting.patience(policy).map(|patience| now + patience);
        let limit = Limit::of(phase);
        Self {
            lapse_at: claims.heard_until().filter(|_| phase.announces()),
            lapsed: None,
            claims,
            phase,
            policy,
            cutover: settings.cutover,
            waiting,
            due,
            park: settings.park,
            limit,
            limit_at: limit.length(settings.park).map(|length| now + length),
            no_park_before: None,
            demoted: false,
            split: None,
        }
    }

    pub(super) fn desired(&self) -> Desired {
        let served = self.phase.served();
        Desired {
            target: served.map(|served| served.target),
            provisional: served.and_then(|served| served.provisional).map(|it| it.node),
            parked: self.phase.is_parked(),
            announce: self.phase.announces(),
            state: self.phase.state(),
        }
    }

    /// When [`Turn::tick`] is wanted.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        [self.due, self.lapse_at, self.limit_at].into_iter().flatten().min()
    }

    pub(super) fn heard(&self) -> Monotonic {
        self.claims.heard()
    }

    fn is_early(&self) -> bool {
        self.cutover == Cutover::Early
    }
}

impl Waiting {
    fn new(phase: Phase, support: Support, policy: LossPolicy) -> Self {
        match phase {
            Phase::Learning => Self::Majority,
            Phase::Confirming { candidate }
            | Phase::Replacing { candidate, .. }
            | Phase::Returning { candidate, .. } => Self::Answer(candidate),
            Phase::Serving { .. } | Phase::Promoting { .. } | Phase::Reverting { .. } => {
                if policy.is_loss(support) { Self::Sentinels } else { Self::Nothing }
            }
            // Nothing more can be lost; the return of a majority is not expected at any time.
            Phase::Withdrawn { .. } => Self::Nothing,
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
    pub(super) fn claim(&mut self, sentinel: SentinelId, target: Target, asked: Monotonic) {
        if let Some(present) = self.master.phase.target()
            && target.epoch < present.epoch
            && self.master.claims.refuse(sentinel, target)
        {
            self.notice(Notice::LowerEpoch { sentinel, claimed: target, present });
        }
        self.master.claims.claim(sentinel, target, asked);
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
        let served = self.master.phase.served().is_some_and(|served| served.addr() == node);
        if served && self.master.phase.candidate().is_none() {
            self.watch_served(node, role);
        }
        self.step(Input::Role { node, role });
    }

    /// A leader has selected a replica, or its promotion is on the way.
    pub(super) fn selected(&mut self, leader: SentinelId, node: SocketAddr) {
        if self.master.is_early() {
            let park = self.may_park();
            self.step(Input::Selected { leader, node, park });
        }
    }

    pub(super) fn aborted(&mut self, leader: SentinelId) {
        self.step(Input::Aborted { leader });
    }

    pub(super) fn ordered(&mut self, why: Trigger, limit: Duration) {
        self.step(Input::Ordered);
        if self.master.phase.is_parked() {
            self.timelines.ordered(self.now, self.id, why);
        }
        if self.master.limit == Limit::Order {
            self.master.limit_at = Some(self.now + limit);
        }
    }

    pub(super) fn taken(&mut self, leader: SentinelId) {
        self.step(Input::Taken { leader });
    }

    pub(super) fn cancelled(&mut self) {
        self.step(Input::Cancelled);
    }

    pub(super) fn tick(&mut self) {
        self.expire();
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
                let claims = &self.master.claims;
                let (live, needed) = (claims.live(self.now), claims.majority());
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
        let support = self.support();
        self.step(Input::Overdue { action, support });
    }

    /// To be called after whatever the event did. A host whose lease has run out withdraws, whatever
    /// it was waiting for, and however late that is noticed: if it is cut off, the others count on it.
    pub(super) fn end(&mut self) {
        let Some(until) = self.master.claims.heard_until() else { return };
        let announced = self.master.phase.target().filter(|_| self.master.phase.announces());
        let Some(present) = announced else {
            self.master.lapse_at = None;
            self.master.lapsed = None;
            return;
        };
        // Some events are older than the one before them: only a later word ends it.
        if self.master.lapsed.is_some_and(|lapsed| until <= lapsed || until <= self.now) {
            return;
        }
        if self.now < until {
            self.master.lapse_at = Some(until);
            if self.master.lapsed.take().is_some() {
                self.notice(Notice::SentinelsBack);
            }
        } else {
            self.master.lapse_at = None;
            self.notice(Notice::SentinelsLost { present, policy: self.master.policy });
            let (action, support) = (self.master.policy.action, self.support());
            self.step(Input::Overdue { action, support });
            self.master.lapsed = self.master.phase.announces().then_some(until);
        }
    }

    /// Ends what a failover was allowed.
    fn expire(&mut self) {
        if self.master.limit_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.master.limit_at = self.master.limit.length(self.master.park).map(|it| self.now + it);
        let support = self.support();
        self.step(Input::Expired { support });
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
        let support = self.support();
        let park = self.may_park();
        self.step(Input::Claims { support, successor, park });
    }

    fn support(&self) -> Support {
        self.master.claims.support(self.now)
    }

    fn may_park(&self) -> bool {
        let held_off = self.master.no_park_before.is_some_and(|until| self.now < until);
        self.master.is_early() && !held_off
    }

    /// The served node's own view, where no newer master is known. It never causes a flip: only
    /// an epoch does.
    fn watch_served(&mut self, node: SocketAddr, role: Role) {
        let demoted = match role {
            Role::Master(_) => false,
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

        self.tell_timelines(before, after);
        if before.served() != after.served() {
            self.master.demoted = false;
        }
        self.ask(before, after);
        self.report(before, after, input);
        self.limit(before, after);
        let support = self.support();
        self.wait_for(Waiting::new(after, support, self.master.policy));
    }

    fn tell_timelines(&mut self, before: Phase, after: Phase) {
        let (now, id) = (self.now, self.id);
        if !before.is_parked() && after.is_parked() {
            self.timelines.parked(now, id);
        }
        let old = before.served().map(Served::addr);
        if let Some(served) = after.served() {
            if old != Some(served.addr()) {
                self.timelines.promoted(now, id, served.addr());
            }
            if served.provisional.is_none() && before.target() != Some(served.target) {
                let record = self.timelines.confirmed(now, id, served.target);
                self.out.extend(record.map(super::record));
            }
        }
        if before.is_parked() && !after.is_parked() && old == after.served().map(Served::addr) {
            let goes_on = matches!(after, Phase::Promoting { .. } | Phase::Replacing { .. });
            let record = self.timelines.unparked(now, id, goes_on);
            self.out.extend(record.map(super::record));
        }
    }

    fn ask(&mut self, before: Phase, after: Phase) {
        let asked = before.candidate();
        let wanted = after.candidate();
        // Named by an epoch now: another answer counts than before.
        let anew = matches!((before, after), (Phase::Promoting { .. }, Phase::Replacing { .. }));
        if asked == wanted && !(anew && wanted.is_some()) {
            return;
        }
        match wanted {
            Some(node) => self.out.push(Command::AskRole { master: self.id, node }),
            // Who has answered master is asked no more anyway.
            None if after.served().map(Served::addr) == asked => {}
            None => self.out.push(Command::StopAsking { master: self.id }),
        }
    }

    fn report(&mut self, before: Phase, after: Phase, input: Input) {
        match (before, after) {
            (Phase::Withdrawn { .. } | Phase::Returning { .. }, Phase::Serving { served }) => {
                self.notice(Notice::AnnouncedAgain { present: served.target });
            }
            (
                Phase::Promoting { served, promotion, parked: true },
                Phase::Promoting { parked: false, .. } | Phase::Serving { .. },
            ) if after.served() == Some(served) => {
                let aborted = matches!(input, Input::Aborted { .. });
                let candidate = promotion.candidate;
                let serving = served.addr();
                self.notice(Notice::NotPromoted { candidate, serving, aborted });
            }
            (_, Phase::Reverting { target, provisional })
                if !matches!(before, Phase::Reverting { .. }) =>
            {
                self.notice(Notice::Doubted { node: provisional, target });
            }
            (Phase::Reverting { provisional, .. }, Phase::Serving { served })
                if served.provisional.is_none() =>
            {
                self.notice(Notice::Reverted { from: provisional, to: served.target });
            }
            _ => {}
        }
    }

    fn limit(&mut self, before: Phase, after: Phase) {
        let nothing_came = match (before, after) {
            (Phase::Promoting { served, promotion, .. }, Phase::Serving { served: same }) => {
                same == served && promotion.candidate.is_some()
            }
            (Phase::Promoting { .. }, Phase::Promoting { .. })
            | (Phase::Replacing { .. }, Phase::Replacing { .. }) => {
                before.is_parked() && !after.is_parked()
            }
            (Phase::Replacing { served, parked: true, .. }, Phase::Serving { served: same }) => {
                same == served
            }
            _ => false,
        };
        if nothing_came {
            self.master.no_park_before = Some(self.now + HOLD_OFF);
        }
        let limit = Limit::of(after);
        if limit != self.master.limit {
            self.master.limit = limit;
            self.master.limit_at = limit.length(self.master.park).map(|length| self.now + length);
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
