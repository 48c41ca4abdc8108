//! BENCHMARKS.md: what the benchmarks print, and where.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use crate::command;

/// What one benchmark printed.
pub struct Section {
    /// Which.
    pub bench: Bench,
    /// Failovers of each kind.
    pub runs: u32,
    /// The text.
    pub text: String,
}

/// The whole document, of `commit`.
pub fn text(commit: &str, runs: u32, sections: &[Section]) -> Result<String> {
    let sections: Vec<String> = sections.iter().map(Section::markdown).collect();
    Ok(format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench all --runs {runs}` from what the benchmarks print. To change it, \
         run that again.\n\n\
         {}\n\
         {}",
        machine(commit)?,
        sections.join("\n")
    ))
}

impl Section {
    fn markdown(&self) -> String {
        let (title, what) = self.words();
        let text = self.text.trim();
        let text = match self.bench {
            // It is Markdown already.
            Bench::Failover => text.to_owned(),
            Bench::Datapath | Bench::Throughput | Bench::Scale => format!("```text\n{text}\n```"),
        };
        format!("## {title}\n\n{what}\n\n```\n{}\n```\n\n{text}\n", self.command())
    }

    fn command(&self) -> String {
        let options = match self.bench {
            Bench::Failover => format!(" --runs {}", self.runs),
            Bench::Datapath | Bench::Throughput | Bench::Scale => String::new(),
        };
        format!("cargo xtask bench {}{options}", self.bench.name())
    }

    fn words(&self) -> (&'static str, &'static str) {
        match self.bench {
            Bench::Datapath => (
                "A packet in the XDP program",
                "Nanoseconds, by `BPF_PROG_TEST_RUN`, beside an empty program in the same run.",
            ),
            Bench::Throughput => (
                "Steady throughput",
                "redis-benchmark directly, through vipd, and by other ways to the same Redis.",
            ),
            Bench::Failover => (
                "What a failover costs clients",
                "The same faults for each way to the master, watched by `vipd probe` from a client's \
                 place.",
            ),
            Bench::Scale => (
                "A thousand services",
                "One vipd with many services over many masters, one of which dies.",
            ),
        }
    }
}

/// The machine and its programs, as a list.
fn machine(commit: &str) -> Result<String> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        Ok::<_, anyhow::Error>(line.map_or("unknown", |(_, value)| value.trim()).to_owned())
    };
    let said = |program: &str, arguments: &[&str]| {
        let said = Command::new(program).args(arguments).output();
        let said = said.with_context(|| format!("cannot start {program}"))?;
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        Ok::<_, anyhow::Error>(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    let memory = field("/proc/meminfo", "MemTotal")?;
    let memory = memory.split(' ').next().and_then(|kib| kib.parse::<f64>().ok());
    let memory = memory.map_or("unknown".to_owned(), |kib| format!("{:.1} GiB", kib / 1048576.0));
    let mut lines = vec![
        format!("Date: {}", command::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?),
        format!("Commit: {commit}"),
        format!("Kernel: {}", command::output(Command::new("uname").arg("-srvm"))?),
        format!("CPU: {}", field("/proc/cpuinfo", "model name")?),
        format!("Cores: {}", std::thread::available_parallelism()?),
        format!("Memory: {memory}"),
    ];
    for (program, arguments) in [
        ("rustc", ["--version"]),
        ("redis-server", ["--version"]),
        ("keepalived", ["-v"]),
        ("haproxy", ["-v"]),
        ("nft", ["--version"]),
        ("conntrack", ["--version"]),
        ("arping", ["-V"]),
    ] {
        lines.push(said(program, &arguments)?);
    }
    Ok(lines.iter().map(|line| format!("- {line}\n")).collect())
}
