//! IPv4 (RFC 791).

use super::ip::{FULL_TTL, Ip, IpHeader};
use super::{header, icmp};
use crate::addr::Ipv4Bytes;
use crate::buckets::mix;
use crate::checksum::{Delta, Sum};

/// Protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Version 4, a header of five words.
const PLAIN: u8 = 0x45;
/// Don't fragment, offset zero.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

header! {
    /// An IPv4 header without options.
    Ipv4Header, 20, {
        /// Version 4 in the high nibble, header length in 32-bit words in the low one.
        version_ihl: u8,
        /// DSCP and ECN.
        tos: u8,
        /// Header and payload, bytes.
        total_len: [u8; 2],
        /// Identification.
        id: [u8; 2],
        /// Flags and fragment offset.
        fragment: [u8; 2],
        /// Time to live.
        ttl: u8,
        /// Protocol of the payload.
        protocol: u8,
        /// Header checksum.
        checksum: [u8; 2],
        /// Source address.
        src: Ipv4Bytes,
        /// Destination address.
        dst: Ipv4Bytes,
    }
}

impl Ipv4Header {
    /// Header and payload, bytes.
    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes(self.total_len)
    }

    /// Whether options follow.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.version_ihl & 0x0f != PLAIN & 0x0f
    }

    /// Whether this is one fragment of a datagram: more-fragments set, or an offset.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// Computes the checksum of a header vipd wrote itself.
    #[inline(always)]
    pub fn fill_checksum(&mut self) {
        self.checksum = [0; 2];
        self.checksum = Sum::new()
            .word([self.version_ihl, self.tos])
            .word(self.total_len)
            .word(self.id)
            .word(self.fragment)
            .word([self.ttl, self.protocol])
            .dword(self.src)
            .dword(self.dst)
            .checksum();
    }
}

impl IpHeader for Ipv4Header {
    type Addr = Ipv4Bytes;

    const ETHERTYPE: [u8; 2] = super::eth::IPV4;
    const ICMP: u8 = PROTO_ICMP;
    const ECHO_REQUEST: u8 = icmp::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::ECHO_REPLY;

    #[inline(always)]
    fn src(&self) -> Ipv4Bytes {
        self.src
    }

    #[inline(always)]
    fn dst(&self) -> Ipv4Bytes {
        self.dst
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn payload_len(&self) -> u16 {
        self.total_len().wrapping_sub(size_of::<Self>() as u16)
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        let old = [self.ttl, self.protocol];
        self.ttl = ttl;
        self.checksum = Delta::new().word(old, [self.ttl, self.protocol]).apply(self.checksum);
    }

    #[inline(always)]
    fn decrement_ttl(&mut self) {
        self.set_ttl(self.ttl.wrapping_sub(1));
    }

    #[inline(always)]
    fn set_addresses(&mut self, src: Ipv4Bytes, dst: Ipv4Bytes) -> Delta {
        let delta = Delta::new().dword(self.src, src).dword(self.dst, dst);
        self.src = src;
        self.dst = dst;
        self.checksum = delta.apply(self.checksum);
        delta
    }

    #[inline(always)]
    fn checksum(&self) -> [u8; 2] {
        self.checksum
    }

    #[inline(always)]
    fn is_sound(&self, available: usize) -> bool {
        let header = (self.version_ihl & 0x0f) as usize * 4;
        let total = self.total_len() as usize;
        self.version_ihl & 0xf0 == PLAIN & 0xf0
            && header >= size_of::<Self>()
            && total >= header
            && total <= available
    }

    #[inline(always)]
    fn is_plain_tcp(&self) -> bool {
        self.version_ihl == PLAIN && self.protocol == PROTO_TCP && !self.is_fragment()
    }

    #[inline(always)]
    fn between(src: Ipv4Bytes, dst: Ipv4Bytes, protocol: u8, payload_len: u16) -> Self {
        let mut header = Self {
            version_ihl: PLAIN,
            tos: 0,
            total_len: (size_of::<Self>() as u16 + payload_len).to_be_bytes(),
            id: [0; 2],
            fragment: DONT_FRAGMENT,
            ttl: FULL_TTL,
            protocol,
            checksum: [0; 2],
            src,
            dst,
        };
        header.fill_checksum();
        header
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        icmp::is_error(kind)
    }

    /// ICMP's checksum covers the message only (RFC 792).
    #[inline(always)]
    fn in_icmp(_addresses: Delta) -> Delta {
        Delta::new()
    }
}

impl Ip for Ipv4Bytes {
    type Word = u32;
    type KeyPad = [u8; 0];
    type FlowPad = [u8; 4];
    type Header = Ipv4Header;

    const KEY_PAD: [u8; 0] = [];
    const FLOW_PAD: [u8; 4] = [0; 4];
    const UNSPECIFIED: Self = [0; 4];

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        crate::addr::mapped(self)
    }

    #[inline(always)]
    fn unmapped(mapped: [u8; 16]) -> Self {
        crate::addr::unmapped(mapped)
    }

    /// Not of 0/8, 127/8, 224/4 or above.
    #[inline(always)]
    fn is_unicast_source(self) -> bool {
        self[0] != 0 && self[0] != 127 && self[0] < 224
    }

    #[inline(always)]
    fn spread(self) -> u32 {
        mix(u32::from_ne_bytes(self))
    }

    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.dword(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Ipv4Header {
        let mut header = Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_len: [0, 40],
            id: [0x12, 0x34],
            fragment: [0x40, 0],
            ttl: 64,
            protocol: PROTO_TCP,
            checksum: [0; 2],
            src: [198, 18, 0, 10],
            dst: [198, 18, 0, 250],
        };
        header.fill_checksum();
        header
    }

    fn is_valid(header: Ipv4Header) -> bool {
        let mut again = header;
        again.fill_checksum();
        again.checksum == header.checksum
    }

    #[test]
    fn rewriting_keeps_the_checksum_valid() {
        let mut header = header();
        header.set_addresses([198, 18, 0, 50], [198, 18, 0, 101]);
        assert!(is_valid(header));
        header.decrement_ttl();
        assert_eq!(header.ttl, 63);
        assert!(is_valid(header));
    }

    #[test]
    fn dont_fragment_is_not_a_fragment() {
        let mut header = header();
        assert!(!header.is_fragment());
        header.fragment = [0x20, 0];
        assert!(header.is_fragment(), "more fragments");
        header.fragment = [0, 1];
        assert!(header.is_fragment(), "the last fragment");
    }

    #[test]
    fn only_unicast_can_send() {
        for bad in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert!(!bad.is_unicast_source());
        }
        assert!([10, 0, 0, 1].is_unicast_source());
    }
}
