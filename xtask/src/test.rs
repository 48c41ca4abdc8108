//! `cargo xtask test`: every check and every test.

use anyhow::{Result, bail};

use crate::requirements::Scope;
use crate::{build_ebpf, command, setup, workspace};

/// Run everything: format and lint checks, unit tests, the XDP program under BPF_PROG_TEST_RUN, and
/// the scenarios in namespaces with real Redis and Sentinels.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Leave out the format and lint checks.
    #[arg(long)]
    no_lint: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Scenarios that run side by side. Each has its own namespaces, so more is possible, but they
/// measure time and share the machine's cores.
const SCENARIOS_AT_ONCE: &str = "2";

/// Runs every section in turn; the first failure ends it.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !command::is_root() {
        bail!("the tests make network namespaces and load XDP programs: run this as root");
    }
    setup::ensure(Scope::Lab)?;
    build_ebpf::run()?;
    if !arguments.no_lint {
        lint()?;
    }
    section("unit tests");
    test(arguments, &["--workspace", "--exclude", "vipd-tests"], None)?;
    section("the XDP program (BPF_PROG_TEST_RUN) and the scenarios in namespaces");
    command::run(workspace::cargo().args(["build", "--package", "vipd"]))?;
    test(arguments, &["--package", "vipd-tests"], Some(SCENARIOS_AT_ONCE))
}

fn lint() -> Result<()> {
    for component in ["rustfmt", "clippy"] {
        if !setup::has_component(component) {
            println!("xtask: no {component} here, so its check is left out");
            return Ok(());
        }
    }
    section("format");
    command::run(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    section("lints");
    command::run(
        workspace::cargo()
            .args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"]),
    )
}

fn test(arguments: &Arguments, packages: &[&str], threads: Option<&str>) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast"]).args(packages);
    cargo.args(&arguments.filter).arg("--");
    if let Some(threads) = threads {
        cargo.args(["--test-threads", threads]);
    }
    command::run(&mut cargo)
}

fn section(title: &str) {
    println!("\n== {title} ==");
}
