//! Who is followed: the configured Sentinels always, others as long as somebody names them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::Report;
use super::follow::{self, Context};
use super::reply::Peer;
use crate::config::{Endpoint, MAX_SENTINELS};
use crate::connect::Error;
use crate::model::{MasterId, SentinelId};

/// Words from followers that wait to be read.
const QUEUE: usize = 64;
/// Others are followed once all configured ones were reached, or after this long: until then it
/// is not known which of the named ones are the configured ones under another name.
const SETTLED: Duration = Duration::from_secs(3);

/// What a follower tells the roster.
pub(super) enum Word {
    /// It is connected to this Sentinel.
    Identity {
        sentinel: SentinelId,
        /// Empty if unknown.
        run_id: String,
        addr: SocketAddr,
        /// The endpoint by which the same Sentinel is followed already; then this one must not.
        reply: oneshot::Sender<Option<Endpoint>>,
    },
    /// That Sentinel names these others for this master.
    Peers { sentinel: SentinelId, master: MasterId, peers: Vec<Peer> },
}

/// Follows, until nobody listens to the reports any more. All followers end with this future.
pub(super) async fn run(context: Arc<Context>, configured: Vec<Endpoint>) {
    let (words, mut inbox) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    let mut roster = Roster::new(configured.len());
    let started = Instant::now();
    for (index, endpoint) in configured.into_iter().enumerate() {
        let id = SentinelId(index);
        let task = follow::run(context.clone(), id, endpoint.clone(), words.clone());
        roster.followed.insert(id, Followed::new(endpoint, tasks.spawn(task)));
    }
    loop {
        tokio::select! {
            Some(word) = inbox.recv() => roster.hear(word),
            () = context.reports.closed() => return,
        }
        if !roster.all_reached() && started.elapsed() < SETTLED {
            continue;
        }
        for change in roster.changes() {
            let reports = match change {
                Change::Follow(id, endpoint) => {
                    let task = follow::run(context.clone(), id, endpoint.clone(), words.clone());
                    let followed = Followed::new(endpoint.clone(), tasks.spawn(task));
                    roster.followed.insert(id, followed);
                    vec![Report::Found { sentinel: id, endpoint }]
                }
                Change::Drop(id) => {
                    roster.drop(id);
                    // Ended tasks are taken out, so that the set does not grow.
                    while tasks.try_join_next().is_some() {}
                    vec![
                        Report::Lost {
                            sentinel: id,
                            error: Error::Closed(crate::connect::Phase::Answer),
                        },
                        Report::Forgotten { sentinel: id },
                    ]
                }
            };
            for report in reports {
                if context.reports.send(report).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Roster {
    configured: usize,
    followed: BTreeMap<SentinelId, Followed>,
    /// Who names whom.
    named: BTreeMap<(SentinelId, MasterId), Vec<Peer>>,
}

struct Followed {
    endpoint: Endpoint,
    /// Empty as long as it is unknown.
    run_id: String,
    addr: Option<SocketAddr>,
    task: AbortHandle,
}

#[derive(PartialEq, Eq, Debug)]
enum Change {
    Follow(SentinelId, Endpoint),
    Drop(SentinelId),
}

impl Followed {
    fn new(endpoint: Endpoint, task: AbortHandle) -> Self {
        Self { endpoint, run_id: String::new(), addr: None, task }
    }

    fn is(&self, peer: &Peer) -> bool {
        let same_endpoint =
            self.endpoint.port == peer.port && self.endpoint.host.eq_ignore_ascii_case(&peer.host);
        let same_addr = self.addr.is_some_and(|addr| {
            addr.port() == peer.port
                && peer.host.parse().is_ok_and(|ip: std::net::IpAddr| ip == addr.ip())
        });
        same_endpoint || same_addr || (!peer.run_id.is_empty() && peer.run_id == self.run_id)
    }
}

impl Roster {
    fn new(configured: usize) -> Self {
        Self { configured, followed: BTreeMap::new(), named: BTreeMap::new() }
    }

    fn hear(&mut self, word: Word) {
        match word {
            // A word of one that was dropped meanwhile may still be in the queue.
            Word::Peers { sentinel, .. } if !self.followed.contains_key(&sentinel) => {}
            Word::Peers { sentinel, master, peers } => {
                self.named.insert((sentinel, master), peers);
            }
            Word::Identity { sentinel, run_id, addr, reply } => {
                // The lower number stays: a configured one before a found one.
                let other = self
                    .followed
                    .range(..sentinel)
                    .find(|(_, other)| !run_id.is_empty() && other.run_id == run_id)
                    .map(|(_, other)| other.endpoint.clone());
                if let Some(followed) = self.followed.get_mut(&sentinel) {
                    followed.addr = Some(addr);
                    followed.run_id = if other.is_some() { String::new() } else { run_id };
                }
                // A follower that is gone needs no answer.
                let _ = reply.send(other);
            }
        }
    }

    fn all_reached(&self) -> bool {
        self.followed.range(..SentinelId(self.configured)).all(|(_, known)| known.addr.is_some())
    }

    /// What must change so that exactly the configured and the named ones are followed.
    fn changes(&self) -> Vec<Change> {
        let named: BTreeSet<&Peer> = self.named.values().flatten().collect();
        let configured = || self.followed.range(..SentinelId(self.configured));
        let is_configured = |peer: &Peer| configured().any(|(_, followed)| followed.is(peer));
        let found: Vec<&Peer> = named.into_iter().filter(|peer| !is_configured(peer)).collect();

        let mut changes = Vec::new();
        let mut free: BTreeSet<usize> = (self.configured..MAX_SENTINELS).collect();
        for (id, followed) in self.followed.range(SentinelId(self.configured)..) {
            let known_as_configured = configured()
                .any(|(_, other)| !followed.run_id.is_empty() && other.run_id == followed.run_id);
            if known_as_configured || !found.iter().any(|peer| followed.is(peer)) {
                changes.push(Change::Drop(*id));
            }
            free.remove(&id.0);
        }
        let mut added: Vec<&Peer> = Vec::new();
        for peer in found {
            let followed = self.followed.values().any(|followed| followed.is(peer));
            let same = |other: &&Peer| {
                (other.host == peer.host && other.port == peer.port)
                    || (!peer.run_id.is_empty() && other.run_id == peer.run_id)
            };
            if followed || added.iter().any(same) {
                continue;
            }
            let Some(id) = free.pop_first() else {
                break;
            };
            added.push(peer);
            let endpoint = Endpoint { host: peer.host.to_ascii_lowercase(), port: peer.port };
            changes.push(Change::Follow(SentinelId(id), endpoint));
        }
        changes
    }

    /// Ends following one, and forgets whom it named.
    fn drop(&mut self, id: SentinelId) {
        if let Some(followed) = self.followed.remove(&id) {
            followed.task.abort();
        }
        self.named.retain(|(sentinel, _), _| *sentinel != id);
    }
}
