//! One Sentinel, followed for as long as the task lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Pipeline, Value, pipe};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::nudge::Nudged;
use super::reply::{self, Kind, Named, PATTERNS, Peer, Sandwich};
use super::roster::Word;
use super::wanted::Wanted;
use super::{DEADLINES, Replica, Report, Sighting, View};
use crate::clock::Monotonic;
use crate::config::Endpoint;
use crate::connect::{Backoff, Dialer, Error, Phase, Requests, checked, info_field, text};
use crate::model::{MasterId, SentinelId};
use crate::resolve::Resolver;

/// Everything is read again this often at least, whatever was published.
pub(super) const LEVEL: Duration = Duration::from_secs(1);
/// Delays between attempts to connect.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// Masters asked about in one write.
const CHUNK: usize = 16;
/// A sandwich that something slipped into is read again this often, before the next event or
/// second brings the next attempt.
const TORN_ATTEMPTS: usize = 3;

/// What all followers share.
pub(super) struct Context {
    pub(super) dialer: Dialer,
    /// By [`MasterId`].
    pub(super) masters: Vec<String>,
    pub(super) resolver: Resolver,
    pub(super) reports: mpsc::Sender<Report>,
    /// Claims are read again this often, whatever was published.
    pub(super) claims_every: Duration,
    /// As nobody has nudged yet; each follower has a copy of its own.
    pub(super) nudged: Nudged,
}

/// Follows one Sentinel. Returns only when nobody listens to the reports any more.
pub(super) async fn run(
    context: Arc<Context>,
    id: SentinelId,
    endpoint: Endpoint,
    roster: mpsc::Sender<Word>,
) {
    let mut nudged = context.nudged.clone();
    let follower = Follower { context, id, endpoint, roster };
    let mut backoff = RECONNECT;
    let mut reported = None;
    while !follower.context.reports.is_closed() {
        let mut up_since = None;
        let error = match follower.session(&mut nudged, &mut up_since).await {
            Err(Stop::Lost(error)) => error,
            Err(Stop::Unheard) => return,
            Ok(never) => match never {},
        };
        if let Some(since) = up_since {
            reported = None;
            if follower.roster.send(Word::Lost { sentinel: id }).await.is_err() {
                return;
            }
            if since.elapsed() >= LEVEL {
                backoff.reset();
            }
        }
        if reported.as_ref() != Some(&error) {
            reported = Some(error.clone());
            let report = Report::Lost { sentinel: follower.id, error };
            if follower.tell(report).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(backoff.delay()) => {}
            // Everything is read after a connection anyway.
            _ = nudged.next() => {}
        }
    }
}

struct Follower {
    context: Arc<Context>,
    id: SentinelId,
    endpoint: Endpoint,
    roster: mpsc::Sender<Word>,
}

/// Why a session ended.
enum Stop {
    /// The Sentinel is lost.
    Lost(Error),
    /// Nobody listens any more.
    Unheard,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

enum Never {}

/// What is to be read of a connected Sentinel, and what was last reported.
#[derive(Default)]
struct Session {
    claims: Wanted,
    rest: Wanted,
    views: Mutex<BTreeMap<MasterId, View>>,
    nodes: Mutex<BTreeMap<MasterId, Vec<Replica>>>,
    /// Masters that are claimed by host name.
    named: Mutex<BTreeMap<MasterId, Named>>,
}

impl Follower {
    /// Connects, subscribes, reads everything, and goes on until the Sentinel is lost.
    async fn session(
        &self,
        nudged: &mut Nudged,
        up_since: &mut Option<Instant>,
    ) -> Result<Never, Stop> {
        let Endpoint { host, port } = &self.endpoint;
        let addr = self.context.resolver.resolve(host, *port).await?;
        let dialer = &self.context.dialer;
        let (mut link, (sink, stream)) = tokio::try_join!(dialer.requests(host, addr), async {
            let mut subscriptions = dialer.subscriptions(host, addr).await?;
            within(subscriptions.psubscribe(&PATTERNS[..])).await?;
            Ok(subscriptions.split())
        })?;
        let requests = link.requests().clone();
        self.introduce(&requests, addr).await?;
        *up_since = Some(Instant::now());

        // Subscribed first, read afterwards: nothing falls in between.
        let session = Session::default();
        tokio::select! {
            result = self.listen(stream, nudged, &session) => result,
            result = self.read_claims(&requests, &session) => result,
            result = self.read_rest(&requests, &session) => result,
            result = heartbeat(sink) => result,
            () = link.closed() => Err(Error::Closed(Phase::Answer).into()),
        }
    }

    /// Finds out that this is a Sentinel and which one, and tells the roster.
    async fn introduce(&self, requests: &Requests, addr: SocketAddr) -> Result<(), Stop> {
        let mut questions = Pipeline::new();
        questions.cmd("SENTINEL").arg("MYID");
        if let Some(name) = self.context.masters.first() {
            questions.cmd("SENTINEL").arg("MASTER").arg(name);
        }
        let mut answers = requests.send(&questions).await?.into_iter();
        let run_id = match answers.next().map(checked) {
            Some(Ok(value)) => text(&value).unwrap_or_default().to_owned(),
            // Before Redis 6.2 there is no MYID; that is no reason not to follow.
            Some(Err(Error::Server(_))) | None => String::new(),
            Some(Err(error)) => return Err(error.into()),
        };
        if let Some(master) = answers.next() {
            // Known or not, this is an answer that only a Sentinel gives.
            reply::master(master)?;
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        let word = Word::Identity { sentinel: self.id, run_id: run_id.clone(), addr, reply };
        self.roster.send(word).await.map_err(|_| Stop::Unheard)?;
        if let Some(other) = answer.await.map_err(|_| Stop::Unheard)? {
            return Err(Error::SameAs(other.to_string()).into());
        }
        self.tell(Report::Up { sentinel: self.id, addr, run_id }).await
    }

    /// Turns events into reasons to read, and nudges and the passing of time too.
    async fn listen(
        &self,
        stream: PubSubStream,
        nudged: &mut Nudged,
        session: &Session,
    ) -> Result<Never, Stop> {
        let mut stream = pin!(stream);
        let mut claims = interval(self.context.claims_every);
        let mut level = interval(LEVEL);
        for timer in [&mut claims, &mut level] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                _ = claims.tick() => {
                    session.claims.routine(self.all_masters());
                    continue;
                }
                _ = level.tick() => {
                    session.rest.routine(self.all_masters());
                    continue;
                }
                masters = nudged.next() => {
                    session.claims.urgent(masters.iter().copied());
                    session.rest.urgent(masters);
                    continue;
                }
            };
            let at = Monotonic::now();
            let message = message.ok_or(Error::Closed(Phase::Answer))?;
            let payload: String = message.get_payload().unwrap_or_default();
            let Some(event) = reply::event(message.get_channel_name(), &payload) else {
                tracing::debug!(sentinel = %self.endpoint, ?payload, "event not understood");
                continue;
            };
            let Some(name) = event.master else {
                session.claims.urgent(self.all_masters());
                session.rest.urgent(self.all_masters());
                continue;
            };
            let Some(master) = self.context.masters.iter().position(|known| known == name) else {
                continue;
            };
            let master = MasterId(master);
            session.claims.urgent([master]);
            if matches!(event.kind, Kind::Topology | Kind::SwitchMaster | Kind::End) {
                session.rest.urgent([master]);
            }
            if let Some(what) = self.sighting(event.kind, event.node) {
                self.tell(Report::Seen { sentinel: self.id, master, what, at }).await?;
            }
        }
    }

    fn sighting(&self, kind: Kind, node: Option<Named>) -> Option<Sighting> {
        // Replicas' names were looked up when they were first read.
        let addr = node.and_then(|node| self.context.resolver.known(&node.host, node.port));
        match kind {
            Kind::Sdown => Some(Sighting::Sdown),
            Kind::Odown => Some(Sighting::Odown),
            Kind::Selected => Some(Sighting::Selected(addr)),
            Kind::Promoting => Some(Sighting::Promoting(addr)),
            Kind::Promoted => Some(Sighting::Promoted(addr)),
            Kind::SwitchMaster => Some(Sighting::SwitchMaster),
            Kind::End => Some(Sighting::End),
            Kind::Aborted => Some(Sighting::Aborted),
            Kind::Topology | Kind::Other => None,
        }
    }

    /// Reads claims, whenever they are wanted.
    async fn read_claims(&self, requests: &Requests, session: &Session) -> Result<Never, Stop> {
        loop {
            let mut masters = session.claims.next(CHUNK).await;
            for _ in 0..TORN_ATTEMPTS {
                masters = self.read_claims_of(&masters, requests, session).await?;
                if masters.is_empty() {
                    break;
                }
            }
        }
    }

    /// Reads and reports the claims of these masters; returns those that were torn.
    async fn read_claims_of(
        &self,
        masters: &[MasterId],
        requests: &Requests,
        session: &Session,
    ) -> Result<Vec<MasterId>, Stop> {
        let mut questions = pipe();
        for &master in masters {
            let name = self.name(master);
            questions.cmd("SENTINEL").arg("MASTER").arg(name);
            questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
            questions.cmd("SENTINEL").arg("MASTER").arg(name);
        }
        let asked = Monotonic::now();
        let mut answers = requests.send(&questions).await?.into_iter();
        let mut torn = Vec::new();
        for &master in masters {
            let (Some(before), Some(address), Some(after)) =
                (answers.next(), answers.next(), answers.next())
            else {
                return Err(Error::Protocol("an answer is missing".into()).into());
            };
            match reply::sandwich(before, address, after)? {
                Sandwich::Torn => torn.push(master),
                Sandwich::Unknown => {
                    self.tell(Report::UnknownMaster { sentinel: self.id, master }).await?;
                }
                Sandwich::Claim { node, epoch, view } => {
                    let sentinel = self.id;
                    match self.context.resolver.known(&node.host, node.port) {
                        Some(addr) => {
                            self.tell(Report::Claim { sentinel, master, addr, epoch, asked })
                                .await?;
                        }
                        // Looked up beside, so that no other claim waits for DNS.
                        None => session.rest.urgent([master]),
                    }
                    lock(&session.named).insert(master, node);
                    if changed(&session.views, master, &view) {
                        self.tell(Report::View { sentinel, master, view }).await?;
                    }
                }
            }
        }
        Ok(torn)
    }

    /// Reads what is not urgent: replicas, other Sentinels, TILT.
    async fn read_rest(&self, requests: &Requests, session: &Session) -> Result<Never, Stop> {
        let mut last_tilt = false;
        loop {
            // One at a time, so that a claim never waits behind more than one of these.
            for master in session.rest.next(1).await {
                self.look_up_master(master, session).await?;
                let name = self.name(master);
                let mut questions = pipe();
                questions.cmd("SENTINEL").arg("REPLICAS").arg(name);
                questions.cmd("SENTINEL").arg("SENTINELS").arg(name);
                questions.cmd("INFO").arg("sentinel");
                let mut answers = requests.send(&questions).await?.into_iter().map(checked);
                let (replicas, peers, info) = (answers.next(), answers.next(), answers.next());
                // A list that can't be read costs what is in it, not the Sentinel's claim.
                if let Some(replicas) = self.readable(replicas, reply::replicas) {
                    self.report_nodes(master, replicas, session).await?;
                }
                if let Some(peers) = self.readable(peers, reply::peers) {
                    self.report_peers(master, peers).await?;
                }
                let tilt = match info.transpose() {
                    Ok(Some(value)) => {
                        text(&value).and_then(|info| info_field(info, "sentinel_tilt")) == Some("1")
                    }
                    // INFO may be forbidden; it is for people only.
                    Ok(None) | Err(_) => false,
                };
                if tilt != last_tilt {
                    last_tilt = tilt;
                    self.tell(Report::Tilt { sentinel: self.id, tilt }).await?;
                }
            }
        }
    }

    /// Keeps the address of a master that is claimed by host name up to date.
    async fn look_up_master(&self, master: MasterId, session: &Session) -> Result<(), Stop> {
        let Some(Named { host, port }) = lock(&session.named).get(&master).cloned() else {
            return Ok(());
        };
        let before = self.context.resolver.known(&host, port);
        match self.context.resolver.resolve(&host, port).await {
            Ok(addr) if before == Some(addr) => Ok(()),
            Ok(_) => {
                session.claims.urgent([master]);
                Ok(())
            }
            Err(error) => {
                self.tell(Report::Unresolvable { sentinel: self.id, master, error }).await
            }
        }
    }

    fn readable<T>(
        &self,
        answer: Option<Result<Value, Error>>,
        read: impl Fn(Value) -> Result<T, Error>,
    ) -> Option<T> {
        match answer?.and_then(read) {
            Ok(list) => Some(list),
            // An unknown master has no lists.
            Err(Error::Server(text)) if text.contains("No such master") => None,
            Err(error) => {
                tracing::debug!(sentinel = %self.endpoint, %error, "list not read");
                None
            }
        }
    }

    async fn report_nodes(
        &self,
        master: MasterId,
        replicas: Vec<(Named, reply::Unplaced)>,
        session: &Session,
    ) -> Result<(), Stop> {
        let resolved = join_all(replicas.into_iter().map(|(node, replica)| async move {
            let addr = self.context.resolver.resolve(&node.host, node.port).await;
            addr.map(|addr| replica.at(addr)).map_err(|error| (node, error))
        }));
        let mut replicas = Vec::new();
        for replica in resolved.await {
            match replica {
                Ok(replica) => replicas.push(replica),
                Err((node, error)) => {
                    tracing::debug!(sentinel = %self.endpoint, host = node.host, %error, "replica");
                }
            }
        }
        if changed(&session.nodes, master, &replicas) {
            self.tell(Report::Nodes { sentinel: self.id, master, replicas }).await?;
        }
        Ok(())
    }

    async fn report_peers(&self, master: MasterId, peers: Vec<Peer>) -> Result<(), Stop> {
        let word = Word::Peers { sentinel: self.id, master, peers };
        self.roster.send(word).await.map_err(|_| Stop::Unheard)
    }

    async fn tell(&self, report: Report) -> Result<(), Stop> {
        self.context.reports.send(report).await.map_err(|_| Stop::Unheard)
    }

    fn name(&self, master: MasterId) -> &str {
        &self.context.masters[master.0]
    }

    fn all_masters(&self) -> impl Iterator<Item = MasterId> + use<> {
        (0..self.context.masters.len()).map(MasterId)
    }
}

/// Asks for a sign of life on the subscribed connection, which is silent otherwise.
async fn heartbeat(mut sink: PubSubSink) -> Result<Never, Stop> {
    loop {
        sleep(LEVEL).await;
        within(sink.ping::<Value>()).await?;
    }
}

pub(super) async fn within<T>(
    request: impl Future<Output = redis::RedisResult<T>>,
) -> Result<T, Error> {
    match timeout(DEADLINES.answer, request).await {
        Ok(result) => {
            result.map_err(|error| Error::from_redis(&error, Phase::Answer, DEADLINES.answer))
        }
        Err(_) => Err(Error::Timeout { during: Phase::Answer, after: DEADLINES.answer }),
    }
}

/// Remembers the value; whether it differs from the one before.
fn changed<T: Clone + PartialEq>(
    last: &Mutex<BTreeMap<MasterId, T>>,
    master: MasterId,
    value: &T,
) -> bool {
    let mut last = lock(last);
    if last.get(&master) == Some(value) {
        return false;
    }
    last.insert(master, value.clone());
    true
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
