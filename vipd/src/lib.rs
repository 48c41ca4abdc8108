//! vipd: one virtual IP that follows a Redis or Valkey master, in the kernel.
//!
//! The daemon as a library, so that its parts can be tested and the lab can use them. See
//! ARCHITECTURE.md for the map.

pub mod announce;
pub mod bpffs;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connect;
pub mod control;
pub mod datapath;
pub mod detach;
pub mod driver;
pub mod failover;
pub mod fast_fail;
pub mod holding;
pub mod host_address;
pub mod logging;
pub mod model;
pub mod neighbour;
pub mod netdev;
pub mod notify;
pub mod order;
pub mod pinned;
pub mod plan;
pub mod probe;
pub mod record;
pub mod redis_node;
pub mod resolve;
pub mod sentinel;
pub mod sock_diag;
pub mod status;
pub mod switchover;
pub mod sysctl;
pub mod timeline;
