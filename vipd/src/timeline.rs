//! What happened in a failover, and when: sightings from Sentinels, the confirmation, the flip and
//! the first packet on one axis (CLOCK_MONOTONIC). Only for people; nothing is decided from it.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

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

/// One change of the node that a master name's services point at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailoverRecord {
    /// Unique while this daemon runs, rising; a record that comes again with the same id replaces
    /// the earlier one.
    pub id: u64,
    /// Which master name.
    pub master: MasterId,
    /// The node before; none at the first start.
    pub from: Option<SocketAddr>,
    /// The node now.
    pub to: SocketAddr,
    /// The config-epoch that named it.
    pub epoch: Epoch,
    /// When.
    pub timeline: Timeline,
}

/// The moments of a failover, in the order in which they usually come. What was not seen is
/// `None`: a planned failover has no `sdown`, and a switch can be read before it is announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeline {
    /// First `+sdown` of the master: one Sentinel finds it unreachable.
    pub sdown: Option<Monotonic>,
    /// First `+odown`: a quorum does.
    pub odown: Option<Monotonic>,
    /// `+selected-slave`: the leader has chosen a replica.
    pub selected: Option<Monotonic>,
    /// First `+switch-master`.
    pub switch_master: Option<Monotonic>,
    /// The node answered ROLE = master after it was claimed.
    pub role_confirmed: Option<Monotonic>,
    /// ACTIVE was written.
    pub flip: Option<Monotonic>,
    /// The kernel sent the first packet to the new master (its time, not the daemon's).
    pub first_packet: Option<Monotonic>,
}

impl Timeline {
    /// Its moments by name, those that were seen, in order of time.
    pub fn moments(&self) -> Vec<(&'static str, Monotonic)> {
        let all = [
            ("+sdown", self.sdown),
            ("+odown", self.odown),
            ("+selected-slave", self.selected),
            ("+switch-master", self.switch_master),
            ("ROLE = master", self.role_confirmed),
            ("flip", self.flip),
            ("first packet", self.first_packet),
        ];
        let mut seen: Vec<_> = all.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
        seen.sort_by_key(|(_, at)| *at);
        seen
    }
}

/// One line: milliseconds since the first moment.
impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moments = self.moments();
        let Some((_, start)) = moments.first().copied() else { return f.write_str("nothing seen") };
        for (index, (name, at)) in moments.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {:.3} ms", at.since(start).as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// What a Sentinel's pub/sub says about a master, reduced to what a timeline shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sighting {
    /// `+sdown master …`
    Sdown,
    /// `+odown master …`
    Odown,
    /// `+selected-slave`
    Selected,
    /// `+switch-master`
    SwitchMaster,
}

/// Collects sightings per master and makes a record of each flip.
#[derive(Clone, Debug)]
pub struct Timelines {
    tracks: Vec<Track>,
    next_id: u64,
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

    /// Notes that `target` answered ROLE = master.
    pub fn confirmed(&mut self, now: Monotonic, master: MasterId, target: Target) {
        if let Some(track) = self.tracks.get_mut(master.0) {
            track.confirmed = Some((target, now));
        }
    }

    /// The datapath points at `target`. Returns a record if that is another node than before.
    pub fn committed(
        &mut self,
        now: Monotonic,
        master: MasterId,
        target: Target,
    ) -> Option<FailoverRecord> {
        let track = self.tracks.get_mut(master.0)?;
        if track.served == Some(target.addr) {
            return None;
        }
        let [sdown, odown, selected, switch_master] = std::mem::take(&mut track.sightings)
            .map(|at| at.filter(|&at| now.since(at) <= FORGOTTEN_AFTER));
        let role_confirmed =
            track.confirmed.filter(|(confirmed, _)| *confirmed == target).map(|(_, at)| at);
        let record = FailoverRecord {
            id: self.next_id,
            master,
            from: track.served.replace(target.addr),
            to: target.addr,
            epoch: target.epoch,
            timeline: Timeline {
                sdown,
                odown,
                selected,
                switch_master,
                role_confirmed,
                flip: Some(now),
                first_packet: None,
            },
        };
        self.next_id += 1;
        if track.records.len() == AMENDABLE {
            track.records.pop_front();
        }
        track.records.push_back((now, record.clone()));
        Some(record)
    }

    /// The kernel saw the first packet of a service after a flip. Returns the record of the last
    /// flip before `at`, if this is its earliest packet so far (a master can have many services).
    pub fn first_packet(&mut self, master: MasterId, at: Monotonic) -> Option<FailoverRecord> {
        let records = &mut self.tracks.get_mut(master.0)?.records;
        let (_, record) = records.iter_mut().rev().find(|(flip, _)| *flip <= at + SLACK)?;
        let earliest = &mut record.timeline.first_packet;
        if earliest.is_some_and(|earliest| earliest <= at) {
            return None;
        }
        *earliest = Some(at);
        Some(record.clone())
    }
}

/// One master's part.
#[derive(Clone, Debug, Default)]
struct Track {
    served: Option<SocketAddr>,
    /// First time of each since the last flip, in the order of [`Sighting`].
    sightings: [Option<Monotonic>; 4],
    confirmed: Option<(Target, Monotonic)>,
    /// The last flips with their times, oldest first, at most [`AMENDABLE`].
    records: VecDeque<(Monotonic, FailoverRecord)>,
}

impl Track {
    fn seen(&mut self, now: Monotonic, what: Sighting) -> Option<FailoverRecord> {
        for at in &mut self.sightings {
            *at = at.filter(|&at| now.since(at) <= FORGOTTEN_AFTER);
        }
        let stage = match what {
            Sighting::Sdown => 0,
            Sighting::Odown => 1,
            Sighting::Selected => 2,
            Sighting::SwitchMaster => 3,
        };
        let quiet = self.sightings.iter().all(Option::is_none);
        if let (Sighting::SwitchMaster, true, Some((flip, record))) =
            (what, quiet, self.records.back_mut())
            && now.since(*flip) <= ECHO
        {
            let switch_master = &mut record.timeline.switch_master;
            if switch_master.is_some() {
                return None;
            }
            *switch_master = Some(now);
            return Some(record.clone());
        }
        let (earlier, later) = self.sightings.split_at_mut(stage + 1);
        let first = &mut earlier[stage];
        if first.is_none() {
            *first = Some(now);
            // A later stage that was seen before this one is left over from another failover.
            later.fill(None);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: MasterId = MasterId(0);

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn target(host: u8, epoch: u64) -> Target {
        Target { addr: SocketAddr::from(([198, 18, 0, host], 8000)), epoch: Epoch(epoch) }
    }

    fn serving(host: u8) -> Timelines {
        Timelines::new([Some(target(host, 0).addr)])
    }

    fn flip(timelines: &mut Timelines, ms: u64, to: Target) -> FailoverRecord {
        timelines.committed(at(ms), MASTER, to).unwrap()
    }

    #[test]
    fn a_flip_takes_the_first_sighting_of_each_kind() {
        let mut timelines = serving(101);
        for (ms, what) in [
            (522, Sighting::Sdown),
            (530, Sighting::Sdown),
            (651, Sighting::Odown),
            (794, Sighting::Selected),
            (1782, Sighting::SwitchMaster),
            (1783, Sighting::SwitchMaster),
        ] {
            assert_eq!(timelines.seen(at(ms), MASTER, what), None);
        }
        timelines.confirmed(at(1784), MASTER, target(102, 1));
        let mut record = flip(&mut timelines, 1785, target(102, 1));
        assert_eq!(
            record,
            FailoverRecord {
                id: 1,
                master: MASTER,
                from: Some(target(101, 0).addr),
                to: target(102, 1).addr,
                epoch: Epoch(1),
                timeline: Timeline {
                    sdown: Some(at(522)),
                    odown: Some(at(651)),
                    selected: Some(at(794)),
                    switch_master: Some(at(1782)),
                    role_confirmed: Some(at(1784)),
                    flip: Some(at(1785)),
                    first_packet: None,
                }
            }
        );
        record.timeline.first_packet = Some(at(1786));
        assert_eq!(timelines.first_packet(MASTER, at(1786)), Some(record));
    }

    #[test]
    fn the_first_start_has_no_from() {
        let mut timelines = Timelines::new([None]);
        assert_eq!(flip(&mut timelines, 10, target(101, 0)).from, None);
    }

    #[test]
    fn a_commit_of_the_same_node_is_no_failover() {
        let mut timelines = serving(101);
        assert_eq!(timelines.committed(at(5), MASTER, target(101, 7)), None);
    }

    #[test]
    fn what_is_older_than_ten_minutes_is_forgotten() {
        let mut timelines = serving(101);
        timelines.seen(at(0), MASTER, Sighting::Sdown);
        let record = flip(&mut timelines, 600_001, target(102, 1));
        assert_eq!(record.timeline.sdown, None);
    }

    #[test]
    fn the_leaders_late_switch_is_not_taken_for_the_next_failover() {
        let mut timelines = serving(101);
        timelines.seen(at(1782), MASTER, Sighting::SwitchMaster);
        flip(&mut timelines, 1783, target(102, 1));
        assert_eq!(timelines.seen(at(2795), MASTER, Sighting::SwitchMaster), None);
        let record = flip(&mut timelines, 60_000, target(103, 2));
        assert_eq!(record.timeline.switch_master, None);
    }

    #[test]
    fn a_switch_announced_after_the_flip_amends_its_record() {
        let mut timelines = serving(101);
        let mut record = flip(&mut timelines, 1000, target(102, 1));
        record.timeline.switch_master = Some(at(1100));
        assert_eq!(timelines.seen(at(1100), MASTER, Sighting::SwitchMaster), Some(record));
    }

    #[test]
    fn an_early_stage_clears_what_an_earlier_failover_left() {
        let mut timelines = serving(101);
        timelines.seen(at(0), MASTER, Sighting::SwitchMaster);
        timelines.seen(at(100_000), MASTER, Sighting::Selected);
        let record = flip(&mut timelines, 100_500, target(102, 1));
        assert_eq!(record.timeline.switch_master, None);
        assert_eq!(record.timeline.selected, Some(at(100_000)));
    }

    #[test]
    fn a_first_packet_goes_to_the_flip_before_it_and_the_earliest_stays() {
        let mut timelines = serving(101);
        flip(&mut timelines, 1000, target(102, 1));
        flip(&mut timelines, 5000, target(103, 2));
        // The second service of the same master reports later than the first.
        assert_eq!(timelines.first_packet(MASTER, at(5010)).map(|record| record.id), Some(2));
        assert_eq!(timelines.first_packet(MASTER, at(5020)), None);
        assert_eq!(timelines.first_packet(MASTER, at(1500)).map(|record| record.id), Some(1));
        assert_eq!(timelines.first_packet(MASTER, at(10)), None);
    }

    #[test]
    fn a_first_packet_may_overtake_the_daemon_s_look_at_the_clock() {
        let mut timelines = serving(101);
        flip(&mut timelines, 1000, target(102, 1));
        let at = Monotonic(at(1000).0 - 20_000);
        assert_eq!(timelines.first_packet(MASTER, at).map(|record| record.id), Some(1));
    }

    #[test]
    fn the_list_of_records_is_bounded() {
        let mut timelines = serving(101);
        for n in 1..100 {
            flip(&mut timelines, n * 1000, target(n as u8, n));
        }
        assert_eq!(timelines.tracks[0].records.len(), AMENDABLE);
    }

    #[test]
    fn an_unknown_master_is_ignored() {
        let mut timelines = serving(101);
        assert_eq!(timelines.seen(at(1), MasterId(9), Sighting::Sdown), None);
        assert_eq!(timelines.committed(at(1), MasterId(9), target(1, 1)), None);
        assert_eq!(timelines.first_packet(MasterId(9), at(1)), None);
    }
}
