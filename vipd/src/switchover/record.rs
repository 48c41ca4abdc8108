//! Priorities that are to be set back, on disk: whoever starts after a crash pays what is owed.
//!
//! Written before the deed, beside the control socket, as [`crate::sysctl`] does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{info, warn};

use super::site::Priorities;
use crate::connect::Error;

/// A file that is longer is none of ours.
const MAX_RECORD: u64 = 64 * 1024;
/// After a start, the nodes are asked this often …
const ATTEMPTS: u32 = 6;
/// … with so much time between.
const BETWEEN: Duration = Duration::from_secs(10);

/// One node's `replica-priority`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owed {
    /// Whose.
    pub node: SocketAddr,
    /// What it was.
    pub before: u32,
    /// What vipd makes it.
    pub now: u32,
}

impl std::fmt::Display for Owed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, before, now } = self;
        write!(f, "replica-priority of {node} is to be {before} (vipd made it {now})")
    }
}

/// Everything that is owed now.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    owed: Mutex<BTreeMap<SocketAddr, Owed>>,
}

impl Record {
    /// Takes over what an earlier vipd with this control socket has left. A record that can't be
    /// read is told and started anew.
    pub fn open(control_socket: &Path) -> Self {
        let mut path = control_socket.as_os_str().to_owned();
        path.push(".priorities");
        let path = PathBuf::from(path);
        let owed = read(&path).unwrap_or_else(|error| {
            warn!(record = %path.display(), %error, "the priorities that an earlier vipd has \
                  changed are not known");
            Vec::new()
        });
        Self { path, owed: Mutex::new(owed.into_iter().map(|it| (it.node, it)).collect()) }
    }

    /// What is owed.
    pub fn owed(&self) -> Vec<Owed> {
        self.lock().values().copied().collect()
    }

    /// Notes these. Where it fails nothing was noted.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn owe(&self, owed: &[Owed]) -> io::Result<()> {
        let mut lock = self.lock();
        let before = lock.clone();
        lock.extend(owed.iter().map(|it| (it.node, *it)));
        let kept = self.keep(&lock);
        if kept.is_err() {
            *lock = before;
        }
        kept
    }

    /// Nothing is owed to `node` any more.
    pub fn settled(&self, node: SocketAddr) {
        let mut owed = self.lock();
        if owed.remove(&node).is_some()
            && let Err(error) = self.keep(&owed)
        {
            // The next start finds that somebody has changed it since, and leaves it alone.
            warn!(record = %self.path.display(), %error, "cannot note that {node} is settled");
        }
    }

    /// One line of JSON for each; no file where nothing is owed.
    fn keep(&self, owed: &BTreeMap<SocketAddr, Owed>) -> io::Result<()> {
        if owed.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let lines: Vec<String> =
            owed.values().map(serde_json::to_string).collect::<Result<_, _>>()?;
        // Whole or not at all.
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, lines.join("\n") + "\n")?;
        fs::rename(&new, &self.path)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Owed>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Vec<Owed>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MAX_RECORD => {
            return Err(io::Error::new(ErrorKind::InvalidData, "too long"));
        }
        Ok(_) => {}
    }
    let text = fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

/// Sets back what an earlier vipd has left, unless somebody has changed it since. Gives up after
/// about a minute; the next start tries again. `turn` is taken for each attempt: no switchover
/// changes priorities meanwhile.
pub async fn pay<P: Priorities>(record: &Record, nodes: &P, turn: &tokio::sync::Mutex<()>) {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(BETWEEN).await;
        }
        let _turn = turn.lock().await;
        for owed in record.owed() {
            match set_back(nodes, owed).await {
                Ok(()) => record.settled(owed.node),
                Err(error) if attempt + 1 == ATTEMPTS => warn!(
                    "{owed}: set it by hand, or it is tried at the next start: {} {error}",
                    owed.node
                ),
                Err(_) => {}
            }
        }
        if record.owed().is_empty() {
            return;
        }
    }
}

async fn set_back<P: Priorities>(nodes: &P, owed: Owed) -> Result<(), Error> {
    let Owed { node, before, now } = owed;
    let present = nodes.priority(node).await?;
    if present == now {
        // Sentinel rewrites configuration files as it promotes.
        nodes.set_priority(node, before, true).await?;
        warn!("an earlier vipd was cut short: replica-priority of {node} is {before} again");
    } else {
        info!("replica-priority of {node} is {present} by now, and is left alone");
    }
    Ok(())
}
