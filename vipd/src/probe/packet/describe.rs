//! From what a volley sent and heard to what the report says of its layer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::volley::{Heard, Sent, VolleyRecord};
use crate::probe::report::{Layer, LayerName};
use crate::probe::shots::{Fate, Shot, Shots, Window};

impl VolleyRecord {
    /// What the layer found in a run. An answer that took longer than `timeout` came too late for
    /// the client, which had given up.
    pub fn layer(&self, name: LayerName, window: &Window, timeout: Duration) -> Layer {
        let mut layer = Layer::new(name);
        let mut ends = Ends::new(self, timeout);
        let mut heard: Vec<_> = self.heard.iter().collect();
        heard.sort_by_key(|heard| heard.at);
        for heard in heard {
            ends.hear(heard, self);
        }
        layer.schedule = (!self.sent.is_empty()).then_some(self.schedule);
        layer.duplicated = ends.duplicated;
        for (what, shot) in ends.fates.iter().zip(&ends.shots.list) {
            *layer.fates.entry((*what).to_owned()).or_default() += 1;
            if shot.fate == Fate::Refused {
                *layer.errors.entry((*what).to_owned()).or_default() += 1;
            }
        }
        ends.shots.describe(window, &mut layer);
        layer
    }
}

/// How each packet ended, as the answers come in.
struct Ends {
    shots: Shots,
    timeout: Duration,
    nodes: BTreeMap<[u8; 6], u16>,
    /// In a word, of each.
    fates: Vec<&'static str>,
    duplicated: u64,
}

/// A packet to which nobody has said anything.
const SILENCE: &str = "silence";
/// One whose answer the client would not have waited for.
const TOO_LATE: &str = "too late";

impl Ends {
    fn new(record: &VolleyRecord, timeout: Duration) -> Self {
        let mut ends = Self {
            shots: Shots { interval: record.interval, ..Shots::default() },
            timeout,
            nodes: BTreeMap::new(),
            fates: record.sent.iter().map(|it| it.refused.unwrap_or(SILENCE)).collect(),
            duplicated: 0,
        };
        for sent in &record.sent {
            let fate = if sent.refused.is_some() { Fate::Refused } else { Fate::Silent };
            let answered = sent.refused.map(|_| sent.at);
            let shot = Shot { due: sent.due, sent: sent.at, answered, fate, node: None };
            ends.shots.list.push(shot);
        }
        ends
    }

    fn hear(&mut self, heard: &Heard, record: &VolleyRecord) {
        let answer = heard.answer;
        let place = match answer.number {
            Some(number) => usize::try_from(number).unwrap_or(usize::MAX),
            None if answer.good => self.last_question(heard, record),
            None => return,
        };
        let node = answer.node.map(|mac| self.node(mac));
        let Some((shot, what)) = self.shots.list.get_mut(place).zip(self.fates.get_mut(place))
        else {
            return;
        };
        match (answer.good, shot.fate) {
            (true, Fate::Good) => {
                // Two hosts that both answer are told of as owners.
                self.duplicated += u64::from(shot.node == node);
            }
            (true, _) if heard.at.since(shot.due) > self.timeout => {
                if shot.fate == Fate::Silent {
                    *what = TOO_LATE;
                }
            }
            (true, Fate::Silent | Fate::Refused) => {
                (shot.fate, shot.answered, shot.node) = (Fate::Good, Some(heard.at), node);
                *what = answer.what;
            }
            (false, Fate::Silent) => {
                (shot.fate, shot.answered) = (Fate::Refused, Some(heard.at));
                *what = answer.what;
            }
            (false, Fate::Good | Fate::Refused) => {}
        }
    }

    /// Nothing in the answer tells the question, so it is the last one before it. But questions that
    /// were late are sent right behind each other, and answers to them come as close: each has one.
    fn last_question(&mut self, heard: &Heard, record: &VolleyRecord) -> usize {
        let last = record.sent.partition_point(|sent| sent.at <= heard.at).wrapping_sub(1);
        let node = heard.answer.node.map(|mac| self.node(mac));
        let mut place = last;
        loop {
            match self.shots.list.get(place) {
                Some(shot) if shot.fate == Fate::Good && shot.node == node => {}
                Some(_) => return place,
                None => return last,
            }
            let before = place.checked_sub(1).and_then(|it| record.sent.get(it));
            let close =
                |before: &Sent| record.sent[place].at.since(before.at) < record.interval / 2;
            if !before.is_some_and(close) {
                return last;
            }
            place -= 1;
        }
    }

    fn node(&mut self, mac: vipd_common::addr::MacAddr) -> u16 {
        let shots = &mut self.shots;
        *self.nodes.entry(mac.0).or_insert_with(|| {
            // A link with more hosts that all claim one address has other problems.
            let number = u16::try_from(shots.nodes.len()).unwrap_or(u16::MAX - 1);
            shots.nodes.push((mac.to_string(), mac.to_string()));
            number
        })
    }
}

#[cfg(test)]
mod tests {
    use vipd_common::addr::MacAddr;

    use super::*;
    use crate::clock::Monotonic;
    use crate::probe::packet::Answer;
    use crate::probe::report::Schedule;

    const MS: u64 = 1_000_000;
    const WINDOW: Window =
        Window { origin: Monotonic(0), trigger: None, end: Monotonic(1000 * MS) };

    /// One packet a millisecond for a second.
    fn record(heard: impl IntoIterator<Item = Heard>) -> VolleyRecord {
        let sent = (0..1000).map(|ms| Monotonic(ms * MS));
        VolleyRecord {
            sent: sent.map(|at| Sent { due: at, at, refused: None }).collect(),
            heard: heard.into_iter().collect(),
            schedule: Schedule::default(),
            interval: Duration::from_millis(1),
            dropped: 0,
        }
    }

    fn heard(number: u64, after_us: u64, good: bool) -> Heard {
        let what = if good { "syn_ack" } else { "rst" };
        let answer = Answer { number: Some(number), good, what, node: None };
        Heard { at: Monotonic(number * MS + after_us * 1000), answer }
    }

    #[test]
    fn each_packet_ends_once() {
        let answers = (0..1000).flat_map(|number| match number {
            0..300 => vec![heard(number, 200, true)],
            300..400 => vec![heard(number, 100, false)],
            400..500 => vec![],
            500..600 => vec![heard(number, 200, true), heard(number, 300, true)],
            _ => vec![heard(number, 200, true)],
        });
        let layer = record(answers).layer(LayerName::Syn, &WINDOW, Duration::from_secs(1));
        let fates: Vec<_> =
            layer.fates.iter().map(|(what, count)| (what.as_str(), *count)).collect();
        assert_eq!(fates, [("rst", 100), ("silence", 100), ("syn_ack", 800)]);
        assert_eq!((layer.lost, layer.duplicated), (200, 100));
        let blackout = layer.blackout.unwrap();
        assert_eq!(blackout.from_ns, 299 * MS + 200_000);
        assert_eq!(blackout.to_ns, Some(500 * MS + 200_000));
        assert_eq!(layer.latency.unwrap().max_ns, 200_000);
    }

    #[test]
    fn an_answer_after_the_client_has_given_up_is_none() {
        let answers =
            (0..1000).map(|number| heard(number, if number == 7 { 600_000 } else { 1 }, true));
        let layer = record(answers).layer(LayerName::Syn, &WINDOW, Duration::from_millis(500));
        assert_eq!((layer.lost, layer.fates["too late"], layer.fates.get("silence")), (1, 1, None));
    }

    #[test]
    fn questions_that_were_held_up_have_an_answer_each() {
        let answer = |at| {
            let node = Some(MacAddr([2, 0, 0, 0, 0, 1]));
            Heard {
                at: Monotonic(at),
                answer: Answer { number: None, good: true, what: "answer", node },
            }
        };
        // Questions 10 to 14 are sent at once, and answered at once; 500 is answered twice.
        let held_up = |number: u64| if (10..14).contains(&number) { 14 * MS } else { number * MS };
        let answers = (0..1000).map(|number| answer(held_up(number) + 100_000));
        let mut record = record(answers.chain([answer(500 * MS + 100_001)]));
        for (sent, number) in record.sent.iter_mut().zip(0..) {
            sent.at = Monotonic(held_up(number) + number);
        }
        let layer = record.layer(LayerName::Arp, &WINDOW, Duration::from_secs(1));
        assert_eq!((layer.lost, layer.duplicated), (0, 1));
    }

    #[test]
    fn an_answer_without_a_number_is_to_the_last_question() {
        let hosts = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
        let answers = (0..1000).map(|number| {
            let node = Some(hosts[usize::from(number >= 600)]);
            let answer = Answer { number: None, good: true, what: "answer", node };
            Heard { at: Monotonic(number * MS + 50_000), answer }
        });
        let layer = record(answers).layer(LayerName::Arp, &WINDOW, Duration::from_secs(1));
        assert_eq!((layer.lost, layer.duplicated, layer.nodes.len()), (0, 0, 2));
        let change = layer.blackout.unwrap();
        assert_eq!((change.length_ns, change.from_ns), (MS, 599 * MS + 50_000));
        assert_eq!(change.new, Some(hosts[1].to_string()));
        assert_eq!(layer.nodes[0].answers, 600);
        assert_eq!(layer.lanes.len(), 3);
    }
}
