//! Paying what is owed: see [`super::debts`].

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Millis;
use super::debts::Undo;
use super::procedure::{GLANCE, GRACE, Procedure};
use super::site::Site;

/// Attempts to undo one thing.
pub(super) const ATTEMPTS: u32 = 5;

impl<S: Site> Procedure<'_, S> {
    pub(super) async fn restore_priorities(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for (node, priority) in self.debts.priorities.clone() {
            left.extend(self.pay(Undo::Priority(node, priority)).await);
        }
        left
    }

    /// Ends the pause in the way that [`Debts::due`] asks for, if there is one.
    pub(super) async fn end_pause(&mut self) {
        let due = self.debts.due();
        for undo in due.into_iter().filter(|it| matches!(it, Undo::KillClients | Undo::Unpause)) {
            if let Some(left) = self.pay(undo).await {
                self.progress.step(left);
            }
        }
    }

    /// Pays everything; returns what could not be.
    pub(super) async fn undo(&mut self) -> Vec<String> {
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
                let of_pause = matches!(undo, Undo::KillClients | Undo::Unpause);
                if of_pause && self.remainder().is_some_and(|left| left.is_zero()) {
                    break;
                }
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
            Undo::Unpause => match self.remainder() {
                Some(left) if !left.is_zero() => format!(
                    "the writers' pause was not ended ({error}): it ends by itself within {} ms",
                    left.as_millis()
                ),
                _ => format!("the writers' pause was not ended ({error}): by now it is over"),
            },
            Undo::Cancel => return None,
            Undo::Priority(node, priority) => {
                format!(
                    "set replica-priority of {node} back to {priority} by hand, or the next start \
                     of vipd tries to: {error}"
                )
            }
        })
    }

    /// What is left of the pause, if nobody ends it.
    fn remainder(&self) -> Option<Duration> {
        let ends = self.paused?.until + GRACE;
        Some(ends.saturating_duration_since(Instant::now()))
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
                self.site.settled(node);
                self.progress.step(format_args!("replica-priority of {node} is {priority} again"));
            }
        }
    }
}
