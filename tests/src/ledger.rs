//! What a client was promised: every acknowledged write, when, and by whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use vipd::clock::Monotonic;

use crate::redis_node::RedisNode;

/// One acknowledged write.
#[derive(Clone, Debug)]
pub struct Write {
    /// What was written, and under which key (see [`Ledger::key`]).
    pub number: u64,
    /// Before it was sent.
    pub sent: Monotonic,
    /// After the reply was read.
    pub acknowledged: Monotonic,
    /// The `run_id` of the node that replied.
    pub by: Arc<str>,
}

/// Something that a client noticed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: Monotonic,
    /// The error that the client's library reported.
    pub what: String,
}

/// Everything that one client wrote. Numbers increase by one, also over failures.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The client's name.
    pub client: String,
    /// What it connected to.
    pub to: Option<SocketAddr>,
    /// In the order of their acknowledgements.
    pub writes: Vec<Write>,
    /// In order.
    pub failures: Vec<Failure>,
    /// Connections that were opened with success.
    pub connections: u64,
}

/// Keys that are asked for in one command.
const BATCH: usize = 500;

impl Ledger {
    /// The key that holds write number `number` of `client`.
    pub fn key(client: &str, number: u64) -> String {
        format!("{client}:{number}")
    }

    /// Writes that this start of this node acknowledged.
    pub fn acknowledged_by<'a>(&'a self, run_id: &'a str) -> impl Iterator<Item = &'a Write> {
        self.writes.iter().filter(move |write| &*write.by == run_id)
    }

    /// Fails unless every write that `node` acknowledged is on it now. Returns how many those are.
    pub fn verify_on(&self, node: &RedisNode) -> Result<usize> {
        let promised: Vec<_> = self.acknowledged_by(node.run_id()).collect();
        if let Some(write) = self.missing(&promised, node)?.first() {
            bail!(
                "{} acknowledged write {} of {} and does not hold it now",
                node.name(),
                write.number,
                self.client
            );
        }
        Ok(promised.len())
    }

    /// The writes that anybody acknowledged and that are not on `node` now: they are lost, if that
    /// is the master.
    pub fn lost<'a>(&'a self, node: &RedisNode) -> Result<Vec<&'a Write>> {
        self.missing(&self.writes.iter().collect::<Vec<_>>(), node)
    }

    fn missing<'a>(&self, writes: &[&'a Write], node: &RedisNode) -> Result<Vec<&'a Write>> {
        let mut connection = node.connect()?;
        let mut missing = Vec::new();
        for batch in writes.chunks(BATCH) {
            let keys: Vec<_> =
                batch.iter().map(|write| Self::key(&self.client, write.number)).collect();
            let found: Vec<Option<u64>> = redis::cmd("MGET").arg(&keys).query(&mut connection)?;
            ensure!(found.len() == keys.len(), "{} answers MGET with {found:?}", node.name());
            let pairs = batch.iter().zip(found);
            missing.extend(
                pairs.filter(|(write, found)| *found != Some(write.number)).map(|(&it, _)| it),
            );
        }
        Ok(missing)
    }
}

/// How long nobody could write: from the last acknowledgement by another node to the first by
/// `run_id`, over all clients. `None` if either is missing.
pub fn blackout(ledgers: &[Ledger], run_id: &str) -> Option<Duration> {
    let first_new = first_by(ledgers, run_id)?;
    let last_old = ledgers
        .iter()
        .flat_map(|ledger| &ledger.writes)
        .filter(|write| &*write.by != run_id && write.acknowledged <= first_new)
        .map(|write| write.acknowledged)
        .max()?;
    Some(first_new.since(last_old))
}

/// When the first write was acknowledged by `run_id`.
pub fn first_by(ledgers: &[Ledger], run_id: &str) -> Option<Monotonic> {
    let writes = ledgers.iter().flat_map(|ledger| ledger.acknowledged_by(run_id));
    writes.map(|write| write.acknowledged).min()
}

/// Fails if any client, after somebody had the first acknowledgement by `run_id`, sent a write that
/// another node acknowledged: the VIP was in two places.
pub fn verify_one_master_after(ledgers: &[Ledger], run_id: &str) -> Result<()> {
    let Some(first_new) = first_by(ledgers, run_id) else {
        bail!("no write was acknowledged by the new master ({run_id})");
    };
    for ledger in ledgers {
        let late = |write: &&Write| &*write.by != run_id && write.sent > first_new;
        if let Some(write) = ledger.writes.iter().find(late) {
            bail!(
                "{} sent write {} {:?} after the new master's first acknowledgement, and {} \
                 acknowledged it",
                ledger.client,
                write.number,
                write.sent.since(first_new),
                write.by
            );
        }
    }
    Ok(())
}

/// How many writes each node acknowledged, by `run_id`.
pub fn acknowledgements(ledgers: &[Ledger]) -> BTreeMap<Arc<str>, usize> {
    let mut counts = BTreeMap::new();
    for write in ledgers.iter().flat_map(|ledger| &ledger.writes) {
        *counts.entry(Arc::clone(&write.by)).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(writes: &[(u64, u64, &str)]) -> Ledger {
        let writes = writes.iter().zip(0..).map(|(&(sent, acknowledged, by), number)| Write {
            number,
            sent: Monotonic(sent),
            acknowledged: Monotonic(acknowledged),
            by: by.into(),
        });
        Ledger { client: "c".into(), writes: writes.collect(), ..Ledger::default() }
    }

    #[test]
    fn the_blackout_is_between_the_last_old_and_the_first_new_acknowledgement() {
        let persistent = ledger(&[(0, 1, "old"), (2, 3, "old"), (70, 90, "new")]);
        let fresh = ledger(&[(0, 2, "old"), (4, 6, "old"), (50, 56, "new"), (60, 61, "new")]);
        let ledgers = [persistent, fresh];
        assert_eq!(blackout(&ledgers, "new"), Some(Duration::from_nanos(50)));
        assert_eq!(blackout(&ledgers, "nobody"), None);
    }

    #[test]
    fn a_write_sent_to_the_old_master_after_the_flip_is_found() {
        let before = ledger(&[(0, 1, "old"), (2, 9, "old"), (8, 10, "new")]);
        assert!(verify_one_master_after(std::slice::from_ref(&before), "new").is_ok());
        let after = ledger(&[(11, 12, "old")]);
        assert!(verify_one_master_after(&[before, after], "new").is_err());
    }
}
