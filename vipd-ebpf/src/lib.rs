//! vipd's XDP program, less the kernel.
//!
//! [`program::run`] and [`program::run_ipv6`] are the whole program, generic over the frame they
//! work on ([`frame::Frame`]) and the tables they ask ([`tables::TablesOf`]). Whatever both families
//! have is written once, generic over the address ([`vipd_common::wire::ip::Ip`]). The binary beside this library plugs in the
//! kernel's packet pointers and BPF maps; tests and the fuzz target plug in a byte vector and hash
//! maps, and so run the very code that the kernel runs.
//!
//! ```text
//! program ─┬─ arp      answers and watches ARP for the VIPs
//!          ├─ ndp      the same for neighbour discovery
//!          ├─ host     the VIP of the host that runs the master
//!          ├─ icmp     echo; errors about forwarded packets
//!          └─ service ─┬─ nat    full NAT, flows
//!                      ├─ dsr    link-layer addresses only
//!                      ├─ ports  source ports towards the backends
//!                      ├─ pending  SYNs that nobody has answered
//!                      └─ reset  RSTs (RFC 9293 section 3.10.7.1)
//! ```
#![no_std]

#[cfg(any(test, feature = "model"))]
extern crate std;

pub mod arp;
pub mod dsr;
pub mod frame;
pub mod host;
pub mod icmp;
pub mod link;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod nat;
pub mod ndp;
pub mod pending;
pub mod ports;
pub mod program;
pub mod reset;
pub mod service;
pub mod tables;
