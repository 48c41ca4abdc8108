//! The lab for a person: `cargo xtask demo` and `cargo xtask lab`.

mod demo;
mod host_demo;
mod probe_demo;
mod standing;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use vipd_tests::{Family, Mode, Nics, Options};

/// vipd's lab: real Redis and Sentinels in network namespaces.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Kill a master and watch the VIP move.
    Demo {
        #[command(flatten)]
        shape: Shape,
        /// Print one JSON object instead of the story.
        #[arg(long)]
        json: bool,
        /// Have it measured by `vipd probe`, and write its page to this file.
        #[arg(long, conflicts_with = "json")]
        html: Option<PathBuf>,
    },
    /// Build a lab that stays.
    Up {
        #[command(flatten)]
        shape: Shape,
    },
    /// Remove the lab that `up` built.
    Down,
    /// Build a lab, print how to enter it, and keep it until this process ends.
    Hold {
        #[command(flatten)]
        shape: Shape,
    },
}

/// What kind of lab.
#[derive(clap::Args, Clone, Copy)]
struct Shape {
    /// How vipd carries the VIP's traffic.
    #[arg(long, value_enum, default_value = "nat")]
    mode: ModeName,
    /// Interfaces of vipd's host: with two, Redis is on a network of its own (nat only).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nics: u8,
    /// Of the VIP, Redis and the Sentinels; with `both`, a VIP of each.
    #[arg(long, value_enum, default_value = "v4")]
    family: FamilyName,
}

#[derive(Clone, Copy, ValueEnum)]
enum FamilyName {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// A VIP of each.
    Both,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    /// Full NAT: the Redis hosts need no set-up at all.
    Nat,
    /// Direct server return: replies go straight to the client.
    Dsr,
    /// vipd on every Redis host: the master's has the VIP.
    Host,
}

impl Shape {
    fn options(self) -> Options {
        let mode = match self.mode {
            ModeName::Nat => Mode::Nat,
            ModeName::Dsr => Mode::Dsr,
            ModeName::Host => Mode::Host,
        };
        let nics = if self.nics == 2 { Nics::Two } else { Nics::One };
        let family = match self.family {
            FamilyName::V4 => Family::V4,
            FamilyName::V6 => Family::V6,
            FamilyName::Both => Family::Both,
        };
        Options { mode, nics, family, ..Options::default() }.eager()
    }

    /// The arguments that say the same.
    fn arguments(self) -> [String; 3] {
        let Options { mode, family, .. } = self.options();
        let (mode, family) = (mode.name(), family.name());
        [format!("--mode={mode}"), format!("--nics={}", self.nics), format!("--family={family}")]
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vipd-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo { shape, html: Some(page), .. } => probe_demo::run(shape.options(), &page),
        Verb::Demo { shape, json, html: None } => match shape.options() {
            options if options.mode == Mode::Host => host_demo::run(options, json),
            options => demo::run(options, json),
        },
        Verb::Up { shape } => standing::up(shape),
        Verb::Down => standing::down(),
        Verb::Hold { shape } => standing::hold(shape),
    }
}
