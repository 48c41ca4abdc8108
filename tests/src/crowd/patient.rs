//! Clients that have time: each connects once, and waits for that as long as it takes.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::TcpStream;
use tokio::time::Instant;
use vipd::clock::Monotonic;

use super::event_loop::EventLoop;
use crate::client::Dialer;
use crate::wait::wait_until;

/// One attempt to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// When it began.
    pub begun: Monotonic,
    /// What became of it; `None` as long as it is under way.
    pub fate: Option<(Monotonic, Fate)>,
}

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The connection stands.
    Established,
    /// ECONNREFUSED.
    Refused,
    /// Its patience was at an end.
    TimedOut,
    /// Another error of the socket.
    Other,
}

/// Clients that begin to connect at random moments, on one thread.
#[derive(Debug)]
pub struct Patient {
    count: usize,
    shared: Arc<Mutex<Vec<Attempt>>>,
    _event_loop: EventLoop,
}

impl Patient {
    /// From now on, for `time`, `count` clients begin to connect at random moments. Each gives up
    /// after the dialer's `connect_timeout`.
    pub fn start(dialer: &Dialer, count: usize, time: Duration) -> Result<Self> {
        let shared = Arc::new(Mutex::new(Vec::with_capacity(count)));
        let event_loop = {
            let (shared, to, patience) = (Arc::clone(&shared), dialer.to, dialer.connect_timeout);
            EventLoop::start(&dialer.from, move || async move {
                let start = Instant::now();
                for moment in random_moments(count, time) {
                    tokio::time::sleep_until(start + moment).await;
                    tokio::spawn(attempt(to, patience, Arc::clone(&shared)));
                }
            })?
        };
        Ok(Self { count, shared, _event_loop: event_loop })
    }

    /// What became of those that have begun.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.lock().clone()
    }

    /// Waits until all have begun and none is under way any more.
    pub fn wait_all_over(&self, limit: Duration) -> Result<()> {
        wait_until("every patient client is connected or has given up", limit, || {
            let attempts = self.lock();
            let over = attempts.iter().filter(|it| it.fate.is_some()).count();
            if over == self.count {
                return Ok(true);
            }
            bail!("{} have begun, {over} are over, of {}", attempts.len(), self.count)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Attempt>> {
        lock(&self.shared)
    }
}

impl Attempt {
    /// When its connection stood.
    pub fn established(&self) -> Option<Monotonic> {
        self.fate.filter(|(_, fate)| *fate == Fate::Established).map(|(at, _)| at)
    }
}

fn lock(shared: &Mutex<Vec<Attempt>>) -> MutexGuard<'_, Vec<Attempt>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn attempt(to: SocketAddr, patience: Duration, shared: Arc<Mutex<Vec<Attempt>>>) {
    let number = {
        let mut attempts = lock(&shared);
        attempts.push(Attempt { begun: Monotonic::now(), fate: None });
        attempts.len() - 1
    };
    let outcome = tokio::time::timeout(patience, TcpStream::connect(to)).await;
    let at = Monotonic::now();
    let fate = match outcome {
        Ok(Ok(_connection)) => Fate::Established,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Fate::Refused,
            io::ErrorKind::TimedOut => Fate::TimedOut,
            _ => Fate::Other,
        },
        Err(_elapsed) => Fate::TimedOut,
    };
    lock(&shared)[number].fate = Some((at, fate));
}

/// In order.
fn random_moments(count: usize, within: Duration) -> Vec<Duration> {
    // The standard library's only source of randomness; it need not be a good one.
    let random = RandomState::new();
    let share = |number| f64::from(random.hash_one(number) as u32) / f64::from(u32::MAX);
    let mut moments: Vec<_> = (0..count).map(|number| within.mul_f64(share(number))).collect();
    moments.sort();
    moments
}
