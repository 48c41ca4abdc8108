//! `cargo xtask bench …`: what things cost.

mod all;
mod document;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::requirements::Scope;
use crate::{build_ebpf, command, setup, workspace};

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// The XDP program alone: ns a packet, by BPF_PROG_TEST_RUN.
    Datapath,
    /// What clients notice of failovers of every kind: vipd in every mode and what people use today,
    /// or with `--self` vipd alone, and whether that is what it promises. See `--help` after it. Takes
    /// two hours unless told less.
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
    All(all::Arguments),
}

/// Measures and prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !command::is_root() {
        bail!("the benchmarks load XDP programs: run this as root");
    }
    let (bench, options) = match arguments {
        Arguments::All(arguments) => return all::run(arguments),
        Arguments::Datapath => (Bench::Datapath, &vec![]),
        Arguments::Failover { options } => (Bench::Failover, options),
        Arguments::Scale { options } => (Bench::Scale, options),
        Arguments::Throughput { options } => (Bench::Throughput, options),
    };
    bench.prepare()?;
    command::run(&mut bench.command(options))
}

/// A benchmark of the package `vipd-tests`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bench {
    Datapath,
    Throughput,
    Failover,
    Scale,
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Self::Datapath => "datapath",
            Self::Throughput => "throughput",
            Self::Failover => "failover",
            Self::Scale => "scale",
        }
    }

    /// Installs and builds what it needs.
    fn prepare(self) -> Result<()> {
        setup::ensure(Scope::Lab)?;
        build_ebpf::run()?;
        if self == Self::Datapath {
            return Ok(());
        }
        // Benchmarks look for vipd beside themselves.
        let vipd = ["--release", "--package", "vipd", "--bin", "vipd"];
        command::run(workspace::cargo().args(["build", "--quiet", "--locked"]).args(vipd))
    }

    fn command(self, options: &[String]) -> Command {
        let mut cargo = workspace::cargo();
        cargo.args(["bench", "--quiet", "--locked", "--package", "vipd-tests"]);
        cargo.args(["--bench", self.name(), "--"]).args(options);
        cargo
    }

    /// What it prints, and whether it ended well. What it says on the way is shown.
    fn output(self, options: &[String]) -> Result<(String, bool)> {
        let mut command = self.command(options);
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", self.name()))?;
        let text = String::from_utf8(output.stdout);
        let text = text.with_context(|| format!("{} does not print UTF-8", self.name()))?;
        Ok((text, output.status.success()))
    }
}
