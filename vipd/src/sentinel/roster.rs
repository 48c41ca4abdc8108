//! Who is followed: the configured Sentinels always, others as long as somebody names them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Report;
use super::follow::{self, Context};
use super::reply::Peer;
use crate::config::{Endpoint, MAX_SENTINELS};
use crate::connect::{Error, Phase};
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
    /// Its connection is lost.
    Lost { sentinel: SentinelId },
    /// That Sentinel names these others for this master.
    Peers { sentinel: SentinelId, master: MasterId, peers: Vec<Peer> },
}

/// Follows, until nobody listens to the reports any more. All followers end with this future.
pub(super) async fn run(context: Arc<Context>, configured: Vec<Endpoint>) {
    let (words, mut inbox) = mpsc::channel(QUEUE);
    let mut roster = Roster::new(configured.len());
    let started = Instant::now();
    for (index, endpoint) in configured.into_iter().enumerate() {
        let id = SentinelId(index);
        let task = follow::run(context.clone(), id, endpoint.clone(), words.clone());
        roster.followed.insert(id, Followed::new(endpoint, tokio::spawn(task)));
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
                    let followed = Followed::new(endpoint.clone(), tokio::spawn(task));
                    roster.followed.insert(id, followed);
                    vec![Report::Found { sentinel: id, endpoint }]
                }
                Change::Drop(id) => {
                    if let Some(mut followed) = roster.remove(id) {
                        // Awaited, so that nothing of it comes after the loss.
                        followed.task.abort();
                        let _ = (&mut followed.task).await;
                    }
                    vec![
                        Report::Lost { sentinel: id, error: Error::Closed(Phase::Answer) },
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
    /// Connected, and not the same as another.
    is_up: bool,
    task: JoinHandle<()>,
}

#[derive(PartialEq, Eq, Debug)]
enum Change {
    Follow(SentinelId, Endpoint),
    Drop(SentinelId),
}

impl Followed {
    fn new(endpoint: Endpoint, task: JoinHandle<()>) -> Self {
        Self { endpoint, run_id: String::new(), addr: None, is_up: false, task }
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
            Word::Lost { sentinel } => {
                if let Some(followed) = self.followed.get_mut(&sentinel) {
                    followed.is_up = false;
                }
            }
            Word::Identity { sentinel, run_id, addr, reply } => {
                // Who came first stays, but a found one makes way for a configured one: that the
                // two are the same is known from now on, and `changes` drops it.
                let stays = |other: SentinelId| other.0 < self.configured || other < sentinel;
                let other = self
                    .followed
                    .iter()
                    .find(|(id, other)| {
                        **id != sentinel && stays(**id) && other.is_up && other.run_id == run_id
                    })
                    .filter(|_| !run_id.is_empty())
                    .map(|(_, other)| other.endpoint.clone());
                if let Some(followed) = self.followed.get_mut(&sentinel) {
                    followed.addr = Some(addr);
                    followed.is_up = other.is_none();
                    followed.run_id = run_id;
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

    /// Forgets one, and whom it named.
    fn remove(&mut self, id: SentinelId) -> Option<Followed> {
        self.named.retain(|(sentinel, _), _| *sentinel != id);
        self.followed.remove(&id)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaa";
    const B: &str = "bbbb";

    fn peer(run_id: &str, host: &str, port: u16) -> Peer {
        Peer { run_id: run_id.into(), host: host.into(), port }
    }

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    /// Follows one configured Sentinel; must be in a runtime.
    fn roster(host_and_port: &str) -> Roster {
        let mut roster = Roster::new(1);
        follow(&mut roster, 0, host_and_port);
        roster
    }

    fn follow(roster: &mut Roster, id: usize, host_and_port: &str) {
        let task = tokio::spawn(std::future::pending::<()>());
        roster.followed.insert(SentinelId(id), Followed::new(endpoint(host_and_port), task));
    }

    fn name(roster: &mut Roster, peers: Vec<Peer>) {
        roster.hear(Word::Peers { sentinel: SentinelId(0), master: MasterId(0), peers });
    }

    fn identify(roster: &mut Roster, id: usize, run_id: &str, addr: &str) -> Option<Endpoint> {
        let (reply, mut answer) = oneshot::channel();
        let addr = addr.parse().unwrap();
        let run_id = run_id.into();
        roster.hear(Word::Identity { sentinel: SentinelId(id), run_id, addr, reply });
        answer.try_recv().unwrap()
    }

    #[tokio::test]
    async fn a_named_sentinel_is_followed_once_and_until_nobody_names_it() {
        let mut roster = roster("198.18.0.101:26379");
        let named = vec![peer(B, "198.18.0.102", 26379)];
        name(&mut roster, named.clone());
        // Another master's list names it by another address.
        let master = MasterId(1);
        let peers = vec![peer(B, "s2.example", 26379)];
        roster.hear(Word::Peers { sentinel: SentinelId(0), master, peers });
        let expected = Change::Follow(SentinelId(1), endpoint("198.18.0.102:26379"));
        assert_eq!(roster.changes(), [expected]);

        follow(&mut roster, 1, "198.18.0.102:26379");
        identify(&mut roster, 1, B, "198.18.0.102:26379");
        assert_eq!(roster.changes(), []);

        name(&mut roster, vec![]);
        assert_eq!(roster.changes(), [], "the other list still names it");
        roster.hear(Word::Peers { sentinel: SentinelId(0), master, peers: vec![] });
        assert_eq!(roster.changes(), [Change::Drop(SentinelId(1))]);
        roster.remove(SentinelId(1));
        assert_eq!(roster.changes(), []);

        // What it said itself while it was being dropped is ignored.
        let sentinel = SentinelId(1);
        roster.hear(Word::Peers { sentinel, master, peers: named });
        assert_eq!(roster.changes(), []);
    }

    #[tokio::test]
    async fn a_configured_sentinel_is_recognised_by_name_address_and_identity() {
        let mut roster = roster("s1.example:26379");
        for (same, what) in [
            (peer("", "S1.example", 26379), "its name"),
            (peer("", "198.18.0.101", 26379), "its address"),
            (peer(A, "10.0.0.1", 1), "its identity"),
        ] {
            assert_eq!(identify(&mut roster, 0, A, "198.18.0.101:26379"), None);
            name(&mut roster, vec![same]);
            assert_eq!(roster.changes(), [], "{what}");
        }
        name(&mut roster, vec![peer(B, "198.18.0.101", 26380)]);
        assert_eq!(roster.changes().len(), 1, "another port is another Sentinel");
    }

    #[tokio::test]
    async fn a_found_one_that_turns_out_to_be_a_configured_one_is_dropped() {
        let mut roster = roster("s1.example:26379");
        follow(&mut roster, 1, "10.0.0.1:26379");
        name(&mut roster, vec![peer(A, "10.0.0.1", 26379)]);
        assert_eq!(identify(&mut roster, 1, A, "10.0.0.1:26379"), None);
        assert_eq!(roster.changes(), []);
        assert_eq!(identify(&mut roster, 0, A, "198.18.0.101:26379"), None);
        assert_eq!(roster.changes(), [Change::Drop(SentinelId(1))]);
        // Had it come second, it would have been told.
        let other = identify(&mut roster, 1, A, "10.0.0.1:26379");
        assert_eq!(other, Some(endpoint("s1.example:26379")));
    }

    #[tokio::test]
    async fn of_two_configured_names_of_one_sentinel_the_first_is_counted_while_it_is_up() {
        let mut roster = Roster::new(2);
        follow(&mut roster, 0, "s1.example:26379");
        follow(&mut roster, 1, "198.18.0.101:26379");
        let addr = "198.18.0.101:26379";
        assert_eq!(identify(&mut roster, 1, A, addr), None);
        assert_eq!(identify(&mut roster, 0, A, addr), Some(endpoint(addr)));
        roster.hear(Word::Lost { sentinel: SentinelId(1) });
        assert_eq!(identify(&mut roster, 0, A, addr), None);
        assert_eq!(identify(&mut roster, 1, A, addr), Some(endpoint("s1.example:26379")));
        // Before Redis 6.2 nobody has an identity.
        roster.hear(Word::Lost { sentinel: SentinelId(0) });
        assert_eq!(identify(&mut roster, 0, "", addr), None);
        assert_eq!(identify(&mut roster, 1, "", addr), None);
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_followed() {
        let mut roster = roster("198.18.0.101:26379");
        let crowd = (1..1000).map(|port| peer(&port.to_string(), "198.18.0.102", port));
        name(&mut roster, crowd.collect());
        let changes = roster.changes();
        assert_eq!(changes.len(), MAX_SENTINELS - 1);
        for change in changes {
            let Change::Follow(SentinelId(id), _) = change else {
                panic!("{change:?}");
            };
            assert!((1..MAX_SENTINELS).contains(&id));
        }
    }
}
