//! `cargo xtask demo`: watch a failover.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::{command, lab_program};

/// Watch a failover: real Redis and Sentinels in network namespaces, vipd, and clients that write.
#[derive(clap::Args)]
pub struct Arguments {
    /// How vipd carries the VIP's traffic.
    #[arg(long, value_enum, default_value = "nat")]
    mode: Mode,
    /// Of the VIP, Redis and the Sentinels; the script recipe of mode `host` is for v4.
    #[arg(long, value_enum, default_value = "v4")]
    family: Family,
    /// Print one JSON object instead of the story.
    #[arg(long)]
    json: bool,
    /// Have the failover measured by `vipd probe`, from a client's place, and write its page there.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
}

/// vipd's modes, by their names in its configuration.
#[derive(Clone, Copy, ValueEnum)]
pub enum Mode {
    /// Full NAT: the Redis hosts need no set-up at all.
    Nat,
    /// Direct server return: replies go straight to the client.
    Dsr,
    /// vipd on every Redis host: the master's has the VIP.
    Host,
}

impl Mode {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Host => "host",
        }
    }
}

/// Address families of the lab.
#[derive(Clone, Copy, ValueEnum)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// A VIP of each.
    Both,
}

impl Family {
    /// Its name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Both => "both",
        }
    }
}

/// Builds everything and raises the curtain.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut program = lab_program::prepare()?;
    program.args(["demo", "--mode", arguments.mode.name()]);
    program.args(["--family", arguments.family.name()]);
    if arguments.json {
        program.arg("--json");
    }
    if let Some(page) = &arguments.html {
        program.arg("--html").arg(page);
    }
    command::run(&mut program)
}
