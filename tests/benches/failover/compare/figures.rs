//! What is told of every cell.

use vipd::probe::figures::Spread;

use super::run::Run;

/// A number of each run; less is better.
pub struct Figure {
    /// For people.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Milliseconds, or a count.
    pub is_time: bool,
    /// Whether its distribution is worth a drawing: the others are mostly all the same.
    pub is_plotted: bool,
    /// `None` where there is no such thing.
    pub of: fn(&Run) -> Option<f64>,
    /// What it does not say.
    pub exception: Option<Exception>,
}

/// What a figure does not say of some runs, which are worse than those that it does.
pub struct Exception {
    /// For people.
    pub what: &'static str,
    /// Whether a run is one.
    pub is_one: fn(&Run) -> bool,
}

/// In the order of the table.
pub const FIGURES: [Figure; 8] = [
    Figure {
        name: "blackout",
        meaning: "from the last write that the old master acknowledged to the first by the new one, \
                  over persistent and fresh connections; never in n: in so many runs the new master \
                  served nobody before the end, and the blackout is counted until then",
        is_time: true,
        is_plotted: true,
        of: |run| Some(run.blackout_ms),
        exception: Some(Exception { what: "never", is_one: |run| !run.is_served }),
    },
    Figure {
        name: "SYN blackout",
        meaning: "the longest time in which no SYN was answered with SYN-ACK",
        is_time: true,
        is_plotted: true,
        of: |run| run.syn_blackout_ms,
        exception: None,
    },
    Figure {
        name: "first write after +switch-master",
        meaning: "the new master's first acknowledgement, counted from the first Sentinel's \
                  announcement; negative is before it",
        is_time: true,
        is_plotted: true,
        of: |run| run.first_write_after_switch_ms,
        exception: None,
    },
    Figure {
        name: "last idle client told",
        meaning: "how long after the fault the last of 30 connections that only wait learned that \
                  its master is gone; hung in n: in so many runs some never did, and this is counted \
                  until the end",
        is_time: true,
        is_plotted: true,
        of: |run| run.last_told_ms,
        exception: Some(Exception { what: "hung", is_one: |run| run.hung_idle > 0 }),
    },
    Figure {
        name: "hung clients",
        meaning: "connections that still hold on to the lost master at the end, idle ones and writers",
        is_time: false,
        is_plotted: false,
        of: |run| Some(run.hung as f64),
        exception: None,
    },
    Figure {
        name: "lost writes",
        meaning: "acknowledged, and not on the new master; asynchronous replication loses some \
                  whenever a master dies; unknown in n: in so many runs clients were still led to the \
                  old master at the end",
        is_time: false,
        is_plotted: false,
        of: |run| run.lost.map(|lost| lost as f64),
        exception: Some(Exception { what: "unknown", is_one: |run| run.lost.is_none() }),
    },
    Figure {
        name: "late writes",
        meaning: "acknowledged by the old master after the new one's first: two masters",
        is_time: false,
        is_plotted: false,
        of: |run| Some(run.late as f64),
        exception: None,
    },
    Figure {
        name: "two owners",
        meaning: "how long two hosts both answered ARP for the VIP, as a third host saw it",
        is_time: true,
        is_plotted: false,
        of: |run| run.two_owners_ms,
        exception: None,
    },
];

/// What the figures are, for whoever reads them.
pub const HOW: &str = "Medians (least – greatest) of N failovers; times in milliseconds.";

/// [`HOW`], and what each is, as Markdown.
pub fn explanation() -> String {
    let meanings = FIGURES.iter().map(|it| format!("- **{}**: {}.", it.name, it.meaning));
    format!("{HOW}\n\n{}", meanings.collect::<Vec<_>>().join("\n"))
}

impl Figure {
    /// Where it lies; `None` if no run has it.
    pub fn spread(&self, runs: &[Run]) -> Option<Spread> {
        Spread::of(runs.iter().map(self.of))
    }

    /// How many runs are exceptions.
    pub fn exceptions(&self, runs: &[Run]) -> usize {
        let is_one = |it: &Exception| runs.iter().filter(|run| (it.is_one)(run)).count();
        self.exception.as_ref().map_or(0, is_one)
    }

    /// What is to be said of exceptions: `never in 2`.
    pub fn remark(&self, runs: &[Run]) -> Option<String> {
        let what = self.exception.as_ref()?.what;
        let count = self.exceptions(runs);
        (count > 0).then(|| format!("{what} in {count}"))
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
