//! What is pinned, without a daemon: shown by `vipd status`, removed by `vipd detach`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vipd_common::maps::{self, Counter, LAYOUT};
use vipd_common::verdict::Verdict;

use super::tables::Tables;
use super::{DatapathError, LINK_PREFIX, attach, sys};
use crate::bpffs::{PinDir, interface_of, names_in};
use crate::clock::Monotonic;
use crate::netdev::{self, AttachedMode};
use crate::plan::Actual;

/// What [`detach_all`] removed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Removed {
    /// Interfaces the program was taken off.
    pub interfaces: Vec<String>,
    /// Maps, each as `v<layout>/<name>`.
    pub maps: Vec<String>,
    /// What else lies in the pin directory, and was left there.
    pub left: Vec<String>,
}

/// An interface with a pinned link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PinnedInterface {
    /// Its name when the link was made.
    pub name: String,
    /// Its index; 0 if it was deleted since.
    pub ifindex: u32,
    /// How the program is attached; `None` if the interface isn't in this network namespace.
    pub xdp_mode: Option<AttachedMode>,
    /// Kernel's id of the program.
    pub program_id: u32,
}

/// What [`inspect_pins`] found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inspection {
    /// Layout directories, such as `v1`.
    pub layouts: Vec<String>,
    /// The daemon that holds the pin directory, if one runs and /proc/locks shows it.
    pub holder: Option<u32>,
    /// Of this version's layout.
    pub interfaces: Vec<PinnedInterface>,
    /// Of this version's layout.
    pub maps: Vec<String>,
    /// What the maps hold, if all of them are there.
    pub actual: Option<Actual>,
    /// Whether the lease of mode `host` still runs.
    pub leased: bool,
    /// Summed over the CPUs; empty unless `actual` is there.
    pub counters: Vec<(Verdict, Counter)>,
}

/// Removes the links and maps of every layout version below `pin_dir`, and the directory. Nothing
/// pinned is no error. Refused while a vipd uses the directory.
pub fn detach_all(pin_dir: &Path) -> Result<Removed, DatapathError> {
    match PinDir::existing(pin_dir)? {
        Some(directory) => remove_all(&directory.lock()?),
        None => Ok(Removed::default()),
    }
}

/// Looks at what is pinned below `pin_dir`; `None` if there is nothing. Takes no lock and changes
/// nothing.
pub fn inspect_pins(pin_dir: &Path) -> Result<Option<Inspection>, DatapathError> {
    let Some(directory) = PinDir::existing(pin_dir)? else { return Ok(None) };
    let mut found = Inspection {
        layouts: layouts(&directory)?,
        holder: directory.holder(),
        ..Inspection::default()
    };
    let ours = layout_path(&directory);
    for name in names_if_any(&ours)? {
        match interface_of(LINK_PREFIX, &name) {
            Some(interface) => found.interfaces.push(inspect_link(&ours.join(&name), interface)?),
            None => found.maps.push(name),
        }
    }
    if maps::ALL.iter().all(|map| found.maps.iter().any(|name| name == map)) {
        let tables = Tables::of_pins(&ours)?;
        found.actual = Some(tables.read()?);
        found.leased = tables.lease() > Monotonic::now();
        found.counters = tables.counters()?;
    }
    Ok((!found.layouts.is_empty()).then_some(found))
}

/// [`detach_all`] for who holds the lock.
pub(super) fn remove_all(directory: &PinDir) -> Result<Removed, DatapathError> {
    let mut removed = Removed::default();
    let layouts = layouts(directory)?;
    for layout in &layouts {
        let path = directory.access().join(layout);
        let (links, maps): (Vec<_>, Vec<_>) =
            names_if_any(&path)?.into_iter().partition(|name| name.starts_with(LINK_PREFIX));
        // Links first: no program ever runs on maps that are half gone.
        for name in links {
            attach::remove(&path.join(&name))?;
            removed.interfaces.extend(interface_of(LINK_PREFIX, &name));
        }
        for name in maps {
            fs::remove_file(path.join(&name))
                .map_err(|error| DatapathError::pin(format!("remove {layout}/{name}"), error))?;
            removed.maps.push(format!("{layout}/{name}"));
        }
        fs::remove_dir(&path)
            .map_err(|error| DatapathError::pin(format!("remove {layout}"), error))?;
    }
    removed.left = directory.names().map_err(|error| {
        DatapathError::pin(format!("read {}", directory.path().display()), error)
    })?;
    directory.remove_if_empty()?;
    Ok(removed)
}

/// The directories of layout versions, `v` and a number.
pub(super) fn layouts(directory: &PinDir) -> Result<Vec<String>, DatapathError> {
    let names = directory.names().map_err(|error| {
        DatapathError::pin(format!("read {}", directory.path().display()), error)
    })?;
    let is_layout =
        |name: &String| name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
    Ok(names.into_iter().filter(is_layout).collect())
}

/// `v<LAYOUT>`.
pub(super) fn layout_name() -> String {
    format!("v{LAYOUT}")
}

/// Where this version's pins are.
pub(super) fn layout_path(directory: &PinDir) -> PathBuf {
    directory.access().join(layout_name())
}

/// The names in a directory, none if it does not exist.
pub(super) fn names_if_any(path: &Path) -> Result<Vec<String>, DatapathError> {
    match names_in(path) {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(DatapathError::pin(format!("read {}", path.display()), error)),
    }
}

fn inspect_link(path: &Path, name: String) -> Result<PinnedInterface, DatapathError> {
    let info = sys::open_pin(path)
        .and_then(|link| sys::link_info(&link))
        .map_err(|error| DatapathError::pin(format!("read the pinned link of {name}"), error))?;
    let xdp_mode = netdev::link(&name)
        .ok()
        .and_then(|link| link.xdp)
        .filter(|xdp| xdp.program_id == info.program_id)
        .map(|xdp| xdp.mode);
    Ok(PinnedInterface { name, ifindex: info.ifindex, xdp_mode, program_id: info.program_id })
}
