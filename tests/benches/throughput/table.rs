//! What was measured, and how it is shown.

use anyhow::Result;
use vipd::probe::figures::Spread;

use crate::load::{Load, Outcome};
use crate::ways::{DIRECT, ROUTED, Way};

const HEADER: &str =
    "           requests/s           min – max  of direct    min – max  of routed  CPU µs   extra";

/// Outcomes of every load, way and round.
pub struct Samples {
    ways: Vec<&'static str>,
    rounds: Vec<(Load, Vec<Outcome>)>,
}

impl Samples {
    /// None yet.
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
            println!("{load}");
            println!("  {HEADER}");
            for (way, name) in self.ways.iter().enumerate() {
                let each = |value: fn(Outcome, Outcome) -> f64, other: usize| {
                    let rounds = self.of(load);
                    Spread::of(rounds.map(|round| Some(value(round[way], round[other]))))
                        .expect("every load was measured at least once")
                };
                let rate = each(|it, _| it.requests_per_second, DIRECT);
                let of_direct = each(ratio, DIRECT);
                let of_routed = each(ratio, ROUTED);
                let cpu = each(|it, _| it.cpu_us, DIRECT);
                let extra = each(|it, direct| it.cpu_us - direct.cpu_us, DIRECT);
                println!(
                    "  {name:<9} {:>11.0} {:>19} {:>10.3} {:>12} {:>10.3} {:>7.2} {:>7.2}",
                    rate.median,
                    format!("{:.0} – {:.0}", rate.min, rate.max),
                    of_direct.median,
                    format!("{:.2} – {:.2}", of_direct.min, of_direct.max),
                    of_routed.median,
                    cpu.median,
                    extra.median,
                );
            }
            println!();
        }
    }

    fn of(&self, load: Load) -> impl Iterator<Item = &Vec<Outcome>> {
        self.rounds.iter().filter(move |(it, _)| *it == load).map(|(_, outcomes)| outcomes)
    }
}

fn ratio(it: Outcome, other: Outcome) -> f64 {
    it.requests_per_second / other.requests_per_second
}
