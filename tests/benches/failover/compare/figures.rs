//! What is told of every cell.

use vipd::probe::figures::Spread;

use super::run::Run;

/// A number of each run; less is better.
pub struct Figure {
    /// For people.
    pub name: &'static str,
    /// Milliseconds, or a count.
    pub is_time: bool,
    /// `None` where there is no such thing.
    pub of: fn(&Run) -> Option<f64>,
}

/// In the order of the table.
pub const FIGURES: [Figure; 7] = [
    time("blackout", |run| Some(run.blackout_ms)),
    time("SYN blackout", |run| run.syn_blackout_ms),
    time("first write after +switch-master", |run| run.first_write_after_switch_ms),
    count("hung clients", |run| Some(run.hung as f64)),
    count("lost writes", |run| run.lost.map(|lost| lost as f64)),
    count("late writes", |run| Some(run.late as f64)),
    time("two owners", |run| run.two_owners_ms),
];

/// What the figures are, for whoever reads the table.
pub const EXPLANATION: &str = "\
Medians (least – greatest) of N failovers; times in milliseconds.

- **blackout**: from the last write that the old master acknowledged to the first by the new one, over
  persistent and fresh connections; *never in n*: in so many runs the new master served nobody before
  the end, and the blackout is counted until then.
- **SYN blackout**: the longest time in which no SYN was answered with SYN-ACK.
- **first write after +switch-master**: the new master's first acknowledgement, counted from the first
  Sentinel's announcement; negative is before it.
- **hung clients**: connections that still hold on to the lost master at the end, idle ones and writers.
- **lost writes**: acknowledged, and not on the new master; asynchronous replication loses some whenever
  a master dies.
- **late writes**: acknowledged by the old master after the new one's first: two masters.
- **two owners**: how long two hosts both answered ARP for the VIP, as a third host saw it.";

impl Figure {
    /// Where it lies; `None` if no run has it.
    pub fn spread(&self, runs: &[Run]) -> Option<Spread> {
        Spread::of(runs.iter().map(self.of))
    }

    /// A value of it, for people.
    pub fn show(&self, value: f64) -> String {
        // Medians of counts can lie between two.
        let decimals = match value.abs() {
            value if value.fract() == 0.0 && !self.is_time => 0,
            value if value < 99.95 => 1,
            _ => 0,
        };
        format!("{value:.decimals$}")
    }

    /// A spread of it, for people.
    pub fn show_spread(&self, spread: &Spread) -> String {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(|it| self.show(it));
        if min == max { median } else { format!("{median} ({min} – {max})") }
    }
}

const fn time(name: &'static str, of: fn(&Run) -> Option<f64>) -> Figure {
    Figure { name, is_time: true, of }
}

const fn count(name: &'static str, of: fn(&Run) -> Option<f64>) -> Figure {
    Figure { name, is_time: false, of }
}
