//! What the writers found, as the report has it.

use std::time::Duration;

use super::account::{Names, account};
use super::journal::{Entries, Record};
use super::name_of;
use super::read_back::ReadBack;
use crate::clock::Monotonic;
use crate::probe::clients::failure::Failure;
use crate::probe::clients::{Addresses, ClientSettings, label};
use crate::probe::report::{Ended, Layer, LayerName, Schedule, Waiting};
use crate::probe::shots::{Fate, Shot, Shots, Window};

/// Kinds of errors that explain themselves.
const PLAIN: [&str; 8] =
    ["refused", "reset", "closed", "timeout", "readonly", "backlog", "no connection", "loading"];

/// What the writers of one run found.
#[derive(Debug)]
pub struct Written {
    settings: ClientSettings,
    /// Its records are in the order in which they were due.
    entries: Entries,
    /// The node that each persistent connection was connected to at the end.
    at_end: Vec<Option<u16>>,
    back: Result<ReadBack, Failure>,
}

impl Written {
    pub(super) fn new(
        settings: ClientSettings,
        mut entries: Entries,
        at_end: Vec<Option<u16>>,
        back: Result<ReadBack, Failure>,
    ) -> Self {
        entries.records.sort_by_key(|it| (it.write.due, it.write.connection));
        entries.ended.sort_by_key(|it| it.at);
        Self { settings, entries, at_end, back }
    }

    /// As the report has it. `addresses` are for the labels.
    pub fn layer(&self, window: &Window, addresses: &Addresses) -> Layer {
        let naming = Naming { written: self, window, addresses };
        let mut layer = Layer::new(LayerName::Redis);
        let all = self.shots(&naming, |_| true);
        all.describe(window, &mut layer);
        let fresh = self.settings.connections;
        // A write that has a handshake before it takes longer: they don't mix.
        let persistent = self.shots(&naming, |it| it.write.connection != fresh);
        layer.latency = persistent.latency(window, &layer.outages);
        let fresh = self.shots(&naming, |it| it.write.connection == fresh);
        layer.fresh = fresh.latency(window, &layer.outages);
        if self.settings.connections == 0 {
            layer.latency = layer.fresh.clone();
        }
        layer.wire = None;

        let failed: u64 = self.entries.errors.values().sum();
        let acknowledged = self.entries.records.len() as u64 - failed;
        layer.fates =
            [("acknowledged".to_owned(), acknowledged), ("error".to_owned(), failed)].into();
        layer.errors = self.entries.errors.clone();
        layer.schedule = Some(self.schedule());
        let mut writes = account(&self.entries, self.back.as_ref().ok(), &naming);
        writes.read_back_from = self.back.as_ref().ok().map(|it| label(&it.run_id, addresses));
        layer.writes = Some(writes);
        layer.waiting = Some(self.waiting(window));
        layer
    }

    /// What one must know to read the figures.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.entries.notes.clone();
        let target = &self.settings.target;
        match &self.back {
            Ok(ReadBack { not_removed: None, .. }) => {}
            Ok(ReadBack { not_removed: Some(why), .. }) => notes.push(format!(
                "redis: the probe's keys could not be removed, and expire in an hour: {}",
                why.says
            )),
            Err(why) => notes.push(format!(
                "redis: the numbers could not be read back from {target}, so that nobody knows \
                 whether writes were lost: {}; the keys expire in an hour",
                why.says
            )),
        }
        if !self.entries.attempts.is_empty() {
            let attempts = self.entries.attempts.iter();
            let attempts: Vec<_> =
                attempts.map(|(kind, count)| format!("{kind} {count}")).collect();
            notes.push(format!(
                "redis: attempts to open a persistent connection again that failed: {}",
                attempts.join(", ")
            ));
        }
        for (kind, says) in self.entries.says.iter().filter(|(it, _)| !PLAIN.contains(&it.as_str()))
        {
            notes.push(format!("redis: the first error of the kind `{kind}`: {target} {says}"));
        }
        notes
    }

    fn shots(&self, naming: &Naming<'_>, wanted: impl Fn(&Record) -> bool) -> Shots {
        let shot = |it: &Record| Shot {
            due: it.write.due,
            sent: it.sent,
            answered: it.answered,
            fate: it.fate,
            node: it.node,
        };
        let run_ids = self.entries.nodes.iter();
        Shots {
            list: self.entries.records.iter().filter(|it| wanted(it)).map(shot).collect(),
            nodes: run_ids.map(|it| (it.clone(), label(it, naming.addresses))).collect(),
            interval: Duration::from_secs_f64(1.0 / self.rate().max(1.0)),
        }
    }

    fn schedule(&self) -> Schedule {
        let records = self.entries.records.iter();
        let late = records.map(|it| it.sent.0.saturating_sub(it.write.due.0));
        Schedule::of(self.rate(), late, self.entries.skipped)
    }

    /// Of all connections together, a second.
    fn rate(&self) -> f64 {
        let ClientSettings { connections, write_rate, fresh_rate, .. } = self.settings;
        f64::from(connections) * f64::from(write_rate) + f64::from(fresh_rate)
    }

    fn waiting(&self, window: &Window) -> Waiting {
        let ended = self.entries.ended.iter().map(|it| Ended {
            at_ns: window.at(it.at),
            waiting_in: "write".to_owned(),
            how: it.kind.to_string(),
        });
        Waiting {
            connections: u64::from(self.settings.connections),
            ended: ended.collect(),
            hung: self.hung(),
        }
    }

    /// Those that are still on another node than the one that the target leads to now, or that never
    /// reached that one though others did.
    fn hung(&self) -> u64 {
        let good = || self.entries.records.iter().filter(|it| it.fate == Fate::Good);
        let newest = || good().filter_map(|it| it.node).max();
        let current = match &self.back {
            Ok(back) => self.entries.nodes.iter().position(|it| *it == back.run_id),
            // Nodes are numbered as they are met.
            Err(_) => newest().map(usize::from),
        };
        let is_current = |node: u16| Some(usize::from(node)) == current;
        let mut reached = vec![false; self.at_end.len() + 1];
        for it in good().filter(|it| it.node.is_some_and(is_current)) {
            reached[it.write.connection as usize] = true;
        }
        let somebody_reached = reached.contains(&true);
        let is_hung = |(connection, node): (usize, &Option<u16>)| match node {
            Some(node) => !is_current(*node),
            None => somebody_reached && !reached[connection],
        };
        self.at_end.iter().enumerate().filter(|it| is_hung(*it)).count() as u64
    }
}

/// For [`account`].
struct Naming<'a> {
    written: &'a Written,
    window: &'a Window,
    addresses: &'a Addresses,
}

impl Names for Naming<'_> {
    fn connection(&self, number: u32) -> String {
        name_of(number as usize, self.written.settings.connections)
    }

    fn node(&self, number: Option<u16>) -> String {
        let run_id = number.and_then(|it| self.written.entries.nodes.get(usize::from(it)));
        run_id.map(|it| label(it, self.addresses)).unwrap_or_default()
    }

    fn at(&self, moment: Monotonic) -> u64 {
        self.window.at(moment)
    }
}

#[cfg(test)]
impl Written {
    /// From when they were due, those that were due from then on.
    pub(super) fn latencies_from(&self, moment: Monotonic) -> impl Iterator<Item = Duration> {
        let due = self.entries.records.iter().filter(move |it| it.write.due >= moment);
        due.filter_map(|it| Some(it.answered?.since(it.write.due)))
    }
}
