//! What can go wrong between the daemon and its maps, program and links.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::sys::SyscallError;

use crate::bpffs::BpffsError;
use crate::netdev::NetdevError;

/// What went wrong, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The pin directory.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// An interface does not exist, or netlink is refused.
    #[error(transparent)]
    Netdev(#[from] NetdevError),
    /// Pinned by a vipd with other map layouts.
    #[error(
        "{} holds the program and maps of another version of vipd ({}; this one uses v{ours}). \
         Nothing of it can be taken over: remove it with `vipd detach`, which interrupts its \
         traffic, or go on with that version",
        .pin_dir.display(), .found.join(", ")
    )]
    OtherLayout {
        /// The pin directory.
        pin_dir: PathBuf,
        /// Names of the directories in it.
        found: Vec<String>,
        /// [`vipd_common::maps::LAYOUT`].
        ours: u32,
    },
    /// A pinned map isn't what this vipd would make.
    #[error(
        "pinned map {map} has {what} {found}, this configuration needs {expected}. Remove what \
         is pinned with `vipd detach`, which interrupts its traffic and drops its connections, \
         or {keep}"
    )]
    MapDiffers {
        /// Its name.
        map: &'static str,
        /// `type`, `key size`, `value size` or `max_entries`.
        what: &'static str,
        /// What the pinned one has.
        found: String,
        /// What is needed.
        expected: String,
        /// How to keep it.
        keep: String,
    },
    /// The embedded object isn't the one this daemon was written for.
    #[error(
        "the embedded BPF object is not usable: {0}. Build it again with `cargo xtask build-ebpf`"
    )]
    Object(String),
    /// A privilege is missing.
    #[error(
        "no permission to {what}; vipd needs CAP_BPF and CAP_NET_ADMIN (before Linux 5.8 \
         CAP_SYS_ADMIN). Run it as root, or grant them in its unit file"
    )]
    NoPermission {
        /// What was tried.
        what: String,
    },
    /// The kernel refused the program or its maps.
    #[error("cannot load the XDP program")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A map operation failed.
    #[error("cannot {what}")]
    Map {
        /// What was tried, with the map's name and the key.
        what: String,
        /// Why not.
        source: Box<MapError>,
    },
    /// Another XDP program is on the interface.
    #[error(
        "interface {interface} has another XDP program attached: id {program_id}{}, in {mode} \
         mode. {advice}",
        .program.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Kernel's id of the program.
        program_id: u32,
        /// Its name.
        program: Option<String>,
        /// How it is attached.
        mode: &'static str,
        /// How to remove it.
        advice: String,
    },
    /// The interface refused the program.
    #[error("cannot attach the XDP program to {interface} in {mode} mode: {why}")]
    Attach {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// Why not, and what to do.
        why: String,
    },
    /// A pinned link is in another mode than configured, and can't be changed under traffic.
    #[error(
        "the pinned program on {interface} is attached in {found} mode, and xdp_mode = \
         \"{wanted}\". Changing it takes the program away for a moment: run `vipd detach` first, \
         or set xdp_mode = \"auto\""
    )]
    ModeDiffers {
        /// The interface.
        interface: String,
        /// How it is attached.
        found: &'static str,
        /// `native` or `generic`.
        wanted: &'static str,
    },
    /// A pin could not be made, read or removed.
    #[error("cannot {what}")]
    Pin {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

impl DatapathError {
    pub(super) fn map(what: impl Into<String>, source: impl Into<MapError>) -> Self {
        let (what, source) = (what.into(), source.into());
        match map_errno(&source) {
            Some(libc::EPERM) => Self::NoPermission { what },
            _ => Self::Map { what, source: Box::new(source) },
        }
    }

    pub(super) fn pin(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoPermission { what },
            _ => Self::Pin { what, source },
        }
    }

    pub(super) fn load(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        if errno_in(&error) == Some(libc::EPERM) {
            return Self::NoPermission { what: "load the XDP program and its maps".to_owned() };
        }
        Self::Load(Box::new(error))
    }
}

fn map_errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) | MapError::IoError(io_error) => {
            io_error.raw_os_error()
        }
        _ => errno_in(error),
    }
}

/// The first operating system error in a chain of sources.
pub(super) fn errno_in(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(ProgramError::LoadError { io_error, .. }) = this.downcast_ref() {
            return io_error.raw_os_error();
        }
        if let Some(MapError::CreateError { io_error, .. }) = this.downcast_ref() {
            return io_error.raw_os_error();
        }
        if let Some(io_error) = this.downcast_ref::<io::Error>() {
            return io_error.raw_os_error();
        }
        error = this.source();
    }
    None
}
