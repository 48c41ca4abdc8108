//! The contract between vipd's XDP program and its daemon.
//!
//! * [`maps`] declares every BPF map's name, key, value and size; nothing else does.
//! * [`buckets`] is how the small ones among them are looked up at an array's price.
//! * [`verdict`] names every way a frame can leave the program; the names are the counters' names.
//! * [`wire`] are the packet headers as byte arrays, read and written in place.
//! * [`checksum`] is RFC 1624's incremental update.
//!
//! All of it is `no_std` and runs in the kernel as well as in tests on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod buckets;
pub mod checksum;
pub mod maps;
pub mod verdict;
pub mod wire;
