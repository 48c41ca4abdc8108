//! Which numbers are there at the end.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::connect::Phase;
use crate::probe::clients::connection::{Commands, Connection};
use crate::probe::clients::failure::Failure;
use crate::probe::clients::resp::Reply;
use crate::probe::clients::target::{Opened, Target, identify};

/// Tried again for this long, until there is a master that says all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// For each step; nobody's time-out is measured any more.
const STEP: Duration = Duration::from_secs(3);
/// Numbers asked for at once: some 100 KiB.
const CHUNK: usize = 4000;
/// Keys removed at once.
const KEYS: usize = 100;
/// Numbers read of one key; beyond that somebody else writes there.
const MAX_NUMBERS: usize = 50_000_000;

/// What is there.
#[derive(Debug)]
pub(super) struct ReadBack {
    /// Who says so.
    pub(super) run_id: String,
    /// Of each key, in order.
    pub(super) numbers: Vec<Vec<u64>>,
    /// The keys could not be removed.
    pub(super) not_removed: Option<Failure>,
}

/// Reads all keys from the node that is master now, and removes them.
pub(super) async fn read_back(target: &Target, keys: &[String]) -> Result<ReadBack, Failure> {
    let target = target.with_timeout(STEP);
    let give_up = Instant::now() + PATIENCE;
    loop {
        match attempt(&target, keys).await {
            Err(_) if Instant::now() < give_up => sleep(PAUSE).await,
            result => return result,
        }
    }
}

async fn attempt(target: &Target, keys: &[String]) -> Result<ReadBack, Failure> {
    let Opened { mut connection, node } = target.open().await?;
    if !node.is_master {
        return Err(Failure::refused("no master", "is no master"));
    }
    let mut numbers = Vec::with_capacity(keys.len());
    for key in keys {
        numbers.push(all_of(&mut connection, key).await?);
    }
    // One that has been told to follow another node since then may have said that nothing is there.
    if !in_time(identify(&mut connection)).await?.is_master {
        return Err(Failure::refused("no master", "is no master any more"));
    }
    let not_removed = in_time(remove(&mut connection, keys)).await.err();
    Ok(ReadBack { run_id: node.run_id, numbers, not_removed })
}

async fn all_of(connection: &mut Connection, key: &str) -> Result<Vec<u64>, Failure> {
    let mut numbers = vec![];
    loop {
        let (first, last) = (numbers.len().to_string(), (numbers.len() + CHUNK - 1).to_string());
        let question = Commands::default().add(&["LRANGE", key, &first, &last]);
        let list = in_time(async {
            connection.send(&question).await?;
            match connection.reply().await? {
                Reply::List(list) => Ok(list),
                _ => Err(Failure::protocol("a list was expected as the answer to LRANGE")),
            }
        })
        .await?;
        let count = list.len();
        for reply in list {
            let Reply::Bulk(Some(text)) = reply else {
                return Err(Failure::protocol("a text was expected in the answer to LRANGE"));
            };
            let number = text.parse();
            numbers.push(number.map_err(|_| Failure::protocol("somebody else writes there"))?);
        }
        if count < CHUNK {
            return Ok(numbers);
        }
        if numbers.len() > MAX_NUMBERS {
            return Err(Failure::protocol("somebody else writes there"));
        }
    }
}

async fn remove(connection: &mut Connection, keys: &[String]) -> Result<(), Failure> {
    for keys in keys.chunks(KEYS) {
        let words: Vec<_> = ["UNLINK"].into_iter().chain(keys.iter().map(String::as_str)).collect();
        connection.send(&Commands::default().add(&words)).await?;
        connection.reply().await?;
    }
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Err(Failure::timeout(Phase::Answer, STEP));
    timeout(STEP, work).await.unwrap_or_else(late)
}
