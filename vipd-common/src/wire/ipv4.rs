//! IPv4 (RFC 791).

use super::header;
use crate::addr::Ipv4Bytes;
use crate::checksum::{Delta, Sum};

/// Protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;

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

    /// Whether version and lengths are what they can be; `available` is the bytes from the header
    /// on. It may have options.
    #[inline(always)]
    pub const fn is_sound(&self, available: usize) -> bool {
        let header = (self.version_ihl & 0x0f) as usize * 4;
        let total = self.total_len() as usize;
        self.version_ihl & 0xf0 == 0x40
            && header >= size_of::<Self>()
            && total >= header
            && total <= available
    }

    /// Whether this is one fragment of a datagram: more-fragments set, or an offset.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// Writes new addresses, and the checksum with them. Returns the change, which TCP's pseudo
    /// header has as well.
    #[inline(always)]
    pub fn set_addresses(&mut self, src: Ipv4Bytes, dst: Ipv4Bytes) -> Delta {
        let delta = Delta::new().dword(self.src, src).dword(self.dst, dst);
        self.src = src;
        self.dst = dst;
        self.checksum = delta.apply(self.checksum);
        delta
    }

    /// Takes one from the TTL. The caller has checked that it is above 1.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        let old = [self.ttl, self.protocol];
        self.ttl = self.ttl.wrapping_sub(1);
        self.checksum = Delta::new().word(old, [self.ttl, self.protocol]).apply(self.checksum);
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

    /// Whether `addr` can't be a sender on a wire: 0/8, 127/8, 224/4 and above.
    #[inline(always)]
    pub const fn is_unicast_source(addr: Ipv4Bytes) -> bool {
        addr[0] != 0 && addr[0] != 127 && addr[0] < 224
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
            assert!(!Ipv4Header::is_unicast_source(bad));
        }
        assert!(Ipv4Header::is_unicast_source([10, 0, 0, 1]));
    }
}
