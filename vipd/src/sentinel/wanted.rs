//! What is to be read next: the bound on re-reading.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::MasterId;

/// Masters that are to be read again. However often one is asked for, it is read at most once
/// more after the reading under way; those that an event was about go first.
#[derive(Default, Debug)]
pub(super) struct Wanted {
    sets: Mutex<Sets>,
    changed: Notify,
}

#[derive(Default, Debug)]
struct Sets {
    urgent: BTreeSet<MasterId>,
    routine: BTreeSet<MasterId>,
}

impl Wanted {
    /// Read these before all others.
    pub(super) fn urgent(&self, masters: impl IntoIterator<Item = MasterId>) {
        self.lock().urgent.extend(masters);
        self.changed.notify_one();
    }

    /// Read these when nothing is urgent; not before the last round is through, or those that come last
    /// would never be read by a Sentinel that is slow.
    pub(super) fn routine(&self, masters: impl IntoIterator<Item = MasterId>) {
        let mut sets = self.lock();
        if sets.routine.is_empty() {
            sets.routine.extend(masters);
        }
        drop(sets);
        self.changed.notify_one();
    }

    /// Waits until something is to be read, and takes up to `most` of it: urgent ones, or else
    /// routine ones. For one reader.
    pub(super) async fn next(&self, most: usize) -> Vec<MasterId> {
        loop {
            // A permit of `notify_one` is kept, so nothing is missed in between.
            let taken = self.take(most);
            if !taken.is_empty() {
                return taken;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self, most: usize) -> Vec<MasterId> {
        let mut sets = self.lock();
        let Sets { urgent, routine } = &mut *sets;
        let source = if urgent.is_empty() { &mut *routine } else { &mut *urgent };
        let taken: Vec<_> = source.iter().copied().take(most).collect();
        for master in &taken {
            urgent.remove(master);
            routine.remove(master);
        }
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urgent_masters_are_read_first_and_each_once() {
        let wanted = Wanted::default();
        wanted.routine((0..4).map(MasterId));
        for _ in 0..1000 {
            wanted.urgent([MasterId(2)]);
        }
        assert_eq!(wanted.next(16).await, [MasterId(2)]);
        assert_eq!(wanted.next(2).await, [MasterId(0), MasterId(1)]);
        assert_eq!(wanted.next(16).await, [MasterId(3)]);
        assert_eq!(wanted.take(16), []);
    }

    #[test]
    fn whoever_is_slow_reads_all_of_them_in_turn() {
        let wanted = Wanted::default();
        let mut read = BTreeSet::new();
        for _ in 0..8 {
            wanted.routine((0..8).map(MasterId));
            read.extend(wanted.take(1));
        }
        assert_eq!(read.len(), 8);
    }
}
