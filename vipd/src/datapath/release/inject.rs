//! Frames that the program handles as if they had come in by an interface.
//!
//! `vipd_replay` runs on live frames of `BPF_PROG_TEST_RUN`; each run takes the next frame out of
//! REPLAY, puts it in place of what it was given and goes on in the program. So one system call
//! injects thousands of different frames, and what the program decides about them really happens.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use vipd_common::maps::{MAX_SYN, REPLAY_END, REPLAY_FRAMES, REPLAY_NEXT, ReplayFrame};

use super::super::DatapathError;
use super::super::memory::Memory;
use super::super::sys;
use super::super::words::Words;

/// Frames injected by one system call: each call makes a page pool; but what comes in one go must fit
/// into the queues on its way (a veth's holds 256 frames, Redis's `tcp-backlog` 511 connections),
/// beside everything else that is there, and others want the CPU as well.
const CHUNK: usize = 32;
/// However many there are, they are injected in about so long.
const LONGEST: Duration = Duration::from_millis(350);

/// Injects frames.
pub(super) struct Injector {
    program: OwnedFd,
    frames: Memory<ReplayFrame>,
    at: Words,
}

impl Injector {
    /// Of the program `vipd_replay`.
    pub(super) fn new(program: OwnedFd, frames: Memory<ReplayFrame>, at: Words) -> Self {
        Self { program, frames, at }
    }

    /// Injects these frames by this interface, so many a second as long as that is soon enough. Returns
    /// how many; less than given
    /// only with an error.
    pub(super) fn inject(
        &mut self,
        ifindex: u32,
        frames: &[ReplayFrame],
        rate: f64,
    ) -> (usize, Result<(), DatapathError>) {
        let rate = rate.max(frames.len() as f64 / LONGEST.as_secs_f64());
        let begun = Instant::now();
        let mut done = 0;
        for chunk in frames.chunks(CHUNK) {
            let (ran, result) = self.run(ifindex, chunk);
            done += ran;
            if let Err(source) = result {
                let what = format!("inject frames by interface {ifindex}");
                return (done, Err(DatapathError::Pin { what, source }));
            }
            if done < frames.len() {
                let due = begun + Duration::from_secs_f64(done as f64 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        (done, Ok(()))
    }

    /// Whether frames can be injected by this interface: injects none.
    pub(super) fn rehearse(&self, ifindex: u32) -> io::Result<()> {
        self.at
            .store(REPLAY_NEXT, 0)
            .and(self.at.store(REPLAY_END, 0))
            .map_err(io::Error::other)?;
        sys::run_live(self.program.as_fd(), ifindex, &[0; MAX_SYN], 1)
    }

    fn run(&mut self, ifindex: u32, frames: &[ReplayFrame]) -> (usize, io::Result<()>) {
        /// A run that a signal ended goes on where it was, so many times.
        const TRIES: u32 = 16;
        let end = frames.len().min(REPLAY_FRAMES as usize) as u32;
        for (index, frame) in (0..end).zip(frames) {
            self.frames.set(index, frame);
        }
        let stored = self.at.store(REPLAY_NEXT, 0).and(self.at.store(REPLAY_END, end.into()));
        if let Err(error) = stored {
            return (0, Err(io::Error::other(error)));
        }
        let mut result = Ok(());
        for _ in 0..TRIES {
            let left = end.saturating_sub(self.ran());
            if left == 0 {
                break;
            }
            result = sys::run_live(self.program.as_fd(), ifindex, &[0; MAX_SYN], left);
            match &result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        (self.ran() as usize, result)
    }

    /// Frames of the present run that the program has taken.
    fn ran(&self) -> u32 {
        u32::try_from(self.at.load(REPLAY_NEXT)).unwrap_or(u32::MAX)
    }
}
