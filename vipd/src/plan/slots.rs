//! Which slot holds which backend.

use std::collections::{BTreeSet, HashMap, HashSet};

use vipd_common::maps::{Backend, MAX_SLOTS, ServiceState};

use super::actual::{Actual, names_a_slot};

/// A slot for every backend that is wanted, as far as there are enough.
pub(super) struct Slots {
    by_backend: HashMap<Backend, u16>,
    /// What must be written, in the order in which slots were taken.
    pub(super) writes: Vec<(u16, Backend)>,
}

impl Slots {
    /// Finds the slots that hold what is wanted already, and takes new ones for the rest. If they
    /// don't suffice, who comes last in `wanted` goes without.
    ///
    /// Taken are, from `actual.next_slot` on and round, first the empty slots, then those that
    /// neither ACTIVE names nor anybody wants.
    pub(super) fn assign(actual: &Actual, wanted: &[Backend]) -> Self {
        let wanted_set: HashSet<&Backend> = wanted.iter().collect();
        let mut by_backend = HashMap::with_capacity(wanted_set.len());
        // A group's number stays in the word when its service goes down, and then names a slot.
        let named = actual
            .active
            .values()
            .filter(|active| names_a_slot(**active) || active.state() == ServiceState::Group);
        let mut taken: BTreeSet<u16> = named.map(|active| active.slot()).collect();
        for (&slot, backend) in &actual.slots {
            if wanted_set.contains(backend) && !by_backend.contains_key(backend) {
                by_backend.insert(*backend, slot);
                taken.insert(slot);
            }
        }

        let round = || {
            let (before, after) = (0..actual.next_slot, actual.next_slot..MAX_SLOTS as u16);
            after.chain(before).filter(|slot| *slot < MAX_SLOTS as u16)
        };
        let empty = round().filter(|slot| !actual.slots.contains_key(slot));
        let retired = round().filter(|slot| actual.slots.contains_key(slot));
        let mut free = empty.chain(retired).filter(|slot| !taken.contains(slot));
        let mut writes = Vec::new();
        for backend in wanted {
            if by_backend.contains_key(backend) {
                continue;
            }
            let Some(slot) = free.next() else { break };
            by_backend.insert(*backend, slot);
            writes.push((slot, *backend));
        }
        Self { by_backend, writes }
    }

    /// The slot that will hold this backend.
    pub(super) fn of(&self, backend: &Backend) -> Option<u16> {
        self.by_backend.get(backend).copied()
    }
}
