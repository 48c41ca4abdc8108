//! `cargo xtask lab`: a lab that stays, for a hand at it.

use anyhow::Result;

use crate::demo::{Family, Mode};
use crate::{command, lab_program};

/// Keep the lab standing, for a hand at it.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Build it, start vipd, and print how to enter.
    Up {
        /// How vipd carries the VIP's traffic.
        #[arg(long, value_enum, default_value = "nat")]
        mode: Mode,
        /// Interfaces of vipd's host, 1 or 2: with two, Redis is on a network of its own (nat only).
        #[arg(long, default_value_t = 1)]
        nics: u8,
        /// Of the VIP, Redis and the Sentinels; with `both`, a VIP of each.
        #[arg(long, value_enum, default_value = "v4")]
        family: Family,
    },
    /// Remove it.
    Down,
}

/// Runs `vipd-lab` with the same verb.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut program = lab_program::prepare()?;
    match arguments {
        Arguments::Up { mode, nics, family } => {
            program.args(["up", "--mode", mode.name()]).arg(format!("--nics={nics}"));
            program.args(["--family", family.name()]);
        }
        Arguments::Down => {
            program.arg("down");
        }
    }
    command::run(&mut program)
}
