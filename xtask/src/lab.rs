//! `cargo xtask lab`

use anyhow::{Result, bail};

/// Keep the lab standing, for a hand at it.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Build it
    Up,
    /// Remove it
    Down,
}

pub fn run(_: &Arguments) -> Result<()> {
    bail!("not yet")
}
