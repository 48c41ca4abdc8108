//! Which slot holds which backend.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use vipd_common::maps::{Backend, MAX_SLOTS, ServiceState};

use super::actual::{Actual, names_a_slot};

/// A slot for every backend that is wanted, as far as there are enough.
pub(super) struct Slots {
    by_backend: HashMap<Backend, Option<u16>, Quick>,
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
        let mut by_backend: HashMap<Backend, Option<u16>, Quick> =
            HashMap::with_capacity_and_hasher(wanted.len(), Quick::default());
        by_backend.extend(wanted.iter().map(|backend| (*backend, None)));
        let mut taken = vec![false; MAX_SLOTS as usize];
        let mut take = |slot: u16| {
            if let Some(taken) = taken.get_mut(usize::from(slot)) {
                *taken = true;
            }
        };
        // A group's number stays in the word when its service goes down, and then names a slot.
        let named = actual
            .active
            .values()
            .filter(|active| names_a_slot(**active) || active.state() == ServiceState::Group);
        named.for_each(|active| take(active.slot()));
        for (&slot, backend) in &actual.slots {
            if let Some(none @ None) = by_backend.get_mut(backend) {
                *none = Some(slot);
                take(slot);
            }
        }

        let round = || {
            let (before, after) = (0..actual.next_slot, actual.next_slot..MAX_SLOTS as u16);
            after.chain(before).filter(|slot| *slot < MAX_SLOTS as u16)
        };
        let empty = round().filter(|slot| !actual.slots.contains_key(slot));
        let retired = round().filter(|slot| actual.slots.contains_key(slot));
        let mut free = empty.chain(retired).filter(|slot| !taken[usize::from(*slot)]);
        let mut writes = Vec::new();
        for backend in wanted {
            let Some(none @ None) = by_backend.get_mut(backend) else { continue };
            let Some(slot) = free.next() else { break };
            *none = Some(slot);
            writes.push((slot, *backend));
        }
        Self { by_backend, writes }
    }

    /// The slot that will hold this backend.
    pub(super) fn of(&self, backend: &Backend) -> Option<u16> {
        self.by_backend.get(backend).copied().flatten()
    }
}

type Quick = BuildHasherDefault<Folded>;

/// A hash for keys that nobody chooses to collide: a thousand services have some thousand backends,
/// which are looked up several times in each plan, and the standard hash would be most of its time.
#[derive(Default)]
struct Folded(u64);

impl Folded {
    /// 2^64 divided by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(Self::FACTOR);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        // The table looks at both ends.
        self.0 ^ self.0 >> 32
    }
}
