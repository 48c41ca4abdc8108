//! `cargo xtask VERB`: everything that vipd's build, tests and demo need, one file per verb.
//!
//! Progress goes to standard error, results to standard output.

mod bench;
mod build_ebpf;
mod ci;
mod command;
mod demo;
mod lab;
mod lab_program;
mod requirements;
mod setup;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// vipd's build, test and demo commands. Each does the set-up that it needs by itself.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Arguments),
    /// Build the eBPF object that vipd embeds.
    BuildEbpf,
    Demo(demo::Arguments),
    Test(test::Arguments),
    /// What must hold before a change lands: `test`, with no check left out.
    Ci,
    #[command(subcommand)]
    Bench(bench::Arguments),
    #[command(subcommand)]
    Lab(lab::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup(arguments) => setup::run(&arguments),
        Verb::BuildEbpf => build_ebpf::run(),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Ci => ci::run(),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Lab(arguments) => lab::run(&arguments),
    }
}
