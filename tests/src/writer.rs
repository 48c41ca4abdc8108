//! A client that writes increasing numbers through the VIP, and keeps a [`Ledger`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::Connection;
use vipd::clock::Monotonic;

use crate::client::{self, Dialer};
use crate::ledger::{Failure, Ledger, Write};
use crate::wait::{PATIENCE, wait_until};

/// How a client uses connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// One connection for as long as it works, as a pool does.
    Persistent,
    /// A new one for each write.
    Fresh,
}

/// Patience of the clients: that of an ordinary client that was configured with care.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// Pauses after a success and after a failure.
const PACE: Duration = Duration::from_millis(2);
const RETRY: Duration = Duration::from_millis(5);
/// After so many writes or failures a client gives up: no test takes as long.
const LIMIT: u64 = 500_000;

/// A running client.
#[derive(Debug)]
pub struct Writer {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl Writer {
    /// Starts to write as `name`, which must be a client's only.
    pub fn start(name: &str, habit: Habit, dialer: &Dialer) -> Self {
        let ledger = Ledger { client: name.to_owned(), to: Some(dialer.to), ..Ledger::default() };
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), ledger: Mutex::new(ledger) });
        let dialer = Dialer {
            connect_timeout: CONNECT_TIMEOUT,
            reply_timeout: REPLY_TIMEOUT,
            ..dialer.clone()
        };
        let thread = {
            let (shared, name) = (Arc::clone(&shared), name.to_owned());
            thread::spawn(move || {
                let entered = dialer.from.enter();
                match entered {
                    Ok(()) => write_until_stopped(&name, habit, &dialer, &shared),
                    Err(error) => shared.failed(format!("{error:#}")),
                }
            })
        };
        Self { name: name.to_owned(), shared, thread: Some(thread) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ledger so far.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger().clone()
    }

    /// The node that acknowledged its last write.
    pub fn last_acknowledged_by(&self) -> Option<Arc<str>> {
        self.shared.ledger().writes.last().map(|write| Arc::clone(&write.by))
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.ledger().writes.len()
    }

    /// Waits until the node `run_id` has acknowledged a write that was sent after this call.
    pub fn wait_acknowledged_by(&self, run_id: &str) -> Result<()> {
        let now = Monotonic::now();
        wait_until(format_args!("{} writes to {run_id}", self.name), PATIENCE, || {
            let ledger = self.shared.ledger();
            match ledger.writes.last() {
                Some(last) if last.sent >= now && &*last.by == run_id => Ok(true),
                last => Err(anyhow!(
                    "its last write is {last:?}, its last failure {:?}",
                    ledger.failures.last()
                )),
            }
        })
    }

    /// Ends it after the write that it is at.
    pub fn stop(mut self) -> Ledger {
        self.end();
        self.ledger()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        if panicked {
            self.shared.failed("its thread panicked".to_owned());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, what: String) {
        self.ledger().failures.push(Failure { at: Monotonic::now(), what });
    }
}

/// A connection, and who is at its other end.
struct Session {
    connection: Connection,
    run_id: Arc<str>,
}

fn write_until_stopped(name: &str, habit: Habit, dialer: &Dialer, shared: &Shared) {
    let mut session = None;
    for number in 0..LIMIT {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        match write(name, number, &mut session, dialer, shared) {
            Ok(()) => thread::sleep(PACE),
            Err(error) => {
                // Whatever it was, READONLY included: the connection is no good any more.
                session = None;
                shared.failed(format!("{error:#}"));
                thread::sleep(RETRY);
            }
        }
        if habit == Habit::Fresh {
            session = None;
        }
    }
}

fn write(
    name: &str,
    number: u64,
    session: &mut Option<Session>,
    dialer: &Dialer,
    shared: &Shared,
) -> Result<()> {
    let sent = Monotonic::now();
    let session = match session {
        Some(open) => open,
        none => none.insert(open(dialer, shared)?),
    };
    let () = redis::cmd("SET")
        .arg(Ledger::key(name, number))
        .arg(number)
        .query(&mut session.connection)?;
    let acknowledged = Monotonic::now();
    let by = Arc::clone(&session.run_id);
    shared.ledger().writes.push(Write { number, sent, acknowledged, by });
    Ok(())
}

fn open(dialer: &Dialer, shared: &Shared) -> Result<Session> {
    let mut connection = dialer.connect_here()?;
    let run_id = client::run_id(&mut connection)?.into();
    shared.ledger().connections += 1;
    Ok(Session { connection, run_id })
}
