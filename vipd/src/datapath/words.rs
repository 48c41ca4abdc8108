//! An array of 64-bit words, mapped into this process: a cutover is one atomic store into the memory
//! that the program reads. (An update by system call is a copy of eight bytes, and nothing promises
//! that the kernel copies them at once.)

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::Map;

use super::DatapathError;
use super::memory::Memory;

/// The memory of a map whose values are words.
#[derive(Debug)]
pub(super) struct Words {
    name: &'static str,
    memory: Memory<AtomicU64>,
}

impl Words {
    /// Maps the memory of the array `name`, whose size and flags `layout` has checked.
    pub(super) fn new(map: Map, name: &'static str, entries: u32) -> Result<Self, DatapathError> {
        let Map::Array(data) = &map else {
            return Err(DatapathError::Object(format!("its map {name} is no array")));
        };
        // The mapping holds the map; its descriptor may go.
        Self::of(data.fd().as_fd(), name, entries)
    }

    /// The same of a descriptor.
    pub(super) fn of(
        map: BorrowedFd<'_>,
        name: &'static str,
        entries: u32,
    ) -> Result<Self, DatapathError> {
        Ok(Self { name, memory: Memory::map(map, name, entries)? })
    }

    /// One atomic store.
    pub(super) fn store(&self, index: u32, value: u64) -> Result<(), DatapathError> {
        let word = self.memory.get(index).ok_or_else(|| {
            DatapathError::Object(format!("its map {} has no entry {index}", self.name))
        })?;
        // Release: what was prepared is visible to whoever sees this.
        word.store(value, Ordering::Release);
        Ok(())
    }

    /// One atomic load; zero beyond the end.
    pub(super) fn load(&self, index: u32) -> u64 {
        self.memory.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Every word, with its index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..self.memory.entries()).map(|index| (index, self.load(index)))
    }
}
