//! What is done for the clients of a service once it has another backend: the SYNs that nobody
//! answered are sent to it, and connections to the old one are reset.
//!
//! Both are injected as if the clients had sent them again ([`inject`]), so that the program treats
//! them as it treats everything else: a SYN opens a connection, and a segment of a stale one is
//! answered with a reset. Clients that say nothing after it are told again. It happens on a thread of
//! its own: the driver never waits.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::Map;
use tokio::sync::mpsc;
use tracing::warn;
use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::maps::{self, Active, MAX_LINES, REPLAY_FRAMES};

use super::memory::Memory;
use super::words::Words;
use super::{DatapathError, xdp};
use crate::clock::Monotonic;
use crate::netdev::{self, NativeXdp};
use inject::Injector;
use read::{Injection, Lines, Stale, Tables};
use register::Registered;

mod inject;
mod read;
mod register;
mod segment;

/// Jobs that may wait, and results: a job for each master, and a rack that dies takes many along.
const QUEUE: usize = 1024;
/// SYNs in a second, and resets: each SYN is work for a listener, which has to keep up.
const SYN_RATE: f64 = 32_000.0;
const RESET_RATE: f64 = 64_000.0;
/// Clients that were told are told again after so long, so many times: longer than Linux holds a
/// challenge ACK back, in case that the first reset was not believed.
const AGAIN: Duration = Duration::from_millis(600);
const TIMES: u32 = 2;

/// What to do for the clients of lines whose ACTIVE has just changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// Comes back in [`Released`].
    pub id: u64,
    /// Indexes into ACTIVE.
    pub lines: Vec<u32>,
    /// Whether SYNs are sent again.
    pub replay: bool,
    /// Whether stale connections are reset.
    pub free: bool,
    /// SYNs that are older are not sent again.
    pub patience: Duration,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Released {
    /// The job's.
    pub id: u64,
    /// When it was begun.
    pub begun: Monotonic,
    /// SYNs sent again.
    pub syns: u32,
    /// When the last of them was.
    pub replayed: Monotonic,
    /// Connections whose client was told.
    pub freed: u32,
    /// When the last of them was.
    pub done: Monotonic,
    /// Why it is less than it should be.
    pub error: Option<String>,
}

/// Takes jobs. Dropping it ends the thread after the present one.
#[derive(Clone, Debug)]
pub struct Releaser {
    jobs: SyncSender<Release>,
}

impl Releaser {
    /// Has this done as soon as possible. False if the queue is full.
    pub fn release(&self, job: Release) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

/// All that the work needs, apart from the daemon's own handles.
pub(super) struct Worker {
    _registered: Option<Registered>,
    injector: Injector,
    active: Words,
    v4: Tables,
    v6: Tables,
}

impl Worker {
    /// Of a loaded object whose maps are still in it.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let registered = Registered::new(xdp(ebpf, super::REPLAY_PROGRAM)?);
        if let Err(error) = &registered {
            warn!(%error, "SYNs will be sent again, and clients freed, some 50 ms later than could be");
        }
        let program = xdp(ebpf, super::REPLAY_PROGRAM)?.fd().map_err(DatapathError::load)?;
        let program = owned(program.as_fd(), super::REPLAY_PROGRAM)?;
        let frames = descriptor(ebpf, maps::REPLAY)?;
        let frames = Memory::map(frames.as_fd(), maps::REPLAY, REPLAY_FRAMES)?;
        let at = Words::of(descriptor(ebpf, maps::REPLAY_AT)?.as_fd(), maps::REPLAY_AT, 2)?;
        let active = descriptor(ebpf, maps::ACTIVE)?;
        let tables = |pending, established, half_open| {
            Ok::<_, DatapathError>(Tables {
                pending: descriptor(ebpf, pending)?,
                established: descriptor(ebpf, established)?,
                half_open: descriptor(ebpf, half_open)?,
            })
        };
        Ok(Self {
            _registered: registered.ok(),
            injector: Injector::new(program, frames, at),
            active: Words::of(active.as_fd(), maps::ACTIVE, MAX_LINES)?,
            v4: tables(maps::PENDING, maps::FLOWS, maps::HALF_OPEN)?,
            v6: tables(maps::PENDING6, maps::FLOWS6, maps::HALF_OPEN6)?,
        })
    }

    /// Why frames can't be injected by this interface.
    pub(super) fn check(&self, name: &str, ifindex: u32) -> Result<(), String> {
        let rehearsal = self.injector.rehearse(ifindex);
        rehearsal.map_err(|error| {
            format!("the kernel refuses to run the program on live frames: {error}")
        })?;
        // What is injected leaves as what is redirected does, XDP_TX too.
        match netdev::facts(name).map_err(|error| error.to_string())?.native {
            NativeXdp::Supported { redirect_target: true } | NativeXdp::Unknown(_) => Ok(()),
            NativeXdp::Supported { redirect_target: false } | NativeXdp::Unsupported => {
                Err("its driver does not send what XDP injects (ndo_xdp_xmit)".to_owned())
            }
        }
    }

    /// Goes to work on a thread of its own, which is in the caller's network namespace.
    pub(super) fn spawn(self) -> Result<(Releaser, mpsc::Receiver<Released>), DatapathError> {
        let (jobs, waiting) = sync_channel(QUEUE);
        let (results, done) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("releaser".to_owned())
            .spawn(move || self.work(&waiting, &results))
            .map_err(|error| DatapathError::pin("start the thread that frees clients", error))?;
        Ok((Releaser { jobs }, done))
    }

    fn work(mut self, jobs: &Receiver<Release>, results: &mpsc::Sender<Released>) {
        block_signals();
        let mut told = VecDeque::new();
        loop {
            let job = match wait(jobs, &told) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    self.tell_again(&mut told);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let released = self.release(&job);
            if released.freed > 0 && told.len() < QUEUE {
                told.push_back(Told {
                    lines: job.lines.iter().copied().collect(),
                    from: released.replayed,
                    to: released.done,
                    due: Instant::now() + AGAIN,
                    times: TIMES,
                });
            }
            // A full queue: nobody reads the results, and clients don't wait for that.
            if let Err(error) = results.try_send(released) {
                warn!(%error, "what was done for the clients of a failover can't be reported");
            }
        }
    }

    fn release(&mut self, job: &Release) -> Released {
        let begun = Monotonic::now();
        let mut released = Released {
            id: job.id,
            begun,
            syns: 0,
            replayed: begun,
            freed: 0,
            done: begun,
            error: None,
        };
        let lines: BTreeSet<u32> = job.lines.iter().copied().collect();
        // First those that wait for nothing but this.
        if job.replay {
            let since =
                begun.0.saturating_sub(job.patience.as_nanos().try_into().unwrap_or(u64::MAX));
            let syns = self.read(&lines, |worker, lines| {
                Ok([
                    worker.v4.unanswered::<Ipv4Bytes>(lines, since)?,
                    worker.v6.unanswered::<Ipv6Bytes>(lines, since)?,
                ])
            });
            released.syns = self.inject(syns, SYN_RATE, &mut released.error);
            released.replayed = Monotonic::now();
        }
        if job.free {
            let segments = self.stale(&lines, Stale::Untold);
            released.freed = self.inject(segments, RESET_RATE, &mut released.error);
        }
        released.done = Monotonic::now();
        released
    }

    /// Those that have said nothing since they were told.
    fn tell_again(&mut self, told: &mut VecDeque<Told>) {
        let Some(first) = told.pop_front() else { return };
        let (from, to) = (first.from.0, first.to.0);
        let segments = self.stale(&first.lines, Stale::Told { from, to });
        let (from, mut error) = (Monotonic::now(), None);
        let again = self.inject(segments, RESET_RATE, &mut error);
        if let Some(error) = error {
            warn!(error, "clients that were reset can't be reset again");
        }
        if again > 0 && first.times > 1 {
            let (to, due) = (Monotonic::now(), Instant::now() + AGAIN);
            told.push_back(Told { from, to, due, times: first.times - 1, ..first });
        }
    }

    fn stale(&self, lines: &BTreeSet<u32>, wanted: Stale) -> io::Result<[Vec<Injection>; 2]> {
        self.read(lines, |worker, lines| {
            Ok([
                worker.v4.stale::<Ipv4Bytes>(lines, wanted)?,
                worker.v6.stale::<Ipv6Bytes>(lines, wanted)?,
            ])
        })
    }

    fn read<T>(
        &self,
        lines: &BTreeSet<u32>,
        read: impl FnOnce(&Self, &Lines<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let active = |line| Active(self.active.load(line));
        read(self, &Lines { lines, active: &active })
    }

    /// Injects what was found; returns how much of it, and notes the first error.
    fn inject(
        &mut self,
        found: io::Result<[Vec<Injection>; 2]>,
        rate: f64,
        problem: &mut Option<String>,
    ) -> u32 {
        let families = match found {
            Ok(families) => families,
            Err(error) => {
                problem.get_or_insert(format!("cannot read the flows: {error}"));
                return 0;
            }
        };
        let mut done = 0;
        for group in families.iter().flat_map(|found| found.chunk_by(|a, b| a.0 == b.0)) {
            let Some((ifindex, _)) = group.first() else { continue };
            let frames: Vec<_> = group.iter().map(|(_, frame)| *frame).collect();
            let (injected, result) = self.injector.inject(*ifindex, &frames, rate);
            done += injected as u32;
            if let Err(error) = result {
                problem.get_or_insert(error.to_string());
            }
        }
        done
    }
}

/// Clients that were told that their connections have ended.
struct Told {
    lines: BTreeSet<u32>,
    from: Monotonic,
    to: Monotonic,
    /// When to tell them again, and how many times.
    due: Instant,
    times: u32,
}

/// The next job, unless it is time before to tell somebody again.
fn wait(jobs: &Receiver<Release>, told: &VecDeque<Told>) -> Result<Release, RecvTimeoutError> {
    match told.front() {
        Some(first) => jobs.recv_timeout(first.due.saturating_duration_since(Instant::now())),
        None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// A signal would end a run early.
fn block_signals() {
    let all = nix::sys::signal::SigSet::all();
    if let Err(error) = all.thread_block() {
        warn!(%error, "cannot block signals");
    }
}

/// A descriptor of the object's map `name`, of our own.
fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let data = match ebpf.map(name) {
        Some(Map::Array(data) | Map::LruHashMap(data)) => data,
        _ => return Err(DatapathError::Object(format!("it has no such map {name}"))),
    };
    owned(data.fd().as_fd(), name)
}

fn owned(fd: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<OwnedFd, DatapathError> {
    fd.try_clone_to_owned()
        .map_err(|error| DatapathError::pin(format!("keep hold of {name}"), error))
}
