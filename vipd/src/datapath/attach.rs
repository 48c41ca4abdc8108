//! The pinned link on each interface: made, taken over without a moment of no program, or removed.

use std::fs;
use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use serde::Serialize;
use tracing::{info, warn};

use super::error::errno_in;
use super::{DatapathError, LINK_PREFIX, PROGRAM, sys};
use crate::bpffs::pin_name;
use crate::config::XdpMode;
use crate::netdev::{self, AttachedMode, Link, SINGLE_PAGE_MTU};

/// The program on an interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Attached {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// How the program is attached, whatever was asked for.
    pub xdp_mode: AttachedMode,
    /// Kernel's id of the program.
    pub program_id: u32,
}

/// What became of an interface.
pub(super) struct Outcome {
    pub(super) attached: Attached,
    /// The pin's name, if this call made it.
    pub(super) made: Option<String>,
}

/// Puts `program` on the interface `name`: over the link pinned in `directory` if it is that
/// interface's, and else by a new one, which is pinned there.
pub(super) fn attach(
    program: &mut Xdp,
    directory: &Path,
    name: &str,
    mode: XdpMode,
) -> Result<Outcome, DatapathError> {
    let link = netdev::link(name)?;
    let pin = pin_name(LINK_PREFIX, name);
    let path = directory.join(&pin);
    let made = match pinned_on(&path, &link)? {
        Some(found) => {
            check_mode(name, mode, found)?;
            take_over(program, &path, name)?;
            None
        }
        None => {
            remove_stale(&path, name)?;
            check_free(&link)?;
            make(program, &path, &link, mode)?;
            Some(pin)
        }
    };
    let now = netdev::link(name)?;
    let xdp = now.xdp.ok_or_else(|| DatapathError::Attach {
        interface: name.to_owned(),
        mode: "any",
        why: "the interface was changed while the program was being attached".to_owned(),
    })?;
    info!(
        interface = name,
        mode = xdp.mode.name(),
        program = xdp.program_id,
        adopted = made.is_none(),
        "XDP program attached"
    );
    Ok(Outcome {
        attached: Attached {
            name: name.to_owned(),
            ifindex: now.ifindex,
            xdp_mode: xdp.mode,
            program_id: xdp.program_id,
        },
        made,
    })
}

/// Detaches the link pinned at `path`, at once, and removes the pin.
pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    match sys::open_pin(path) {
        // Closing the last descriptor would do, but somebody else may hold one.
        Ok(link) => match sys::detach(&link) {
            // ENOLINK: its interface is gone. EOPNOTSUPP, EINVAL: before Linux 5.9.
            Err(error)
                if !matches!(
                    error.raw_os_error(),
                    Some(libc::ENOLINK | libc::EOPNOTSUPP | libc::EINVAL)
                ) =>
            {
                return Err(DatapathError::pin(format!("detach {}", path.display()), error));
            }
            _ => {}
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DatapathError::pin(format!("open {}", path.display()), error)),
    }
    fs::remove_file(path)
        .map_err(|error| DatapathError::pin(format!("remove {}", path.display()), error))
}

/// How the link pinned at `path` is attached, if it is really on this interface. An index alone
/// doesn't say so: it may be another network namespace's.
fn pinned_on(path: &Path, link: &Link) -> Result<Option<AttachedMode>, DatapathError> {
    let pinned = match sys::open_pin(path) {
        Ok(pinned) => pinned,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DatapathError::pin(format!("open {}", path.display()), error)),
    };
    let info = sys::link_info(&pinned)
        .map_err(|error| DatapathError::pin(format!("read {}", path.display()), error))?;
    Ok(link
        .xdp
        .filter(|xdp| info.ifindex == link.ifindex && info.program_id == xdp.program_id)
        .map(|xdp| xdp.mode))
}

fn check_mode(name: &str, wanted: XdpMode, found: AttachedMode) -> Result<(), DatapathError> {
    let wanted = match (wanted, found) {
        (XdpMode::Native, AttachedMode::Generic) => "native",
        (XdpMode::Generic, AttachedMode::Native | AttachedMode::Offload) => "generic",
        _ => return Ok(()),
    };
    Err(DatapathError::ModeDiffers { interface: name.to_owned(), found: found.name(), wanted })
}

/// One atomic replacement of the program in the pinned link. Whatever fails, the pin keeps the
/// link, and with it the old program.
fn take_over(program: &mut Xdp, path: &Path, name: &str) -> Result<(), DatapathError> {
    let failed = |error: &dyn std::fmt::Display| DatapathError::Attach {
        interface: name.to_owned(),
        mode: "its present",
        why: format!("the pinned link cannot be taken over: {error}"),
    };
    let pinned = PinnedLink::from_pin(path).map_err(|error| failed(&error))?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| failed(&error))?;
    let id = program.attach_to_link(link).map_err(|error| failed(&chain(&error)))?;
    forget(program, id)
}

/// Lets go of aya's handle; the pin holds the link.
fn forget(program: &mut Xdp, id: XdpLinkId) -> Result<(), DatapathError> {
    program.take_link(id).map(drop).map_err(DatapathError::load)
}

fn remove_stale(path: &Path, name: &str) -> Result<(), DatapathError> {
    if path.exists() {
        warn!(interface = name, "the pinned link belongs to an interface that is gone; replacing");
        remove(path)?;
    }
    Ok(())
}

fn check_free(link: &Link) -> Result<(), DatapathError> {
    let Some(xdp) = link.xdp else { return Ok(()) };
    let program = netdev::program_name(xdp.program_id);
    let off = match xdp.mode {
        AttachedMode::Generic => "xdpgeneric",
        AttachedMode::Native => "xdpdrv",
        AttachedMode::Offload => "xdpoffload",
        AttachedMode::Multiple => "xdp",
    };
    let mut advice = format!(
        "Stop what put it there, or remove it with `ip link set dev {} {off} off` (a program held \
         by a link: `bpftool link show` and `bpftool link detach id N`)",
        link.name
    );
    if program.as_deref() == Some(PROGRAM) {
        advice = format!(
            "It is another vipd's, with another pin_dir: stop that one, or run `vipd detach` with \
             its pin_dir. {advice}"
        );
    }
    Err(DatapathError::Occupied {
        interface: link.name.clone(),
        program_id: xdp.program_id,
        program,
        mode: xdp.mode.name(),
        advice,
    })
}

/// A new link, pinned. In mode `auto` driver mode is tried first.
fn make(program: &mut Xdp, path: &Path, link: &Link, mode: XdpMode) -> Result<(), DatapathError> {
    let native = match mode {
        XdpMode::Generic => return try_mode(program, path, link, AyaMode::Skb),
        XdpMode::Native => return try_mode(program, path, link, AyaMode::Driver),
        XdpMode::Auto => try_mode(program, path, link, AyaMode::Driver),
    };
    let Err(DatapathError::Attach { why, .. }) = native else { return native };
    warn!(interface = link.name, %why,
        "no native XDP here; falling back to the slower generic mode (xdp_mode = \"auto\")");
    try_mode(program, path, link, AyaMode::Skb)
}

/// [`DatapathError::Attach`] where another mode may do better; other errors where none will.
fn try_mode(
    program: &mut Xdp,
    path: &Path,
    link: &Link,
    mode: AyaMode,
) -> Result<(), DatapathError> {
    let id = match program.attach_to_if_index(link.ifindex, mode) {
        Ok(id) => id,
        Err(error) => return Err(refused(&error, link, mode)),
    };
    let owned = program.take_link(id).map_err(DatapathError::load)?;
    // aya falls back to netlink where the kernel answers EINVAL to BPF_LINK_CREATE. What is
    // attached that way can't be pinned; dropping it detaches it.
    let fd_link = FdLink::try_from(owned).map_err(|_| DatapathError::Attach {
        interface: link.name.clone(),
        mode: word(mode),
        why: "the kernel has no XDP links, which came with Linux 5.9".to_owned(),
    })?;
    let pinned = fd_link.pin(path).map_err(|error| {
        DatapathError::pin(format!("pin {}", path.display()), io::Error::other(error))
    })?;
    drop(pinned);
    Ok(())
}

fn refused(error: &ProgramError, link: &Link, mode: AyaMode) -> DatapathError {
    let why = match errno_in(error) {
        Some(libc::EPERM) => {
            return DatapathError::NoPermission {
                what: format!("attach the XDP program to {}", link.name),
            };
        }
        Some(libc::EBUSY | libc::EEXIST) => {
            return check_free(&netdev::link(&link.name).unwrap_or_else(|_| link.clone()))
                .err()
                .unwrap_or_else(|| DatapathError::Attach {
                    interface: link.name.clone(),
                    mode: word(mode),
                    why: "another XDP program was there a moment ago; try again".to_owned(),
                });
        }
        // veth looks at its peer's MTU: what arrives must fit one page.
        Some(libc::ERANGE) => format!(
            "the MTU is too large (here {}; on veth the peer's counts). Lower it to \
             {SINGLE_PAGE_MTU}, which always fits, or use generic mode",
            link.mtu
        ),
        Some(libc::EOPNOTSUPP) => "the driver does not support it".to_owned(),
        Some(libc::EINVAL) if link.mtu > SINGLE_PAGE_MTU => format!(
            "the driver refuses, probably because MTU {} is too large ({})",
            link.mtu,
            chain(error)
        ),
        _ => chain(error),
    };
    DatapathError::Attach { interface: link.name.clone(), mode: word(mode), why }
}

fn word(mode: AyaMode) -> &'static str {
    match mode {
        AyaMode::Driver => "native",
        AyaMode::Skb => "generic",
        AyaMode::Hardware => "offload",
        AyaMode::Default => "default",
    }
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
