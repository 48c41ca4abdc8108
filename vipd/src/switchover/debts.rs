//! What a switchover has done and must not leave behind. Pure.

use std::net::SocketAddr;

/// Everything that is owed now. Written before the deed, cleared after its undoing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Debts {
    /// `replica-priority` of these was this.
    pub priorities: Vec<(SocketAddr, u32)>,
    /// The old master's writers are paused.
    pub paused: bool,
    /// The driver was told that a failover is about to be ordered.
    pub parked: bool,
    /// It may have been ordered, by whomever: Sentinel may promote somebody even if nobody was seen
    /// to be.
    pub ordered: bool,
    /// Packets go to another node.
    pub flipped: bool,
}

/// One thing to undo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undo {
    /// Cut the old master's clients off: what the pause holds back must not be executed.
    KillClients,
    /// Let the old master's writers go on.
    Unpause,
    /// Tell the driver that there will be no failover.
    Cancel,
    /// Set this node's `replica-priority` back.
    Priority(SocketAddr, u32),
}

impl Debts {
    /// What is owed, in the order in which to pay.
    ///
    /// * Whoever was held back is killed unless the old master certainly stays master: its write
    ///   would be acknowledged by a node whose data may be discarded.
    /// * The park ends first: that takes no time and can't fail, and the pause holds back whoever
    ///   writes meanwhile. Not so where somebody may be promoted: whoever is parked stays so while
    ///   the others are killed.
    /// * After the flip nothing is cancelled: the new master stays.
    pub fn due(&self) -> Vec<Undo> {
        let mut due = Vec::new();
        let cancel = self.parked && !self.flipped;
        if cancel && !self.ordered {
            due.push(Undo::Cancel);
        }
        if self.paused {
            if self.ordered || self.flipped {
                due.push(Undo::KillClients);
            }
            due.push(Undo::Unpause);
        }
        if cancel && self.ordered {
            due.push(Undo::Cancel);
        }
        due.extend(self.priorities.iter().map(|&(node, priority)| Undo::Priority(node, priority)));
        due
    }

    /// That one is paid.
    pub fn paid(&mut self, undone: Undo) {
        match undone {
            Undo::KillClients => {}
            Undo::Unpause => self.paused = false,
            Undo::Cancel => self.parked = false,
            Undo::Priority(node, _) => self.priorities.retain(|(other, _)| *other != node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> SocketAddr {
        SocketAddr::from(([198, 18, 0, 102], 8000))
    }

    #[test]
    fn whatever_was_done_is_undone_in_this_order() {
        use Undo::{Cancel, KillClients, Priority, Unpause};
        let nothing = Debts::default();
        let hinted = Debts { priorities: vec![(node(), 100)], ..nothing.clone() };
        let paused = Debts { paused: true, ..hinted.clone() };
        let parked = Debts { parked: true, ..paused.clone() };
        let ordered = Debts { ordered: true, ..parked.clone() };
        let flipped = Debts { flipped: true, ..ordered.clone() };
        let back = Priority(node(), 100);
        for (debts, expected) in [
            (nothing, vec![]),
            (hinted, vec![back]),
            (paused, vec![Unpause, back]),
            (parked, vec![Cancel, Unpause, back]),
            (ordered, vec![KillClients, Unpause, Cancel, back]),
            (flipped, vec![KillClients, Unpause, back]),
        ] {
            assert_eq!(debts.due(), expected, "{debts:?}");
            let mut left = debts.clone();
            expected.into_iter().for_each(|undone| left.paid(undone));
            assert_eq!(left.due(), vec![], "{debts:?}");
        }
    }
}
