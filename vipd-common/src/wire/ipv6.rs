//! IPv6 (RFC 8200).

use super::header;
use super::icmp6;
use super::ip::{FULL_TTL, Ip, IpHeader};
use super::ipv4::PROTO_TCP;
use crate::addr::Ipv6Bytes;
use crate::checksum::{Delta, Sum};

/// Next header: ICMPv6.
pub const NEXT_ICMP: u8 = 58;
/// Next header: a fragment.
pub const NEXT_FRAGMENT: u8 = 44;

header! {
    /// An IPv6 header.
    Ipv6Header, 40, {
        /// Version 6 in the first nibble, traffic class, flow label.
        version_class_label: [u8; 4],
        /// Bytes after this header.
        payload_len: [u8; 2],
        /// What they begin with: a protocol number, or an extension header's.
        next_header: u8,
        /// Time to live.
        hop_limit: u8,
        /// Source address.
        src: Ipv6Bytes,
        /// Destination address.
        dst: Ipv6Bytes,
    }
}

impl Ipv6Header {
    /// A header with traffic class and flow label zero.
    #[inline(always)]
    pub const fn new(
        next_header: u8,
        hop_limit: u8,
        payload_len: u16,
        (src, dst): (Ipv6Bytes, Ipv6Bytes),
    ) -> Self {
        let payload_len = payload_len.to_be_bytes();
        let version_class_label = [0x60, 0, 0, 0];
        Self { version_class_label, payload_len, next_header, hop_limit, src, dst }
    }

    /// Whether an extension header follows (RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC
    /// 5533), other than [`NEXT_FRAGMENT`]: what comes after it isn't looked for.
    #[inline(always)]
    pub const fn has_extension(&self) -> bool {
        matches!(self.next_header, 0 | 43 | 51 | 60 | 135 | 139 | 140)
    }

    /// The sum of the pseudo header that ICMPv6 and TCP are checked with (RFC 8200 section 8.1).
    #[inline(always)]
    pub fn pseudo_sum(&self) -> Sum {
        let sum = self.dst.add_to(self.src.add_to(Sum::new()));
        sum.word(self.payload_len).word([0, self.next_header])
    }
}

impl IpHeader for Ipv6Header {
    type Addr = Ipv6Bytes;

    const ETHERTYPE: [u8; 2] = super::eth::IPV6;
    const ICMP: u8 = NEXT_ICMP;
    const ECHO_REQUEST: u8 = icmp6::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp6::ECHO_REPLY;

    #[inline(always)]
    fn src(&self) -> Ipv6Bytes {
        copied(&self.src)
    }

    #[inline(always)]
    fn dst(&self) -> Ipv6Bytes {
        copied(&self.dst)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_header
    }

    #[inline(always)]
    fn payload_len(&self) -> u16 {
        u16::from_be_bytes(self.payload_len)
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        self.hop_limit = ttl;
    }

    #[inline(always)]
    fn decrement_ttl(&mut self) {
        self.hop_limit = self.hop_limit.wrapping_sub(1);
    }

    #[inline(always)]
    fn set_addresses(&mut self, src: Ipv6Bytes, dst: Ipv6Bytes) -> Delta {
        let delta = Delta::new().address(&self.src, &src).address(&self.dst, &dst);
        self.src = src;
        self.dst = dst;
        delta
    }

    #[inline(always)]
    fn checksum(&self) -> [u8; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn is_sound(&self, available: usize) -> bool {
        let total = size_of::<Self>() + self.payload_len() as usize;
        self.version_class_label[0] & 0xf0 == 0x60 && total <= available
    }

    #[inline(always)]
    fn is_plain_tcp(&self) -> bool {
        self.version_class_label[0] & 0xf0 == 0x60 && self.next_header == PROTO_TCP
    }

    #[inline(always)]
    fn between(src: Ipv6Bytes, dst: Ipv6Bytes, protocol: u8, payload_len: u16) -> Self {
        Self::new(protocol, FULL_TTL, payload_len, (src, dst))
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        icmp6::is_error(kind)
    }

    /// ICMPv6's checksum covers a pseudo header (RFC 4443 section 2.3).
    #[inline(always)]
    fn in_icmp(addresses: Delta) -> Delta {
        addresses
    }
}

impl Ip for Ipv6Bytes {
    type Word = u64;
    type KeyPad = [u8; 4];
    type FlowPad = [u8; 0];
    type Header = Ipv6Header;

    const KEY_PAD: [u8; 4] = [0; 4];
    const FLOW_PAD: [u8; 0] = [];
    const UNSPECIFIED: Self = [0; 16];

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        self
    }

    #[inline(always)]
    fn unmapped(mapped: [u8; 16]) -> Self {
        mapped
    }

    /// Neither a group nor loopback nor nobody (RFC 4291 section 2.5.2, 2.5.3, 2.7).
    #[inline(always)]
    fn is_unicast_source(self) -> bool {
        let [high, low] = halves(&self);
        self[0] != 0xff && (high != 0 || u64::from_be(low) > 1)
    }

    /// Fibonacci hashing, as for IPv4, of both halves folded together.
    #[inline(always)]
    fn spread(self) -> u32 {
        let [high, low] = halves(&self);
        let folded = high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f).wrapping_add(low);
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.address(&self)
    }
}

/// As this machine reads them.
#[inline(always)]
const fn halves(addr: &Ipv6Bytes) -> [u64; 2] {
    let (halves, _) = addr.as_chunks();
    [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])]
}

/// A copy in two words: what isn't aligned is copied byte by byte in the kernel otherwise.
#[inline(always)]
const fn copied(addr: &Ipv6Bytes) -> Ipv6Bytes {
    let [high, low] = halves(addr);
    // SAFETY: 16 bytes of integers are 16 bytes.
    unsafe { core::mem::transmute([high.to_ne_bytes(), low.to_ne_bytes()]) }
}
