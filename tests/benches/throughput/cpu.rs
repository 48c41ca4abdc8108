//! CPU time of the programs that a request passes, which other programs on the machine hardly
//! change: they take the CPU away, not the work.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::site::Site;
use crate::ways::Way;

/// The processes that a request occupies. What the kernel does for its packets is in their time as
/// well, since it runs inside their system calls, or in the kernel's own `ksoftirqd`.
pub struct Meter {
    processes: Vec<u32>,
}

impl Meter {
    /// Redis, the proxies, and the kernel's threads for packets.
    pub fn new(site: &Site, ways: &[Way]) -> Result<Self> {
        let mut processes = vec![site.redis_process()?];
        processes.extend(ways.iter().filter_map(Way::process));
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let path = entry?.path();
            // It may have ended since.
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let pid = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
            processes.extend(pid.filter(|_| name.starts_with("ksoftirqd/")));
        }
        Ok(Self { processes })
    }

    /// CPU time so far, with that of every redis-benchmark that has ended.
    pub fn read(&self) -> Result<Duration> {
        let ended = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot read CPU times")?;
        let mut sum = duration(ended.user_time()) + duration(ended.system_time());
        for process in &self.processes {
            let tasks = Path::new("/proc").join(process.to_string()).join("task");
            let listed =
                fs::read_dir(&tasks).with_context(|| format!("cannot read {}", tasks.display()))?;
            for task in listed {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                let ran = text.split(' ').next().and_then(|ns| ns.parse().ok());
                sum += Duration::from_nanos(ran.context("schedstat without a time")?);
            }
        }
        Ok(sum)
    }
}

fn duration(time: TimeVal) -> Duration {
    let seconds = Duration::from_secs(time.tv_sec().unsigned_abs());
    seconds + Duration::from_micros(time.tv_usec().unsigned_abs())
}
