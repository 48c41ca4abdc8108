//! Reasons to read again at once that come from outside: [`super::Followers::refresh`].

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::model::MasterId;

/// A follower heeds nudges this often; those in between are taken together. Whoever nudges without
/// end costs each Sentinel ten questions a second and no more.
const PACE: Duration = Duration::from_millis(100);

/// The sending half: how often each master was nudged, by [`MasterId`].
#[derive(Debug)]
pub(super) struct Nudges(watch::Sender<Vec<u64>>);

/// One follower's half.
#[derive(Clone, Debug)]
pub(super) struct Nudged {
    counts: watch::Receiver<Vec<u64>>,
    seen: Vec<u64>,
    not_before: Instant,
}

impl Nudges {
    pub(super) fn new(masters: usize) -> (Self, Nudged) {
        let (sender, counts) = watch::channel(vec![0; masters]);
        let nudged = Nudged { counts, seen: vec![0; masters], not_before: Instant::now() };
        (Self(sender), nudged)
    }

    /// A master that doesn't exist is ignored. Never waits.
    pub(super) fn nudge(&self, master: MasterId) {
        self.0.send_if_modified(|counts| match counts.get_mut(master.0) {
            Some(count) => {
                *count = count.wrapping_add(1);
                true
            }
            None => false,
        });
    }
}

impl Nudged {
    /// Waits for nudges, and returns whom they were about, each once. Safe to cancel.
    pub(super) async fn next(&mut self) -> Vec<MasterId> {
        sleep_until(self.not_before).await;
        if self.counts.changed().await.is_err() {
            // Nobody nudges any more.
            std::future::pending::<()>().await;
        }
        self.not_before = Instant::now() + PACE;
        let counts = self.counts.borrow_and_update().clone();
        let seen = std::mem::replace(&mut self.seen, counts);
        let changed = self.seen.iter().zip(seen).enumerate();
        changed.filter(|(_, (now, before))| *now != before).map(|(id, _)| MasterId(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_of_nudges_is_heeded_at_a_bounded_rate_and_the_last_one_counts() {
        let (nudges, mut nudged) = Nudges::new(3);
        let start = Instant::now();
        nudges.nudge(MasterId(1));
        assert_eq!(nudged.next().await, [MasterId(1)]);
        for _ in 0..1000 {
            nudges.nudge(MasterId(0));
            nudges.nudge(MasterId(2));
        }
        assert_eq!(nudged.next().await, [MasterId(0), MasterId(2)]);
        assert!(start.elapsed() >= PACE);
        let again = tokio::time::timeout(3 * PACE, nudged.next()).await;
        assert!(again.is_err(), "{again:?}");
    }

    #[tokio::test]
    async fn a_master_that_does_not_exist_is_no_reason() {
        let (nudges, mut nudged) = Nudges::new(1);
        nudges.nudge(MasterId(1));
        let none = tokio::time::timeout(Duration::from_millis(1), nudged.next()).await;
        assert!(none.is_err(), "{none:?}");
    }
}
