//! Priorities that are to be set back, on disk: whoever starts after a crash pays what is owed.
//!
//! Written before the deed, beside the control socket, as [`crate::sysctl`] does.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{info, warn};

use super::site::Priorities;
use crate::connect::Error;
use crate::record;

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
        let owed: Vec<Owed> = record::read(&path).unwrap_or_else(|error| {
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

    fn keep(&self, owed: &BTreeMap<SocketAddr, Owed>) -> io::Result<()> {
        record::keep(&self.path, owed.values())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Owed>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
