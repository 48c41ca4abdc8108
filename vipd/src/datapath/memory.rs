//! An array's memory, mapped into this process (`BPF_F_MMAPABLE`).

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use vipd_common::maps::ReplayFrame;

use super::DatapathError;

/// What may lie in such memory.
///
/// # Safety
///
/// The type has the size of a map's value, a multiple of eight bytes, and is valid for every pattern.
pub(super) unsafe trait Shared {}

// SAFETY: eight bytes, any pattern.
unsafe impl Shared for AtomicU64 {}
// SAFETY: `repr(C)` of integers and bytes, its size asserted where it is declared.
unsafe impl Shared for ReplayFrame {}

/// The mapping.
#[derive(Debug)]
pub(super) struct Memory<T> {
    memory: NonNull<T>,
    entries: u32,
}

// SAFETY: the memory stays mapped until drop, wherever that is; what lies in it is shared with the
// kernel, and with other threads only by `&self`, which hands out atomics.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T: Shared> Memory<T> {
    /// Maps the array `name`, which has this many entries.
    pub(super) fn map(
        map: BorrowedFd<'_>,
        name: &'static str,
        entries: u32,
    ) -> Result<Self, DatapathError> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let length = bytes::<T>(entries);
        // SAFETY: a new mapping, shared with nothing in this process.
        let memory = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map, 0) };
        let memory: NonNull<c_void> = memory.map_err(|errno| DatapathError::Pin {
            what: format!("map {name} into memory"),
            source: io::Error::from(errno),
        })?;
        Ok(Self { memory: memory.cast(), entries })
    }

    /// Entries in it.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }
}

impl Memory<AtomicU64> {
    /// The word at `index`.
    pub(super) fn get(&self, index: u32) -> Option<&AtomicU64> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: within the mapping, which is page-aligned and lives as long as `self`.
        Some(unsafe { self.memory.add(index as usize).as_ref() })
    }
}

impl Memory<ReplayFrame> {
    /// Replaces an entry; nothing beyond the end. The program reads it only while its caller waits.
    pub(super) fn set(&mut self, index: u32, frame: &ReplayFrame) {
        if index < self.entries {
            // SAFETY: within the mapping, as above; `&mut self` makes this the only access in this
            // process, and the kernel never writes it.
            unsafe { self.memory.add(index as usize).write(*frame) };
        }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference outlives `self`. It fails
        // only for arguments that were never mapped.
        let _ = unsafe { munmap(self.memory.cast(), bytes::<T>(self.entries).get()) };
    }
}

/// How much memory they take; a page at least is mapped.
fn bytes<T>(entries: u32) -> NonZeroUsize {
    NonZeroUsize::new(entries as usize * size_of::<T>()).unwrap_or(NonZeroUsize::MIN)
}
