//! `cargo xtask bench failover`: what clients notice of failovers, many times over. With `--self` of
//! vipd's alone, held against what it promises; else of vipd's and of what people use today, seen by
//! `vipd probe`.

mod alone;
mod compare;
mod machine;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use scenario::Scenario;

/// Real Redis, Sentinels and network namespaces; every moment is CLOCK_MONOTONIC.
#[derive(Parser)]
struct Arguments {
    /// Measure vipd alone, and whether it keeps its promises.
    #[arg(long = "self")]
    alone: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    compare: compare::Flags,
    #[command(flatten)]
    only_alone: alone::Flags,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Options of both kinds.
#[derive(clap::Args)]
struct Common {
    /// What happens to the master; by default all that everybody has an answer to.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Failovers of each kind; 10 unless given, but 20 of those with `--self` that are planned.
    #[arg(long)]
    runs: Option<usize>,
    /// Also write everything to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Common {
    /// Those that were asked for.
    fn scenarios<'a>(&'a self, usual: &'a [Scenario]) -> &'a [Scenario] {
        if self.scenarios.is_empty() { usual } else { &self.scenarios }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(arguments.common.runs != Some(0), "--runs 0: there is nothing to measure");
    if arguments.alone {
        alone::run(&arguments.only_alone, &arguments.common)
    } else {
        compare::run(&arguments.compare, &arguments.common)
    }
}
