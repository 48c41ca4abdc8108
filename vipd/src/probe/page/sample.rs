//! Documents as a probe could have written them, for tests and for looking at the page. They are made
//! of probes and answers that were never sent, by the code that judges real ones; the same each time.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use crate::clock::Monotonic;
use crate::probe::expect::Expectations;
use crate::probe::figures::Spread;
use crate::probe::report::{
    Ended, Figure, Layer, LayerName, LostWrite, Mark, OwnerChange, Owners, Report, Run, Schedule,
    Source, Trigger, Waiting, Writes,
};
use crate::probe::shots::{Fate, Shot, Shots, Window};

/// vipd in mode `nat`, its master killed: connects are refused until vipd parks the service, then
/// they wait; nothing is lost. Five runs of 30 s.
pub fn nat() -> Report {
    static NAT: LazyLock<Report> = LazyLock::new(|| {
        let backs_ms = [898.6, 874.1, 1031.9, 881.3, 909.4];
        let runs = (1..).zip(backs_ms).map(|(number, back_ms)| {
            Story { number, back_ms, parked_ms: Some(back_ms - 84.0), moves: false }.run()
        });
        report("198.18.0.250:6379", runs.collect())
    });
    NAT.clone()
}

/// The script recipe, its master's host gone for a while: another host answers ARP, both do for a
/// moment, clients hang, and writes are lost. One run.
pub fn script() -> Report {
    static SCRIPT: LazyLock<Report> = LazyLock::new(|| {
        let story = Story { number: 1, back_ms: 1790.0, parked_ms: None, moves: true };
        report("198.18.0.250:8000", vec![story.run()])
    });
    SCRIPT.clone()
}

/// What happens in a run.
struct Story {
    number: u32,
    /// The new master is served, so long after the trigger.
    back_ms: f64,
    /// The service is parked.
    parked_ms: Option<f64>,
    /// The address moves to another host.
    moves: bool,
}

const ORIGIN: Monotonic = Monotonic(81_442_310_118_204);
const LENGTH_MS: f64 = 30_000.0;
const TRIGGER_MS: f64 = 2_003.4;
const COMMAND: &str = "ip netns exec vipd-r1 kill -KILL $(cat /tmp/lab/redis1.pid)";
const SENTINELS: [&str; 3] = ["198.18.0.101:26379", "198.18.0.102:26379", "198.18.0.103:26379"];
const REDIS: [(&str, &str); 2] = [
    ("2f7c0e6d9b1a4c58a2b3c4d5e6f708192a3b4c5d", "198.18.0.101:8000 (2f7c0e6d)"),
    ("9b04d1f3a7e24b6c8d9eafb0c1d2e3f405162738", "198.18.0.102:8000 (9b04d1f3)"),
];
const HOSTS: [&str; 2] = ["02:42:c6:12:00:65", "02:42:c6:12:00:66"];
const DIRECTOR: &str = "02:42:c6:12:00:32";

impl Story {
    fn run(&self) -> Run {
        Run {
            number: self.number,
            origin_ns: ORIGIN.0 + u64::from(self.number) * 45_000_000_000,
            length_ns: ns(LENGTH_MS),
            interrupted: false,
            trigger: Some(Trigger {
                command: COMMAND.into(),
                at_ns: ns(TRIGGER_MS),
                ended_ns: Some(ns(TRIGGER_MS + 6.2)),
                outcome: "exit status 0".into(),
                succeeded: true,
            }),
            layers: vec![self.arp(), self.icmp(), self.syn(), self.redis(), self.idle()],
            marks: self.marks(),
            notes: vec![
                "The kernel stamped what was sent and received; the network card did not.".into(),
            ],
        }
    }

    fn arp(&self) -> Layer {
        let macs = if self.moves { &HOSTS[..] } else { &[DIRECTOR] };
        let mut shots = Shots {
            nodes: macs.iter().map(|it| (it.to_string(), it.to_string())).collect(),
            ..Shots::default()
        };
        let mut chance = Chance(u64::from(self.number));
        shots.fill(20.0, |at| match at {
            _ if !self.moves => (Fate::Good, chance.near(0.11), Some(0)),
            at if at < 1_752.0 => (Fate::Good, chance.near(0.14), Some(0)),
            _ => (Fate::Good, chance.near(0.15), Some(1)),
        });
        let mut layer = self.layer(LayerName::Arp, &shots, &["reply", "silence"]);
        let first = OwnerChange { at_ns: ns(3.0), mac: macs[0].into() };
        let mut owners = Owners { changes: vec![first], ..Owners::default() };
        if let (true, [_, new]) = (self.moves, macs) {
            owners.changes.push(OwnerChange { at_ns: moment(1_752.0), mac: new.to_string() });
            let announced = [1_752.0, 2_752.0, 3_752.0];
            owners.announcements =
                announced.map(|at| OwnerChange { at_ns: moment(at), mac: new.to_string() }).into();
            (owners.both_ns, owners.answered_by_both) = (41_300_000, 2);
        }
        layer.owners = Some(owners);
        layer
    }

    fn icmp(&self) -> Layer {
        let mut shots = Shots::default();
        let mut chance = Chance(7 + u64::from(self.number));
        shots.fill(100.0, |at| {
            if self.moves && (0.0..1_752.0).contains(&at) {
                (Fate::Silent, None, None)
            } else {
                (Fate::Good, chance.near(0.09), None)
            }
        });
        self.layer(LayerName::Icmp, &shots, &["reply", "silence"])
    }

    fn syn(&self) -> Layer {
        let mut shots = Shots::default();
        let mut chance = Chance(13 + u64::from(self.number));
        shots.fill(1000.0, |at| match self.parked_ms {
            _ if at < 0.0 || at >= self.back_ms => (Fate::Good, chance.near(0.13), None),
            Some(parked) if at >= parked => (Fate::Good, Some(self.back_ms - at + 0.4), None),
            Some(_) => (Fate::Refused, chance.near(0.12), None),
            None if at >= 1_752.0 => (Fate::Refused, chance.near(0.2), None),
            None => (Fate::Silent, None, None),
        });
        self.layer(LayerName::Syn, &shots, &["syn_ack", "rst", "silence"])
    }

    fn redis(&self) -> Layer {
        let mut shots = Shots {
            nodes: REDIS.map(|(id, label)| (id.into(), label.into())).into(),
            ..Shots::default()
        };
        let mut chance = Chance(29 + u64::from(self.number));
        let back = self.back_ms + 2.7;
        shots.fill(400.0, |at| match at {
            at if at < 0.0 => (Fate::Good, chance.near(0.31), Some(0)),
            at if at < back && self.moves => (Fate::Silent, None, None),
            at if at < back => (Fate::Refused, chance.near(0.3), None),
            _ => (Fate::Good, chance.near(0.33), Some(1)),
        });
        let mut layer =
            self.layer(LayerName::Redis, &shots, &["acknowledged", "refused", "silence"]);
        layer.fresh = layer.latency.as_ref().map(|steady| {
            let mut fresh = steady.clone();
            for it in [&mut fresh.min_ns, &mut fresh.p50_ns, &mut fresh.p90_ns, &mut fresh.p99_ns] {
                *it *= 3;
            }
            (fresh.p999_ns, fresh.max_ns) = (fresh.p999_ns * 3, fresh.max_ns * 3);
            for it in &mut fresh.histogram {
                (it.from_ns, it.to_ns) = (it.from_ns * 3, it.to_ns * 3);
            }
            fresh
        });
        let acknowledged = shots.list.iter().filter(|it| it.fate == Fate::Good).count() as u64;
        let lost = if self.moves { 14 } else { 0 };
        let sample = (0..lost.min(10)).map(|nth| LostWrite {
            connection: format!("persistent {}", nth % 4),
            number: 201 - nth / 4,
            at_ns: moment(-2.5 * (nth + 1) as f64),
            by: REDIS[0].1.into(),
        });
        layer.writes = Some(Writes {
            acknowledged,
            read_back_from: Some(REDIS[1].1.into()),
            lost: Some(lost),
            lost_sample: sample.collect(),
            late: 0,
            duplicated: 0,
            unacknowledged: 2,
        });
        let (how, at) = if self.moves { ("timeout", 1_001.0) } else { ("reset", 0.4) };
        let ended = (0..4).map(|nth| ended(at + f64::from(nth) * 0.3, "write", how));
        layer.waiting = Some(Waiting { connections: 4, ended: ended.collect(), hung: 0 });
        layer.errors = [("ECONNREFUSED", 88), ("reset", 4)]
            .into_iter()
            .map(|(kind, number)| (kind.to_owned(), number))
            .collect();
        layer
    }

    fn idle(&self) -> Layer {
        let mut layer = Layer::new(LayerName::Idle);
        let ways = ["read", "blpop", "subscribe"];
        let mut told: Vec<Ended> = (0..30)
            .map(|nth| {
                let waiting_in = ways[nth as usize % 3];
                match nth {
                    _ if self.moves && nth < 12 => {
                        ended(15_000.0 + 40.0 * f64::from(nth), waiting_in, "timeout")
                    }
                    0..=4 => ended(0.3 + f64::from(nth) * 0.1, waiting_in, "closed"),
                    _ => ended(self.back_ms + 0.9 + f64::from(nth) * 0.6, waiting_in, "reset"),
                }
            })
            .collect();
        if self.moves {
            told.truncate(21);
        }
        told.sort_by_key(|it| it.at_ns);
        let hung = 30 - told.len() as u64;
        layer.waiting = Some(Waiting { connections: 30, ended: told, hung });
        layer
    }

    /// Everything that the shots say, and how the schedule was kept.
    fn layer(&self, name: LayerName, shots: &Shots, fates: &[&str]) -> Layer {
        let mut layer = Layer::new(name);
        let end = ORIGIN + Duration::from_nanos(ns(LENGTH_MS));
        let trigger = Some(ORIGIN + Duration::from_nanos(ns(TRIGGER_MS)));
        shots.describe(&Window { origin: ORIGIN, trigger, end }, &mut layer);
        let ended = |fate| shots.list.iter().filter(|it| it.fate == fate).count() as u64;
        let numbers = match fates.len() {
            2 => vec![ended(Fate::Good), ended(Fate::Silent)],
            _ => vec![ended(Fate::Good), ended(Fate::Refused), ended(Fate::Silent)],
        };
        layer.fates =
            fates.iter().map(|it| it.to_string()).zip(numbers).collect::<BTreeMap<_, _>>();
        layer.schedule = Some(Schedule {
            rate: 1e9 / shots.interval.as_nanos() as f64,
            planned: shots.list.len() as u64,
            sent: shots.list.len() as u64,
            skipped: 0,
            late_p99_ns: 61_000,
            late_max_ns: 1_310_000,
        });
        layer
    }

    fn marks(&self) -> Vec<Mark> {
        let slave = "slave 198.18.0.102:8000 198.18.0.102 8000 @ mymaster 198.18.0.101 8000";
        let switch = "+switch-master mymaster 198.18.0.101 8000 198.18.0.102 8000";
        let mut all = vec![(0.0, Source::Trigger, "", COMMAND.to_owned())];
        for (nth, (down, seen)) in
            [(522.0, 1_782.4), (548.3, 2_795.0), (560.9, 1_791.7)].into_iter().enumerate()
        {
            all.push((down, Source::Sentinel, SENTINELS[nth], "+sdown master mymaster".to_owned()));
            all.push((seen, Source::Sentinel, SENTINELS[nth], switch.to_owned()));
        }
        let leader = [
            (651.2, "+odown master mymaster #quorum 3/2"),
            (651.9, "+try-failover master mymaster"),
            (668.4, "+elected-leader master mymaster"),
            (794.3, "+selected-slave"),
            (794.4, "+failover-state-send-slaveof-noone"),
            (858.8, "+failover-state-wait-promotion"),
            (1_671.0, "+promoted-slave"),
            (1_671.3, "+failover-state-reconf-slaves"),
            (2_794.8, "+failover-end master mymaster"),
        ];
        for (at, what) in leader {
            let what = if what.contains("master") && !what.contains("slave") {
                what.to_owned()
            } else {
                format!("{what} {slave}")
            };
            all.push((at, Source::Sentinel, SENTINELS[1], what));
        }
        if let Some(parked) = self.parked_ms {
            let back = self.back_ms;
            for (at, what) in [
                (parked, "parked"),
                (back - 3.1, "ROLE = master"),
                (back - 0.8, "flip"),
                (back - 0.4, "first packet"),
                (back + 0.6, "84 SYNs replayed"),
                (back + 19.0, "25 connections reset"),
                (1_784.0, "confirmed by epoch 12"),
            ] {
                all.push((at, Source::Vipd, "", what.to_owned()));
            }
        }
        all.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mark = |(at, source, who, what): (f64, Source, &str, String)| Mark {
            at_ns: moment(at),
            source,
            who: who.to_owned(),
            what,
        };
        all.into_iter().map(mark).collect()
    }
}

impl Shots {
    /// One probe after the other at a rate; `answer` gets the milliseconds since the trigger.
    fn fill(&mut self, rate: f64, mut answer: impl FnMut(f64) -> (Fate, Option<f64>, Option<u16>)) {
        self.interval = Duration::from_secs_f64(1.0 / rate);
        let mut at = 0.0;
        while at < LENGTH_MS {
            let due = ORIGIN + Duration::from_nanos(ns(at));
            let (fate, took_ms, node) = answer(at - TRIGGER_MS);
            let answered = took_ms.map(|took| due + Duration::from_nanos(ns(took)));
            self.list.push(Shot {
                due,
                sent: due + Duration::from_micros(9),
                answered,
                fate,
                node,
            });
            at += 1000.0 / rate;
        }
    }
}

/// Numbers that look like chance.
struct Chance(u64);

impl Chance {
    /// Milliseconds: mostly a little more than `usual`, seldom much more.
    fn near(&mut self, usual: f64) -> Option<f64> {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (self.0 >> 33) as f64 / (1u64 << 31) as f64;
        let again = (self.0 >> 12 & 0xfff) as f64 / 4096.0;
        let tail = 0.02 / (1.0 - share).max(0.0004);
        Some(usual * (0.85 + 0.3 * again + tail))
    }
}

fn report(target: &str, runs: Vec<Run>) -> Report {
    let mut summary = vec![];
    for name in [LayerName::Arp, LayerName::Icmp, LayerName::Syn, LayerName::Redis] {
        let layers = || runs.iter().filter_map(move |run| run.layer(name));
        let length =
            |layer: &Layer| layer.blackout.as_ref().map_or(0, |it| it.length_ns) as f64 / 1e6;
        summary.extend(figure(name, "blackout", "ms", layers().map(length).collect()));
        let p99 = |layer: &Layer| layer.latency.as_ref().map(|it| it.p99_ns as f64 / 1e6);
        summary.extend(figure(name, "p99", "ms", layers().filter_map(p99).collect()));
        let lost = |layer: &Layer| Some(layer.writes.as_ref()?.lost? as f64);
        summary.extend(figure(name, "lost writes", "", layers().filter_map(lost).collect()));
    }
    let expected: Result<Expectations, _> = "blackout<1s,lost=0".parse();
    let expectations = expected.map(|it| it.judge(&runs)).unwrap_or_default();
    Report {
        version: "0.1.0".into(),
        target: target.into(),
        started: "2026-11-27T23:26:02Z".into(),
        runs,
        summary,
        expectations,
    }
}

fn figure(layer: LayerName, name: &str, unit: &str, values: Vec<f64>) -> Option<Figure> {
    let spread = Spread::of(values.iter().copied().map(Some))?;
    Some(Figure { layer, name: name.into(), unit: unit.into(), values, spread, open: 0 })
}

fn ended(after_ms: f64, waiting_in: &str, how: &str) -> Ended {
    Ended { at_ns: moment(after_ms), waiting_in: waiting_in.into(), how: how.into() }
}

fn ns(ms: f64) -> u64 {
    (ms * 1e6).round() as u64
}

/// So long after the trigger.
fn moment(after_ms: f64) -> u64 {
    ns(TRIGGER_MS + after_ms)
}
