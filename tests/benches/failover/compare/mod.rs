//! Without `--self`: the same faults, the same Redis and Sentinels and the same probe, for vipd in
//! each mode and for what people use today.

mod cell;
mod cue;
mod figures;
mod json;
mod page;
mod probe;
mod run;
mod table;
mod verdict;
mod versions;
mod way;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;

use cell::{Cell, Outcome};
use way::Way;

use crate::Common;
use crate::scenario::Scenario;

/// Options that only this knows.
#[derive(clap::Args)]
pub struct Flags {
    /// Who is compared; by default all.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "alone")]
    peers: Vec<Way>,
    /// Also draw everything into this file: one page for a browser.
    #[arg(long, value_name = "FILE", conflicts_with = "alone")]
    html: Option<PathBuf>,
    /// Also keep what `vipd probe` reported of every run, in this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "alone")]
    documents: Option<PathBuf>,
}

const USUAL_SCENARIOS: [Scenario; 6] = [
    Scenario::Kill,
    Scenario::Gone,
    Scenario::Stop,
    Scenario::Planned,
    Scenario::Partition,
    Scenario::Back,
];
const USUAL_RUNS: usize = 10;

/// Measures and reports. What fails is reported as well, and makes it end with a failure.
pub fn run(flags: &Flags, common: &Common) -> Result<ExitCode> {
    let cells = cells(flags, common);
    ensure!(!cells.is_empty(), "no failover is asked for");
    let versions = versions::all(&cells)?;
    for line in &versions {
        println!("- {line}");
    }
    let begun = Instant::now();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (number, cell) in cells.iter().enumerate() {
        eprintln!("{}/{} {cell}: {} failovers", number + 1, cells.len(), cell.runs);
        outcomes.push(cell.measure(flags.documents.as_deref()));
    }
    println!("\n{}\n\n{}\n", table::table(&outcomes), figures::explanation());
    let schedules = versions::schedules(&outcomes);
    println!("{schedules}\n");
    let measured: usize = outcomes.iter().map(|it| it.runs.len()).sum();
    println!("{measured} failovers in {} s.", begun.elapsed().as_secs());
    let not_the_best = verdict::not_the_best(&outcomes);
    print_list("Where vipd is not the best", "nowhere", &not_the_best);
    let failures = table::failures(&outcomes);
    if !failures.is_empty() {
        print_list("What failed", "nothing", &failures);
    }
    if let Some(file) = &flags.html {
        write(file, &page::page(&versions, &outcomes, &not_the_best, &schedules))?;
    }
    if let Some(file) = &common.json {
        let document = json::document(&versions, &outcomes, &not_the_best);
        write(file, &format!("{document:#}\n"))?;
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Those of one scenario beside each other: whatever the machine does meanwhile, it does to all.
fn cells(flags: &Flags, common: &Common) -> Vec<Cell> {
    let ways = if flags.peers.is_empty() { Way::value_variants() } else { &flags.peers };
    let runs = common.runs.unwrap_or(USUAL_RUNS);
    let scenarios = common.scenarios(&USUAL_SCENARIOS).iter();
    let cells = scenarios.flat_map(|&scenario| {
        let ways = ways.iter().filter(move |way| way.knows(scenario));
        ways.map(move |&way| Cell { way, scenario, runs })
    });
    cells.collect()
}

fn print_list(title: &str, none: &str, lines: &[String]) {
    println!("\n{title}:\n");
    if lines.is_empty() {
        println!("- {none}");
    }
    for line in lines {
        println!("- {line}");
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
