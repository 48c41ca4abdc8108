//! The layer `redis`: writes of increasing numbers, counted one by one.
//!
//! Each connection has a list, `vipd-probe:ID:CONNECTION`, and appends the numbers 0, 1, 2, … to it
//! (RPUSH), so that what is there twice can be told from what is there once. The connections that
//! each come for one write only share a list.
//!
//! A write is due at its time whatever became of those before. On a persistent connection it is sent
//! without waiting for earlier answers; while that connection is being opened again it fails at once,
//! with `no connection`, as it would with a pool that has none to give. What is under way on a
//! connection that ends, or that its client gives up, fails with it and by the same kind. Nothing is
//! ever sent twice: what is there twice was made so by somebody else.
//!
//! The lists expire an hour after the probe was killed; otherwise it removes them itself.

mod account;
mod fresh;
mod journal;
mod persistent;
mod read_back;
#[cfg(test)]
mod tests;
mod written;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::fresh::Fresh;
use self::journal::{Due, Journal};
use self::persistent::Persistent;
use super::connection::Commands;
use super::failure::Failure;
use super::pace::Pace;
use super::target::{Opened, Target};
use super::{ClientSettings, descriptors};
use crate::clock::Monotonic;
use crate::probe::live::Live;
use crate::probe::shots::Fate;

pub use self::written::Written;

/// Connections that are opened at once, before the run.
const OPENED_AT_ONCE: usize = 32;
/// Writes that may wait for a connection's task; as many as may be under way.
const QUEUE: usize = 1024;
/// Writes of each schedule; then it ends. Each takes some 80 bytes of memory.
const MAX_WRITES: u64 = 5_000_000;
/// How long lists stay if nobody removes them.
const EXPIRE_S: &str = "3600";

/// Clients that write, of one run. They end when this is dropped.
pub struct Writers {
    settings: ClientSettings,
    /// By connection; the last one is of the fresh ones.
    keys: Vec<String>,
    journal: Journal,
    opened: Vec<Opened>,
    stop: watch::Sender<bool>,
    schedules: JoinSet<()>,
    /// Each ends with the node that it is connected to.
    connections: JoinSet<(usize, Option<u16>)>,
}

impl Writers {
    /// Opens the persistent connections, and tries everything once that will be done.
    ///
    /// # Errors
    ///
    /// A client can't connect, log in or write; says why, and what to do about it.
    pub async fn open(settings: &ClientSettings, live: Arc<Live>) -> Result<Self> {
        settings.check()?;
        let mut settings = settings.clone();
        if settings.write_rate == 0 {
            settings.connections = 0;
        }
        if settings.connections == 0 && settings.fresh_rate == 0 {
            bail!(
                "the layer redis has nothing to write: --write-rate or --fresh-rate must not be 0"
            );
        }
        descriptors::allow_many();
        let id = RandomState::new().hash_one(Monotonic::now().0);
        let prefix = format!("vipd-probe:{id:016x}");
        let target = &settings.target;
        rehearse(target, &format!("{prefix}:rehearsal"))
            .await
            .map_err(|why| anyhow!("cannot write to {target}: {}", why.says))?;
        let opened = futures_util::stream::iter(0..settings.connections)
            .map(|_| target.open())
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await
            .map_err(|why| anyhow!("cannot open another connection to {target}: {}", why.says))?;
        let keys = (0..=settings.connections).map(|connection| {
            format!("{prefix}:{}", name_of(connection as usize, settings.connections))
        });
        Ok(Self {
            keys: keys.collect(),
            journal: Journal::new(live),
            opened,
            stop: watch::Sender::new(false),
            schedules: JoinSet::new(),
            connections: JoinSet::new(),
            settings,
        })
    }

    /// Writes from `begin` on. To be called once.
    ///
    /// # Errors
    ///
    /// The kernel has no timer left.
    pub fn start(&mut self, begin: Monotonic) -> Result<()> {
        let ClientSettings { target, timeout, connections, write_rate, fresh_rate, .. } =
            self.settings.clone();
        let pace = |rate| Pace::new(begin, rate).context("a timer");
        let mut queues = vec![];
        for (number, opened) in self.opened.drain(..).enumerate() {
            let (queue, due) = mpsc::channel(QUEUE);
            queues.push(queue);
            let persistent = Persistent {
                key: self.keys[number].clone(),
                target: target.clone(),
                timeout,
                journal: self.journal.clone(),
                due,
            };
            self.connections.spawn(async move { (number, persistent.run(opened).await) });
        }
        if !queues.is_empty() {
            let pace = pace(u64::from(connections) * u64::from(write_rate))?;
            self.schedules.spawn(hand_out(
                pace,
                queues,
                self.journal.clone(),
                self.stop.subscribe(),
            ));
        }
        if fresh_rate > 0 {
            let fresh = Fresh {
                connection: connections,
                key: self.keys[connections as usize].clone(),
                target,
                timeout,
                journal: self.journal.clone(),
            };
            self.schedules.spawn(fresh.run(pace(u64::from(fresh_rate))?, self.stop.subscribe()));
        }
        Ok(())
    }

    /// Begins no more writes, waits for the answers to those under way (at most the time-out), reads
    /// the numbers back (some seconds at most), and removes them.
    pub async fn stop(mut self) -> Written {
        self.stop.send_replace(true);
        // A task that panicked has said so; what it noted before counts.
        while self.schedules.join_next().await.is_some() {}
        let mut at_end = vec![None; self.settings.connections as usize];
        while let Some(ended) = self.connections.join_next().await {
            if let Ok((connection, node)) = ended {
                at_end[connection] = node;
            }
        }
        let back = read_back::read_back(&self.settings.target, &self.keys).await;
        Written::new(self.settings, self.journal.take(), at_end, back)
    }
}

/// Gives each persistent connection its writes, one after another: they don't all come at once.
async fn hand_out(
    mut pace: Pace,
    queues: Vec<mpsc::Sender<Due>>,
    journal: Journal,
    mut stop: watch::Receiver<bool>,
) {
    let connections = queues.len() as u64;
    for count in 0.. {
        let due = tokio::select! {
            due = next(count, &mut pace) => due,
            // The sender is only gone when nobody wants more either.
            _ = stop.changed() => break,
        };
        let due = match due {
            Ok(due) => due,
            Err(why) => {
                journal.ended_early(&why);
                break;
            }
        };
        let (connection, number) = (count % connections, count / connections);
        let write = Due { connection: connection as u32, number, due };
        if queues[connection as usize].try_send(write).is_err() {
            journal.not_sent(write, "backlog", Fate::Silent);
        }
    }
    journal.skipped(pace.skipped());
}

/// The next moment of a schedule that has had `count`, or why there is none.
async fn next(count: u64, pace: &mut Pace) -> Result<Monotonic, String> {
    if count >= MAX_WRITES {
        return Err(format!("no more than {MAX_WRITES} writes can be counted"));
    }
    pace.next().await.map_err(|error| error.to_string())
}

/// All that is done later, once: so that what is not allowed is found out now.
async fn rehearse(target: &Target, key: &str) -> Result<(), Failure> {
    let Opened { mut connection, .. } = target.open().await?;
    let commands = add_expire(add_write(Commands::default(), key, 0), key);
    let commands = commands.add(&["LRANGE", key, "0", "0"]).add(&["UNLINK", key]);
    target
        .in_time(async {
            connection.send(&commands).await?;
            for _ in 0..4 {
                connection.reply().await?;
            }
            Ok(())
        })
        .await
}

fn add_write(commands: Commands, key: &str, number: u64) -> Commands {
    commands.add(&["RPUSH", key, &number.to_string()])
}

fn add_expire(commands: Commands, key: &str) -> Commands {
    commands.add(&["EXPIRE", key, EXPIRE_S])
}

/// For people, and in the key.
fn name_of(connection: usize, connections: u32) -> String {
    if connection < connections as usize {
        format!("persistent-{}", connection + 1)
    } else {
        "fresh".to_owned()
    }
}
