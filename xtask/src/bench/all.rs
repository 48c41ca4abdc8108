//! `cargo xtask bench all`: every benchmark, and BENCHMARKS.md from what they print.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::document::{self, Section};
use crate::{command, workspace};

/// Measure everything and write BENCHMARKS.md from it, at the root of the repository. Takes three
/// hours unless told less; what was printed stays in target/bench.
#[derive(clap::Args)]
pub struct Arguments {
    /// Failovers of each kind.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Also draw the failovers: target/bench/failover.html.
    #[arg(long)]
    html: bool,
    /// Leave out what an earlier try has measured of the same sources.
    #[arg(long)]
    resume: bool,
}

/// After the commit, where the sources are not what it has.
const CHANGED: &str = " with changes";
/// In the order of the document.
const BENCHES: [Bench; 4] = [Bench::Datapath, Bench::Throughput, Bench::Failover, Bench::Scale];

/// Measures everything. One that fails does not keep the others from being measured, but the document
/// from being written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let directory = workspace::target().join("bench");
    let commit = commit()?;
    if arguments.resume && commit.ends_with(CHANGED) {
        bail!("--resume: the sources have changes, maybe others than at that time");
    }
    let printed = directory.join(commit.replace(' ', "-"));
    make(&printed)?;
    let mut sections = Vec::new();
    let mut failed = Vec::new();
    for bench in BENCHES {
        let options = options(bench, arguments, &directory);
        match measure(bench, &options, &printed, arguments.resume) {
            Ok(text) => {
                sections.push(Section { bench, runs: arguments.runs, text });
            }
            Err(error) => {
                eprintln!("xtask: {}: {error:#}", bench.name());
                failed.push(bench.name());
            }
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} failed, so BENCHMARKS.md stays as it is; see {}, and go on with `--resume`",
            failed.join(", "),
            printed.display()
        );
    }
    let file = workspace::root().join("BENCHMARKS.md");
    replace(&file, &document::text(&commit, arguments.runs, &sections)?)?;
    println!("{}", file.display());
    Ok(())
}

fn options(bench: Bench, arguments: &Arguments, directory: &Path) -> Vec<String> {
    if bench != Bench::Failover {
        return vec![];
    }
    let file = |name: &str| directory.join(name).display().to_string();
    let mut options = vec!["--runs".to_owned(), arguments.runs.to_string()];
    options.extend(["--json".to_owned(), file("failover.json")]);
    if arguments.html {
        options.extend(["--html".to_owned(), file("failover.html")]);
    }
    options
}

/// What a benchmark prints, which is also kept in a file of `printed`.
fn measure(bench: Bench, options: &[String], printed: &Path, resume: bool) -> Result<String> {
    let name = bench.name();
    let kept = printed.join(format!("{name} {}.txt", options.join(" ").replace('/', "_")));
    if resume && kept.exists() {
        eprintln!("xtask: {name} was measured before");
        return fs::read_to_string(&kept)
            .with_context(|| format!("cannot read {}", kept.display()));
    }
    eprintln!("xtask: measuring {name}");
    bench.prepare()?;
    let (text, succeeded) = bench.output(options)?;
    println!("{text}");
    if !succeeded {
        let kept = printed.join(format!("{name}.failed.txt"));
        replace(&kept, &text)?;
        bail!("it failed; what it printed is in {}", kept.display());
    }
    replace(&kept, &text)?;
    Ok(text)
}

/// What is measured, and whether it is in the repository as it is.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        command::output(Command::new("git").arg("-C").arg(workspace::root()).args(arguments))
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let sources = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!*.md"];
    let changes = git(&sources)?;
    Ok(if changes.is_empty() { head } else { format!("{head}{CHANGED}") })
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

/// Writes a file, all of it or nothing.
fn replace(file: &Path, text: &str) -> Result<()> {
    let part: PathBuf = file.with_extension("part");
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("cannot write {}", file.display()))
}
