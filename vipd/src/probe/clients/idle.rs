//! The layer `idle`: clients that have nothing to say, and learn that their node is gone only if
//! somebody tells them.
//!
//! A third each waits in a plain read (as a pool watches what it doesn't use), in BLPOP and in
//! SUBSCRIBE. They don't come back.

#[cfg(test)]
mod tests;
mod waited;

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::connection::{Commands, Connection};
use super::failure::Failure;
use super::resp::Reply;
use super::target::{Identity, Opened, Target};
use super::{ClientSettings, descriptors};
use crate::clock::Monotonic;
use crate::probe::live::Live;

pub use self::waited::Waited;

/// Connections that are opened at once.
const OPENED_AT_ONCE: usize = 32;
/// Nothing is ever here, and nobody ever publishes there.
const NEVER: &str = "vipd-probe:never";
const SILENCE: &str = "vipd-probe:silence";
/// At the end, the node is asked for for this long …
const PATIENCE: Duration = Duration::from_secs(5);
/// … and each attempt takes at most this long …
const STEP: Duration = Duration::from_secs(2);
/// … with a pause in between.
const PAUSE: Duration = Duration::from_millis(100);

/// Clients that wait. They end when this is dropped.
#[derive(Debug)]
pub struct Idle {
    target: Target,
    waiters: Arc<Mutex<Vec<Waiter>>>,
    tasks: JoinSet<()>,
}

/// What a client waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Read,
    Pop,
    Subscription,
}

const PLACES: [Place; 3] = [Place::Read, Place::Pop, Place::Subscription];

/// One client.
#[derive(Clone, Debug)]
struct Waiter {
    place: Place,
    /// Its node.
    run_id: String,
    /// None as long as it knows of nothing.
    end: Option<End>,
}

/// When and how a client learned.
#[derive(Clone, PartialEq, Eq, Debug)]
struct End {
    at: Monotonic,
    how: Cow<'static, str>,
}

impl Idle {
    /// Returns when each of them waits.
    ///
    /// # Errors
    ///
    /// One of them can't; says why, and what to do about it.
    pub async fn start(settings: &ClientSettings, live: Arc<Live>) -> Result<Self> {
        settings.check()?;
        descriptors::allow_many();
        let target = &settings.target;
        let places = PLACES.iter().cycle().take(settings.idle as usize);
        let begun: Vec<_> = futures_util::stream::iter(places)
            .map(|&place| async move {
                let (connection, run_id) = begin(target, place).await?;
                Ok((connection, Waiter { place, run_id, end: None }))
            })
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await
            .map_err(|why: Failure| anyhow!("cannot wait at {target}: {}", why.says))?;
        let (connections, waiters): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
        let waiters = Arc::new(Mutex::new(waiters));
        let mut tasks = JoinSet::new();
        for (number, connection) in connections.into_iter().enumerate() {
            live.sent();
            live.good(Monotonic::now());
            let (waiters, live) = (Arc::clone(&waiters), Arc::clone(&live));
            tasks.spawn(async move {
                let end = wait(connection).await;
                live.bad();
                waiters.lock().unwrap_or_else(PoisonError::into_inner)[number].end = Some(end);
            });
        }
        Ok(Self { target: target.clone(), waiters, tasks })
    }

    /// Ends them, and finds out where the target leads now (some seconds at most).
    pub async fn stop(mut self) -> Waited {
        // As they are now: who learns later has not learned in the run.
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.tasks.shutdown().await;
        let current = current(&self.target).await;
        Waited { waiters, current }
    }
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Pop => "blpop",
            Self::Subscription => "subscribe",
        }
    }
}

/// Connects, and goes as far as can be seen: Redis reads what is sent at once in one go, so that the
/// answer to PING says that it has the BLPOP too.
async fn begin(target: &Target, place: Place) -> Result<(Connection, String), Failure> {
    let Opened { mut connection, node } = target.open().await?;
    let commands = match place {
        Place::Read => return Ok((connection, node.run_id)),
        Place::Pop => Commands::default().add(&["PING"]).add(&["BLPOP", NEVER, "0"]),
        Place::Subscription => Commands::default().add(&["SUBSCRIBE", SILENCE]),
    };
    target
        .in_time(async {
            connection.send(&commands).await?;
            connection.reply().await?;
            Ok(())
        })
        .await?;
    // Who must not BLPOP is told so in the same breath.
    match connection.inbox.next()? {
        None => Ok((connection, node.run_id)),
        Some(Reply::Error(line)) => Err(Failure::from_server(&line)),
        Some(_) => Err(Failure::protocol("nothing was expected as the answer to BLPOP")),
    }
}

/// Returns when the connection ends, or when anything at all is said on it.
async fn wait(mut connection: Connection) -> End {
    let result = connection.stream.read(&mut [0; 512]).await;
    let at = Monotonic::now();
    let how = match result {
        Ok(0) => "closed".into(),
        Ok(_) => "told".into(),
        // By the kernel, which had something to say that nobody acknowledged.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => "timeout".into(),
        Err(error) => Failure::from_io(&error).kind,
    };
    End { at, how }
}

/// The node that the target leads to.
async fn current(target: &Target) -> Result<Identity, Failure> {
    let target = target.with_timeout(STEP);
    let give_up = Instant::now() + PATIENCE;
    loop {
        match target.open().await {
            Ok(Opened { node, .. }) => return Ok(node),
            Err(_) if Instant::now() < give_up => sleep(PAUSE).await,
            Err(why) => return Err(why),
        }
    }
}
