//! What a recorder wrote down, and what follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use vipd_common::addr::MacAddr;

use crate::clock::Monotonic;

/// A host that leaves so many questions unanswered in a row has stopped to answer.
const SILENCE: usize = 10;

/// One frame that says who has the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// When the kernel got it.
    pub at: Monotonic,
    /// Who is said to have it.
    pub mac: MacAddr,
    /// How it is said.
    pub kind: Kind,
}

/// How a host says that it has the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It answers a question to everybody.
    Answer,
    /// It answers a question to its own link-layer address.
    DirectAnswer,
    /// Gratuitous ARP in either form, or an unsolicited neighbour advertisement.
    Announcement,
    /// It asks for another address with the VIP as its own.
    Question,
}

/// Everything about one VIP, in order.
#[derive(Clone, Default, Debug)]
pub struct Record {
    /// When everybody was asked.
    pub asked: Vec<Monotonic>,
    /// What was said.
    pub sightings: Vec<Sighting>,
}

/// A time in which a host answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// The host.
    pub mac: MacAddr,
    /// Its first answer.
    pub from: Monotonic,
    /// Its last.
    pub to: Monotonic,
}

/// A time in which two hosts answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlap {
    /// How long.
    pub time: Duration,
    /// Who.
    pub hosts: [MacAddr; 2],
}

impl Record {
    /// The times in which each host answered, to everybody or to itself. A host that leaves some
    /// questions in a row unanswered ended one; short losses are part of it.
    pub fn intervals(&self) -> Vec<Interval> {
        let mut open: BTreeMap<[u8; 6], Interval> = BTreeMap::new();
        let mut intervals = Vec::new();
        for Sighting { at, mac, .. } in self.answers() {
            let interval = open.entry(mac.0).or_insert(Interval { mac, from: at, to: at });
            if self.asked_between(interval.to, at) > SILENCE {
                intervals.push(*interval);
                *interval = Interval { mac, from: at, to: at };
            }
            interval.to = interval.to.max(at);
        }
        intervals.extend(open.into_values());
        intervals.sort_by_key(|interval| (interval.from, interval.to));
        intervals
    }

    /// The longest time in which two hosts both answered; `None` if that never was.
    pub fn overlap(&self) -> Option<Overlap> {
        let intervals = self.intervals();
        let pairs = intervals.iter().enumerate().flat_map(|(number, one)| {
            intervals[number + 1..].iter().map(move |other| (one, other))
        });
        let both = pairs.filter(|(one, other)| one.mac != other.mac).filter_map(|(one, other)| {
            let (from, to) = (one.from.max(other.from), one.to.min(other.to));
            (from <= to).then(|| Overlap { time: to.since(from), hosts: [one.mac, other.mac] })
        });
        both.max_by_key(|overlap| overlap.time)
    }

    /// The longest time between two answers, whoever gave them.
    pub fn longest_silence(&self) -> Duration {
        let times: Vec<_> = self.answers().map(|answer| answer.at).collect();
        let gaps = times.windows(2).map(|pair| pair[1].since(pair[0]));
        gaps.max().unwrap_or_default()
    }

    /// The moment of the first announcement by `host` that is not before `from`.
    pub fn announced(&self, host: MacAddr, from: Monotonic) -> Option<Monotonic> {
        let mut announcements = self.announcements();
        announcements.find(|it| it.mac == host && it.at >= from).map(|it| it.at)
    }

    /// The first answer by `host` that is not before `from`.
    pub fn answered(&self, host: MacAddr, from: Monotonic) -> Option<Monotonic> {
        self.answers().find(|it| it.mac == host && it.at >= from).map(|it| it.at)
    }

    /// The last answer by `host`.
    pub fn last_answer(&self, host: MacAddr) -> Option<Monotonic> {
        self.answers().filter(|it| it.mac == host).map(|it| it.at).max()
    }

    /// Questions after the last answer of anybody.
    pub fn unanswered(&self) -> usize {
        let last = self.answers().map(|it| it.at).max().unwrap_or_default();
        self.asked.len() - self.asked.partition_point(|&asked| asked <= last)
    }

    /// The hosts that claimed the VIP in turn: whoever answered first, and then whoever announced
    /// that it has it now. The claims need not be right.
    pub fn claims(&self) -> Vec<(Monotonic, MacAddr)> {
        let mut claims: Vec<(Monotonic, MacAddr)> = Vec::new();
        for sighting in &self.sightings {
            let is_claim = match claims.last() {
                None => matches!(sighting.kind, Kind::Answer | Kind::Announcement),
                Some(&(_, last)) => sighting.kind == Kind::Announcement && sighting.mac != last,
            };
            if is_claim {
                claims.push((sighting.at, sighting.mac));
            }
        }
        claims
    }

    fn answers(&self) -> impl Iterator<Item = Sighting> {
        let is_answer = |it: &&Sighting| matches!(it.kind, Kind::Answer | Kind::DirectAnswer);
        self.sightings.iter().filter(is_answer).copied()
    }

    fn announcements(&self) -> impl Iterator<Item = Sighting> {
        self.sightings.iter().filter(|it| it.kind == Kind::Announcement).copied()
    }

    fn asked_between(&self, from: Monotonic, to: Monotonic) -> usize {
        let until = |moment| self.asked.partition_point(|&asked| asked <= moment);
        until(to).saturating_sub(until(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    /// A question every 10 ns until 10,000, and these sightings.
    fn record(sightings: &[(u64, MacAddr, Kind)]) -> Record {
        let sighting = |&(at, mac, kind)| Sighting { at: Monotonic(at), mac, kind };
        Record {
            asked: (0..1000).map(|number| Monotonic(number * 10)).collect(),
            sightings: sightings.iter().map(sighting).collect(),
        }
    }

    fn answers(times: &[(u64, MacAddr)]) -> Vec<(u64, MacAddr, Kind)> {
        times.iter().map(|&(at, mac)| (at, mac, Kind::Answer)).collect()
    }

    fn interval(mac: MacAddr, from: u64, to: u64) -> Interval {
        Interval { mac, from: Monotonic(from), to: Monotonic(to) }
    }

    #[test]
    fn an_interval_survives_a_few_lost_answers_and_no_more() {
        let record = record(&answers(&[(1, A), (11, A), (91, A), (301, A), (311, A)]));
        assert_eq!(record.intervals(), [interval(A, 1, 91), interval(A, 301, 311)]);
    }

    #[test]
    fn an_interval_survives_a_recorder_that_stood_still() {
        let mut record = record(&answers(&[(1, A), (5001, A)]));
        record.asked.retain(|asked| asked.0 < 20 || asked.0 > 4990);
        assert_eq!(record.intervals(), [interval(A, 1, 5001)]);
    }

    #[test]
    fn the_overlap_is_the_longest_time_in_which_two_hosts_answer() {
        let one_after_the_other = record(&answers(&[(1, A), (11, A), (21, B), (31, B)]));
        assert_eq!(one_after_the_other.overlap(), None);
        let both = record(&answers(&[(1, A), (11, B), (21, A), (31, A), (41, B)]));
        let overlap = both.overlap().expect("they overlap");
        assert_eq!(overlap, Overlap { time: Duration::from_nanos(20), hosts: [A, B] });
        let at_once = record(&answers(&[(1, A), (21, A), (11, B)]));
        assert_eq!(at_once.overlap().expect("at one moment").time, Duration::ZERO);
    }

    #[test]
    fn a_host_that_comes_back_overlaps_from_then_on_only() {
        let mut times: Vec<_> = (0..500).map(|number| (number * 10 + 1, B)).collect();
        times.extend([(3, A), (4003, A), (4023, A)]);
        times.sort_by_key(|&(at, _)| at);
        let overlap = record(&answers(&times)).overlap().expect("they overlap");
        assert_eq!(overlap.time, Duration::from_nanos(20));
    }

    #[test]
    fn an_announcement_is_no_answer() {
        let record = record(&[(1, A, Kind::Announcement), (11, B, Kind::Answer)]);
        assert_eq!(record.intervals(), [interval(B, 11, 11)]);
        assert_eq!(record.announced(A, Monotonic(0)), Some(Monotonic(1)));
        assert_eq!(record.announced(A, Monotonic(2)), None);
        assert_eq!(record.last_answer(A), None);
    }

    #[test]
    fn the_vip_is_claimed_by_an_announcement_only() {
        let record = record(&[
            (1, A, Kind::Answer),
            (11, B, Kind::Answer),
            (21, B, Kind::Announcement),
            (22, B, Kind::Announcement),
            (31, A, Kind::Answer),
            (41, A, Kind::Announcement),
        ]);
        let claims = [(Monotonic(1), A), (Monotonic(21), B), (Monotonic(41), A)];
        assert_eq!(record.claims(), claims);
    }

    #[test]
    fn silence_is_counted_in_questions_and_in_time() {
        let record = record(&answers(&[(1, A), (11, A), (9951, B)]));
        assert_eq!(record.unanswered(), 4);
        assert_eq!(record.longest_silence(), Duration::from_nanos(9940));
        assert_eq!(Record::default().longest_silence(), Duration::ZERO);
    }
}
