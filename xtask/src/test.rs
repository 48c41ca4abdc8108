//! `cargo xtask test`: every check and every test.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::requirements::Scope;
use crate::{build_ebpf, command, setup, workspace};

/// Run everything: format and lint checks, unit tests, the XDP program under BPF_PROG_TEST_RUN, and
/// the scenarios in network namespaces with real Redis and Sentinels.
#[derive(clap::Args)]
pub struct Arguments {
    /// Leave out the format and lint checks.
    #[arg(long)]
    no_lint: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// What to do about `cargo fmt` and `cargo clippy`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lint {
    /// Not to run them.
    Skip,
    /// To run those that are installed.
    IfInstalled,
    /// To fail where they are not installed.
    Required,
}

/// Tests of one program that run side by side. Scenarios have their own namespaces and mostly wait,
/// but they share the machine's cores with the Redis nodes of each.
const AT_ONCE: &str = "2";

/// Runs what the arguments ask for.
pub fn run(arguments: &Arguments) -> Result<()> {
    let lint = if arguments.no_lint { Lint::Skip } else { Lint::IfInstalled };
    run_all(lint, arguments.filter.as_deref())
}

/// Runs every section in turn. All tests run even if some fail; what keeps them from running at all
/// ends it.
pub fn run_all(lint: Lint, filter: Option<&str>) -> Result<()> {
    section("set-up");
    setup::ensure(Scope::Lab)?;
    build_ebpf::run()?;
    check_style(lint)?;
    section("unit tests");
    let units = [test(&["--lib", "--bins"], filter), test(&["--doc"], filter)];
    section("the XDP program in the kernel, and scenarios with real Redis and Sentinels");
    // The scenarios start vipd as a program of its own.
    command::run(workspace::cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    let scenarios = test(&["--test", "*"], filter);
    units.into_iter().chain([scenarios]).collect::<Result<()>>()?;
    println!("\nxtask: all passed");
    Ok(())
}

fn check_style(lint: Lint) -> Result<()> {
    if lint == Lint::Skip {
        return Ok(());
    }
    for component in ["rustfmt", "clippy"] {
        if setup::has_component(component) {
            section(component);
            command::run(&mut style_check(component))?;
        } else if lint == Lint::Required {
            bail!("{component} is missing: rustup component add {component}");
        } else {
            println!("\nxtask: {component} is not installed, so its check is left out");
        }
    }
    Ok(())
}

fn style_check(component: &str) -> Command {
    let mut cargo = workspace::cargo();
    if component == "rustfmt" {
        cargo.args(["fmt", "--all", "--check"]);
    } else {
        cargo.args(["clippy", "--workspace", "--all-targets", "--locked", "--quiet"]);
        cargo.args(["--", "-D", "warnings"]);
    }
    cargo
}

/// `cargo test` of the whole workspace: always the same features, so that nothing is built twice.
fn test(targets: &[&str], filter: Option<&str>) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(targets);
    cargo.args(filter).args(["--", "--test-threads", AT_ONCE]);
    if !command::is_root() {
        // Network namespaces and XDP need root; the build does not.
        cargo.env(runner_variable()?, "sudo --preserve-env");
    }
    command::run(&mut cargo)
}

/// The variable that tells cargo through which program to run tests.
fn runner_variable() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = command::output(Command::new(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("`rustc -vV` does not name its host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_")))
}

fn section(title: &str) {
    println!("\n== {title} ==");
}
