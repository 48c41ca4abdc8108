//! vipd's XDP program: the library's [`vipd_ebpf::program`] with the kernel plugged in.
//!
//! Built for the kernel by `cargo xtask build-ebpf`. Built for the host, where it can do nothing,
//! so that `cargo test --workspace` reaches the library.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("vipd-ebpf runs in the kernel: build it with `cargo xtask build-ebpf`");
    std::process::exit(1);
}
