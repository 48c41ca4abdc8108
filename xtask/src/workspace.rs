//! Where things are in this workspace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Beginnings of the variables by which cargo tells a program of its package.
const OF_A_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// The workspace's root directory.
pub fn root() -> &'static Path {
    // xtask is a direct member of the workspace.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is inside the workspace")
}

/// What builds write; `CARGO_TARGET_DIR` is overridden by it, because `vipd` embeds the eBPF
/// object from a fixed place.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The eBPF object that `vipd` embeds.
pub fn ebpf_object() -> PathBuf {
    target().join("bpf/vipd.bpf.o")
}

/// Where `bpf-linker` is installed (`cargo install --root`).
pub fn bpf_linker_root() -> PathBuf {
    target().join("bpf-linker")
}

/// The cargo that runs xtask, in the workspace's root.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root()).env("CARGO_TARGET_DIR", target());
    // `cargo run` sets these for xtask itself. Build scripts of others look at them, and would run
    // again, with all that depends on them, whenever cargo is called the one way after the other.
    for (name, _) in std::env::vars_os() {
        let of_a_package =
            name.to_str().is_some_and(|it| OF_A_PACKAGE.iter().any(|of| it.starts_with(of)));
        if of_a_package {
            command.env_remove(name);
        }
    }
    command
}
