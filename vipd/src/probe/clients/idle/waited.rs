//! What the waiting clients found, as the report has it. Pure.

use std::collections::BTreeMap;

use super::{End, Waiter};
use crate::probe::clients::failure::Failure;
use crate::probe::clients::target::Identity;
use crate::probe::clients::{Addresses, label};
use crate::probe::report::{Ended, Lane, Layer, LayerName, Node, Span, State, Waiting};
use crate::probe::shots::Window;

/// What the waiting clients of one run found.
#[derive(Debug)]
pub struct Waited {
    pub(super) waiters: Vec<Waiter>,
    /// Where the target leads now.
    pub(super) current: Result<Identity, Failure>,
}

impl Waited {
    /// As the report has it. `addresses` are for the labels.
    pub fn layer(&self, window: &Window, addresses: &Addresses) -> Layer {
        let mut ended: Vec<_> = self
            .waiters
            .iter()
            .filter_map(|it| {
                let End { at, how } = it.end.clone()?;
                Some(Ended {
                    at_ns: window.at(at),
                    waiting_in: it.place.name().to_owned(),
                    how: how.into_owned(),
                })
            })
            .collect();
        ended.sort_by_key(|it| it.at_ns);
        let hung = self.waiters.iter().filter(|it| self.is_hung(it)).count() as u64;
        let connections = self.waiters.len() as u64;

        let mut layer = Layer::new(LayerName::Idle);
        for it in &ended {
            *layer.fates.entry(it.how.clone()).or_default() += 1;
        }
        let waiting = connections - ended.len() as u64 - hung;
        for (fate, count) in [("hung", hung), ("waiting", waiting)] {
            if count > 0 {
                layer.fates.insert(fate.to_owned(), count);
            }
        }
        let everybody: Vec<_> = self.waiters.iter().collect();
        layer.lanes.push(self.lane(String::new(), &everybody, window));
        for (run_id, waiters) in self.by_node() {
            let label = label(run_id, addresses);
            layer.lanes.push(self.lane(label.clone(), &waiters, window));
            let last_ns = Ends::of(&waiters, window).map_or(window.length(), |it| it.last);
            let id = run_id.to_owned();
            layer.nodes.push(Node {
                id,
                label,
                answers: waiters.len() as u64,
                first_ns: 0,
                last_ns,
            });
        }
        layer.waiting = Some(Waiting { connections, ended, hung });
        layer
    }

    /// What one must know to read the figures.
    pub fn notes(&self) -> Vec<String> {
        match &self.current {
            Err(why) if self.waiters.iter().any(|it| it.end.is_none()) => vec![format!(
                "idle: nobody answered at the end, so that every connection that is still open \
                 counts as hung: {}",
                why.says
            )],
            _ => vec![],
        }
    }

    /// Holds on to a node that the target doesn't lead to.
    fn is_hung(&self, waiter: &Waiter) -> bool {
        let leads_there = self.current.as_ref().is_ok_and(|it| it.run_id == waiter.run_id);
        waiter.end.is_none() && !leads_there
    }

    fn by_node(&self) -> BTreeMap<&str, Vec<&Waiter>> {
        let mut nodes: BTreeMap<&str, Vec<&Waiter>> = BTreeMap::new();
        for waiter in &self.waiters {
            nodes.entry(&waiter.run_id).or_default().push(waiter);
        }
        nodes
    }

    /// Well until the first one learned otherwise; then bad until the last one did. Those that hang
    /// have been silent from that moment on, or from the trigger if nobody learned anything.
    fn lane(&self, label: String, waiters: &[&Waiter], window: &Window) -> Lane {
        let length = window.length();
        let hangs = waiters.iter().any(|it| self.is_hung(it));
        let waits = waiters.iter().any(|it| it.end.is_none() && !self.is_hung(it));
        let ends = Ends::of(waiters, window);
        let zero = window.trigger.map_or(0, |it| window.at(it));
        let silence = if hangs { ends.map_or(zero, |it| it.last).min(length) } else { length };
        let mut pieces = vec![];
        match ends {
            None => pieces.push((0, silence, State::Good)),
            Some(Ends { first, last }) => {
                pieces.push((0, first, State::Good));
                pieces.push((first, last, State::Refused));
                if waits && !hangs {
                    pieces.push((last, length, State::Good));
                }
            }
        }
        pieces.push((silence, length, State::Silent));
        let spans = pieces.into_iter().filter(|(from, to, _)| from < to);
        let spans = spans.map(|(from_ns, to_ns, state)| Span { from_ns, to_ns, state });
        Lane { label, spans: spans.collect() }
    }
}

/// When the first one learned, and the last one.
#[derive(Clone, Copy)]
struct Ends {
    first: u64,
    last: u64,
}

impl Ends {
    fn of(waiters: &[&Waiter], window: &Window) -> Option<Self> {
        let ends = || waiters.iter().filter_map(|it| it.end.as_ref()).map(|it| window.at(it.at));
        Some(Self { first: ends().min()?, last: ends().max()? })
    }
}
