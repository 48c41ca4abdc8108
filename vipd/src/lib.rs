//! vipd: one virtual IP that follows a Redis or Valkey master, in the kernel.
//!
//! The daemon as a library, so that its parts can be tested and the lab can use them. See
//! ARCHITECTURE.md for the map.

pub mod announce;
pub mod bpffs;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod model;
pub mod neighbour;
pub mod netdev;
