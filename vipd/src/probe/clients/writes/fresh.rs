//! Writes that each come on a connection of their own: what a client finds that comes just then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::journal::{Due, Journal};
use super::{add_expire, add_write, next};
use crate::clock::Monotonic;
use crate::connect::Phase;
use crate::probe::clients::connection::{Commands, Connection};
use crate::probe::clients::failure::Failure;
use crate::probe::clients::pace::Pace;
use crate::probe::clients::resp::Reply;
use crate::probe::clients::target::{Target, run_id, who_are_you};
use crate::probe::shots::Fate;

/// Writes under way at once; what comes on top fails with `backlog`.
const MAX_IN_FLIGHT: usize = 2048;

/// All of them.
pub(super) struct Fresh {
    /// As which connection they are counted.
    pub(super) connection: u32,
    pub(super) key: String,
    pub(super) target: Target,
    pub(super) timeout: Duration,
    pub(super) journal: Journal,
}

impl Fresh {
    /// Writes at that pace until told to stop; returns when all is answered or given up.
    pub(super) async fn run(self, mut pace: Pace, mut stop: watch::Receiver<bool>) {
        let fresh = Arc::new(self);
        let mut under_way = JoinSet::new();
        for number in 0.. {
            while under_way.try_join_next().is_some() {}
            let due = tokio::select! {
                due = next(number, &mut pace) => due,
                // The sender is only gone when nobody wants more either.
                _ = stop.changed() => break,
            };
            let due = match due {
                Ok(due) => due,
                Err(why) => {
                    fresh.journal.ended_early(&why);
                    break;
                }
            };
            let write = Due { connection: fresh.connection, number, due };
            if under_way.len() < MAX_IN_FLIGHT {
                under_way.spawn(Arc::clone(&fresh).visit(write));
            } else {
                fresh.journal.not_sent(write, "backlog", Fate::Silent);
            }
        }
        fresh.journal.skipped(pace.skipped());
        while under_way.join_next().await.is_some() {}
    }

    /// One client comes, writes, and leaves.
    async fn visit(self: Arc<Self>, write: Due) {
        let sent = Monotonic::now();
        self.journal.sent();
        let written = timeout(self.timeout, self.write(write.number));
        let late = |_| Err(Failure::timeout(Phase::Answer, self.timeout));
        match written.await.unwrap_or_else(late) {
            Ok((mut connection, node)) => {
                self.journal.acknowledged(write, sent, Monotonic::now(), self.journal.node(&node));
                // Who leaves before the answer to EXPIRE is there sends a RST.
                let _ = timeout(self.timeout, connection.reply()).await;
            }
            Err(why) => self.journal.failed(write, sent, Monotonic::now(), &why),
        }
    }

    async fn write(&self, number: u64) -> Result<(Connection, String), Failure> {
        let mut connection = self.target.connect().await?;
        let commands = add_write(who_are_you(Commands::default()), &self.key, number);
        // Each of these connections may be the one that makes the key.
        connection.send(&add_expire(commands, &self.key)).await?;
        let node = run_id(&connection.text().await?)?;
        match connection.reply().await? {
            Reply::Integer(_) => Ok((connection, node)),
            _ => Err(Failure::protocol("a number was expected as the answer to RPUSH")),
        }
    }
}
