//! Ethernet II and 802.1Q.

use super::header;
use crate::addr::MacAddr;

/// EtherType of IPv4.
pub const IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];
/// EtherType of ARP.
pub const ARP: [u8; 2] = [0x08, 0x06];
/// EtherType of an 802.1Q tag.
pub const VLAN: [u8; 2] = [0x81, 0x00];

header! {
    /// An Ethernet II header.
    EthHeader, 14, {
        /// Destination.
        dst: MacAddr,
        /// Source.
        src: MacAddr,
        /// EtherType of what follows.
        ethertype: [u8; 2],
    }
}

header! {
    /// The four bytes of an 802.1Q tag that follow the EtherType 0x8100.
    VlanTag, 4, {
        /// Priority, DEI and the 12-bit VLAN id.
        tci: [u8; 2],
        /// EtherType of what follows.
        ethertype: [u8; 2],
    }
}

impl VlanTag {
    /// The VLAN id, 0..=4095.
    #[inline(always)]
    pub const fn vid(&self) -> u16 {
        u16::from_be_bytes(self.tci) & 0x0fff
    }
}
