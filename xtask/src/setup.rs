//! `cargo xtask setup`: installs what is missing, and only that.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::requirements::{REQUIREMENTS, Requirement, Scope, What};
use crate::toolchain::{self, BPF_LINKER_VERSION};
use crate::{command, workspace};

/// Install what is missing: system packages and the BPF toolchain. Safe to repeat.
#[derive(clap::Args)]
pub struct Arguments {
    /// Also install what only the benchmarks need: today nothing, since the tests start what vipd is
    /// compared with (keepalived, HAProxy, …), too.
    #[arg(long)]
    bench: bool,
}

/// Tries of `apt-get update` and `apt-get install`, which fail now and then on a busy mirror.
const APT_TRIES: u32 = 3;
/// Services that Debian starts with the packages of the same names.
const SERVICES: [&str; 4] = ["redis-server", "redis-sentinel", "haproxy", "keepalived"];

/// Installs everything and says what it does.
pub fn run(arguments: &Arguments) -> Result<()> {
    let scope = if arguments.bench { Scope::Bench } else { Scope::Lab };
    ensure(scope)?;
    for component in ["rustfmt", "clippy"] {
        if !has_component(component) {
            eprintln!(
                "setup: cargo {component} is missing, which `cargo xtask test` needs: \
                 rustup component add {component}"
            );
        }
    }
    eprintln!("setup: everything is there");
    Ok(())
}

/// Installs what `scope` and the smaller ones need; silent when nothing is missing.
pub fn ensure(scope: Scope) -> Result<()> {
    install_packages(scope)?;
    install_bpf_linker()
}

/// Installs what building the eBPF object needs; silent when nothing is missing.
pub fn ensure_bpf() -> Result<()> {
    ensure(Scope::Build)
}

/// Whether this toolchain has `cargo fmt` or `cargo clippy`.
pub fn has_component(component: &str) -> bool {
    let verb = if component == "rustfmt" { "fmt" } else { component };
    command::output(workspace::cargo().args([verb, "--version"])).is_ok()
}

fn install_packages(scope: Scope) -> Result<()> {
    let missing = missing(scope);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> =
        missing.iter().flat_map(|requirement| requirement.packages).copied().collect();
    if !Path::new("/etc/debian_version").exists() || command::find("apt-get").is_none() {
        let names: Vec<_> = missing
            .iter()
            .map(|it| format!("  {} ({}; Debian: {})", it.name(), it.why, it.packages.join(" ")))
            .collect();
        bail!(
            "missing, and this is not Debian, so please install them yourself:\n{}{}",
            names.join("\n"),
            if missing.iter().any(|it| matches!(it.what, What::BpfCompiler)) {
                format!("\n{}", toolchain::missing())
            } else {
                String::new()
            }
        );
    }
    eprintln!("setup: installing Debian packages:");
    for requirement in &missing {
        eprintln!("  {:<48} {}", requirement.packages.join(" "), requirement.why);
    }
    let services_before = SERVICES.map(is_service_installed);
    apt_get(&["update", "-qq"])?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    apt_get(&[&install[..], &packages[..]].concat())?;
    for (service, was_installed) in SERVICES.into_iter().zip(services_before) {
        if !was_installed && is_service_installed(service) {
            stop_service(service);
        }
    }
    let still_missing = self::missing(scope);
    if let Some(requirement) = still_missing.first() {
        bail!(
            "{} is still missing after `apt-get install {}`",
            requirement.name(),
            requirement.packages.join(" ")
        );
    }
    Ok(())
}

fn missing(scope: Scope) -> Vec<&'static Requirement> {
    REQUIREMENTS.iter().filter(|it| it.scope <= scope && !it.is_met()).collect()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut outcome = Ok(());
    for attempt in 1..=APT_TRIES {
        outcome = command::run(
            as_root("apt-get")?
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(arguments)
                .stdout(std::io::stderr()),
        );
        if outcome.is_ok() {
            return Ok(());
        }
        if attempt < APT_TRIES {
            eprintln!("setup: apt-get failed, trying again ({attempt} of {APT_TRIES})");
            thread::sleep(Duration::from_secs(3));
        }
    }
    outcome.with_context(|| format!("please run `apt-get {}` yourself", arguments.join(" ")))
}

fn as_root(program: &str) -> Result<Command> {
    if command::is_root() {
        return Ok(Command::new(program));
    }
    if command::find("sudo").is_none() {
        bail!("installing packages needs root: run `cargo xtask setup` as root, or install sudo");
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["--preserve-env=DEBIAN_FRONTEND", program]);
    Ok(sudo)
}

fn is_service_installed(service: &str) -> bool {
    Path::new("/etc/init.d").join(service).exists()
}

/// Debian starts a service with the package (a Redis on port 6379, say). Nobody asked for that one:
/// the lab starts its own in namespaces.
fn stop_service(service: &str) {
    eprintln!("setup: {service} is not to run as a service; stopping and disabling it");
    let stopped = if Path::new("/run/systemd/system").exists() {
        as_root("systemctl").and_then(|mut it| command::run(it.args(["disable", "--now", service])))
    } else {
        let stop =
            as_root("service").and_then(|mut it| command::output(it.args([service, "stop"])));
        let disable = as_root("update-rc.d")
            .and_then(|mut it| command::output(it.args([service, "disable"])));
        stop.and(disable).map(drop)
    };
    if let Err(error) = stopped {
        eprintln!("setup: that failed, please do it yourself: {error:#}");
    }
}

fn install_bpf_linker() -> Result<()> {
    if toolchain::has_bpf_linker() {
        return Ok(());
    }
    let root = workspace::bpf_linker_root();
    eprintln!(
        "setup: building bpf-linker {BPF_LINKER_VERSION}, which links the XDP program, into {} \
         (once; takes some minutes)",
        root.display()
    );
    command::run(
        workspace::cargo()
            .args(["install", "--quiet", "--locked", "--force", "bpf-linker"])
            .args(["--version", BPF_LINKER_VERSION, "--root"])
            .arg(&root)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR"),
    )
    .context("bpf-linker cannot be installed")
}
