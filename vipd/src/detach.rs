//! `vipd detach`: undoes what a vipd that is no more has left on this host.

use std::fmt;

use anyhow::Result;

use crate::cli::Paths;
use crate::datapath::{self, Removed};
use crate::holding::{self, Holding};
use crate::netdev::{self, HostAddress};

/// What was undone, for people.
#[derive(Debug)]
pub struct Detached {
    paths: Paths,
    released: Vec<HostAddress>,
    restored: Vec<String>,
    removed: Removed,
}

/// Takes the VIPs off this host first: while the program is there, nobody answers for them. Then
/// the program and its maps go.
///
/// # Errors
///
/// A vipd uses them, or the kernel refuses.
pub fn detach(paths: &Paths) -> Result<Detached> {
    let found = datapath::inspect_pins(&paths.pin_dir)?;
    let in_use = found.as_ref().is_some_and(|found| found.holder.is_some());
    let mut released = Vec::new();
    let mut restored = Vec::new();
    // In use, the removal below says by whom, and changes nothing either.
    if !in_use {
        let mut holding = Holding::open(&paths.control_socket)?;
        restored = holding.changed().collect();
        if let Some(actual) = found.and_then(|found| found.actual) {
            let is_vip =
                |it: &HostAddress| actual.addresses.get(&it.address).is_some_and(holding::is_held);
            released = netdev::host_addresses()?.into_iter().filter(is_vip).collect();
            released.iter().for_each(|vip| holding.release(vip));
        }
        holding.restore();
    }
    let removed = datapath::detach_all(&paths.pin_dir)?;
    Ok(Detached { paths: paths.clone(), released, restored, removed })
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Removed { interfaces, maps, left } = &self.removed;
        for vip in &self.released {
            writeln!(f, "released {}/{}", vip.address, vip.prefix)?;
        }
        for parameter in &self.restored {
            writeln!(f, "put back {parameter}")?;
        }
        for interface in interfaces {
            writeln!(f, "detached from {interface}")?;
        }
        for map in maps {
            writeln!(f, "removed {map}")?;
        }
        for left in left {
            writeln!(f, "left alone, not vipd's: {left}")?;
        }
        let undone = [&self.restored, interfaces, maps, left];
        if self.released.is_empty() && undone.iter().all(|it| it.is_empty()) {
            writeln!(f, "nothing was pinned in {}", self.paths.pin_dir.display())?;
        }
        Ok(())
    }
}
