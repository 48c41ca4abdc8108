//! What is done for the clients of services that point elsewhere now, or are no longer parked: asked
//! of the datapath, which does it on a thread of its own, and put on record when it is done.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::Driver;
use crate::clock::Monotonic;
use crate::config::Acceleration;
use crate::datapath::{Release, Released, Releaser};
use crate::failover::Event;
use crate::model::MasterId;
use crate::timeline::Clients;

/// Requests that are remembered: as many as can be on the way.
const MAX_JOBS: usize = 1024;
const TOO_MUCH: &str = "clients of an old master are left to themselves: too much is to be done";

/// Lines of ACTIVE whose clients something is to be done for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Turned {
    /// The master that they belong to; none for members of groups.
    pub(super) master: Option<MasterId>,
    /// When they were turned to another node; none if they only were unparked.
    pub(super) flip: Option<Monotonic>,
    /// Which lines.
    pub(super) lines: BTreeSet<u32>,
}

/// What was asked for, until it is done.
#[derive(Default)]
pub(super) struct Requests {
    /// None before the program is on its interfaces.
    releaser: Option<Releaser>,
    waiting: Vec<Release>,
    jobs: BTreeMap<u64, Turned>,
    next: u64,
    /// Why nothing can be done.
    problem: Option<String>,
}

impl Requests {
    /// Whoever does it is there from now on; or can't do anything, if there is a `problem`.
    pub(super) fn open(&mut self, releaser: Releaser, problem: Option<String>) {
        self.problem = problem.map(|why| {
            format!(
                "connects that wait can't be handed to a new master, nor clients of an old one \
                 freed: {why}; they wait for timers of their own"
            )
        });
        if let Some(problem) = &self.problem {
            warn!("{problem}");
        }
        for release in std::mem::take(&mut self.waiting) {
            if !releaser.release(release) {
                warn!("{TOO_MUCH}");
            }
        }
        self.releaser = Some(releaser);
    }

    /// For status.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Asks the datapath to do it.
    pub(super) fn ask(&mut self, settings: &Acceleration, turned: Turned) {
        let patience = settings.patience();
        let (replay, free) = (!patience.is_zero(), settings.free_clients);
        if turned.lines.is_empty() || !(replay || free) {
            return;
        }
        let id = self.next;
        self.next += 1;
        let lines = turned.lines.iter().copied().collect();
        let release = Release { id, lines, replay, free, patience };
        let taken = match &self.releaser {
            Some(releaser) => releaser.release(release),
            None => {
                self.waiting.push(release);
                true
            }
        };
        if !taken {
            warn!("{TOO_MUCH}");
            return;
        }
        if self.jobs.len() >= MAX_JOBS {
            self.jobs.pop_first();
        }
        self.jobs.insert(id, turned);
    }

    /// Masters have other numbers from now on.
    pub(super) fn renumber(&mut self, of: impl Fn(MasterId) -> Option<MasterId>) {
        for turned in self.jobs.values_mut() {
            turned.master = turned.master.and_then(&of);
        }
    }
}

impl Driver {
    /// The datapath has done it.
    pub(super) fn released(&mut self, released: &Released) {
        let Some(turned) = self.requests.jobs.remove(&released.id) else { return };
        if let Some(error) = &released.error {
            warn!("not every client of the old master was helped: {error}");
        }
        let Some(master) = turned.master else { return };
        info!(
            master = self.knowledge.name(master),
            syns_replayed = released.syns,
            clients_reset = released.freed,
            took = ?released.done.since(released.begun),
            "clients"
        );
        let clients = Clients {
            syns_replayed: released.syns,
            replayed: (released.syns > 0).then_some(released.replayed),
            freed: released.freed,
            freed_at: (released.freed > 0).then_some(released.done),
        };
        let flip = turned.flip;
        self.tell(Monotonic::now(), Event::Released { master, flip, clients });
    }
}
