//! The steps, in their order; see the diagram in [`super`].

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::warn;

use super::checks::{self, Plan, Survey};
use super::debts::Debts;
use super::record::Owed;
use super::report::{Failure, Lag, Progress, Why};
use super::site::{Lost, Site, View};
use super::{Millis, Order, Switched, hint};
use crate::connect::Error;
use crate::redis_node::Role;

/// The pause's own end is this long after vipd means to end it: for a vipd that dies meanwhile.
pub(super) const GRACE: Duration = Duration::from_millis(500);
/// For the order to be given and a replica to be selected, once all have caught up.
const ORDERING: Duration = Duration::from_secs(2);
/// After an order was accepted, the flip is waited for this long.
pub(super) const FLIP: Duration = Duration::from_secs(15);
/// For Sentinel to hear of a priority: it asks replicas for INFO every 10 s.
pub(super) const HINTING: Duration = Duration::from_secs(15);
/// Between two looks at the replicas, and at the Sentinels.
const LOOK: Duration = Duration::from_millis(2);
pub(super) const GLANCE: Duration = Duration::from_millis(100);
/// For the Sentinels' answers, while nobody waits …
const PATIENT: Duration = Duration::from_secs(5);
/// … and while writers are paused.
const HURRIED: Duration = Duration::from_millis(150);
/// A vipd that is told to stop goes on holding an accepted order's clients back for so long: Sentinel
/// promotes within [`super::PROMOTION`], unless it has to wait for somebody.
const STOPPING: Duration = Duration::from_secs(1);

/// Carries the order out, or undoes everything. `Ok(None)` after a dry run. Ends early, and undoes
/// what it has done so far, when `stop` ends.
///
/// # Errors
///
/// Why it did not come about.
pub async fn run<S: Site>(
    site: &S,
    order: &Order,
    progress: Progress,
    stop: impl Future<Output = ()>,
) -> Result<Option<Switched>, Failure> {
    let mut procedure = Procedure {
        site,
        order,
        progress: &progress,
        debts: Debts::default(),
        paused: None,
        park_ends: None,
    };
    // Debts are written before the deed, so whatever this cuts short is undone.
    let outcome = tokio::select! {
        outcome = procedure.forward() => outcome,
        () = stop => Err(Why::Stopping(Lost)),
    };
    if matches!(outcome, Err(Why::Stopping(_))) {
        procedure.hold_on().await;
    }
    let left = procedure.undo().await;
    match outcome {
        Ok(None) => Ok(None),
        Ok(Some(mut switched)) => {
            switched.warnings.extend(left);
            Ok(Some(switched))
        }
        Err(why) => {
            let Debts { ordered, flipped, .. } = procedure.debts;
            let failure = Failure { why, ordered, flipped, left };
            warn!(master = order.master, "switchover: {failure}");
            Err(failure)
        }
    }
}

pub(super) struct Procedure<'a, S> {
    pub(super) site: &'a S,
    order: &'a Order,
    pub(super) progress: &'a Progress,
    pub(super) debts: Debts,
    pub(super) paused: Option<Paused>,
    /// How long the driver parks, unless a leader gives up before.
    park_ends: Option<Instant>,
}

/// The old master takes no writes.
#[derive(Clone, Copy)]
pub(super) struct Paused {
    pub(super) node: SocketAddr,
    pub(super) since: Instant,
    /// When it must end; by itself it ends [`GRACE`] later.
    pub(super) until: Instant,
    /// How long it was, once it has ended.
    pub(super) length: Option<Duration>,
}

impl<S: Site> Procedure<'_, S> {
    async fn forward(&mut self) -> Result<Option<Switched>, Why> {
        let view = *self.site.view().borrow();
        let old = view.serves.filter(|_| view.steady).ok_or(Why::NotServing)?;
        let plan = self.survey(old).await?;
        if self.order.dry_run {
            self.describe(&plan);
            return Ok(None);
        }
        if let Some(to) = plan.to {
            self.hint(&plan, to).await?;
        }
        self.rehearse(old, &plan).await?;
        let offset = self.pause(old, &plan).await?;
        self.park(old, &plan).await?;
        let behind = self.caught_up(&plan.replicas, offset, plan.catching_up);
        let behind = tokio::select! {
            behind = behind => behind,
            why = self.overtaken(old) => {
                // Somebody else did, and whom it promotes may not have what is held back here.
                self.debts.ordered = true;
                self.flipped(old).await?;
                return Err(why);
            }
        };
        if behind.is_ok() {
            let step = format_args!("every replica has offset {offset}, as the master has");
            self.progress.step(step);
        }
        // Two orders would be two failovers: another Sentinel may have begun one meanwhile.
        match checks::busy(&self.site.sentinels(HURRIED).await) {
            Some(sentinel) => {
                self.debts.ordered = true;
                self.progress.step(format_args!(
                    "the Sentinel {sentinel} has a failover in progress: waiting for what comes of \
                     it"
                ));
                let new = self.flipped(old).await?;
                if behind.is_err() {
                    return Err(Why::Overtaken);
                }
                return self.settle(old, new).await.map(Some);
            }
            None => behind?,
        }
        self.give_order(old).await?;
        let new = self.flipped(old).await?;
        self.settle(old, new).await.map(Some)
    }

    /// Looks at everybody, and changes nothing.
    async fn survey(&self, old: SocketAddr) -> Result<Plan, Why> {
        let site = self.site;
        let about_master = async { (site.inspect(old).await, site.may_pause(old).await) };
        let (ready, sentinels, (master, may_pause)) =
            tokio::join!(site.ready(old), site.sentinels(PATIENT), about_master);
        let ready = ready?;
        let selectable = checks::selectable(&ready, &sentinels);
        let replicas = join_all(
            selectable.into_iter().map(|node| async move { (node, site.inspect(node).await) }),
        );
        let survey = Survey {
            node: old,
            ready: &ready,
            sentinels: &sentinels,
            master: &master,
            may_pause: &may_pause,
            replicas: &replicas.await,
        };
        let (plan, lines) = checks::judge(self.order, &survey).map_err(Why::Checks)?;
        lines.iter().for_each(|line| self.progress.step(format_args!("check: {line}")));
        Ok(plan)
    }

    /// What would be done.
    fn describe(&self, plan: &Plan) {
        let would = |what: String| self.progress.step(format_args!("would {what}"));
        if let Some(to) = plan.to {
            would(format!("let Sentinel prefer {to}, by replica-priority, and set it back"));
        }
        would(format!("pause writers for {} ms at most", plan.pause.as_millis()));
        let replicas: Vec<_> = plan.replicas.iter().map(ToString::to_string).collect();
        would(format!("wait until these have the master's offset: {}", replicas.join(", ")));
        would("order a failover, and serve whom Sentinel promotes".to_owned());
    }

    /// Lets Sentinel prefer `to`, and waits until it does.
    async fn hint(&mut self, plan: &Plan, to: SocketAddr) -> Result<(), Why> {
        let mut priorities = Vec::new();
        for &node in &plan.replicas {
            let present = self.site.priority(node).await.map_err(|error| failed(node, &error))?;
            // What an earlier switchover has left is not what is to be restored.
            let owed = self.site.owed().into_iter().find(|it| it.node == node && it.now == present);
            priorities.push((node, owed.map_or(present, |it| it.before)));
        }
        let changes: Vec<Owed> = hint::changes(&priorities, to)
            .into_iter()
            .filter_map(|(node, now)| {
                let (_, before) = *priorities.iter().find(|(other, _)| *other == node)?;
                Some(Owed { node, before, now })
            })
            .collect();
        self.site.owe(&changes).map_err(|error| Why::NotNoted(error.to_string()))?;
        // All that is noted is owed, whether or not it comes to it.
        self.debts.priorities.extend(changes.iter().map(|it| (it.node, it.before)));
        for Owed { node, now: priority, .. } in changes {
            let set = self.site.set_priority(node, priority, false).await;
            set.map_err(|error| failed(node, &error))?;
            self.progress.step(format_args!("replica-priority of {node} is {priority} for now"));
        }
        let deadline = Instant::now() + HINTING;
        while !checks::is_preferred(&self.site.sentinels(PATIENT).await, to) {
            if Instant::now() >= deadline {
                return Err(Why::NotPreferred { to });
            }
            sleep(GLANCE * 3).await;
        }
        self.progress.step(format_args!("every Sentinel that answers prefers {to}"));
        Ok(())
    }

    /// A replica that can't follow is found out before anybody is paused.
    async fn rehearse(&self, old: SocketAddr, plan: &Plan) -> Result<(), Why> {
        let offset = match self.site.role(old).await {
            Ok(Role::Master { offset, .. }) => offset,
            Ok(_) => return Err(Why::Overtaken),
            Err(error) => return Err(failed(old, &error)),
        };
        self.caught_up(&plan.replicas, offset, self.order.timeout()).await
    }

    async fn pause(&mut self, old: SocketAddr, plan: &Plan) -> Result<u64, Why> {
        self.debts.paused = true;
        let since = Instant::now();
        self.paused = Some(Paused { node: old, since, until: since + plan.pause, length: None });
        let offset = self.site.pause(old, plan.pause + GRACE).await;
        let offset = offset.map_err(|error| {
            // Refused: if there is a pause, it is somebody else's.
            if matches!(error, Error::NoPerm(_) | Error::Server(_)) {
                self.debts.paused = false;
            }
            failed(old, &error)
        })?;
        self.progress.step(format_args!("writers of {old} are paused, at offset {offset}"));
        Ok(offset)
    }

    async fn park(&mut self, old: SocketAddr, plan: &Plan) -> Result<(), Why> {
        self.debts.parked = true;
        let limit = plan.catching_up + ORDERING;
        self.park_ends = Some(Instant::now() + limit);
        self.site.park(limit).await?;
        let view = *self.site.view().borrow();
        self.debts.flipped = view.serves.is_some_and(|serves| serves != old);
        if self.debts.flipped || !view.parked {
            self.debts.ordered = self.debts.flipped || !view.steady;
            return Err(Why::NotParked);
        }
        self.progress.step("the clients of the VIP are parked");
        Ok(())
    }

    /// Waits until all of them have that offset.
    async fn caught_up(
        &self,
        replicas: &[SocketAddr],
        offset: u64,
        within: Duration,
    ) -> Result<(), Why> {
        let deadline = Instant::now() + within;
        let mut behind: Vec<Lag> =
            replicas.iter().map(|&node| Lag { node, why: "does not answer".to_owned() }).collect();
        loop {
            let asked = behind.into_iter().map(|lag| async move {
                match timeout_at(deadline, self.site.role(lag.node)).await {
                    Ok(answer) => lag_of(lag.node, answer, offset),
                    // What it said before says more than that it is slow now.
                    Err(_) => Some(lag),
                }
            });
            behind = join_all(asked).await.into_iter().flatten().collect();
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Why::Lagging { within, lagging: behind });
            }
            sleep(LOOK).await;
        }
    }

    /// Returns if somebody else moves the service, or the driver ends the park.
    async fn overtaken(&self, old: SocketAddr) -> Why {
        let mut view = self.site.view();
        let gone =
            view.wait_for(|view| view.serves.is_some_and(|serves| serves != old) || !view.parked);
        match gone.await {
            Ok(_) => Why::Overtaken,
            Err(_) => Why::Stopping(Lost),
        }
    }

    async fn give_order(&mut self, old: SocketAddr) -> Result<(), Why> {
        self.debts.ordered = true;
        match self.site.order(old).await {
            Ok(accepted) => {
                let how = if accepted.coordinated { ", COORDINATED" } else { "" };
                let sentinel = &accepted.sentinel;
                self.progress.step(format_args!("Sentinel {sentinel} took the order{how}"));
                self.site.taken(sentinel);
                Ok(())
            }
            // Every replica has everything, so whoever leads may well go on.
            Err(refusal) if refusal.may_be_under_way() => {
                self.progress.step(format_args!("{refusal}: waiting for what comes of it"));
                Ok(())
            }
            Err(refusal) => {
                self.debts.ordered = false;
                Err(refusal.into())
            }
        }
    }

    /// Waits until packets go to another node; while that may still be, nothing is given up before
    /// its longest time is over. The pause may have to end before.
    async fn flipped(&mut self, old: SocketAddr) -> Result<SocketAddr, Why> {
        let deadline = Instant::now() + FLIP;
        let mut view = self.site.view();
        loop {
            let now: View = *view.borrow_and_update();
            if let Some(new) = now.serves.filter(|serves| *serves != old) {
                self.debts.flipped = true;
                let since = self.paused.map(|it| it.since.elapsed()).unwrap_or_default();
                self.progress.step(format_args!(
                    "{new} is master and served, {} after the pause began",
                    Millis(since)
                ));
                return Ok(new);
            }
            // Before its time is over, the park of a failover that is no longer watched has ended
            // with the leader's abort.
            let early = self.park_ends.is_none_or(|ends| Instant::now() < ends);
            if now.steady && !now.parked && early {
                return Err(Why::Aborted);
            }
            if Instant::now() >= deadline {
                return Err(Why::NotPromoted);
            }
            tokio::select! {
                changed = view.changed() => changed.map_err(|_| Lost)?,
                // It is over after that, whether or not it could be ended.
                () = self.pause_is_due() => self.end_pause().await,
                () = sleep_until(deadline) => {}
            }
        }
    }
    /// Ends when the pause must; never if there is none.
    pub(super) fn pause_is_due(&self) -> impl Future<Output = ()> + use<S> {
        let until = self.paused.filter(|_| self.debts.paused).map(|it| it.until);
        async move {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
    }

    /// vipd is stopping. A promotion that may be under way is waited for as long as can be.
    async fn hold_on(&self) {
        let Some(paused) = self.paused.filter(|_| self.debts.paused) else { return };
        if !self.debts.ordered || self.debts.flipped {
            return;
        }
        self.progress.step("stopping, as soon as Sentinel has promoted a replica");
        let until = paused.until.min(Instant::now() + STOPPING);
        while Instant::now() < until {
            if checks::agree_on_another(&self.site.sentinels(HURRIED).await, paused.node) {
                return;
            }
            sleep(GLANCE).await;
        }
    }
}

fn lag_of(node: SocketAddr, answer: Result<Role, Error>, offset: u64) -> Option<Lag> {
    let why = match answer {
        Ok(Role::Replica { link_up: true, offset: own, .. }) if own >= offset => return None,
        Ok(Role::Replica { link_up: true, offset: own, .. }) => {
            format!("is {} bytes behind", offset - own)
        }
        Ok(Role::Replica { link_up: false, .. }) => "has no link to its master".to_owned(),
        Ok(_) => "is no replica".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(Lag { node, why })
}

fn failed(node: SocketAddr, error: &Error) -> Why {
    Why::Node(node, checks::advised(error))
}
