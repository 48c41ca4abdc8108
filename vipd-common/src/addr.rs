//! Addresses as they stand on the wire.

use core::fmt;

/// An IPv4 address in network byte order, copied to and from the wire unconverted.
pub type Ipv4Bytes = [u8; 4];

/// An IPv6 address in network byte order.
pub type Ipv6Bytes = [u8; 16];

/// A link-layer (Ethernet) address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zero: "unknown", as in the target hardware address of an ARP request.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether the group bit is set (broadcast included).
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The IPv4-mapped IPv6 form (RFC 4291 section 2.5.5.2) that [`crate::maps::Backend`] stores, so
/// that one table serves both families.
#[inline(always)]
pub const fn mapped(v4: Ipv4Bytes) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The last four bytes of an address made by [`mapped`].
#[inline(always)]
pub const fn unmapped(addr: [u8; 16]) -> Ipv4Bytes {
    [addr[12], addr[13], addr[14], addr[15]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_mac_prints_as_people_write_it() {
        assert_eq!(MacAddr([2, 0, 0xab, 0, 0, 0xfe]).to_string(), "02:00:ab:00:00:fe");
    }

    #[test]
    fn mapping_keeps_the_address() {
        let v4 = [198, 18, 0, 250];
        assert_eq!(unmapped(mapped(v4)), v4);
        assert_eq!(mapped(v4)[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    }
}
