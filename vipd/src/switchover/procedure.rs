//! The steps, in their order; see the diagram in [`super`].

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::warn;

use super::checks::{self, Plan, Survey};
use super::debts::{Debts, Undo};
use super::report::{Failure, Lag, Progress, Why};
use super::site::{Lost, Site, View};
use super::{Millis, Order, Switched, hint, micros};
use crate::connect::Error;
use crate::redis_node::Role;

/// The pause's own end is this long after vipd means to end it: for a vipd that dies meanwhile.
const GRACE: Duration = Duration::from_millis(500);
/// For the order to be given and a replica to be selected, once all have caught up.
const ORDERING: Duration = Duration::from_secs(2);
/// After an order was accepted, the flip is waited for this long.
pub(super) const FLIP: Duration = Duration::from_secs(15);
/// After the flip, for a majority of the Sentinels to name the new master.
const SETTLING: Duration = Duration::from_secs(10);
/// For Sentinel to hear of a priority: it asks replicas for INFO every 10 s.
pub(super) const HINTING: Duration = Duration::from_secs(15);
/// Between two looks at the replicas, and at the Sentinels.
const LOOK: Duration = Duration::from_millis(2);
const GLANCE: Duration = Duration::from_millis(100);
/// Attempts to undo one thing.
const ATTEMPTS: u32 = 5;

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
        progress,
        debts: Debts::default(),
        paused: None,
        was_parked: false,
    };
    // Debts are written before the deed, so whatever this cuts short is undone.
    let outcome = tokio::select! {
        outcome = procedure.forward() => outcome,
        () = stop => Err(Why::Stopping(Lost)),
    };
    let left = procedure.undo().await;
    match outcome {
        Ok(None) => Ok(None),
        Ok(Some(mut switched)) => {
            switched.warnings.extend(left);
            Ok(Some(switched))
        }
        Err(why) => {
            let failure = Failure { why, flipped: procedure.debts.flipped, left };
            warn!(master = order.master, "switchover: {failure}");
            Err(failure)
        }
    }
}

struct Procedure<'a, S> {
    site: &'a S,
    order: &'a Order,
    progress: Progress,
    debts: Debts,
    paused: Option<Paused>,
    /// The driver does park: once it no longer does, there is nothing to wait for.
    was_parked: bool,
}

/// The old master takes no writes.
#[derive(Clone, Copy)]
struct Paused {
    node: SocketAddr,
    since: Instant,
    /// When it must end.
    until: Instant,
    /// How long it was, once it has ended.
    length: Option<Duration>,
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
        self.park(&plan).await?;
        let behind = self.caught_up(&plan.replicas, offset, plan.catching_up);
        tokio::select! {
            behind = behind => behind?,
            overtaken = self.overtaken(old) => {
                // Somebody else did, and whom it promotes may not have what is held back here.
                self.debts.ordered = true;
                self.debts.flipped = self.site.view().borrow().serves != Some(old);
                return Err(overtaken);
            }
        }
        self.progress.step(format_args!("every replica has offset {offset}, as the master has"));
        self.give_order(old).await?;
        let new = self.flipped(old).await?;
        self.settle(old, new).await.map(Some)
    }

    /// Looks at everybody, and changes nothing.
    async fn survey(&self, old: SocketAddr) -> Result<Plan, Why> {
        let site = self.site;
        let about_master = async { (site.inspect(old).await, site.may_pause(old).await) };
        let (ready, sentinels, (master, may_pause)) =
            tokio::join!(site.ready(old), site.sentinels(), about_master);
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
            let priority = self.site.priority(node).await;
            priorities.push((node, priority.map_err(|error| failed(node, &error))?));
        }
        for (node, priority) in hint::changes(&priorities, to) {
            let old = priorities.iter().find(|(other, _)| *other == node);
            self.debts.priorities.extend(old);
            let set = self.site.set_priority(node, priority, false).await;
            set.map_err(|error| failed(node, &error))?;
            self.progress.step(format_args!("replica-priority of {node} is {priority} for now"));
        }
        let deadline = Instant::now() + HINTING;
        while !checks::is_preferred(&self.site.sentinels().await, to) {
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
        // Whether vipd may end a pause is better known before one begins.
        self.site.unpause(old).await.map_err(|error| failed(old, &error))?;
        self.debts.paused = true;
        let since = Instant::now();
        self.paused = Some(Paused { node: old, since, until: since + plan.pause, length: None });
        let offset = self.site.pause(old, plan.pause + GRACE).await;
        let offset = offset.map_err(|error| failed(old, &error))?;
        self.progress.step(format_args!("writers of {old} are paused, at offset {offset}"));
        Ok(offset)
    }

    async fn park(&mut self, plan: &Plan) -> Result<(), Why> {
        self.debts.parked = true;
        self.site.park(plan.catching_up + ORDERING).await?;
        self.was_parked = self.site.view().borrow().parked;
        if self.was_parked {
            self.progress.step("the clients of the VIP are parked");
        }
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
            replicas.iter().map(|&node| Lag { node, why: "was not asked".to_owned() }).collect();
        loop {
            let asked = behind.into_iter().map(|lag| async move {
                match timeout_at(deadline, self.site.role(lag.node)).await {
                    Ok(answer) => lag_of(lag.node, answer, offset),
                    Err(_) => Some(Lag { why: "does not answer".to_owned(), ..lag }),
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
        let was_parked = self.was_parked;
        let gone = view.wait_for(|view| {
            view.serves.is_some_and(|serves| serves != old) || (was_parked && !view.parked)
        });
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

    /// Waits until packets go to another node. The pause may have to end before.
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
            if self.was_parked && !now.parked {
                return Err(Why::Aborted);
            }
            let paused = self.paused.filter(|_| self.debts.paused);
            let pause_ends = paused.map_or(deadline, |it| it.until.min(deadline));
            tokio::select! {
                changed = view.changed() => changed.map_err(|_| Lost)?,
                () = sleep_until(pause_ends) => {
                    if Instant::now() >= deadline {
                        return Err(Why::NotPromoted);
                    }
                    self.end_pause().await;
                }
            }
        }
    }

    /// Everything after the flip. Nothing here can fail: the new master is served.
    async fn settle(&mut self, old: SocketAddr, new: SocketAddr) -> Result<Switched, Why> {
        let flip = self.paused.map(|it| it.since.elapsed()).unwrap_or_default();
        let mut warnings = Vec::new();
        // They may hold connections from before: what these still have must not be executed.
        if self.debts.paused
            && let Err(error) = self.site.kill_clients(old).await
        {
            warnings.push(format!("the clients of {old} could not be cut off: {error}"));
        }
        warnings.extend(self.restore_priorities().await);
        let demoted = if self.agreed(new).await {
            self.demote(old, new, &mut warnings).await
        } else {
            warnings.push(format!("no majority of the Sentinels names {new} yet"));
            false
        };
        self.end_pause().await;
        let view = *self.site.view().borrow();
        let first_packet = view.first_packet.map(|at| flip + at.since(view.since));
        Ok(Switched {
            from: old,
            to: new,
            stall_us: micros(first_packet.unwrap_or(flip)),
            flip_us: micros(flip),
            paused_us: micros(self.paused.and_then(|it| it.length).unwrap_or_default()),
            demoted,
            warnings,
        })
    }

    /// Waits until a majority of the Sentinels names the new master. The pause may end meanwhile.
    async fn agreed(&mut self, new: SocketAddr) -> bool {
        let deadline = Instant::now() + SETTLING;
        loop {
            if self.paused.is_some_and(|it| Instant::now() >= it.until) {
                self.end_pause().await;
            }
            let sentinels = self.site.sentinels().await;
            if checks::named_by(&sentinels, new) > sentinels.len() / 2 {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(GLANCE).await;
        }
    }

    /// A majority of the Sentinels has the new master by now, so none of them will promote the old
    /// one's data again. They would demote it as well, some 10 s later.
    async fn demote(
        &mut self,
        old: SocketAddr,
        new: SocketAddr,
        warnings: &mut Vec<String>,
    ) -> bool {
        match self.site.role(old).await {
            Ok(Role::Replica { .. }) => {
                self.progress.step(format_args!("{old} is a replica already"));
                return true;
            }
            Ok(_) => {}
            Err(error) => {
                warnings.push(format!("the old master {old} {error}"));
                return false;
            }
        }
        match self.site.demote(old, new).await {
            Ok(()) => {
                self.progress.step(format_args!("{old} is a replica of {new}"));
                true
            }
            Err(error) => {
                warnings.push(format!(
                    "{old} could not be made a replica: {error}; Sentinel does so in some 10 s, \
                     and until then whoever writes to it without the VIP loses that"
                ));
                false
            }
        }
    }

    async fn restore_priorities(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for (node, priority) in self.debts.priorities.clone() {
            left.extend(self.pay(Undo::Priority(node, priority)).await);
        }
        left
    }

    /// Ends the pause in the way that [`Debts::due`] asks for, if there is one.
    async fn end_pause(&mut self) {
        let due = self.debts.due();
        for undo in due.into_iter().filter(|it| matches!(it, Undo::KillClients | Undo::Unpause)) {
            if let Some(left) = self.pay(undo).await {
                self.progress.step(left);
            }
        }
    }

    /// Pays everything; returns what could not be.
    async fn undo(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for undo in self.debts.due() {
            left.extend(self.pay(undo).await);
        }
        left
    }

    /// Undoes one thing; returns what is left of it.
    async fn pay(&mut self, undo: Undo) -> Option<String> {
        let old = self.paused.map(|it| it.node);
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(GLANCE).await;
            }
            let done = match (undo, old) {
                (Undo::KillClients, Some(old)) => self.site.kill_clients(old).await,
                (Undo::Unpause, Some(old)) => self.site.unpause(old).await,
                (Undo::KillClients | Undo::Unpause, None) => Ok(()),
                (Undo::Cancel, _) => {
                    self.site.cancel();
                    Ok(())
                }
                (Undo::Priority(node, priority), _) => {
                    // Sentinel rewrites configuration files as it promotes.
                    self.site.set_priority(node, priority, self.debts.ordered).await
                }
            };
            match done {
                Ok(()) => {
                    self.debts.paid(undo);
                    self.told(undo);
                    return None;
                }
                Err(error) => last = Some(error),
            }
        }
        // Not again: the rest matters more.
        self.debts.paid(undo);
        let error = last?;
        Some(match undo {
            Undo::KillClients => format!("the old master's clients are not cut off: {error}"),
            Undo::Unpause => format!(
                "the writers' pause was not ended ({error}): it ends by itself within {} ms",
                GRACE.as_millis()
            ),
            Undo::Cancel => return None,
            Undo::Priority(node, priority) => {
                format!("set replica-priority of {node} back to {priority} by hand: {error}")
            }
        })
    }

    fn told(&mut self, undone: Undo) {
        match undone {
            Undo::KillClients => {}
            Undo::Unpause => {
                if let Some(paused) = &mut self.paused {
                    let length = paused.since.elapsed();
                    paused.length = Some(length);
                    self.progress.step(format_args!("the pause is over, after {}", Millis(length)));
                }
            }
            Undo::Cancel => self.progress.step("the clients of the VIP go on"),
            Undo::Priority(node, priority) => {
                self.progress.step(format_args!("replica-priority of {node} is {priority} again"));
            }
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
