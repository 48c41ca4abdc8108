//! ACTIVE, mapped into this process: a cutover is one atomic 64-bit store into the memory that the
//! program reads. (An update by system call is a copy of eight bytes, and nothing promises that
//! the kernel copies them at once.)

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::Map;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use vipd_common::maps::{self, Active, MAX_SERVICES};

use super::DatapathError;

/// The map's memory.
#[derive(Debug)]
pub(super) struct ActiveTable {
    memory: NonNull<c_void>,
}

// SAFETY: the memory stays mapped until drop, and is only touched through atomics.
unsafe impl Send for ActiveTable {}
// SAFETY: as above.
unsafe impl Sync for ActiveTable {}

const BYTES: NonZeroUsize = NonZeroUsize::new(MAX_SERVICES as usize * size_of::<Active>()).unwrap();

impl ActiveTable {
    /// Maps the array's memory, whose size and flags `layout` has checked.
    pub(super) fn new(map: Map) -> Result<Self, DatapathError> {
        let Map::Array(data) = &map else {
            return Err(DatapathError::Object(format!("its map {} is no array", maps::ACTIVE)));
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, shared with nothing in this process.
        let memory =
            unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) };
        let memory = memory.map_err(|errno| DatapathError::Pin {
            what: format!("map {} into memory", maps::ACTIVE),
            source: io::Error::from(errno),
        })?;
        // The mapping holds the map; its descriptor may go.
        Ok(Self { memory })
    }

    /// The cutover.
    pub(super) fn store(&self, service: u32, active: Active) -> Result<(), DatapathError> {
        let word = self.word(service).ok_or_else(|| {
            DatapathError::Object(format!("its map {} has no entry {service}", maps::ACTIVE))
        })?;
        // Release: what was prepared is visible to whoever sees this.
        word.store(active.0, Ordering::Release);
        Ok(())
    }

    /// Every entry, by service index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Active)> {
        (0..MAX_SERVICES).filter_map(|service| {
            let word = self.word(service)?;
            Some((service, Active(word.load(Ordering::Acquire))))
        })
    }

    fn word(&self, service: u32) -> Option<&AtomicU64> {
        if service >= MAX_SERVICES {
            return None;
        }
        let words = self.memory.cast::<AtomicU64>();
        // SAFETY: within the mapping, which is page-aligned and lives as long as `self`; the
        // kernel's side reads and never writes it.
        Some(unsafe { words.add(service as usize).as_ref() })
    }
}

impl Drop for ActiveTable {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`. It fails
        // only for arguments that were never mapped.
        let _ = unsafe { munmap(self.memory, BYTES.get()) };
    }
}
