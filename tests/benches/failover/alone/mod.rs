//! `--self`: vipd alone, many times over, in every mode and for every way in which a master goes; and
//! whether that is what it promises.

mod cell;
mod json;
mod proofs;
mod run;
mod table;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use vipd_tests::Mode;

use cell::{Cell, Outcome};

use crate::Common;
use crate::machine;
use crate::scenario::Scenario;

/// Options that only this knows.
#[derive(clap::Args)]
pub struct Flags {
    /// How vipd carries the traffic.
    #[arg(long, value_enum, value_delimiter = ',', requires = "alone",
          default_values_t = [ModeName::Nat, ModeName::Dsr, ModeName::Host])]
    modes: Vec<ModeName>,
    /// `[daemon] fast_fail`. Unless this is given, it is on for `kill` only: nothing else is for
    /// fast fail to find out.
    #[arg(long, value_enum, value_delimiter = ',', requires = "alone")]
    fast_fail: Vec<OnOff>,
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

const USUAL_SCENARIOS: [Scenario; 4] =
    [Scenario::Kill, Scenario::Gone, Scenario::Stop, Scenario::Planned];

const EXPLANATION: &str = "
Milliseconds. Blackout: from the last write that the old master acknowledged to the first by the new
one, over a new client each 2 ms and four that keep their connection. ROLE: the moment at which the
new master's own log says that it is one (whole milliseconds, rounded down). Flip: the write that
moved the service. Freed, connected: the last of 200 clients that only wait to learn that their
connection is gone; the last to connect of 200 that began to, with 10 s of patience, at random
moments after the master went. Lost: writes acknowledged through the VIP that the new master
doesn't have; asynchronous replication loses some whenever a master dies.
";

/// Measures, prints, and judges.
pub fn run(flags: &Flags, common: &Common) -> Result<ExitCode> {
    let cells = cells(flags, common)?;
    println!("{}\n", machine::introduction()?);
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
    if let Some(file) = &common.json {
        let text = format!("{:#}\n", json::document(&outcomes, &proofs));
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = proofs.iter().any(|proof| !proof.holds);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn cells(flags: &Flags, common: &Common) -> Result<Vec<Cell>> {
    let scenarios = common.scenarios(&USUAL_SCENARIOS);
    let mut cells = Vec::new();
    for &mode in &flags.modes {
        for &scenario in scenarios {
            let is_measured = !matches!(scenario, Scenario::Partition | Scenario::Back);
            ensure!(is_measured, "--scenarios {}: not with --self", scenario.name());
            let fast_fail = match flags.fast_fail.as_slice() {
                [] if scenario == Scenario::Kill => &[OnOff::Off, OnOff::On][..],
                [] => &[OnOff::Off],
                given => given,
            };
            let usual = if scenario.is_planned() { 20 } else { 10 };
            cells.extend(fast_fail.iter().map(|&fast_fail| Cell {
                mode: mode.into(),
                scenario,
                fast_fail: fast_fail == OnOff::On,
                runs: common.runs.unwrap_or(usual),
            }));
        }
    }
    Ok(cells)
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
