//! Where the figures come from.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use vipd_tests::namespace::output;

/// The kernel, the CPUs, the load, and Redis.
pub fn introduction() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "Linux {}, {cores} CPUs for everything, load {}\n{}",
        output(Command::new("uname").arg("-r"))?.trim(),
        load.split(' ').next().unwrap_or_default(),
        version("redis-server", "--version")?
    ))
}

/// The first line of what a program says of itself, on either of its outputs.
pub fn version(program: &str, argument: &str) -> Result<String> {
    let said = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("{program} is missing: run `cargo xtask setup`"))?;
    let text = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}
