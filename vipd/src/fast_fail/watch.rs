//! One master, watched.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::net::SocketAddr;
use std::time::Duration;

use super::heard::{Heard, Testimony};
use super::{Answer, Command, Death, GAP, Never, PATIENCE, REST, Sentinels, Served, Settings};
use crate::clock::Monotonic;
use crate::model::{Epoch, MasterId};

/// What is known of one master.
#[derive(Clone, Default, Debug)]
pub(super) struct Watch {
    /// Who is served now, if that is certain.
    served: Option<Served>,
    /// Of whom the rest speaks: who was served last.
    about: Option<SocketAddr>,
    /// It is asked every few milliseconds because of a hint.
    pressed: bool,
    suspicion: Option<Suspicion>,
    /// Of the last order …
    ordered: Option<Monotonic>,
    /// … and of the one before, should the last be refused.
    ordered_before: Option<Monotonic>,
    /// Where packets go, and the epoch that was confirmed last.
    leads: Option<(SocketAddr, Epoch)>,
    /// The last failover that was seen.
    seen: Option<Monotonic>,
    /// Since when this vipd goes on from what an earlier one had confirmed.
    restarted: Option<Monotonic>,
    /// A Sentinel has found it down since it answered last.
    noticed: bool,
    /// Before this, nothing is looked at again.
    rest: Option<Monotonic>,
    /// Checks so far.
    checks: u64,
}

/// The node refuses connections.
#[derive(Clone, Debug)]
struct Suspicion {
    /// The first refusal of all in a row.
    since: Monotonic,
    /// The first of those with no gap between them.
    steady: Monotonic,
    /// The last one.
    last: Monotonic,
    refusals: u32,
    attempt: Attempt,
    /// What the operator was told.
    told: Vec<Never>,
}

#[derive(Clone, PartialEq, Debug)]
enum Attempt {
    /// The grace runs, and the check of that number: whom Sentinel may select, once it has passed.
    Gathering { begun: Monotonic, check: u64, electable: Option<BTreeSet<SocketAddr>> },
    /// Something was missing.
    Resting,
    /// The order is on its way, or was accepted.
    Ordered,
}

/// One event for one master.
pub(super) struct Turn<'a> {
    pub(super) watch: &'a mut Watch,
    pub(super) id: MasterId,
    pub(super) now: Monotonic,
    pub(super) settings: &'a Settings,
    pub(super) sentinels: Sentinels,
    pub(super) heard: &'a Heard,
    pub(super) out: &'a mut Vec<Command>,
}

impl Watch {
    pub(super) fn new(restarted: Option<Monotonic>) -> Self {
        Self { restarted, ..Self::default() }
    }

    /// The node, and its replicas.
    fn nodes(&self) -> impl Iterator<Item = SocketAddr> {
        let served = self.served.iter();
        served.flat_map(|it| [it.node].into_iter().chain(it.replicas.iter().copied()))
    }

    pub(super) fn inherit(&mut self, earlier: &Self) {
        self.ordered = earlier.ordered;
        self.leads = earlier.leads;
        self.seen = earlier.seen;
        // This is no restart.
        self.restarted = earlier.restarted;
    }

    pub(super) fn deadline(&self, grace: Duration) -> Option<Monotonic> {
        match self.suspicion.as_ref()?.attempt {
            Attempt::Gathering { begun, .. } => Some(begun + grace + PATIENCE),
            // The next refusal is the reason to look again.
            Attempt::Resting | Attempt::Ordered => None,
        }
    }
}

impl Turn<'_> {
    pub(super) fn served(&mut self, served: Option<Served>) {
        if self.watch.served == served {
            return;
        }
        let node = served.as_ref().map(|served| served.node);
        if node.is_none() || node != self.watch.about {
            self.calm();
        }
        if let Some(node) = node
            && self.watch.about != Some(node)
        {
            self.watch.about = Some(node);
            self.watch.noticed = false;
        }
        // Others may be pressed than before.
        let gathering = self.is_gathering();
        self.release();
        self.watch.served = served;
        if gathering {
            self.press();
        }
    }

    pub(super) fn heard(&mut self, node: SocketAddr, answer: Answer) {
        if self.watch.about != Some(node) {
            // A replica of its own, perhaps.
            return self.decide();
        }
        // If it refuses, everybody is pressed in a moment.
        if std::mem::take(&mut self.watch.pressed) {
            self.out.push(Command::Release(node));
        }
        match answer {
            Answer::Refused => self.refused(node),
            Answer::Master => {
                self.watch.rest = None;
                self.watch.noticed = false;
                self.recovered();
            }
            Answer::Replica(_) | Answer::Present => self.recovered(),
            Answer::Silent => self.calm(),
        }
    }

    fn recovered(&mut self) {
        let Some(Suspicion { since, ref attempt, .. }) = self.watch.suspicion else { return };
        if *attempt != Attempt::Ordered {
            self.out.push(Command::Recovered(self.id, self.now.since(since)));
        }
        self.calm();
    }

    fn refused(&mut self, node: SocketAddr) {
        if self.watch.served.is_none() {
            return;
        }
        let gap = GAP.max(self.settings.grace);
        let now = self.now;
        let suspicion = self.watch.suspicion.get_or_insert_with(|| Suspicion {
            since: now,
            steady: now,
            last: now,
            refusals: 0,
            attempt: Attempt::Resting,
            told: Vec::new(),
        });
        if now.since(suspicion.last) > gap {
            suspicion.steady = now;
        }
        suspicion.last = now;
        suspicion.refusals = suspicion.refusals.saturating_add(1);
        if suspicion.attempt == Attempt::Resting && self.watch.rest.is_none_or(|rest| rest <= now) {
            self.begin(node);
        }
        self.decide();
    }

    /// Looks at everything, if there is any point in it.
    fn begin(&mut self, node: SocketAddr) {
        if let Some(never) = self.hopeless() {
            return self.give_up(never);
        }
        self.watch.checks += 1;
        let check = self.watch.checks;
        if let Some(suspicion) = &mut self.watch.suspicion {
            suspicion.attempt = Attempt::Gathering { begun: self.now, check, electable: None };
        }
        self.press();
        self.out.push(Command::Check(self.id, node, check));
    }

    /// Whatever can't change while the node refuses, or not for long.
    fn hopeless(&self) -> Option<Never> {
        let since = self.watch.suspicion.as_ref()?.since;
        if !self.heard.was_master(self.watch.about?, since) {
            return Some(Never::NotSeen);
        }
        if self.watch.noticed {
            return Some(Never::Noticed);
        }
        let causes = [
            self.watch.ordered.map(|at| Never::TooSoon(self.now.since(at))),
            self.watch.seen.map(|at| Never::FailedOver(self.now.since(at))),
            self.watch.restarted.map(|at| Never::Restarted(self.now.since(at))),
        ];
        let is_recent = |never: &Never| match never {
            Never::TooSoon(ago) | Never::FailedOver(ago) | Never::Restarted(ago) => {
                *ago < self.settings.interval
            }
            _ => false,
        };
        causes.into_iter().flatten().find(is_recent)
    }

    pub(super) fn checked(&mut self, number: u64, result: Result<BTreeSet<SocketAddr>, Never>) {
        let Some(Suspicion { attempt: Attempt::Gathering { check, electable, .. }, .. }) =
            &mut self.watch.suspicion
        else {
            return;
        };
        // One of an earlier death says nothing about this one.
        if *check != number {
            return;
        }
        match result {
            Ok(found) => {
                *electable = Some(found);
                self.decide();
            }
            Err(never) => self.give_up(never),
        }
    }

    /// Orders, if everything is proven; gives up when it is too late.
    pub(super) fn decide(&mut self) {
        let Some(suspicion) = &self.watch.suspicion else { return };
        let Attempt::Gathering { begun, ref electable, .. } = suspicion.attempt else { return };
        let Some(served) = &self.watch.served else { return };
        let (since, until) = (suspicion.since, suspicion.last);
        let missing = self.missing(suspicion, electable.as_ref());
        let is_steady = until.since(suspicion.steady) >= self.settings.grace;
        match missing {
            None if is_steady => {
                let refusals = suspicion.refusals;
                let death = Death { node: served.node, since, until, refusals };
                self.release();
                self.watch.ordered_before = self.watch.ordered.replace(self.now);
                if let Some(suspicion) = &mut self.watch.suspicion {
                    suspicion.attempt = Attempt::Ordered;
                }
                self.out.push(Command::Order(self.id, death));
            }
            Some(never) if self.now >= begun + self.settings.grace + PATIENCE => {
                self.give_up(never);
            }
            // Not refused often enough: it is slow to answer at all.
            None if self.now >= begun + self.settings.grace + PATIENCE => self.rest(),
            Some(_) | None => {}
        }
    }

    /// What a proof lacks, beside the grace.
    fn missing(
        &self,
        suspicion: &Suspicion,
        electable: Option<&BTreeSet<SocketAddr>>,
    ) -> Option<Never> {
        match self.sentinels {
            Sentinels::Ready => {}
            Sentinels::Tilt => return Some(Never::Tilt),
            Sentinels::Minority => return Some(Never::Minority),
        }
        let Served { node, replicas } = self.watch.served.as_ref()?;
        let (since, mut proven) = (suspicion.since, false);
        for &replica in replicas {
            match self.heard.testimony(replica, *node, since) {
                Testimony::Alive => return Some(Never::Contradicted(replica)),
                Testimony::Dead => proven = true,
                Testimony::None => {}
            }
        }
        if !proven {
            return Some(Never::NoReplica);
        }
        let Some(electable) = electable else { return Some(Never::Unanswered) };
        let is_stale = |replica: &&SocketAddr| !self.heard.was_linked(**replica, *node, since);
        electable.iter().find(is_stale).copied().map(Never::Stale)
    }

    pub(super) fn noticed(&mut self) {
        self.watch.noticed = true;
        if self.is_gathering() {
            self.give_up(Never::Noticed);
        }
    }

    pub(super) fn leads(&mut self, node: SocketAddr, epoch: Epoch) {
        let before = self.watch.leads.replace((node, epoch));
        if before.is_some_and(|(other, lower)| other != node || lower < epoch) {
            self.begun();
        }
    }

    /// A failover, whoever asked for it.
    pub(super) fn begun(&mut self) {
        self.watch.seen = Some(self.now);
        if self.is_gathering() {
            self.give_up(Never::FailedOver(Duration::ZERO));
        }
    }

    pub(super) fn asked(&mut self, result: Result<(), Never>) {
        let Err(never) = result else { return };
        self.watch.ordered = self.watch.ordered_before;
        // Usually it is parked meanwhile, and the suspicion forgotten.
        self.watch.rest = Some(self.now + REST);
        match &mut self.watch.suspicion {
            Some(_) => self.give_up(never),
            None => self.out.push(Command::GiveUp(self.id, never)),
        }
    }

    pub(super) fn hinted(&mut self) {
        let Some(served) = &self.watch.served else { return };
        if self.watch.suspicion.is_none() && !self.watch.pressed {
            self.watch.pressed = true;
            self.out.push(Command::Press(served.node));
        }
    }

    fn give_up(&mut self, never: Never) {
        self.rest();
        let Some(suspicion) = &mut self.watch.suspicion else { return };
        if suspicion.told.iter().any(|told| discriminant(told) == discriminant(&never)) {
            return;
        }
        suspicion.told.push(never.clone());
        self.out.push(Command::GiveUp(self.id, never));
    }

    fn rest(&mut self) {
        self.release();
        self.watch.rest = Some(self.now + REST);
        if let Some(suspicion) = &mut self.watch.suspicion {
            suspicion.attempt = Attempt::Resting;
        }
    }

    /// Nothing is suspected any more.
    fn calm(&mut self) {
        self.release();
        self.watch.suspicion = None;
        if std::mem::take(&mut self.watch.pressed)
            && let Some(node) = self.watch.about
        {
            self.out.push(Command::Release(node));
        }
    }

    fn is_gathering(&self) -> bool {
        let gathering = |it: &Suspicion| matches!(it.attempt, Attempt::Gathering { .. });
        self.watch.suspicion.as_ref().is_some_and(gathering)
    }

    /// Whoever can prove something is asked all the time …
    fn press(&mut self) {
        self.out.extend(self.watch.nodes().map(Command::Press));
    }

    /// … and no longer is.
    fn release(&mut self) {
        if self.is_gathering() {
            self.out.extend(self.watch.nodes().map(Command::Release));
        }
    }
}
