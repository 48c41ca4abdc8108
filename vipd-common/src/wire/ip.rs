//! What the two families of IP have in common, so that whatever handles packets is written once.

use core::fmt::Debug;
use core::hash::Hash;

use super::Header;
use crate::checksum::{Delta, Sum};

/// An address in network byte order: [`crate::addr::Ipv4Bytes`] or [`crate::addr::Ipv6Bytes`].
///
/// Map keys and values are generic over it. The kernel hashes and compares every byte of a key, so
/// none may be left to the compiler: keys and values that IPv6 would leave uneven are filled up
/// with [`Self::KEY_PAD`] and [`Self::FLOW_PAD`].
pub trait Ip: Copy + Eq + Ord + Hash + Debug + 'static {
    /// Aligns what holds addresses: the verifier wants access to the program's stack aligned, and
    /// the compiler copies 16 bytes as two words of eight.
    type Word: Copy + Eq + Ord + Hash + Debug + 'static;
    /// Fills up a key; always zero.
    type KeyPad: Copy + Eq + Ord + Hash + Debug + 'static;
    /// Fills up a flow; always zero.
    type FlowPad: Copy + Eq + Ord + Hash + Debug + 'static;
    /// The header whose addresses these are.
    type Header: IpHeader<Addr = Self>;

    /// Zero.
    const KEY_PAD: Self::KeyPad;
    /// Zero.
    const FLOW_PAD: Self::FlowPad;
    /// All zero: nobody.
    const UNSPECIFIED: Self;

    /// As the tables that serve both families hold it: IPv4 as IPv4-mapped IPv6 (RFC 4291 section
    /// 2.5.5.2).
    fn mapped(self) -> [u8; 16];

    /// The reverse of [`Self::mapped`].
    fn unmapped(mapped: [u8; 16]) -> Self;

    /// Whether it can be a sender's on a wire.
    fn is_unicast_source(self) -> bool;

    /// A number that differs in its upper bits wherever addresses differ.
    fn spread(self) -> u32;

    /// Adds it to a sum.
    fn add_to(self, sum: Sum) -> Sum;
}

/// An IP header, without options or extension headers.
pub trait IpHeader: Header + Debug {
    /// Its addresses.
    type Addr: Ip<Header = Self>;

    /// EtherType.
    const ETHERTYPE: [u8; 2];
    /// Protocol number of this family's ICMP.
    const ICMP: u8;
    /// ICMP type: echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type: echo reply.
    const ECHO_REPLY: u8;

    /// Source address.
    fn src(&self) -> Self::Addr;

    /// Destination address.
    fn dst(&self) -> Self::Addr;

    /// Protocol of what follows.
    fn protocol(&self) -> u8;

    /// Bytes after this header, if it [is sound](Self::is_sound).
    fn payload_len(&self) -> u16;

    /// Time to live, or hop limit.
    fn ttl(&self) -> u8;

    /// Sets it.
    fn set_ttl(&mut self, ttl: u8);

    /// Takes one from it. The caller has checked that it is above 1.
    fn decrement_ttl(&mut self);

    /// Writes new addresses, and the header's own checksum with them if it has one. Returns the
    /// change, which the pseudo header of TCP has as well.
    fn set_addresses(&mut self, src: Self::Addr, dst: Self::Addr) -> Delta;

    /// The header's own checksum; zero where there is none.
    fn checksum(&self) -> [u8; 2];

    /// Whether version and lengths are what they can be; `available` is the bytes from the header
    /// on. It may have options.
    fn is_sound(&self, available: usize) -> bool;

    /// Whether TCP follows at once, and from its beginning.
    fn is_plain_tcp(&self) -> bool;

    /// The header of a packet of this host's own, with a whole time to live.
    fn between(src: Self::Addr, dst: Self::Addr, protocol: u8, payload_len: u16) -> Self;

    /// The header of an answer to the sender of this one.
    #[inline(always)]
    fn answer(&self, protocol: u8, payload_len: u16) -> Self {
        Self::between(self.dst(), self.src(), protocol, payload_len)
    }

    /// Whether an ICMP message of this type is an error that quotes the datagram it is about.
    fn is_icmp_error(kind: u8) -> bool;

    /// What a change of the header's addresses is to the checksum of an ICMP message in it.
    fn in_icmp(addresses: Delta) -> Delta;
}

/// What Linux starts a time to live with.
pub(super) const FULL_TTL: u8 = 64;
