//! Finds the BPF object that `src/datapath` embeds.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=VIPD_BPF_OBJECT");
    let object = match env::var_os("VIPD_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
            .join("../target/bpf/vipd.bpf.o"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env=VIPD_BPF_OBJECT={}", object.display()),
        Err(error) => println!(
            "cargo::error=vipd embeds its XDP program, and {} can't be read ({error}). Build it \
             with `cargo xtask build-ebpf`, or name another with VIPD_BPF_OBJECT.",
            object.display()
        ),
    }
}
