//! Memory and CPU time, as the kernel accounts for them.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::MapData;
use vipd_common::maps::{ALL, FLOWS, HALF_OPEN, LAYOUT};

/// In bytes.
pub struct Memory {
    /// The daemon's resident set.
    pub resident: u64,
    /// All maps.
    pub maps: u64,
    /// Of those, what holds connections: it has the size that the configuration gives it.
    pub connections: u64,
}

impl Memory {
    pub fn of(pid: u32, pin_directory: &Path) -> Result<Self> {
        let resident = field(&format!("/proc/{pid}/status"), "VmRSS:")? * 1024;
        let (mut maps, mut connections) = (0, 0);
        for pin in fs::read_dir(pin_directory.join(format!("v{LAYOUT}")))? {
            let pin = pin?;
            let name = pin.file_name().to_string_lossy().into_owned();
            // The links are pinned beside the maps.
            if !ALL.contains(&name.as_str()) {
                continue;
            }
            let map = MapData::from_pin(pin.path())?;
            let descriptor = map.fd().as_fd().as_raw_fd();
            let bytes = field(&format!("/proc/self/fdinfo/{descriptor}"), "memlock:")?;
            maps += bytes;
            if name.starts_with(FLOWS) || name.starts_with(HALF_OPEN) {
                connections += bytes;
            }
        }
        Ok(Self { resident, maps, connections })
    }
}

/// CPU time that the process has used so far.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may have spaces: utime and stime are the 12th and 13th.
    let fields = stat.rsplit_once(") ").context("no name in stat")?.1;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    // USER_HZ is 100 on every architecture that this runs on.
    Ok(Duration::from_millis(ticks * 10))
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.with_context(|| format!("{file} has no {name}"))?;
    let number = value.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{file}, {name} {value}"))
}
