//! The lab: a Redis deployment in network namespaces, for vipd's end-to-end tests and its demo.
//!
//! ```text
//!   client .10  observer .20  director .50 (vipd)    redis1 .101   redis2 .102   redis3 .103
//!      │            │            │     ┆              + sentinel1   + sentinel2   + sentinel3
//!      │            │            │     ┆             (+ vipd1)     (+ vipd2)     (+ vipd3)
//!      │ eth0       │ eth0  eth0 │     ┆ eth1 (if it has two NICs)   │             │
//!  ════╧════════════╧════════════╧═════╪══════════════╧═════════════╧═════════════╧═══
//!      switch: br0, 198.18.0.0/24, VIP 198.18.0.250; fd98:18::/64, VIP fd98:18::250
//!                                      ┆              ┆             ┆             ┆
//!                                   ═══╧══════════════╧═════════════╧═════════════╧═══
//!                                      br1, 198.19.0.0/24: Redis is here if the director
//!                                      has two NICs
//! ```
//!
//! In mode `host` there is no director: a vipd runs on each Redis host. Without vipd, one of its
//! [`peers`] moves the VIP.
//!
//! Redis and Sentinel are the real ones. Nothing leaves the machine: the namespaces have no route
//! outside. Everything is removed at the end, however that comes: see [`reaper`].
//!
//! Start with [`Lab::up`] and [`Lab::serve`], or with [`scenario::scenario`] in a test.

pub mod address;
pub mod browser;
pub mod client;
pub mod crowd;
pub mod daemon;
pub mod heal;
pub mod host;
pub mod lab;
pub mod ledger;
pub mod namespace;
pub mod network;
pub mod options;
pub mod outcome;
pub mod ownership;
pub mod peers;
pub mod process;
pub mod reaper;
pub mod recorder;
pub mod redis_node;
pub mod scenario;
pub mod sentinel;
pub mod status;
pub mod switchover;
pub mod truth;
pub mod wait;
pub mod witness;
pub mod writer;
pub mod xdp_pass;

pub use address::Family;
pub use daemon::Mode;
pub use lab::Lab;
pub use options::{Mover, Nics, Options, Placement};
pub use outcome::Outcome;
pub use writer::{Habit, Writer};
