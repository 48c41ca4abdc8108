//! The kernel's side in memory: frames are byte vectors, maps are hash maps, time and chance are
//! set by hand. Tests and the fuzz target run [`crate::program::run`] on it, and the datapath tests
//! compare it with the kernel's own, frame by frame.

mod exercise;
mod frame;
#[cfg(test)]
mod tests;
mod world;

pub use exercise::exercise;
pub use frame::Buffer;
pub use world::{Family, World};

use std::vec::Vec;

use vipd_common::verdict::Verdict;

use crate::program;

/// What became of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why.
    pub verdict: Verdict,
    /// The interface it leaves by, if the verdict is to forward it.
    pub egress: u32,
    /// The frame as it is now.
    pub frame: Vec<u8>,
}

/// Runs the program on a frame that comes in by interface `ifindex`.
pub fn run(world: &World, ifindex: u32, frame: &[u8]) -> Outcome {
    let mut buffer = Buffer::new(frame, ifindex);
    let verdict =
        program::run(&mut buffer, world).unwrap_or_else(|| program::run_ipv6(&mut buffer, world));
    Outcome { verdict, egress: buffer.egress(), frame: buffer.into_bytes() }
}
