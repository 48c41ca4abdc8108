//! What became of each write, as the clients note it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Monotonic;
use crate::probe::clients::failure::Failure;
use crate::probe::live::Live;
use crate::probe::shots::Fate;

/// Kinds of errors that are counted one by one; the kinds are bounded by Redis's vocabulary, which a
/// stranger at the other end may not keep to.
const MAX_KINDS: usize = 64;
/// Under this name the others are.
const OTHER: &str = "other";
/// Nodes that are told apart.
const MAX_NODES: usize = 4096;
/// Ends of connections that are kept: more than anybody looks at.
const MAX_ENDED: usize = 10_000;

/// A write that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    /// Which connection's; the last one stands for all that are fresh.
    pub(super) connection: u32,
    /// Its number there; they increase by one.
    pub(super) number: u64,
    /// When.
    pub(super) due: Monotonic,
}

/// A write that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) write: Due,
    /// Before it was handed to the kernel, or when that turned out to be impossible.
    pub(super) sent: Monotonic,
    /// When its answer was read, good or not.
    pub(super) answered: Option<Monotonic>,
    pub(super) fate: Fate,
    /// Who acknowledged it: a number in [`Entries::nodes`].
    pub(super) node: Option<u16>,
}

/// The end of a persistent connection that was open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lost {
    pub(super) at: Monotonic,
    pub(super) kind: Cow<'static, str>,
}

/// Everything that was noted.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// In the order in which the writes were over.
    pub(super) records: Vec<Record>,
    /// By `run_id`.
    pub(super) nodes: Vec<String>,
    /// Writes that failed, by kind.
    pub(super) errors: BTreeMap<String, u64>,
    /// What the first error of each kind said.
    pub(super) says: BTreeMap<String, String>,
    /// In order.
    pub(super) ended: Vec<Lost>,
    /// Attempts to open a persistent connection again that failed, by kind.
    pub(super) attempts: BTreeMap<String, u64>,
    /// Writes that were left out by the schedule.
    pub(super) skipped: u64,
    /// What else one must know.
    pub(super) notes: Vec<String>,
}

/// The clients' common notebook. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    live: Arc<Live>,
    entries: Arc<Mutex<Entries>>,
}

impl Journal {
    /// An empty one.
    pub(super) fn new(live: Arc<Live>) -> Self {
        Self { live, entries: Arc::default() }
    }

    /// A write is on its way.
    pub(super) fn sent(&self) {
        self.live.sent();
    }

    /// A write was acknowledged.
    pub(super) fn acknowledged(
        &self,
        write: Due,
        sent: Monotonic,
        at: Monotonic,
        node: Option<u16>,
    ) {
        self.live.good(at);
        let record = Record { write, sent, answered: Some(at), fate: Fate::Good, node };
        self.lock().records.push(record);
    }

    /// A write that was sent came to nothing.
    pub(super) fn failed(&self, write: Due, sent: Monotonic, at: Monotonic, why: &Failure) {
        self.live.bad();
        let answered = (why.fate == Fate::Refused).then_some(at);
        let mut entries = self.lock();
        count(&mut entries.errors, &why.kind);
        if entries.says.len() < MAX_KINDS && !entries.says.contains_key(&*why.kind) {
            entries.says.insert(why.kind.to_string(), why.says.clone());
        }
        entries.records.push(Record { write, sent, answered, fate: why.fate, node: None });
    }

    /// A write could not even be sent.
    pub(super) fn not_sent(&self, write: Due, kind: &'static str, fate: Fate) {
        self.live.sent();
        self.live.bad();
        let now = Monotonic::now();
        let mut entries = self.lock();
        count(&mut entries.errors, kind);
        entries.records.push(Record { write, sent: now, answered: None, fate, node: None });
    }

    /// A persistent connection ended.
    pub(super) fn ended(&self, at: Monotonic, why: &Failure) {
        let mut entries = self.lock();
        if entries.ended.len() < MAX_ENDED {
            entries.ended.push(Lost { at, kind: why.kind.clone() });
        }
    }

    /// It could not be opened again.
    pub(super) fn not_opened(&self, why: &Failure) {
        count(&mut self.lock().attempts, &why.kind);
    }

    /// Writes were left out.
    pub(super) fn skipped(&self, writes: u64) {
        self.lock().skipped += writes;
    }

    /// A schedule ended before it was told to.
    pub(super) fn ended_early(&self, why: &str) {
        self.lock().notes.push(format!("redis: the schedule ended early: {why}"));
    }

    /// The number of a node; none if there were too many.
    pub(super) fn node(&self, run_id: &str) -> Option<u16> {
        let nodes = &mut self.lock().nodes;
        let known = nodes.iter().position(|it| it == run_id).or_else(|| {
            (nodes.len() < MAX_NODES).then(|| {
                nodes.push(run_id.to_owned());
                nodes.len() - 1
            })
        });
        known.and_then(|number| u16::try_from(number).ok())
    }

    /// Takes everything out.
    pub(super) fn take(&self) -> Entries {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counts: &mut BTreeMap<String, u64>, kind: &str) {
    let kind = if counts.len() < MAX_KINDS || counts.contains_key(kind) { kind } else { OTHER };
    match counts.get_mut(kind) {
        Some(count) => *count += 1,
        None => {
            counts.insert(kind.to_owned(), 1);
        }
    }
}
