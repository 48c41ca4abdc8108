//! `cargo xtask bench failover --self`: what clients notice of a failover, many times over, in every
//! mode and for every way in which a master goes; and whether that is what vipd promises.

mod cell;
mod json;
mod proofs;
mod run;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use vipd_tests::Mode;
use vipd_tests::namespace::output;

use cell::{Cell, Outcome, Scenario};

/// Real Redis, Sentinels and network namespaces; every moment is CLOCK_MONOTONIC.
#[derive(Parser)]
struct Arguments {
    /// Measure vipd alone. (There is nothing to compare it with yet.)
    #[arg(long = "self")]
    alone: bool,
    /// How vipd carries the traffic.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [ModeName::Nat, ModeName::Dsr, ModeName::Host])]
    modes: Vec<ModeName>,
    /// What happens to the master.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Scenario::Kill, Scenario::Gone, Scenario::Stop, Scenario::Planned])]
    scenarios: Vec<Scenario>,
    /// `[daemon] fast_fail`. Unless this is given, it is on for `kill` only: nothing else is for
    /// fast fail to find out.
    #[arg(long, value_enum, value_delimiter = ',')]
    fast_fail: Vec<OnOff>,
    /// Failovers of each kind; 20 of those that are planned, and 10 of the others, unless given.
    #[arg(long)]
    runs: Option<usize>,
    /// Also write everything to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Nat,
    Dsr,
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    Off,
    On,
}

const EXPLANATION: &str = "
Milliseconds. Blackout: from the last write that the old master acknowledged to the first by the new
one, over a new client each 2 ms and four that keep their connection. ROLE: the moment at which the
new master's own log says that it is one (whole milliseconds, rounded down). Flip: the write that
moved the service. Freed, connected: the last of 200 clients that only wait to learn that their
connection is gone; the last to connect of 200 that began to, with 10 s of patience, at random
moments after the master went. Lost: writes acknowledged through the VIP that the new master
doesn't have; asynchronous replication loses some whenever a master dies.
";

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(arguments.alone, "say --self: there is nothing to compare vipd with yet");
    let cells = arguments.cells();
    ensure!(!cells.is_empty(), "no failover is asked for");
    introduce()?;
    let begun = Instant::now();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for cell in cells {
        eprintln!("{cell}: {} failovers", cell.runs);
        let outcome = cell.measure().with_context(|| cell.to_string())?;
        table::print(&outcome);
        outcomes.push(outcome);
    }
    println!("{}\n", EXPLANATION.trim());
    println!("{} failovers in {} s\n", total(&outcomes), begun.elapsed().as_secs());
    let proofs = proofs::judge(&outcomes);
    table::print_proofs(&proofs);
    if let Some(file) = &arguments.json {
        let text = format!("{:#}\n", json::document(&outcomes, &proofs));
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = proofs.iter().any(|proof| !proof.holds);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Arguments {
    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &mode in &self.modes {
            for &scenario in &self.scenarios {
                let fast_fail = match self.fast_fail.as_slice() {
                    [] if scenario == Scenario::Kill => &[OnOff::Off, OnOff::On][..],
                    [] => &[OnOff::Off],
                    given => given,
                };
                let usual = if scenario.is_planned() { 20 } else { 10 };
                cells.extend(fast_fail.iter().map(|&fast_fail| Cell {
                    mode: mode.into(),
                    scenario,
                    fast_fail: fast_fail == OnOff::On,
                    runs: self.runs.unwrap_or(usual),
                }));
            }
        }
        cells
    }
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Nat => Self::Nat,
            ModeName::Dsr => Self::Dsr,
            ModeName::Host => Self::Host,
        }
    }
}

fn total(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(|outcome| outcome.runs.len()).sum()
}

fn introduce() -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    println!(
        "Linux {}, {cores} CPUs for everything, load {}",
        output(Command::new("uname").arg("-r"))?.trim(),
        load.split(' ').next().unwrap_or_default()
    );
    let redis = output(Command::new("redis-server").arg("--version"))
        .context("redis-server is missing: run `cargo xtask setup`")?;
    println!("{redis}");
    Ok(())
}
