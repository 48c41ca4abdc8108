//! What was measured, and how it is shown.

use anyhow::Result;

use crate::load::{Load, Outcome};
use crate::ways::Way;

const HEADER: &str =
    "           requests/s         min – max   direct    min – max   CPU µs     min – max   extra";

/// Outcomes of every load, way and round.
pub struct Samples {
    ways: Vec<&'static str>,
    rounds: Vec<(Load, Vec<Outcome>)>,
}

impl Samples {
    /// The first way is what the others are compared with.
    pub fn new(ways: &[Way]) -> Self {
        Self { ways: ways.iter().map(|way| way.name).collect(), rounds: Vec::new() }
    }

    /// Measures each way once with `measure`, which gets its number. Each round starts with
    /// another, so that none is always the one after the same.
    pub fn add_round(
        &mut self,
        load: Load,
        mut measure: impl FnMut(usize) -> Result<Outcome>,
    ) -> Result<()> {
        let (first, count) = (self.of(load).count(), self.ways.len());
        let mut outcomes = Vec::with_capacity(count);
        for turn in 0..count {
            outcomes.push(measure((first + turn) % count)?);
        }
        // Back to the order of the ways.
        outcomes.rotate_right(first % count);
        self.rounds.push((load, outcomes));
        Ok(())
    }

    /// Prints a table for each load.
    pub fn print(&self, loads: &[Load]) {
        for &load in loads {
            println!(
                "{} of {} bytes, pipeline {}",
                load.command.to_uppercase(),
                load.size,
                load.pipeline
            );
            println!("  {HEADER}");
            for (way, name) in self.ways.iter().enumerate() {
                let outcomes = || self.of(load).map(|round| (round[way], round[0]));
                let rate = Summary::of(outcomes().map(|(it, _)| it.requests_per_second));
                let ratio = Summary::of(
                    outcomes()
                        .map(|(it, direct)| it.requests_per_second / direct.requests_per_second),
                );
                let cpu = Summary::of(outcomes().map(|(it, _)| it.cpu_us));
                let more = Summary::of(outcomes().map(|(it, direct)| it.cpu_us - direct.cpu_us));
                println!(
                    "  {name:<9} {:>9.0} {:>17} {:>8.3} {:>12} {:>9.2} {:>13} {:>7.2}",
                    rate.median,
                    format!("{:.0} – {:.0}", rate.min, rate.max),
                    ratio.median,
                    format!("{:.2} – {:.2}", ratio.min, ratio.max),
                    cpu.median,
                    format!("{:.1} – {:.1}", cpu.min, cpu.max),
                    more.median,
                );
            }
            println!();
        }
    }

    fn of(&self, load: Load) -> impl Iterator<Item = &Vec<Outcome>> {
        self.rounds.iter().filter(move |(it, _)| *it == load).map(|(_, outcomes)| outcomes)
    }
}

struct Summary {
    min: f64,
    median: f64,
    max: f64,
}

impl Summary {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Self { min: values[0], median, max: values[values.len() - 1] }
    }
}
