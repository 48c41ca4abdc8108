//! Which SYNs to send again, and which connections to end.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Pod;
use vipd_common::maps::{Active, Flow, FlowKey, Pending, ReplayFrame, direction, state};
use vipd_common::wire::ip::Ip;
use vipd_common::wire::tcp::later;

use super::super::sys;
use super::segment;

/// Entries read by one system call.
const BATCH: usize = 4096;

/// A frame and the interface that it comes in by.
pub(super) type Injection = (u32, ReplayFrame);

/// The tables of one family.
pub(super) struct Tables {
    pub(super) pending: OwnedFd,
    pub(super) established: OwnedFd,
    pub(super) half_open: OwnedFd,
}

/// The lines that a release is about, as they are now.
pub(super) struct Lines<'a> {
    pub(super) lines: &'a BTreeSet<u32>,
    pub(super) active: &'a dyn Fn(u32) -> Active,
}

impl Lines<'_> {
    /// What the line is now, if it is one of them.
    fn get(&self, line: u32) -> Option<Active> {
        self.lines.contains(&line).then(|| (self.active)(line))
    }
}

impl Tables {
    /// The SYNs that no backend of these lines' present generation has seen: those that came after
    /// `since` (CLOCK_MONOTONIC ns) and were not sent again yet. Newest first: the older one is, the
    /// likelier its sender has given up.
    pub(super) fn unanswered<A: Ip>(
        &self,
        lines: &Lines<'_>,
        since: u64,
    ) -> io::Result<Vec<Injection>> {
        let mut found = Vec::new();
        each(&self.pending, |_: &FlowKey<A>, pending: &Pending| {
            let Some(active) = lines.get(pending.service) else { return };
            if pending.at >= since && pending.is_waiting(active.generation()) {
                found.push(*pending);
            }
        })?;
        found.sort_unstable_by_key(|pending| (pending.ifindex, Reverse(pending.at)));
        let frame = |it: Pending| ReplayFrame { len: it.len.into(), zero: 0, frame: it.frame };
        Ok(found.into_iter().map(|it| (it.ifindex, frame(it))).collect())
    }

    /// For each connection of these lines that went to an earlier backend and is `wanted`: its
    /// client's next segment.
    pub(super) fn stale<A: Ip>(
        &self,
        lines: &Lines<'_>,
        wanted: Stale,
    ) -> io::Result<Vec<Injection>> {
        let mut clients: Vec<(FlowKey<A>, Flow<A>)> = Vec::new();
        // What each backend sent last, by the key that its client's half has.
        let mut sent: HashMap<FlowKey<A>, u32> = HashMap::new();
        for (table, established) in [(&self.established, true), (&self.half_open, false)] {
            each(table, |key: &FlowKey<A>, flow: &Flow<A>| {
                match lines.get(flow.service) {
                    Some(active) if active.generation() != flow.generation => {}
                    _ => return,
                }
                if flow.direction == direction::FROM_BACKEND {
                    sent.insert(flow.leaves.reversed(), flow.next_seq);
                } else if wanted.includes(flow, established) {
                    clients.push((*key, *flow));
                }
            })?;
        }
        // Who has said that he is done is in no hurry.
        let is_done = |flow: &Flow<A>| flow.state & state::FIN != 0;
        clients.sort_unstable_by_key(|(_, flow)| (flow.client_ifindex, is_done(flow)));
        let injection = |(key, flow): (FlowKey<A>, Flow<A>)| {
            let sent = sent.get(&key).copied().unwrap_or(flow.last_ack);
            (flow.client_ifindex, segment::next_ack(&key, &flow, later(sent, flow.last_ack)))
        };
        Ok(clients.into_iter().map(injection).collect())
    }
}

/// Which clients of earlier backends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stale {
    /// Those that nobody has told that their connection has ended.
    Untold,
    /// Those that were told in this time (CLOCK_MONOTONIC ns) and have said nothing since. Most have
    /// no connection any more; from one that still has, the answer to a reset was held back (Linux
    /// sends one challenge ACK in 500 ms), or either was lost.
    Told { from: u64, to: u64 },
}

/// How far the program's clock, which ticks every few milliseconds, may be behind.
const TICK_NS: u64 = 20_000_000;

impl Stale {
    fn includes<A: Ip>(self, flow: &Flow<A>, established: bool) -> bool {
        let both = state::FIN | state::PEER_FIN;
        let is_open =
            flow.state & both != both && (established || flow.state & state::ANSWERED != 0);
        let is_told = flow.state & state::RESET != 0;
        is_open
            && match self {
                Self::Untold => !is_told,
                Self::Told { from, to } => {
                    is_told && (from.saturating_sub(TICK_NS)..=to).contains(&flow.last_seen)
                }
            }
    }
}

/// Shows every entry of a hash map. What is added or removed meanwhile may be missed.
fn each<K: Pod, V: Pod>(map: &OwnedFd, mut show: impl FnMut(&K, &V)) -> io::Result<()> {
    // SAFETY: `Pod`: every pattern is valid, zeroes too.
    let (key, value): (K, V) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let (mut keys, mut values) = (vec![key; BATCH], vec![value; BATCH]);
    let mut position = None;
    loop {
        let (count, last) = sys::lookup_batch(map.as_fd(), &mut position, &mut keys, &mut values)?;
        for (key, value) in keys.iter().zip(&values).take(count) {
            show(key, value);
        }
        if last {
            return Ok(());
        }
    }
}
