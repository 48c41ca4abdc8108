//! `cargo xtask build-ebpf`: the object that `vipd` embeds.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use crate::toolchain::{self, BpfToolchain, TARGET};
use crate::{command, setup, workspace};

/// Builds the eBPF object and puts it where `vipd`'s build looks for it.
pub fn run() -> Result<()> {
    setup::ensure_bpf()?;
    let toolchain = BpfToolchain::find().ok_or_else(toolchain::missing)?;
    let target = workspace::target().join("bpf-build");
    eprintln!("build-ebpf: {toolchain}");
    command::run(
        toolchain
            .cargo_build()?
            .args(["--package", "vipd-ebpf", "--bin", "vipd-ebpf", "--release", "--quiet"])
            .arg("--target-dir")
            .arg(&target),
    )?;
    let built = target.join(TARGET).join("release/vipd-ebpf");
    let object = workspace::ebpf_object();
    publish(&built, &object)?;
    eprintln!("build-ebpf: {}", object.display());
    Ok(())
}

/// Copies `from` to `to` unless they are equal, so that an unchanged object rebuilds nothing; never
/// leaves half a file.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let object = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    match fs::read(to) {
        Ok(present) if present == object => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", to.display()));
        }
    }
    let directory = to.parent().context("the object has no directory")?;
    let partial = to.with_extension("partial");
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&partial, &object))
        .and_then(|()| fs::rename(&partial, to))
        .with_context(|| format!("cannot write {}", to.display()))
}
