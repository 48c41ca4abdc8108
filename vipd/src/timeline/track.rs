//! Collects what is seen of each master, and makes a record of each flip.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Clients, FailoverRecord, Outcome, Sighting, Timeline, Trigger};
use crate::clock::Monotonic;
use crate::failover::Target;
use crate::model::{Epoch, MasterId};

/// A sighting older than this at the flip belongs to something else.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// The Sentinels announce one switch up to a few seconds apart (the leader last, after it has
/// reconfigured the replicas); within this time of a flip, `+switch-master` is an echo of it.
pub const ECHO: Duration = Duration::from_secs(10);
/// Records per master that can still be amended.
pub const AMENDABLE: usize = 4;

/// How far the kernel's time of a first packet may lie before the flip it followed: the packet can
/// overtake the daemon between the write and the look at the clock.
const SLACK: Duration = Duration::from_millis(1);

/// Collects sightings per master and makes a record of each flip.
#[derive(Clone, Debug)]
pub struct Timelines {
    tracks: Vec<Track>,
    next_id: u64,
}

/// One master's part.
#[derive(Clone, Debug, Default)]
struct Track {
    served: Option<SocketAddr>,
    /// What was seen since the last flip.
    pending: Timeline,
    /// vipd's own reason to ask for a failover, since the last one.
    ordered: Option<Trigger>,
    /// The last node that answered as master to take over.
    role_confirmed: Option<(SocketAddr, Monotonic)>,
    /// The last flips with their times, oldest first, at most [`AMENDABLE`].
    records: VecDeque<(Monotonic, FailoverRecord)>,
}

impl Timelines {
    /// One track for each master; `served` is the node it points at already (after a restart).
    pub fn new(served: impl IntoIterator<Item = Option<SocketAddr>>) -> Self {
        let tracks = served.into_iter().map(|served| Track { served, ..Track::default() });
        Self { tracks: tracks.collect(), next_id: 1 }
    }

    /// Notes a sighting. Returns the record of the last flip if this completes it.
    pub fn seen(
        &mut self,
        now: Monotonic,
        master: MasterId,
        what: Sighting,
    ) -> Option<FailoverRecord> {
        self.tracks.get_mut(master.0)?.seen(now, what)
    }

    /// Notes that vipd asks for a failover.
    pub fn ordered(&mut self, now: Monotonic, master: MasterId, why: Trigger) {
        if let Some(track) = self.tracks.get_mut(master.0) {
            track.pending.ordered = Some(now);
            track.ordered = Some(why);
        }
    }

    /// Notes that the services are parked.
    pub fn parked(&mut self, now: Monotonic, master: MasterId) {
        if let Some(track) = self.tracks.get_mut(master.0) {
            track.pending.parked = Some(now);
        }
    }

    /// Notes that they no longer are, without a flip; returns the record of that. Where the failover
    /// `goes_on`, what was seen of it is also the flip's.
    pub fn unparked(
        &mut self,
        now: Monotonic,
        master: MasterId,
        goes_on: bool,
    ) -> Option<FailoverRecord> {
        let track = self.tracks.get_mut(master.0)?;
        let served = track.served?;
        let trigger = track.trigger(now);
        let (seen, ordered) = (track.pending, track.ordered);
        let timeline = Timeline { unparked: Some(now), ..track.take(now) };
        if goes_on {
            track.pending = Timeline { parked: None, ..seen };
            track.ordered = ordered;
        }
        let record = FailoverRecord {
            id: self.next_id,
            master,
            trigger,
            outcome: Outcome::Abandoned,
            from: Some(served),
            to: served,
            epoch: None,
            timeline,
            clients: None,
        };
        self.next_id += 1;
        track.keep(now, &record);
        Some(record)
    }

    /// Notes that this node answered ROLE = master, and takes over.
    pub fn promoted(&mut self, now: Monotonic, master: MasterId, node: SocketAddr) {
        if let Some(track) = self.tracks.get_mut(master.0) {
            track.role_confirmed = Some((node, now));
        }
    }

    /// An epoch confirms what is served. Returns the record of that flip, amended.
    pub fn confirmed(
        &mut self,
        now: Monotonic,
        master: MasterId,
        target: Target,
    ) -> Option<FailoverRecord> {
        let (_, record) = self.tracks.get_mut(master.0)?.records.back_mut()?;
        if record.to != target.addr || record.outcome != Outcome::Provisional {
            return None;
        }
        record.outcome = Outcome::Confirmed;
        record.epoch = Some(target.epoch);
        record.timeline.confirmed = Some(now);
        Some(record.clone())
    }

    /// The datapath points at `node`. Returns a record if that is another node than before. Without
    /// an `epoch`, none has confirmed it yet.
    pub fn committed(
        &mut self,
        now: Monotonic,
        master: MasterId,
        node: SocketAddr,
        epoch: Option<Epoch>,
    ) -> Option<FailoverRecord> {
        let track = self.tracks.get_mut(master.0)?;
        if track.served == Some(node) {
            return None;
        }
        let mut trigger = track.trigger(now);
        let timeline = track.take(now);
        let role_confirmed = track.role_confirmed.filter(|(it, _)| *it == node).map(|(_, at)| at);
        let back = track.records.back_mut().filter(|(_, last)| {
            last.outcome == Outcome::Provisional && last.from == Some(node) && epoch.is_some()
        });
        if let Some((_, last)) = back {
            last.outcome = Outcome::Reverted;
            trigger = Trigger::Revert;
        }
        let record = FailoverRecord {
            id: self.next_id,
            master,
            trigger,
            outcome: if epoch.is_some() { Outcome::Confirmed } else { Outcome::Provisional },
            from: track.served.replace(node),
            to: node,
            epoch,
            timeline: Timeline {
                role_confirmed,
                flip: Some(now),
                // The epoch was first.
                confirmed: None,
                ..timeline
            },
            clients: None,
        };
        self.next_id += 1;
        track.keep(now, &record);
        Some(record)
    }

    /// The kernel saw the first packet of a service after a flip. Returns the record of the last
    /// flip before `at`, if this is its earliest packet so far (a master can have many services).
    pub fn first_packet(&mut self, master: MasterId, at: Monotonic) -> Option<FailoverRecord> {
        let records = &mut self.tracks.get_mut(master.0)?.records;
        let mut flips = records.iter_mut().rev().filter(|(_, it)| it.timeline.flip.is_some());
        let (_, record) = flips.find(|(flip, _)| *flip <= at + SLACK)?;
        let earliest = &mut record.timeline.first_packet;
        if earliest.is_some_and(|earliest| earliest <= at) {
            return None;
        }
        *earliest = Some(at);
        Some(record.clone())
    }

    /// What was done for the clients after the flip at `flip`, or after the last park without one.
    /// Returns its record; a second word about the same flip is added to the first.
    pub fn released(
        &mut self,
        master: MasterId,
        flip: Option<Monotonic>,
        clients: Clients,
    ) -> Option<FailoverRecord> {
        let records = &mut self.tracks.get_mut(master.0)?.records;
        let (_, record) = records.iter_mut().rev().find(|(_, it)| it.timeline.flip == flip)?;
        let before = record.clients.unwrap_or_default();
        record.clients = Some(Clients {
            syns_replayed: before.syns_replayed.saturating_add(clients.syns_replayed),
            replayed: before.replayed.max(clients.replayed),
            freed: before.freed.saturating_add(clients.freed),
            freed_at: before.freed_at.max(clients.freed_at),
        });
        Some(record.clone())
    }
}

impl Track {
    fn seen(&mut self, now: Monotonic, what: Sighting) -> Option<FailoverRecord> {
        self.forget(now);
        // A failover that has begun since the last flip has a replica of its own.
        let is_next = self.pending.selected.is_some() || self.pending.promoting.is_some();
        let last = self.records.back_mut().filter(|(flip, record)| {
            !is_next && record.timeline.flip.is_some() && now.since(*flip) <= ECHO
        });
        if let Some((_, record)) = last {
            let to = record.to;
            let moment = match what {
                Sighting::SwitchMaster => Some(&mut record.timeline.switch_master),
                Sighting::Promoted(node) if node == Some(to) => Some(&mut record.timeline.promoted),
                Sighting::Promoting(node) if node == Some(to) => {
                    Some(&mut record.timeline.promoting)
                }
                // A Sentinel that is late still speaks of the old master.
                Sighting::Sdown | Sighting::Odown if record.outcome == Outcome::Provisional => {
                    return None;
                }
                _ => None,
            };
            if let Some(moment) = moment {
                if moment.is_some() {
                    return None;
                }
                *moment = Some(now);
                return Some(record.clone());
            }
        }
        self.note(now, what);
        None
    }

    fn note(&mut self, now: Monotonic, what: Sighting) {
        let pending = &mut self.pending;
        let mut stages = [
            &mut pending.sdown,
            &mut pending.odown,
            &mut pending.selected,
            &mut pending.promoting,
            &mut pending.promoted,
            &mut pending.switch_master,
        ];
        let stage = match what {
            Sighting::Sdown => 0,
            Sighting::Odown => 1,
            Sighting::Selected(_) => 2,
            Sighting::Promoting(_) => 3,
            Sighting::Promoted(_) => 4,
            Sighting::SwitchMaster => 5,
            Sighting::End | Sighting::Aborted => return,
        };
        if let Some((first, later)) = stages[stage..].split_first_mut()
            && first.is_none()
        {
            **first = Some(now);
            // A later stage that was seen before this one is left over from another failover.
            later.iter_mut().for_each(|at| **at = None);
        }
    }

    fn forget(&mut self, now: Monotonic) {
        let it = &mut self.pending;
        let moments = [
            &mut it.ordered,
            &mut it.sdown,
            &mut it.odown,
            &mut it.selected,
            &mut it.parked,
            &mut it.promoting,
            &mut it.promoted,
            &mut it.switch_master,
        ];
        for moment in moments {
            *moment = moment.filter(|&at| now.since(at) <= FORGOTTEN_AFTER);
        }
    }

    /// What was seen since the last flip, and no more from here on.
    fn take(&mut self, now: Monotonic) -> Timeline {
        self.forget(now);
        self.ordered = None;
        std::mem::take(&mut self.pending)
    }

    fn trigger(&mut self, now: Monotonic) -> Trigger {
        self.forget(now);
        let it = &self.pending;
        match self.ordered.filter(|_| it.ordered.is_some()) {
            Some(why) => why,
            None if it.sdown.or(it.odown).is_some() => Trigger::Down,
            None if it.selected.or(it.promoting).is_some() => Trigger::Planned,
            None => Trigger::Claim,
        }
    }

    fn keep(&mut self, now: Monotonic, record: &FailoverRecord) {
        if self.records.len() == AMENDABLE {
            self.records.pop_front();
        }
        self.records.push_back((now, record.clone()));
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
