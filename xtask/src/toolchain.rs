//! Which compiler, core library and LLVM build the eBPF object.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::{command, workspace};

/// The target of the XDP program.
pub const TARGET: &str = "bpfel-unknown-none";
/// The linker: 0.10.3 is the last that loads the LLVM that rustc ships.
pub const BPF_LINKER_VERSION: &str = "0.10.3";
/// The LLVM that this bpf-linker speaks.
const LLVM: &str = "22";
/// Debian packages that bring a rustc with a prebuilt core for [`TARGET`].
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// A way to compile for [`TARGET`].
pub enum BpfToolchain {
    /// A rustup nightly whose `rust-src` component lets cargo build core itself.
    Nightly {
        /// The toolchain's directory.
        directory: PathBuf,
    },
    /// A rustc whose sysroot holds core for [`TARGET`], such as Debian's `rustc-web`.
    Prebuilt {
        /// The compiler.
        rustc: PathBuf,
    },
}

impl BpfToolchain {
    /// The first that is installed, in this order. Nothing is downloaded.
    pub fn find() -> Option<Self> {
        let nightly = rustup_toolchains()
            .into_iter()
            .find(|directory| is_nightly(directory) && has_source(directory) && has_llvm(directory))
            .map(|directory| Self::Nightly { directory });
        nightly.or_else(|| {
            let candidates = [Some(PathBuf::from("/usr/bin/rustc")), command::find("rustc")];
            let rustc = candidates.into_iter().flatten().find(|rustc| has_target(rustc))?;
            Some(Self::Prebuilt { rustc })
        })
    }

    /// `cargo build` for [`TARGET`] with this compiler, lacking only what to build.
    pub fn cargo_build(&self) -> Result<Command> {
        let mut cargo = match self {
            // The toolchain's own programs rather than `cargo +nightly`: rustup's proxies would
            // try to download what a rust-toolchain file asks for.
            Self::Nightly { directory } => {
                let mut cargo = Command::new(directory.join("bin/cargo"));
                cargo.current_dir(workspace::root()).env("RUSTC", directory.join("bin/rustc"));
                cargo.args(["build", "-Z", "build-std=core"]);
                cargo
            }
            Self::Prebuilt { rustc } => {
                let mut cargo = workspace::cargo();
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
                cargo
            }
        };
        let linker = workspace::bpf_linker_root().join("bin/bpf-linker");
        let linker = linker.to_str().context("the workspace's path is not UTF-8")?;
        // Headers stand at even offsets at best: without misaligned access each field would be
        // read byte by byte, which costs instructions and, in spills, the kernel's 512 bytes of
        // stack. The machines vipd is for (x86-64, arm64) allow it, and their verifiers do.
        let flags = [
            &format!("linker={linker}"),
            "debuginfo=2",
            "target-cpu=v2",
            "link-arg=--cpu-features=+allows-misaligned-mem-access",
            "link-arg=--btf",
        ];
        // 0x1f separates them, so that a path may hold spaces.
        let flags = flags.map(|flag| format!("-C\u{1f}{flag}")).join("\u{1f}");
        cargo
            .args(["--target", TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("LD_LIBRARY_PATH", self.llvm_directory()?)
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        Ok(cargo)
    }

    /// A directory whose only libLLVM is [`LLVM`], for bpf-linker to load.
    fn llvm_directory(&self) -> Result<PathBuf> {
        if let Self::Nightly { directory } = self {
            return Ok(directory.join("lib"));
        }
        if let Some(directory) = rustup_toolchains().into_iter().find(|it| has_llvm(it)) {
            return Ok(directory.join("lib"));
        }
        // The system's directory of libraries may hold several; show bpf-linker only this one.
        let library = system_llvm().with_context(|| {
            format!(
                "bpf-linker {BPF_LINKER_VERSION} needs LLVM {LLVM}'s library, and neither a \
                 rustup toolchain nor the system has it; install Rust 1.95 \
                 (`rustup toolchain install 1.95`) or Debian's package rustc-web"
            )
        })?;
        let directory = workspace::bpf_linker_root().join("llvm");
        let link = directory.join(format!("libLLVM-{LLVM}.so"));
        std::fs::create_dir_all(&directory)
            .and_then(|()| match std::fs::read_link(&link) {
                Ok(present) if present == library => Ok(()),
                Ok(_) => std::fs::remove_file(&link)
                    .and_then(|()| std::os::unix::fs::symlink(&library, &link)),
                Err(_) => std::os::unix::fs::symlink(&library, &link),
            })
            .with_context(|| format!("cannot link {} to {}", link.display(), library.display()))?;
        Ok(directory)
    }
}

impl fmt::Display for BpfToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { directory } => {
                write!(f, "{} with build-std", directory.join("bin/rustc").display())
            }
            Self::Prebuilt { rustc } => write!(f, "{} with its prebuilt core", rustc.display()),
        }
    }
}

/// What to say when there is no way to compile for [`TARGET`].
pub fn missing() -> anyhow::Error {
    anyhow!(
        "no Rust compiler here can build for {TARGET}. Either install a nightly with its \
         sources:\n  rustup toolchain install nightly --component rust-src\nor, on Debian 12 \
         with its security archive:\n  apt-get install {}",
        DEBIAN_PACKAGES.join(" ")
    )
}

/// Whether the right bpf-linker is installed where this workspace keeps it.
pub fn has_bpf_linker() -> bool {
    let root = workspace::bpf_linker_root();
    let listed = std::fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    listed.contains(&format!("\"bpf-linker {BPF_LINKER_VERSION} "))
        && root.join("bin/bpf-linker").is_file()
}

/// The directories of the installed rustup toolchains, the default's first.
fn rustup_toolchains() -> Vec<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let Some(entries) = home.and_then(|home| home.join("toolchains").read_dir().ok()) else {
        return Vec::new();
    };
    let mut toolchains: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    toolchains.sort();
    toolchains
}

fn is_nightly(toolchain: &Path) -> bool {
    toolchain.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
}

fn has_source(toolchain: &Path) -> bool {
    toolchain.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

/// bpf-linker reads rustc's bitcode with rustc's LLVM, so both must be of one version.
fn has_llvm(toolchain: &Path) -> bool {
    llvm_in(&toolchain.join("lib")).is_some()
}

fn llvm_in(directory: &Path) -> Option<PathBuf> {
    let prefixes = [format!("libLLVM-{LLVM}"), format!("libLLVM.so.{LLVM}")];
    directory.read_dir().ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    })
}

fn system_llvm() -> Option<PathBuf> {
    let architecture = std::env::consts::ARCH;
    let directories = [
        format!("/usr/lib/{architecture}-linux-gnu"),
        format!("/usr/lib/llvm-{LLVM}/lib"),
        "/usr/lib64".to_owned(),
    ];
    directories.iter().find_map(|directory| llvm_in(Path::new(directory)))
}

fn has_target(rustc: &Path) -> bool {
    let sysroot = command::output(Command::new(rustc).args(["--print", "sysroot"]));
    sysroot.is_ok_and(|sysroot| {
        Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").is_dir()
    })
}
