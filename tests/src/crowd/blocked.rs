//! Clients that only wait, and so learn of nothing unless they are told.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vipd::clock::Monotonic;

use super::event_loop::EventLoop;
use super::{connect, read_until, request};
use crate::client::Dialer;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// What a client waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// A plain read with nothing asked, as a pool watches a connection that is idle.
    Read,
    /// BLPOP without a limit.
    Pop,
    /// SUBSCRIBE.
    Subscription,
}

/// How a client learned that its connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// ECONNRESET.
    Reset,
    /// The other end closed.
    Closed,
    /// TCP gave up.
    TimedOut,
    /// Redis said something, as it does to a BLPOP when it becomes a replica.
    Told,
    /// Another error of the socket.
    Other,
}

/// The end of a connection, as its client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// When.
    pub at: Monotonic,
    /// How.
    pub how: How,
}

/// One client.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// What it waits in.
    pub waiting: Waiting,
    /// `None` as long as it knows of nothing.
    pub ended: Option<Ended>,
}

const KINDS: [Waiting; 3] = [Waiting::Read, Waiting::Pop, Waiting::Subscription];

/// Clients that wait, of each kind in turn, on one thread. They don't come back.
#[derive(Debug)]
pub struct Blocked {
    shared: Arc<Shared>,
    _event_loop: EventLoop,
}

#[derive(Debug, Default)]
struct Shared {
    waiters: Mutex<Vec<Waiter>>,
    /// Why one could not even begin.
    problem: Mutex<Option<String>>,
}

impl Blocked {
    /// Connects `count` clients, and returns when each of them waits.
    pub fn start(dialer: &Dialer, count: usize) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let event_loop = {
            let (shared, dialer) = (Arc::clone(&shared), dialer.clone());
            let namespace = dialer.from.clone();
            EventLoop::start(&namespace, move || async move {
                for &waiting in KINDS.iter().cycle().take(count) {
                    tokio::spawn(begin_and_wait(waiting, dialer.clone(), Arc::clone(&shared)));
                }
            })?
        };
        wait_for(format_args!("{count} clients wait"), PATIENCE, || {
            if let Some(problem) = shared.problem().take() {
                return Ok(Some(Err(anyhow::anyhow!("a client cannot wait: {problem}"))));
            }
            Ok((shared.waiters().len() == count).then_some(Ok(())))
        })??;
        Ok(Self { shared, _event_loop: event_loop })
    }

    /// What each knows.
    pub fn waiters(&self) -> Vec<Waiter> {
        self.shared.waiters().clone()
    }

    /// Waits until each knows that its connection is gone.
    pub fn wait_all_know(&self, limit: Duration) -> Result<()> {
        wait_until("every waiting client knows that its connection is gone", limit, || {
            let waiters = self.shared.waiters();
            let unknowing: Vec<_> = waiters.iter().filter(|it| it.ended.is_none()).collect();
            match unknowing.first() {
                None => Ok(true),
                Some(one) => {
                    bail!("{} of {} don't, such as {one:?}", unknowing.len(), waiters.len())
                }
            }
        })
    }

    /// When the last of those that know learned it, and how many don't.
    pub fn last(&self) -> (Option<Monotonic>, usize) {
        let waiters = self.shared.waiters();
        let last = waiters.iter().filter_map(|it| it.ended).map(|it| it.at).max();
        (last, waiters.iter().filter(|it| it.ended.is_none()).count())
    }
}

impl Shared {
    fn waiters(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn begin_and_wait(waiting: Waiting, dialer: Dialer, shared: Arc<Shared>) {
    let begun = tokio::time::timeout(dialer.connect_timeout, begin(waiting, &dialer)).await;
    let mut stream = match begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => {
            *shared.problem() = Some(error.to_string());
            return;
        }
    };
    let number = {
        let mut waiters = shared.waiters();
        waiters.push(Waiter { waiting, ended: None });
        waiters.len() - 1
    };
    let how = match stream.read(&mut [0; 256]).await {
        Ok(0) => How::Closed,
        Ok(_) => How::Told,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionReset => How::Reset,
            io::ErrorKind::TimedOut => How::TimedOut,
            _ => How::Other,
        },
    };
    let ended = Ended { at: Monotonic::now(), how };
    shared.waiters()[number].ended = Some(ended);
}

/// Connects and goes as far as can be seen: Redis reads what is sent at once in one go, so that the
/// answer to PING says that it has the BLPOP as well.
async fn begin(waiting: Waiting, dialer: &Dialer) -> io::Result<TcpStream> {
    const PONG: &[u8] = b"+PONG\r\n";
    let mut stream = connect(dialer).await?;
    let mut sent = request(&["PING"]);
    match waiting {
        Waiting::Read => {}
        Waiting::Pop => sent.extend(request(&["BLPOP", "vipd-lab:nothing-is-ever-here", "0"])),
        Waiting::Subscription => sent.extend(request(&["SUBSCRIBE", "vipd-lab:silence"])),
    }
    stream.write_all(&sent).await?;
    read_until(&mut stream, |reply| match waiting {
        Waiting::Subscription => reply.starts_with(PONG) && reply.ends_with(b":1\r\n"),
        Waiting::Read | Waiting::Pop => reply == PONG,
    })
    .await?;
    Ok(stream)
}
