//! What every node said last, whether or not it matters yet: a master may die right after it has
//! become one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Answer, SEEN};
use crate::clock::Monotonic;

/// More nodes than are ever watched: beyond, those that said nothing for long are forgotten.
const MAX_NODES: usize = 2048;

/// The last words of every node.
#[derive(Clone, Default, Debug)]
pub(super) struct Heard(BTreeMap<SocketAddr, Words>);

#[derive(Clone, Copy, Debug)]
struct Words {
    last: (Monotonic, Answer),
    /// When it was a master last.
    master: Option<Monotonic>,
    linked: Option<Linked>,
}

/// A replica's last connection to a master.
#[derive(Clone, Copy, Debug)]
struct Linked {
    to: SocketAddr,
    /// When it had it last …
    last: Monotonic,
    /// … and when it said for the first time that it no longer has.
    lost: Option<Monotonic>,
}

/// What a replica says of a node that refuses connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Testimony {
    /// It is connected to it.
    Alive,
    /// It was until just before, and no longer is.
    Dead,
    /// Nothing.
    None,
}

impl Heard {
    pub(super) fn note(&mut self, now: Monotonic, node: SocketAddr, answer: Answer) {
        if self.0.len() >= MAX_NODES && !self.0.contains_key(&node) {
            self.0.retain(|_, words| now.since(words.last.0) <= SEEN);
        }
        let last = (now, answer);
        let words = self.0.entry(node).or_insert(Words { last, master: None, linked: None });
        words.last = last;
        match answer {
            Answer::Master => words.master = Some(now),
            Answer::Replica(Some(to)) => words.linked = Some(Linked { to, last: now, lost: None }),
            Answer::Replica(None) => {
                if let Some(linked) = &mut words.linked {
                    linked.lost.get_or_insert(now);
                }
            }
            Answer::Present | Answer::Refused | Answer::Silent => {}
        }
    }

    /// Whether this node was a master just before `since`.
    pub(super) fn was_master(&self, node: SocketAddr, since: Monotonic) -> bool {
        let master = self.0.get(&node).and_then(|words| words.master);
        master.is_some_and(|at| since.since(at) <= SEEN)
    }

    /// Whether `replica` was connected to `node` until just before that began to refuse connections:
    /// it never said that it isn't while `node` still answered.
    pub(super) fn was_linked(
        &self,
        replica: SocketAddr,
        node: SocketAddr,
        since: Monotonic,
    ) -> bool {
        let alive = self.0.get(&node).and_then(|words| words.master);
        let linked = self.0.get(&replica).and_then(|words| words.linked);
        linked.is_some_and(|Linked { to, last, lost }| {
            let in_time = lost.is_none_or(|lost| alive.is_some_and(|alive| alive <= lost));
            to == node && since.since(last) <= SEEN && in_time
        })
    }

    /// What `replica` says of `node`, which refuses connections since then.
    pub(super) fn testimony(
        &self,
        replica: SocketAddr,
        node: SocketAddr,
        since: Monotonic,
    ) -> Testimony {
        let Some(words) = self.0.get(&replica) else { return Testimony::None };
        let was_linked = self.was_linked(replica, node, since);
        match words.last {
            (at, Answer::Replica(of)) if at >= since => {
                if of == Some(node) {
                    Testimony::Alive
                } else if was_linked {
                    Testimony::Dead
                } else {
                    Testimony::None
                }
            }
            _ => Testimony::None,
        }
    }
}
