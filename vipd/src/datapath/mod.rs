//! The XDP program, its maps and its links: loaded, pinned, taken over, written and read.
//!
//! This module is the only writer of maps from user space.
//!
//! # Pins
//!
//! ```text
//! <pin_dir>/v<LAYOUT>/<MAP NAME>         every map of vipd_common::maps::ALL
//! <pin_dir>/v<LAYOUT>/link_<interface>   one XDP link an interface (a dot is written %2e)
//! ```
//!
//! A vipd that dies leaves them, and with them the traffic it carried. The next one loads its own
//! program on the pinned maps and swaps it into the pinned link in one atomic update, after its IPv6
//! half has taken the old one's place in PROGRAMS.
//!
//! # A start, in order
//!
//! [`Datapath::open`] (lock, check, load), [`Datapath::apply`] for the steps that must be there
//! before the first packet, [`Datapath::attach`], and once the daemon is up [`Datapath::commit`].
//! If a [`Datapath`] is dropped uncommitted, whatever this start pinned is removed again; what an
//! earlier one pinned stays.

use std::path::{Path, PathBuf};

use aya::maps::{MapData, ProgramArray, RingBuf};
use aya::programs::Xdp;
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use tracing::{info, warn};
use vipd_common::maps::{self, Counter, LAYOUT};
use vipd_common::verdict::Verdict;

use crate::bpffs::{PinDir, interface_of};
use crate::clock::Monotonic;
use crate::config::XdpMode;
use crate::netdev;
use crate::plan::{Actual, Step};

mod attach;
mod error;
mod events;
mod layout;
mod memory;
mod pins;
mod release;
mod sys;
mod tables;
mod trial;
mod words;

pub use attach::Attached;

pub use error::DatapathError;
pub use events::Events;
pub use pins::{Inspection, PinnedInterface, Removed, detach_all, inspect_pins};
pub use release::{Release, Released, Releaser};
pub use trial::{try_load, unusable_pins};

use events::Logger;
use release::Worker;
use tables::Tables;

/// The embedded BPF object: programs [`PROGRAM`], [`IPV6_PROGRAM`], [`REPLAY_PROGRAM`] and [`PASS`],
/// maps [`maps::ALL`], [`maps::REPLAY`] and [`maps::REPLAY_AT`].
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VIPD_BPF_OBJECT"));
/// The program that is attached.
pub const PROGRAM: &str = "vipd";
/// Where [`PROGRAM`] goes on with IPv6, by a tail call through [`maps::PROGRAMS`].
pub const IPV6_PROGRAM: &str = "vipd6";
/// Injects frames into [`PROGRAM`]; never attached.
pub const REPLAY_PROGRAM: &str = "vipd_replay";
/// An empty program: the floor of a benchmark, and what a veth peer needs for XDP_TX to reach it.
pub const PASS: &str = "pass";

/// The object's constant that says whether the kernel has `bpf_xdp_load_bytes`.
const CAN_COPY_FRAMES: &str = "CAN_COPY_FRAMES";

const LINK_PREFIX: &str = "link_";

/// What [`Datapath::open`] needs of the configuration.
#[derive(Clone, Debug)]
pub struct OpenSettings {
    /// Directory in bpffs.
    pub pin_dir: PathBuf,
    /// How to attach.
    pub xdp_mode: XdpMode,
    /// Connections the flow table holds (two entries each).
    pub max_connections: u32,
    /// Half-open connections (two entries each).
    pub max_half_open: u32,
    /// Unanswered SYNs that are remembered, of each family.
    pub max_pending_syns: u32,
}

impl From<&crate::config::Config> for OpenSettings {
    fn from(config: &crate::config::Config) -> Self {
        let daemon = &config.daemon;
        Self {
            pin_dir: daemon.pin_dir.clone(),
            xdp_mode: daemon.xdp_mode,
            max_connections: daemon.max_connections,
            max_half_open: daemon.max_half_open,
            max_pending_syns: config.failover.max_pending_syns,
        }
    }
}

/// What an earlier vipd left, and this one goes on with.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Adopted {
    /// What the maps hold; empty after a fresh start.
    pub actual: Actual,
    /// Interfaces with a pinned link. Their old program runs on until [`Datapath::attach`].
    pub interfaces: Vec<String>,
    /// Until when addresses in mode `host` were answered for; zero is never.
    pub lease: Monotonic,
}

/// The loaded program and its maps.
pub struct Datapath {
    // Dropped first: it removes pins while the rest still stands.
    pins: Pins,
    ebpf: Ebpf,
    tables: Tables,
    events: Option<RingBuf<MapData>>,
    logger: Option<Logger>,
    worker: Option<Worker>,
    mode: XdpMode,
    attached: Vec<Attached>,
}

impl Datapath {
    /// Locks the pin directory, checks what is pinned, and loads the program on the pinned maps,
    /// or on new ones which it pins. Touches no interface.
    pub fn open(settings: &OpenSettings) -> Result<(Self, Adopted), DatapathError> {
        raise_memlock_limit();
        let mut pins = Pins::open(&settings.pin_dir)?;
        let expected = layout::expected(settings);
        for map in &expected {
            map.check_pin(&pins.layout.join(map.name))?;
        }
        let present = pins::names_if_any(&pins.layout)?;
        let missing = |name: &str| !present.iter().any(|present| present == name);
        // Noted before they exist: a load that fails half-way leaves none of them.
        pins.made.extend(maps::ALL.iter().filter(|name| missing(name)).map(|n| (*n).to_owned()));

        let mut loader = loader();
        for map in &expected {
            loader.map_pin_path(map.name, pins.layout.join(map.name));
            loader.map_max_entries(map.name, map.max_entries);
        }
        let mut ebpf = loader.load(OBJECT).map_err(DatapathError::load)?;
        for map in &expected {
            map.check_made(&pins.layout.join(map.name))?;
        }
        load(&mut ebpf)?;
        // Before the program is attached; one of an earlier vipd that still is goes on in the new
        // one from now on, on the same maps.
        link_programs(&mut ebpf)?;
        let worker = Worker::new(&mut ebpf)?;
        let logger = Logger::of(&mut ebpf);
        let events = ebpf
            .take_map(maps::EVENTS)
            .and_then(|map| RingBuf::try_from(map).ok())
            .ok_or_else(|| DatapathError::Object(format!("it has no ring {}", maps::EVENTS)))?;
        let tables = Tables::of_object(&mut ebpf)?;
        let adopted = Adopted {
            actual: tables.read()?,
            interfaces: present.iter().filter_map(|n| interface_of(LINK_PREFIX, n)).collect(),
            lease: tables.lease(),
        };
        let datapath = Self {
            pins,
            ebpf,
            tables,
            events: Some(events),
            logger,
            worker: Some(worker),
            mode: settings.xdp_mode,
            attached: Vec::new(),
        };
        Ok((datapath, adopted))
    }

    /// Puts the program on exactly these interfaces: pinned links are taken over atomically, links
    /// of interfaces that vanished or were made anew are replaced, those of other interfaces are
    /// detached. For one that comes back later see [`Self::reattach`].
    pub fn attach(&mut self, interfaces: &[String]) -> Result<(), DatapathError> {
        let mut attached = Vec::with_capacity(interfaces.len());
        for name in interfaces {
            let program = program(&mut self.ebpf)?;
            let outcome = attach::attach(program, &self.pins.layout, name, self.mode)?;
            self.pins.made.extend(outcome.made);
            attached.push(outcome.attached);
        }
        self.attached = attached;
        self.detach_others(interfaces)
    }

    /// Takes the program off every interface but these.
    pub fn detach_others(&mut self, interfaces: &[String]) -> Result<(), DatapathError> {
        for pin in pins::names_if_any(&self.pins.layout)? {
            match interface_of(LINK_PREFIX, &pin) {
                Some(name) if !interfaces.contains(&name) => {
                    attach::remove(&self.pins.layout.join(&pin))?;
                    info!(interface = name, "detached: no longer configured");
                }
                _ => {}
            }
        }
        self.attached.retain(|it| interfaces.contains(&it.name));
        Ok(())
    }

    /// Puts the program back on one interface that was made anew or lost it. For a daemon that is
    /// up: the pin outlives this value. Where the program is in its place, nothing happens.
    pub fn reattach(&mut self, interface: &str) -> Result<(), DatapathError> {
        let now = netdev::link(interface)?;
        let in_place = now.xdp.is_some_and(|xdp| {
            self.attached.iter().any(|it| {
                it.name == interface && it.ifindex == now.ifindex && it.program_id == xdp.program_id
            })
        });
        if in_place {
            return Ok(());
        }
        let program = program(&mut self.ebpf)?;
        let outcome = attach::attach(program, &self.pins.layout, interface, self.mode)?;
        match self.attached.iter_mut().find(|it| it.name == interface) {
            Some(known) => *known = outcome.attached,
            None => self.attached.push(outcome.attached),
        }
        Ok(())
    }

    /// From here on the pins outlive this value, whatever becomes of it.
    pub fn commit(&mut self) {
        self.pins.made.clear();
    }

    /// Writes one step of a plan. `SetActive` is one 8-byte write of an array element.
    pub fn apply(&mut self, step: &Step) -> Result<(), DatapathError> {
        self.tables.apply(step)
    }

    /// Lets addresses in mode `host` be announced until then: one 8-byte write into mapped memory.
    /// An earlier time than before ends it earlier.
    pub fn renew_lease(&mut self, until: Monotonic) -> Result<(), DatapathError> {
        self.tables.renew_lease(until)
    }

    /// Reads back what the maps hold (some 10,000 lookups, a few milliseconds).
    pub fn read_actual(&self) -> Result<Actual, DatapathError> {
        self.tables.read()
    }

    /// Every counter, summed over the CPUs, in the order of [`Verdict::ALL`].
    pub fn counters(&self) -> Result<Vec<(Verdict, Counter)>, DatapathError> {
        self.tables.counters()
    }

    /// The program's events, and its log messages if it has any; needs a tokio runtime. `None`
    /// after the first call.
    pub fn events(&mut self) -> Result<Option<Events>, DatapathError> {
        let Some(ring) = self.events.take() else { return Ok(None) };
        Events::new(ring, self.logger.take())
            .map(Some)
            .map_err(|error| DatapathError::pin(format!("wait for {}", maps::EVENTS), error))
    }

    /// Who does something for the clients of a failover, and what it did. The thread is in the
    /// caller's network namespace. An error at the second call.
    pub fn releaser(
        &mut self,
    ) -> Result<(Releaser, tokio::sync::mpsc::Receiver<Released>), DatapathError> {
        let worker = self.worker.take();
        worker.ok_or_else(|| DatapathError::Object("it has one releaser".to_owned()))?.spawn()
    }

    /// Why a [`Releaser`] could do nothing on some interface, if so. To be asked before it is made,
    /// once the program is on its interfaces.
    pub fn can_release(&self) -> Result<(), String> {
        if !has_live_frames() {
            return Err(
                "this kernel can't run XDP programs on live frames, which came with Linux \
                        5.18"
                    .to_owned(),
            );
        }
        let Some(worker) = &self.worker else { return Ok(()) };
        self.attached.iter().try_for_each(|it| {
            worker
                .check(&it.name, it.ifindex)
                .map_err(|why| format!("interface {}: {why}", it.name))
        })
    }

    /// Where the program is, as of the last [`Self::attach`] or [`Self::reattach`].
    pub fn interfaces(&self) -> &[Attached] {
        &self.attached
    }

    /// Takes the program off every interface and removes everything that is pinned.
    pub fn detach(self) -> Result<Removed, DatapathError> {
        let Self { mut pins, .. } = self;
        pins.made.clear();
        pins::remove_all(&pins.directory)
    }
}

/// The empty program [`PASS`] on an interface, until it is dropped. For labs and benchmarks.
pub struct Pass {
    _ebpf: Ebpf,
}

impl Pass {
    /// Attaches it in driver mode.
    pub fn attach(interface: &str) -> Result<Self, DatapathError> {
        let mut loader = loader();
        // Nothing of its own uses the big tables.
        shrink(&mut loader);
        let mut ebpf = loader.load(OBJECT).map_err(DatapathError::load)?;
        let program = xdp(&mut ebpf, PASS)?;
        program.load().map_err(DatapathError::load)?;
        program.attach(interface, aya::programs::XdpMode::Driver).map_err(DatapathError::load)?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// The locked pin directory, and what this start added to it.
struct Pins {
    directory: PinDir,
    layout: PathBuf,
    made: Vec<String>,
}

impl Pins {
    fn open(pin_dir: &Path) -> Result<Self, DatapathError> {
        let directory = PinDir::create(pin_dir)?.lock()?;
        let others: Vec<_> = pins::layouts(&directory)?
            .into_iter()
            .filter(|name| *name != pins::layout_name())
            .collect();
        if !others.is_empty() {
            return Err(DatapathError::OtherLayout {
                pin_dir: pin_dir.to_owned(),
                found: others,
                ours: LAYOUT,
            });
        }
        let layout = pins::layout_path(&directory);
        match std::fs::create_dir(&layout) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(DatapathError::pin(format!("make {}", pins::layout_name()), error))
            }
            _ => Ok(Self { directory, layout, made: Vec::new() }),
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for name in self.made.iter().rev() {
            let path = self.layout.join(name);
            let result = match name.starts_with(LINK_PREFIX) {
                true => attach::remove(&path).map_err(|error| error.to_string()),
                false if path.exists() => {
                    std::fs::remove_file(&path).map_err(|error| error.to_string())
                }
                false => Ok(()),
            };
            if let Err(error) = result {
                warn!(name, error, "cannot undo a pin of a start that failed");
            }
        }
        // Fails, as it should, where anything is left in it.
        if std::fs::remove_dir(&self.layout).is_ok()
            && let Err(error) = self.directory.remove_if_empty()
        {
            warn!(%error, "cannot remove the pin directory");
        }
    }
}

/// A loader for [`OBJECT`] on this kernel.
fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    if !has_live_frames() {
        // The helper for it came with the same Linux, and the verifier knows it as little as the
        // daemon has a use for what it does.
        loader.override_global(CAN_COPY_FRAMES, &0_u8, true);
    }
    loader
}

/// Whether this is Linux 5.18, from which on programs run on live frames.
fn has_live_frames() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0))
}

/// Has the kernel verify the program and its parts.
fn load(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    for name in [PROGRAM, IPV6_PROGRAM, REPLAY_PROGRAM] {
        xdp(ebpf, name)?.load().map_err(DatapathError::load)?;
    }
    Ok(())
}

/// Puts the programs where others look for them. The map holds them from here on, and the pin the
/// map's content.
fn link_programs(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let linked = [(maps::IPV6_PROGRAM, IPV6_PROGRAM), (maps::MAIN_PROGRAM, PROGRAM)];
    let mut programs = ebpf
        .take_map(maps::PROGRAMS)
        .and_then(|map| ProgramArray::try_from(map).ok())
        .ok_or_else(|| DatapathError::Object(format!("it has no array {}", maps::PROGRAMS)))?;
    for (index, name) in linked {
        let program = xdp(ebpf, name)?.fd().and_then(|fd| Ok(fd.try_clone()?));
        let program = program.map_err(DatapathError::load)?;
        programs.set(index, &program, 0).map_err(|error| {
            DatapathError::map(format!("write {name} to {}", maps::PROGRAMS), error)
        })?;
    }
    Ok(())
}

/// Small tables, for who loads the object and carries no traffic.
fn shrink(loader: &mut EbpfLoader<'_>) {
    const FEW: u32 = 1_024;
    for name in [
        maps::FLOWS,
        maps::FLOWS6,
        maps::HALF_OPEN,
        maps::HALF_OPEN6,
        maps::PENDING,
        maps::PENDING6,
    ] {
        loader.map_max_entries(name, FEW);
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    xdp(ebpf, PROGRAM)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DatapathError> {
    ebpf.program_mut(name)
        .and_then(|program| <&mut Xdp>::try_from(program).ok())
        .ok_or_else(|| DatapathError::Object(format!("it has no XDP program {name}")))
}

/// Before Linux 5.11 maps count against RLIMIT_MEMLOCK; since then against the memory cgroup.
fn raise_memlock_limit() {
    if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 11, 0)) {
        return;
    }
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `unlimited` is a valid rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } != 0 {
        let error = std::io::Error::last_os_error();
        warn!(%error, "cannot raise RLIMIT_MEMLOCK; on this kernel maps may not fit");
    }
}
