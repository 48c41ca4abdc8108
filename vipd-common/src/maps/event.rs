//! What the program reports.

use crate::addr::MacAddr;

/// An entry of [`super::EVENTS`]: rare things only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelEvent {
    /// CLOCK_MONOTONIC ns.
    pub time_ns: u64,
    /// A `KernelEvent::…` kind.
    pub kind: u32,
    /// Service index ([`Self::FIRST_PACKET`], [`Self::REFUSED`]).
    pub service: u32,
    /// Generation ([`Self::FIRST_PACKET`], [`Self::REFUSED`]).
    pub generation: u32,
    /// Interface index the frame came in by.
    pub ifindex: u32,
    /// The claimed address ([`Self::RIVAL`]), IPv4 as [`crate::addr::mapped`].
    pub addr: [u8; 16],
    /// Who claims it ([`Self::RIVAL`]).
    pub mac: MacAddr,
    /// Always zero.
    pub zero: [u8; 2],
}

impl KernelEvent {
    /// The first packet after a cutover went to the new backend.
    pub const FIRST_PACKET: u32 = 1;
    /// Somebody else's ARP names a VIP as its own address.
    pub const RIVAL: u32 = 2;
    /// The backend reset a connection, or refused one.
    pub const REFUSED: u32 = 3;
}
