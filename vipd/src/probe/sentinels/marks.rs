//! What the Sentinels publish, as moments.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::Value;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Group;
use crate::clock::Monotonic;
use crate::config::Endpoint;
use crate::connect::{Backoff, Error, Phase};
use crate::probe::moment::Moment;
use crate::probe::report::Source;
use crate::sentinel::DEADLINES;
use crate::sentinel::reply::{self, PATTERNS};

/// Moments that are kept; a failover has some twenty of each Sentinel.
const MAX_MOMENTS: usize = 2000;
/// Longest text of one, in characters.
const LONGEST: usize = 120;
/// Delays between attempts to connect.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// A Sentinel that says nothing is asked for a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The Sentinels' events, while they come. Nothing is followed any more when this is dropped.
#[derive(Debug)]
pub struct SentinelMarks {
    log: Arc<Mutex<Log>>,
    followers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Log {
    moments: Vec<Moment>,
    left_out: u64,
    notes: Vec<String>,
}

impl SentinelMarks {
    pub(super) async fn follow(group: &Group) -> Self {
        let mut marks = Self { log: Arc::default(), followers: JoinSet::new() };
        let mut tried = vec![];
        for endpoint in group.endpoints() {
            let (first, is_tried) = oneshot::channel();
            tried.push(is_tried);
            let follower = Follower {
                group: group.clone(),
                endpoint: endpoint.clone(),
                log: Arc::clone(&marks.log),
                first: Some(first),
            };
            marks.followers.spawn(follower.run());
        }
        for is_tried in tried {
            // Each tries within `DEADLINES`. One that panicked has nothing to say.
            let _ = is_tried.await;
        }
        marks
    }

    /// What they published, in order of time, and notes about those that were not heard.
    pub async fn stop(mut self) -> (Vec<Moment>, Vec<String>) {
        self.followers.shutdown().await;
        let mut log = std::mem::take(&mut *lock(&self.log));
        log.moments.sort_by_key(|it| it.at);
        if log.left_out > 0 {
            log.notes.push(format!("{} more events of the Sentinels are left out", log.left_out));
        }
        (log.moments, log.notes)
    }
}

/// Of one Sentinel.
struct Follower {
    group: Group,
    endpoint: Endpoint,
    log: Arc<Mutex<Log>>,
    /// Told after the first attempt.
    first: Option<oneshot::Sender<()>>,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = RECONNECT;
        let mut is_lost = false;
        loop {
            let error = match self.subscribe().await {
                Ok(subscription) => {
                    if std::mem::take(&mut is_lost) {
                        self.add("(heard again)".to_owned());
                    }
                    backoff.reset();
                    self.tried();
                    let (sink, stream) = subscription.split();
                    tokio::select! {
                        error = self.listen(stream) => error,
                        error = heartbeat(sink) => error,
                    }
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut is_lost, true) {
                self.add("(not heard any more)".to_owned());
                let note =
                    format!("the Sentinel {} was not heard for a time: {error}", self.endpoint);
                let mut log = lock(&self.log);
                // One that comes and goes is said once.
                if !log.notes.contains(&note) && log.notes.len() < MAX_MOMENTS {
                    log.notes.push(note);
                }
            }
            self.tried();
            sleep(backoff.delay()).await;
        }
    }

    async fn subscribe(&self) -> Result<PubSub, Error> {
        let Endpoint { host, port } = &self.endpoint;
        let addr = self.group.resolver().resolve(host, *port).await?;
        let mut subscription = self.group.dialer().subscriptions(host, addr).await?;
        within(subscription.psubscribe(&PATTERNS[..])).await?;
        Ok(subscription)
    }

    async fn listen(&self, stream: PubSubStream) -> Error {
        let mut stream = pin!(stream);
        while let Some(message) = stream.next().await {
            let payload: String = message.get_payload().unwrap_or_default();
            let master = self.group.master();
            if let Some(what) = readable(message.get_channel_name(), &payload, master) {
                self.add(what);
            }
        }
        Error::Closed(Phase::Answer)
    }

    fn add(&self, what: String) {
        let at = Monotonic::now();
        let mut log = lock(&self.log);
        if log.moments.len() < MAX_MOMENTS {
            let who = self.endpoint.to_string();
            log.moments.push(Moment { at, source: Source::Sentinel, who, what });
        } else {
            log.left_out += 1;
        }
    }

    fn tried(&mut self) {
        if let Some(first) = self.first.take() {
            // Nobody waits any more: fine as well.
            let _ = first.send(());
        }
    }
}

/// An event about `master`, or about all of them, in a few words.
fn readable(channel: &str, payload: &str, master: &str) -> Option<String> {
    let event = reply::event(channel, payload)?;
    if event.master.is_some_and(|name| name != master) {
        return None;
    }
    let words: Vec<&str> = payload.split(' ').collect();
    let about = match words.as_slice() {
        [_, old, old_port, new, new_port] if channel == "+switch-master" => {
            format!(" {} → {}", place(old, old_port), place(new, new_port))
        }
        ["master", _name, host, port, rest @ ..] => {
            // `+odown` has its votes there.
            let rest: String = rest.iter().flat_map(|word| [" ", *word]).collect();
            format!(" {}{rest}", place(host, port))
        }
        [kind, _name, host, port, "@", ..] => {
            let kind = if *kind == "sentinel" { " sentinel" } else { "" };
            format!("{kind} {}", place(host, port))
        }
        _ => String::new(),
    };
    let text = format!("{channel}{about}");
    Some(text.chars().filter(|it| !it.is_control()).take(LONGEST).collect())
}

fn place(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Returns when the Sentinel gives no sign of life.
async fn heartbeat(mut sink: PubSubSink) -> Error {
    loop {
        sleep(HEARTBEAT).await;
        if let Err(error) = within(sink.ping::<Value>()).await {
            return error;
        }
    }
}

async fn within<T>(request: impl Future<Output = redis::RedisResult<T>>) -> Result<T, Error> {
    let after = DEADLINES.answer;
    match timeout(after, request).await {
        Ok(result) => result.map_err(|error| Error::from_redis(&error, Phase::Answer, after)),
        Err(_) => Err(Error::Timeout { during: Phase::Answer, after }),
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_master_are_short() {
        for (channel, payload, expected) in [
            (
                "+switch-master",
                "m 198.18.0.101 8000 198.18.0.102 8000",
                Some("+switch-master 198.18.0.101:8000 → 198.18.0.102:8000"),
            ),
            (
                "+odown",
                "master m 198.18.0.101 8000 #quorum 2/2",
                Some("+odown 198.18.0.101:8000 #quorum 2/2"),
            ),
            (
                "+selected-slave",
                "slave fd98:18::102:8000 fd98:18::102 8000 @ m fd98:18::101 8000",
                Some("+selected-slave [fd98:18::102]:8000"),
            ),
            (
                "+sdown",
                "sentinel 0a1b 198.18.0.103 26379 @ m 198.18.0.101 8000",
                Some("+sdown sentinel 198.18.0.103:26379"),
            ),
            ("+tilt", "#tilt mode entered", Some("+tilt")),
            ("+switch-master", "other 198.18.0.101 8000 198.18.0.102 8000", None),
            ("+sdown", "master other 198.18.0.101 8000", None),
            ("+sdown", "nonsense", None),
        ] {
            assert_eq!(readable(channel, payload, "m").as_deref(), expected, "{channel} {payload}");
        }
    }
}
