//! Clients that come one after another whatever becomes of those before: each connects, writes once
//! and leaves. What they notice is what a service with many users notices; a single client that
//! tries again measures its own timeouts.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::time::MissedTickBehavior;
use vipd::clock::Monotonic;

use super::event_loop::EventLoop;
use super::{connect, read_until, request};
use crate::client::{Dialer, info_field};
use crate::ledger::{Failure, Ledger, Write};
use crate::redis_node::RedisNode;
use crate::wait::{PATIENCE, wait_until};

/// Clients that may be under way at once: while nobody answers, no more than those come.
const AT_ONCE: usize = 500;
/// After so many they stop to come: no test takes as long.
const LIMIT: u64 = 200_000;

/// Clients that come at fixed intervals, on one thread, and their common ledger.
#[derive(Debug)]
pub struct Arrivals {
    ledger: Arc<Mutex<Ledger>>,
    event_loop: EventLoop,
}

impl Arrivals {
    /// One comes each `every`, and gives up after the dialer's `connect_timeout` in all. `name` must
    /// be these clients' only.
    pub fn start(name: &str, dialer: &Dialer, every: Duration) -> Result<Self> {
        let ledger = Ledger { client: name.to_owned(), to: Some(dialer.to), ..Ledger::default() };
        let ledger = Arc::new(Mutex::new(ledger));
        let event_loop = {
            let (ledger, dialer, name) = (Arc::clone(&ledger), dialer.clone(), name.to_owned());
            let namespace = dialer.from.clone();
            EventLoop::start(&namespace, move || async move {
                let mut clock = tokio::time::interval(every);
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
                for number in 0..LIMIT {
                    clock.tick().await;
                    let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                    let visit = visit(Ledger::key(&name, number), number, dialer.clone());
                    let ledger = Arc::clone(&ledger);
                    tokio::spawn(async move {
                        let outcome = visit.await;
                        let mut ledger = lock(&ledger);
                        match outcome {
                            Ok(write) => ledger.writes.push(write),
                            Err(error) => ledger
                                .failures
                                .push(Failure { at: Monotonic::now(), what: error.to_string() }),
                        }
                        drop(place);
                    });
                }
            })?
        };
        Ok(Self { ledger, event_loop })
    }

    /// What they have written so far.
    pub fn ledger(&self) -> Ledger {
        self.lock().clone()
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.lock().writes.len()
    }

    /// The node that acknowledged the last write.
    pub fn last_acknowledged_by(&self) -> Option<Arc<str>> {
        self.lock().writes.last().map(|write| Arc::clone(&write.by))
    }

    /// Waits until `node` has acknowledged a write that was sent after this call.
    pub fn wait_served_by(&self, node: &RedisNode) -> Result<()> {
        let now = Monotonic::now();
        wait_until(format_args!("{} acknowledges writes", node.name()), PATIENCE, || {
            let ledger = self.lock();
            match ledger.writes.last() {
                Some(last) if last.sent >= now && &*last.by == node.run_id() => Ok(true),
                last => bail!("the last is {last:?}, after {:?}", ledger.failures.last()),
            }
        })
    }

    /// Ends them.
    pub fn stop(mut self) -> Ledger {
        self.event_loop.stop();
        self.ledger()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn visit(key: String, number: u64, dialer: Dialer) -> io::Result<Write> {
    let sent = Monotonic::now();
    let visit = async {
        let mut stream = connect(&dialer).await?;
        let mut both = request(&["SET", &key, &number.to_string()]);
        both.extend(request(&["INFO", "server"]));
        stream.write_all(&both).await?;
        // Both answers come at once; the first tells of the write, the second who made it.
        let reply = read_until(&mut stream, is_answered).await?;
        let acknowledged = Monotonic::now();
        let info = String::from_utf8_lossy(&reply);
        let by = info_field(&info, "run_id").unwrap_or_default().into();
        Ok(Write { number, sent, acknowledged, by })
    };
    let timeout = tokio::time::timeout(dialer.connect_timeout, visit);
    timeout.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

/// `+OK`, and a bulk string that is all there; or an error.
fn is_answered(reply: &[u8]) -> bool {
    const OK: &[u8] = b"+OK\r\n$";
    let Some(bulk) = reply.strip_prefix(OK) else {
        return reply.ends_with(b"\r\n") && reply[0] == b'-';
    };
    let Some(end) = bulk.windows(2).position(|pair| pair == b"\r\n") else { return false };
    let length = std::str::from_utf8(&bulk[..end]).ok().and_then(|it| it.parse::<usize>().ok());
    length.is_some_and(|length| bulk.len() >= end + 2 + length + 2)
}
