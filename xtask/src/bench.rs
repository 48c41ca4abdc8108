//! `cargo xtask bench …`: what things cost.

use anyhow::{Result, bail};

use crate::requirements::Scope;
use crate::{build_ebpf, command, setup, workspace};

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// The XDP program alone: ns a packet, by BPF_PROG_TEST_RUN.
    Datapath,
}

/// Measures and prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !command::is_root() {
        bail!("the benchmarks load XDP programs: run this as root");
    }
    setup::ensure(Scope::Lab)?;
    build_ebpf::run()?;
    match arguments {
        Arguments::Datapath => {
            command::run(workspace::cargo().args(["bench", "--quiet", "--locked"]).args([
                "--package",
                "vipd-tests",
                "--bench",
                "datapath",
            ]))
        }
    }
}
