//! An array of 64-bit words, mapped into this process: a cutover is one atomic store into the memory
//! that the program reads. (An update by system call is a copy of eight bytes, and nothing promises
//! that the kernel copies them at once.)

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::Map;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::DatapathError;

/// The memory of a map whose values are words.
#[derive(Debug)]
pub(super) struct Words {
    name: &'static str,
    memory: NonNull<c_void>,
    entries: u32,
}

// SAFETY: the memory stays mapped until drop, and is only touched through atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the memory of the array `name`, whose size and flags `layout` has checked.
    pub(super) fn new(map: Map, name: &'static str, entries: u32) -> Result<Self, DatapathError> {
        let Map::Array(data) = &map else {
            return Err(DatapathError::Object(format!("its map {name} is no array")));
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, shared with nothing in this process.
        let memory = unsafe {
            mmap(None, bytes(entries), protection, MapFlags::MAP_SHARED, data.fd().as_fd(), 0)
        };
        let memory = memory.map_err(|errno| DatapathError::Pin {
            what: format!("map {name} into memory"),
            source: io::Error::from(errno),
        })?;
        // The mapping holds the map; its descriptor may go.
        Ok(Self { name, memory, entries })
    }

    /// One atomic store.
    pub(super) fn store(&self, index: u32, value: u64) -> Result<(), DatapathError> {
        let word = self.word(index).ok_or_else(|| {
            DatapathError::Object(format!("its map {} has no entry {index}", self.name))
        })?;
        // Release: what was prepared is visible to whoever sees this.
        word.store(value, Ordering::Release);
        Ok(())
    }

    /// Every word, with its index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..self.entries)
            .filter_map(|index| Some((index, self.word(index)?.load(Ordering::Acquire))))
    }

    fn word(&self, index: u32) -> Option<&AtomicU64> {
        if index >= self.entries {
            return None;
        }
        let words = self.memory.cast::<AtomicU64>();
        // SAFETY: within the mapping, which is page-aligned and lives as long as `self`; the
        // kernel's side reads and never writes it.
        Some(unsafe { words.add(index as usize).as_ref() })
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`. It fails
        // only for arguments that were never mapped.
        let _ = unsafe { munmap(self.memory, bytes(self.entries).get()) };
    }
}

/// How much memory they take; a page at least is mapped.
fn bytes(entries: u32) -> NonZeroUsize {
    NonZeroUsize::MIN.max(
        NonZeroUsize::new(entries as usize * size_of::<AtomicU64>()).unwrap_or(NonZeroUsize::MIN),
    )
}
