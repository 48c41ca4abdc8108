//! Probes that were sent and what became of them, and what that says about the VIP. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::figures::Latency;
use super::report::{Lane, Layer, Node, Outage, Span, State};
use crate::clock::Monotonic;

/// One probe: a packet, or a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shot {
    /// When the schedule wanted it.
    pub due: Monotonic,
    /// When the kernel sent it, or when it was handed to the kernel.
    pub sent: Monotonic,
    /// When its (first) answer came, good or not.
    pub answered: Option<Monotonic>,
    /// What it was.
    pub fate: Fate,
    /// Who answered, if that can be told: a number in [`Shots::nodes`].
    pub node: Option<u16>,
}

/// How a probe ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A good answer.
    Good,
    /// Somebody said no, or it could not be sent.
    Refused,
    /// Nobody said anything in time.
    Silent,
}

/// All probes of one layer in one run, in the order in which they were due.
#[derive(Clone, Debug, Default)]
pub struct Shots {
    /// The probes.
    pub list: Vec<Shot>,
    /// Who answered: id and label.
    pub nodes: Vec<(String, String)>,
    /// Between two of them.
    pub interval: Duration,
}

/// The run on its own axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its beginning.
    pub origin: Monotonic,
    /// When the trigger was pulled.
    pub trigger: Option<Monotonic>,
    /// When the last probe was due.
    pub end: Monotonic,
}

/// A shorter silence is no outage: a busy machine has those.
const SHORTEST_OUTAGE: Duration = Duration::from_millis(10);
/// Nor is a silence of fewer probes.
const FEWEST_PROBES: u32 = 3;
/// Outages that are told of; the longest ones.
const MAX_OUTAGES: usize = 100;
/// An answer is late if it took so many times the median, and no less than [`LATE`].
const LATE_FACTOR: u64 = 20;
const LATE: Duration = Duration::from_millis(20);
/// Pieces that a lane is cut into.
const BINS: u64 = 2000;
const NARROWEST_BIN: Duration = Duration::from_millis(1);

impl Window {
    /// A moment on the axis of the run; zero if it was before.
    pub fn at(&self, moment: Monotonic) -> u64 {
        moment.0.saturating_sub(self.origin.0)
    }

    /// How long it is.
    pub fn length(&self) -> u64 {
        self.at(self.end)
    }
}

impl Shots {
    /// Tells what they say in `layer`: outages, latency, lanes and nodes.
    pub fn describe(&self, window: &Window, layer: &mut Layer) {
        let good = self.good();
        let outages = self.outages(&good, window);
        layer.latency = self.latency(window, &outages);
        layer.wire = self.took(window, &outages, |shot| shot.sent);
        layer.lost = self.list.iter().filter(|shot| shot.fate != Fate::Good).count() as u64;
        layer.blackout = blackout(&outages, window);
        let late = LATE.as_nanos() as u64;
        let late = layer.latency.as_ref().map_or(late, |it| late.max(LATE_FACTOR * it.p50_ns));
        layer.lanes = self.lanes(&good, window, late);
        layer.nodes = self.seen(&good, window);
        layer.outages = outages;
    }

    /// How long answers took from the moment at which their probes were due, outside of these outages.
    pub fn latency(&self, window: &Window, outages: &[Outage]) -> Option<Latency> {
        self.took(window, outages, |shot| shot.due)
    }

    fn took(
        &self,
        window: &Window,
        outages: &[Outage],
        since: fn(&Shot) -> Monotonic,
    ) -> Option<Latency> {
        let is_steady = |shot: &&Shot| {
            !outages.iter().any(|it| {
                let end = it.to_ns.unwrap_or(u64::MAX);
                (it.from_ns..=end).contains(&window.at(shot.due))
            })
        };
        let good = self.list.iter().filter(|shot| shot.fate == Fate::Good);
        let steady = good.filter(is_steady);
        let took = steady.filter_map(|it| Some(it.answered?.0.saturating_sub(since(it).0)));
        Latency::of(took.collect())
    }

    /// Those with a good answer, in order of the answers.
    fn good(&self) -> Vec<Good<'_>> {
        let mut good: Vec<_> = self
            .list
            .iter()
            .filter(|shot| shot.fate == Fate::Good && shot.answered.is_some())
            .map(|shot| Good { at: answered(shot), shot })
            .collect();
        good.sort_by_key(|it| it.at);
        good
    }

    /// Silences, and changes of the node that answers, however short.
    fn outages(&self, good: &[Good<'_>], window: &Window) -> Vec<Outage> {
        let shortest = SHORTEST_OUTAGE.max(self.interval * FEWEST_PROBES);
        let Some(first_shot) = self.list.first() else { return vec![] };
        let mut outages = Vec::new();
        let mut known = vec![false; self.nodes.len()];
        let mut before: Option<&Good<'_>> = None;
        for next in good {
            let from = before.map_or(first_shot.sent, |it| it.at);
            let old = before.and_then(|it| it.shot.node);
            let is_new = next
                .shot
                .node
                .is_some_and(|it| !std::mem::replace(&mut known[usize::from(it)], true));
            let is_change = is_new && old.is_some();
            let from = self.without_pause(from, shortest);
            if is_change || self.exposed(from, next.at) >= shortest {
                let new = next.shot.node.filter(|_| is_change);
                outages.push(self.outage(window, from, Some(next.at), old, new));
            }
            before = Some(next);
        }
        let from = before.map_or(first_shot.sent, |it| it.at);
        let from = self.without_pause(from, shortest);
        if self.exposed(from, window.end) >= shortest {
            outages.push(self.outage(window, from, None, before.and_then(|it| it.shot.node), None));
        }
        if outages.len() > MAX_OUTAGES {
            outages.sort_by_key(|it| std::cmp::Reverse(it.length_ns));
            outages.truncate(MAX_OUTAGES);
            outages.sort_by_key(|it| it.from_ns);
        }
        outages
    }

    /// How long before `to` a probe was out that was sent after `from`: a pause of the probe itself
    /// is no outage.
    fn exposed(&self, from: Monotonic, to: Monotonic) -> Duration {
        self.next_sent(from).map_or(Duration::ZERO, |begun| to.since(begun))
    }

    /// `from`, or when the probe went on if it paused there for longer than is unusual: what was not
    /// asked is not known.
    fn without_pause(&self, from: Monotonic, unusual: Duration) -> Monotonic {
        match self.next_sent(from) {
            Some(begun) if begun.since(from) > unusual => begun,
            _ => from,
        }
    }

    /// When the first probe was sent that was sent at or after `from`.
    fn next_sent(&self, from: Monotonic) -> Option<Monotonic> {
        let next = self.list.partition_point(|shot| shot.due <= from);
        // A probe that was due before may have been sent after.
        let around = self.list[next.saturating_sub(1)..].iter().take(2);
        around.map(|shot| shot.sent).filter(|&sent| sent >= from).min()
    }

    fn outage(
        &self,
        window: &Window,
        from: Monotonic,
        to: Option<Monotonic>,
        old: Option<u16>,
        new: Option<u16>,
    ) -> Outage {
        let name = |it: Option<u16>| it.map(|it| self.nodes[usize::from(it)].1.clone());
        Outage {
            from_ns: window.at(from),
            to_ns: to.map(|to| window.at(to)),
            length_ns: to.unwrap_or(window.end).0.saturating_sub(from.0),
            old: name(old),
            new: name(new),
        }
    }

    fn lanes(&self, good: &[Good<'_>], window: &Window, late: u64) -> Vec<Lane> {
        let bin = (window.length() / BINS).max(NARROWEST_BIN.as_nanos() as u64);
        let reach = bin.max(self.interval.as_nanos() as u64 * u64::from(FEWEST_PROBES));
        let all = self.list.iter().map(|shot| {
            let took = shot.answered.map_or(0, |it| it.0.saturating_sub(shot.due.0));
            let state = match shot.fate {
                Fate::Good if took > late => State::Late,
                Fate::Good => State::Good,
                Fate::Refused => State::Refused,
                Fate::Silent => State::Silent,
            };
            (window.at(shot.due), state)
        });
        let mut lanes = vec![Lane { label: String::new(), spans: spans(all, bin, reach) }];
        for (number, (_, label)) in self.nodes.iter().enumerate() {
            let answers = good.iter().filter(|it| it.shot.node.map(usize::from) == Some(number));
            let answers = answers.map(|it| (window.at(it.at), State::Good));
            let spans = spans(answers, bin, reach);
            if !spans.is_empty() {
                lanes.push(Lane { label: label.clone(), spans });
            }
        }
        lanes
    }

    fn seen(&self, good: &[Good<'_>], window: &Window) -> Vec<Node> {
        let mut seen: BTreeMap<u16, Node> = BTreeMap::new();
        for it in good {
            let Some(number) = it.shot.node else { continue };
            let at = window.at(it.at);
            let node = seen.entry(number).or_insert_with(|| {
                let (id, label) = self.nodes[usize::from(number)].clone();
                Node { id, label, answers: 0, first_ns: at, last_ns: at }
            });
            node.answers += 1;
            node.last_ns = at;
        }
        let mut nodes: Vec<_> = seen.into_values().collect();
        nodes.sort_by_key(|node| node.first_ns);
        nodes
    }
}

/// A probe with a good answer.
struct Good<'a> {
    at: Monotonic,
    shot: &'a Shot,
}

fn answered(shot: &Shot) -> Monotonic {
    shot.answered.unwrap_or(shot.due)
}

/// The longest one that ended after the trigger.
fn blackout(outages: &[Outage], window: &Window) -> Option<Outage> {
    let zero = window.trigger.map_or(0, |at| window.at(at));
    let after = outages.iter().filter(|it| it.to_ns.is_none_or(|to| to >= zero));
    after.max_by_key(|it| it.length_ns).cloned()
}

/// Moments and states, in order, as pieces no shorter than `bin`; what is further apart than `reach`
/// is not joined.
fn spans(moments: impl Iterator<Item = (u64, State)>, bin: u64, reach: u64) -> Vec<Span> {
    let mut bins: BTreeMap<u64, State> = BTreeMap::new();
    for (at, state) in moments {
        let worst = bins.entry(at / bin).or_insert(state);
        *worst = state.max(*worst);
    }
    let mut spans: Vec<Span> = Vec::new();
    for (number, state) in bins {
        let (from_ns, to_ns) = (number * bin, (number + 1) * bin);
        match spans.last_mut() {
            Some(last) if from_ns.saturating_sub(last.to_ns) <= reach => {
                if last.state == state {
                    last.to_ns = to_ns;
                } else {
                    last.to_ns = from_ns;
                    spans.push(Span { from_ns, to_ns, state });
                }
            }
            _ => spans.push(Span { from_ns, to_ns, state }),
        }
    }
    spans
}

#[cfg(test)]
mod tests;
