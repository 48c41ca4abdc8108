//! What was measured, and how it is shown.

use anyhow::Result;

use crate::load::Load;
use crate::ways::Way;

/// Rates of every load, way and round.
pub struct Samples {
    ways: Vec<&'static str>,
    rounds: Vec<(Load, Vec<f64>)>,
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
        mut measure: impl FnMut(usize) -> Result<f64>,
    ) -> Result<()> {
        let first = self.of(load).count();
        let mut rates = vec![0.0; self.ways.len()];
        for turn in 0..rates.len() {
            let way = (first + turn) % rates.len();
            rates[way] = measure(way)?;
        }
        self.rounds.push((load, rates));
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
            println!(
                "  {:<10}{:>12}{:>22}{:>12}{:>18}",
                "", "requests/s", "min – max", "of direct", "min – max"
            );
            for (way, name) in self.ways.iter().enumerate() {
                let rates = Summary::of(self.of(load).map(|rates| rates[way]));
                let ratios = Summary::of(self.of(load).map(|rates| rates[way] / rates[0]));
                println!(
                    "  {name:<10}{:>12.0}{:>22}{:>12.3}{:>18}",
                    rates.median,
                    format!("{:.0} – {:.0}", rates.min, rates.max),
                    ratios.median,
                    format!("{:.2} – {:.2}", ratios.min, ratios.max),
                );
            }
            println!();
        }
    }

    fn of(&self, load: Load) -> impl Iterator<Item = &Vec<f64>> {
        self.rounds.iter().filter(move |(it, _)| *it == load).map(|(_, rates)| rates)
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
