//! `vipd-lab`, the program behind `demo` and `lab`.

use std::process::Command;

use anyhow::Result;

use crate::requirements::Scope;
use crate::{build_ebpf, command, setup, workspace};

/// Builds `vipd` and `vipd-lab` with all that they need, and returns the latter as a command, run
/// with sudo if this process is not root's: namespaces and XDP need it.
pub fn prepare() -> Result<Command> {
    setup::ensure(Scope::Lab)?;
    build_ebpf::run()?;
    command::run(workspace::cargo().args([
        "build",
        "--quiet",
        "--locked",
        "--package=vipd",
        "--bin=vipd",
        "--package=vipd-tests",
        "--bin=vipd-lab",
    ]))?;
    let program = workspace::target().join("debug/vipd-lab");
    if command::is_root() {
        return Ok(Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("--preserve-env=VIPD_BIN,VIPD_BPF_OBJECT").arg(program);
    Ok(sudo)
}
