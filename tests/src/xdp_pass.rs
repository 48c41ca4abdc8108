//! An XDP program on the switch's end of the director's cables.
//!
//! What a veth device sends by `XDP_TX` is lost without a word unless its peer has an XDP program
//! too. A real switch needs nothing of the kind.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use vipd_common::maps;

use crate::namespace::Namespace;

/// Name of the program in vipd's object that passes everything.
const PROGRAM: &str = "pass";

/// Keeps the program attached.
pub struct PassPrograms {
    _links: Vec<XdpLink>,
}

impl PassPrograms {
    /// Attaches the program to `interfaces` of `namespace`.
    pub fn attach(namespace: &Namespace, interfaces: &[String]) -> Result<Self> {
        let path = object()?;
        let mut loader = EbpfLoader::new();
        // The object's maps come along; this program uses none of them, so they may be small.
        for name in [maps::FLOWS, maps::HALF_OPEN, maps::BACKENDS] {
            loader.map_max_entries(name, 64);
        }
        let mut object =
            loader.load_file(&path).with_context(|| format!("cannot load {}", path.display()))?;
        let program: &mut Xdp = object
            .program_mut(PROGRAM)
            .with_context(|| format!("{} has no program {PROGRAM}", path.display()))?
            .try_into()?;
        program.load().context("the kernel refused the pass program")?;
        let attach = || {
            interfaces
                .iter()
                .map(|interface| {
                    let link = program.attach(interface, XdpMode::Driver)?;
                    program.take_link(link)
                })
                .collect::<Result<Vec<_>, ProgramError>>()
        };
        let links = namespace.run(attach)?.context("cannot attach the pass program")?;
        Ok(Self { _links: links })
    }
}

/// The object that `cargo xtask build-ebpf` makes, or the one that `VIPD_BPF_OBJECT` names.
fn object() -> Result<PathBuf> {
    let path = std::env::var_os("VIPD_BPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/vipd.bpf.o")),
        PathBuf::from,
    );
    if !path.is_file() {
        bail!("{} is missing: run `cargo xtask build-ebpf`", path.display());
    }
    Ok(path)
}
