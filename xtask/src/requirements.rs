//! What the verbs need on a machine, and which Debian package brings it.

use crate::command;
use crate::toolchain::{self, BpfToolchain};

/// Something that must be on the machine.
pub struct Requirement {
    /// A program, or a thing with a check of its own.
    pub what: What,
    /// Debian's packages that bring it.
    pub packages: &'static [&'static str],
    /// What it is for, in a few words.
    pub why: &'static str,
    /// Who asks for it.
    pub scope: Scope,
}

/// How to tell whether a [`Requirement`] is met.
pub enum What {
    /// A program is in `PATH`.
    Program(&'static str),
    /// A compiler for the BPF target.
    BpfCompiler,
}

/// Which verbs need a [`Requirement`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To build the eBPF object.
    Build,
    /// To run the lab, so the demo and the tests.
    Lab,
    /// To compare with other software.
    Bench,
}

impl Requirement {
    /// Whether the machine has it.
    pub fn is_met(&self) -> bool {
        match self.what {
            What::Program(program) => command::find(program).is_some(),
            What::BpfCompiler => BpfToolchain::find().is_some(),
        }
    }

    /// Its name for a person.
    pub fn name(&self) -> String {
        match self.what {
            What::Program(program) => program.to_owned(),
            What::BpfCompiler => format!("a Rust compiler for {}", toolchain::TARGET),
        }
    }
}

/// Everything that Debian's packages bring. `bpf-linker` comes from crates.io: see `setup`.
pub const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        what: What::BpfCompiler,
        packages: &toolchain::DEBIAN_PACKAGES,
        why: "compiles the XDP program",
        scope: Scope::Build,
    },
    program("redis-server", &["redis-server"], "the lab's Redis nodes", Scope::Lab),
    program("redis-sentinel", &["redis-sentinel"], "the lab's Sentinels", Scope::Lab),
    program("redis-cli", &["redis-tools"], "to look into the lab by hand", Scope::Lab),
    program("ip", &["iproute2"], "namespaces, bridges and veth pairs of the lab", Scope::Lab),
    program("ethtool", &["ethtool"], "turns checksum offload off in the lab", Scope::Lab),
    program("sysctl", &["procps"], "network settings of the lab's hosts", Scope::Lab),
    program("tcpdump", &["tcpdump"], "captures of what the lab's hosts see", Scope::Lab),
    program("openssl", &["openssl"], "certificates for the TLS tests", Scope::Lab),
    program("nft", &["nftables"], "cuts single Sentinels off in the lab", Scope::Lab),
    program("setpriv", &["util-linux"], "runs vipd probe without a capability", Scope::Lab),
    program("mount", &["mount"], "a disk that is full, for the tests of vipd probe", Scope::Lab),
    program(
        "arping",
        &["iputils-arping"],
        "the script recipe that vipd is compared with",
        Scope::Lab,
    ),
    program(
        "chromium",
        // Without a font of its own, letters would be boxes.
        &["chromium", "fonts-dejavu-core"],
        "looks at the probe's page in tests",
        Scope::Lab,
    ),
    program("keepalived", &["keepalived"], "VRRP, which vipd is compared with", Scope::Lab),
    program("haproxy", &["haproxy"], "a proxy to compare with", Scope::Lab),
    program("conntrack", &["conntrack"], "nftables' listener, to compare with", Scope::Lab),
];

const fn program(
    name: &'static str,
    packages: &'static [&'static str],
    why: &'static str,
    scope: Scope,
) -> Requirement {
    Requirement { what: What::Program(name), packages, why, scope }
}
