//! How a layer is getting on, for a display while it runs. Written by the layer, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Monotonic;

/// Counts of one layer. All only grow, so they are read one by one without a lock; a reader may see
/// an answer before it sees that its probe was sent.
#[derive(Debug, Default)]
pub struct Live {
    sent: AtomicU64,
    good: AtomicU64,
    bad: AtomicU64,
    /// CLOCK_MONOTONIC; 0 before the first.
    last_good: AtomicU64,
}

/// A reading of [`Live`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Probes that were sent, or tried to. `idle`: connections that wait.
    pub sent: u64,
    /// Good answers. `idle`: the same connections; each of them was answered once.
    pub good: u64,
    /// Probes that will have none. `idle`: connections that have learned that their node is gone.
    pub bad: u64,
    /// When the last good answer came.
    pub last_good: Option<Monotonic>,
}

impl Live {
    /// A probe was sent, or could not be.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A good answer came.
    pub fn good(&self, at: Monotonic) {
        self.good.fetch_add(1, Ordering::Relaxed);
        self.last_good.fetch_max(at.0, Ordering::Relaxed);
    }

    /// A probe has, and will have, no good answer.
    pub fn bad(&self) {
        self.bad.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> Progress {
        let last_good = self.last_good.load(Ordering::Relaxed);
        Progress {
            sent: self.sent.load(Ordering::Relaxed),
            good: self.good.load(Ordering::Relaxed),
            bad: self.bad.load(Ordering::Relaxed),
            last_good: (last_good > 0).then_some(Monotonic(last_good)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_answer_is_the_latest_whatever_the_order() {
        let live = Live::default();
        assert_eq!(live.read(), Progress::default());
        live.sent();
        live.good(Monotonic(7));
        live.good(Monotonic(5));
        live.bad();
        let last_good = Some(Monotonic(7));
        assert_eq!(live.read(), Progress { sent: 1, good: 2, bad: 1, last_good });
    }
}
