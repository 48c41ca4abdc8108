//! `cargo xtask bench …`: what things cost.

use anyhow::{Result, bail};

use crate::requirements::Scope;
use crate::{build_ebpf, command, setup, workspace};

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// The XDP program alone: ns a packet, by BPF_PROG_TEST_RUN.
    Datapath,
    /// What clients notice of failovers of every kind, in every mode, and whether that is what vipd
    /// promises: `--self`, and see `--self --help`. Takes half an hour unless told less.
    #[command(disable_help_flag = true)]
    Failover {
        /// Options of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// A failover in a vipd with 1,000 services over 50 masters: time, CPU and memory.
    Scale {
        /// Options of the benchmark: see `-- --help`.
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// redis-benchmark in the lab: through vipd, nftables, HAProxy, a plain router, and direct.
    Throughput {
        /// Options of the benchmark: see `-- --help`.
        #[arg(last = true)]
        options: Vec<String>,
    },
}

/// Measures and prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !command::is_root() {
        bail!("the benchmarks load XDP programs: run this as root");
    }
    match arguments {
        Arguments::Datapath => {
            prepare(Scope::Lab)?;
            bench("datapath", &[])
        }
        Arguments::Failover { options } => {
            prepare(Scope::Lab)?;
            build_vipd()?;
            bench("failover", options)
        }
        Arguments::Scale { options } => {
            prepare(Scope::Lab)?;
            build_vipd()?;
            bench("scale", options)
        }
        Arguments::Throughput { options } => {
            prepare(Scope::Bench)?;
            build_vipd()?;
            bench("throughput", options)
        }
    }
}

fn prepare(scope: Scope) -> Result<()> {
    setup::ensure(scope)?;
    build_ebpf::run()
}

/// Benchmarks look for vipd beside themselves.
fn build_vipd() -> Result<()> {
    let vipd = ["--release", "--package", "vipd", "--bin", "vipd"];
    command::run(workspace::cargo().args(["build", "--quiet", "--locked"]).args(vipd))
}

/// Runs a benchmark of the package `vipd-tests`.
fn bench(name: &str, options: &[String]) -> Result<()> {
    let target = ["--package", "vipd-tests", "--bench", name, "--"];
    command::run(
        workspace::cargo().args(["bench", "--quiet", "--locked"]).args(target).args(options),
    )
}
