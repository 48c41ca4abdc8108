//! Watches Redis nodes: asks each for its ROLE, on a connection that is kept open.
//!
//! A promotion cuts that connection (Sentinel sends `CLIENT KILL TYPE normal` in the transaction
//! of `SLAVEOF NO ONE`), so a cut is a reason to reconnect and ask at once.
//!
//! **Permissions.** An ACL user needs `+ping +role`. `+client|setname` and `+info` (for lag and
//! histories) are useful.

mod inspect;
pub mod reply;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinHandle;

pub use inspect::{NodeInspection, inspect};
pub use reply::{Replication, Role};

use crate::clock::Monotonic;
use crate::config::Login;
use crate::connect::{Deadlines, Dialer, Error, SetupError};
use crate::resolve::Resolver;

/// How long a node may take. Short: one that is slower than this is no master to move to.
pub const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(1),
    login: Duration::from_secs(1),
    answer: Duration::from_secs(1),
};

/// Most nodes watched at once.
pub const MAX_NODES: usize = 1024;

/// What a node said, or that it didn't.
///
/// Sent for every answer while the node is being asked for ([`Watchers::ask`]), and otherwise each
/// second.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Which node.
    pub node: SocketAddr,
    /// Its role, or why there is no answer.
    pub answer: Result<Role, Error>,
    /// More about its replication, if that was asked (each second) and allowed.
    pub replication: Option<Replication>,
    /// When the answer was received.
    pub at: Monotonic,
}

/// The tasks that watch nodes. They end when this is dropped.
#[derive(Debug)]
pub struct Watchers {
    dialer: Dialer,
    resolver: Resolver,
    reports: mpsc::Sender<Report>,
    nodes: BTreeMap<SocketAddr, Watcher>,
    /// Calls of [`Watchers::ask`] so far.
    asked: u64,
}

#[derive(Debug)]
struct Watcher {
    urgency: channel::Sender<Urgency>,
    task: JoinHandle<()>,
}

/// How a node is to be asked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Urgency {
    /// Each second.
    #[default]
    Routine,
    /// Every few milliseconds, until it is master. The number tells one request from the next.
    Pressing(u64),
    /// Every few milliseconds, whatever it answers.
    Suspected(u64),
}

impl Watchers {
    /// Watches no node yet. `reports` should hold some hundred: a watcher waits while it is full.
    /// Must be called inside a tokio runtime, like all methods. `resolver` is the one of
    /// [`crate::sentinel::Followers`]: with TLS, a node's certificate may be for the name that
    /// Sentinel announces.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn new(
        login: &Login,
        resolver: Resolver,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, SetupError> {
        let dialer = Dialer::new(login, DEADLINES)?;
        Ok(Self { dialer, resolver, reports, nodes: BTreeMap::new(), asked: 0 })
    }

    /// Watches exactly these nodes; those that were watched before keep their connections.
    /// Returns those that are too many (beyond [`MAX_NODES`]), which are not watched.
    pub fn watch(&mut self, wanted: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        self.nodes.retain(|node, watcher| {
            let keep = wanted.contains(node);
            if !keep {
                watcher.task.abort();
            }
            keep
        });
        let mut refused = Vec::new();
        for &node in wanted {
            if self.nodes.contains_key(&node) {
                continue;
            }
            if self.nodes.len() >= MAX_NODES {
                refused.push(node);
                continue;
            }
            self.start(node);
        }
        refused
    }

    /// Asks this node at once, and again every few milliseconds (up to 100) until it answers
    /// master, [`Watchers::stop`] or the next call. A node that isn't watched is from now on,
    /// until the next [`Watchers::watch`] without it.
    pub fn ask(&mut self, node: SocketAddr) {
        self.press(node, Urgency::Pressing);
    }

    /// Asks this node at once, and again every few milliseconds, always as often and whatever it
    /// answers, until [`Watchers::stop`] or [`Watchers::ask`]. Otherwise like that.
    pub fn suspect(&mut self, node: SocketAddr) {
        self.press(node, Urgency::Suspected);
    }

    /// Back to asking each second.
    pub fn stop(&mut self, node: SocketAddr) {
        if let Some(watcher) = self.nodes.get(&node) {
            watcher.urgency.send_replace(Urgency::Routine);
        }
    }

    /// Closes all connections, and returns when they are closed.
    pub async fn shutdown(mut self) {
        for (_, watcher) in std::mem::take(&mut self.nodes) {
            watcher.task.abort();
            // Its only results are cancellation and a panic that was reported already.
            let _ = watcher.task.await;
        }
    }

    fn press(&mut self, node: SocketAddr, how: fn(u64) -> Urgency) {
        if !self.nodes.contains_key(&node) {
            self.start(node);
        }
        if let Some(watcher) = self.nodes.get(&node) {
            self.asked += 1;
            watcher.urgency.send_replace(how(self.asked));
        }
    }

    fn start(&mut self, node: SocketAddr) {
        let (urgency, asked) = channel::channel(Urgency::Routine);
        let task = watch::run(
            node,
            self.dialer.clone(),
            self.resolver.clone(),
            self.reports.clone(),
            asked,
        );
        let task = tokio::spawn(task);
        self.nodes.insert(node, Watcher { urgency, task });
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for watcher in self.nodes.values() {
            watcher.task.abort();
        }
    }
}
