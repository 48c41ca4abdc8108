//! Neighbour discovery (RFC 4861): what IPv6 has for ARP.

use super::header;
use super::ipv6::{Ipv6Header, NEXT_ICMP};
use crate::addr::{Ipv6Bytes, MacAddr};

/// ICMPv6 type: who has the target?
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type: the target is here.
pub const ADVERTISEMENT: u8 = 136;
/// The hop limit of every message: no router has forwarded it.
pub const HOP_LIMIT: u8 = 255;
/// Option: the sender's link-layer address.
pub const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address.
pub const TARGET_LINK_LAYER: u8 = 2;
/// In an advertisement: it answers a solicitation.
pub const SOLICITED: u8 = 1 << 6;
/// In an advertisement: replace what was known.
pub const OVERRIDE: u8 = 1 << 5;
/// ff02::1, every node on the link.
pub const ALL_NODES: Ipv6Bytes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

header! {
    /// A solicitation or an advertisement, less its options.
    NeighbourMessage, 24, {
        /// [`SOLICITATION`] or [`ADVERTISEMENT`].
        kind: u8,
        /// Always zero.
        code: u8,
        /// ICMPv6 checksum.
        checksum: [u8; 2],
        /// In an advertisement [`SOLICITED`] and [`OVERRIDE`].
        flags: u8,
        /// Zero, and ignored.
        reserved: [u8; 3],
        /// The address asked for, or advertised.
        target: Ipv6Bytes,
    }
}

header! {
    /// The option that holds an Ethernet address.
    LinkLayerOption, 8, {
        /// [`SOURCE_LINK_LAYER`] or [`TARGET_LINK_LAYER`].
        kind: u8,
        /// In units of eight bytes.
        length: u8,
        /// The address.
        mac: MacAddr,
    }
}

header! {
    /// A solicitation or an advertisement in its packet, less its options.
    NeighbourPacket, 64, {
        /// The IPv6 header.
        ip: Ipv6Header,
        /// The message.
        message: NeighbourMessage,
    }
}

header! {
    /// An advertisement in its packet, with the link-layer address.
    Advertisement, 72, {
        /// The IPv6 header.
        ip: Ipv6Header,
        /// The message.
        message: NeighbourMessage,
        /// Where the target is.
        option: LinkLayerOption,
    }
}

impl NeighbourMessage {
    /// Its bytes, for a sum.
    #[inline(always)]
    pub const fn as_bytes(&self) -> &[u8; size_of::<Self>()] {
        // SAFETY: a header has alignment 1 and no padding; see `header!`.
        unsafe { &*(&raw const *self).cast() }
    }

    #[inline(always)]
    const fn new(kind: u8, flags: u8, target: Ipv6Bytes) -> Self {
        Self { kind, code: 0, checksum: [0; 2], flags, reserved: [0; 3], target }
    }
}

impl NeighbourPacket {
    /// The probe of duplicate address detection (RFC 4862 section 5.4.2): is anybody using `addr`?
    /// It goes to [`solicited_node`].
    pub fn probe(addr: Ipv6Bytes) -> Self {
        let ends = ([0; 16], solicited_node(addr));
        let ip = Ipv6Header::new(NEXT_ICMP, HOP_LIMIT, size_of::<NeighbourMessage>() as u16, ends);
        let mut message = NeighbourMessage::new(SOLICITATION, 0, addr);
        let sum = ip.pseudo_sum().word([message.kind, message.code]);
        message.checksum = sum.address(&message.target).checksum();
        Self { ip, message }
    }
}

impl Advertisement {
    /// "`addr` is at `mac`", from `addr`, to `to`; `flags` are [`SOLICITED`] and [`OVERRIDE`].
    /// (RFC 4861 section 7.2.4.)
    #[inline(always)]
    pub fn new(mac: MacAddr, addr: Ipv6Bytes, to: Ipv6Bytes, flags: u8) -> Self {
        let payload = size_of::<NeighbourMessage>() + size_of::<LinkLayerOption>();
        let ip = Ipv6Header::new(NEXT_ICMP, HOP_LIMIT, payload as u16, (addr, to));
        let mut message = NeighbourMessage::new(ADVERTISEMENT, flags, addr);
        let option = LinkLayerOption { kind: TARGET_LINK_LAYER, length: 1, mac };
        let (words, _) = mac.0.as_chunks();
        message.checksum = ip
            .pseudo_sum()
            .word([message.kind, message.code])
            .word([message.flags, 0])
            .address(&message.target)
            .word([option.kind, option.length])
            .word(words[0])
            .word(words[1])
            .word(words[2])
            .checksum();
        Self { ip, message, option }
    }

    /// To everybody, unasked: after taking an address over (RFC 4861 section 7.2.6).
    pub fn unsolicited(mac: MacAddr, addr: Ipv6Bytes) -> Self {
        Self::new(mac, addr, ALL_NODES, OVERRIDE)
    }
}

/// The group that solicitations for an address are sent to (RFC 4291 section 2.7.1).
#[inline(always)]
pub const fn solicited_node(addr: Ipv6Bytes) -> Ipv6Bytes {
    let [.., a, b, c] = addr;
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]
}

/// The Ethernet group of an IPv6 group (RFC 2464 section 7).
#[inline(always)]
pub const fn multicast_mac(group: Ipv6Bytes) -> MacAddr {
    let [.., a, b, c, d] = group;
    MacAddr([0x33, 0x33, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::IpHeader as _;

    const VIP: Ipv6Bytes = [0xfd, 0x98, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd, 2, 0x50];
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x50]);

    #[test]
    fn groups_keep_the_last_bytes() {
        let group = solicited_node(VIP);
        assert_eq!(group[..13], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
        assert_eq!(group[13..], VIP[13..]);
        assert_eq!(multicast_mac(group), MacAddr([0x33, 0x33, 0xff, 0xcd, 2, 0x50]));
        assert_eq!(multicast_mac(ALL_NODES), MacAddr([0x33, 0x33, 0, 0, 0, 1]));
    }

    #[test]
    fn a_probe_comes_from_nobody() {
        let probe = NeighbourPacket::probe(VIP);
        assert_eq!((probe.ip.src, probe.ip.dst), ([0; 16], solicited_node(VIP)));
        assert_eq!((probe.ip.hop_limit, probe.ip.payload_len()), (HOP_LIMIT, 24));
        assert_eq!((probe.message.kind, probe.message.target), (SOLICITATION, VIP));
        let sum = probe.ip.pseudo_sum().word([SOLICITATION, 0]).word(probe.message.checksum);
        assert_eq!(sum.address(&VIP).checksum(), [0, 0]);
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_and_is_checked() {
        let sent = Advertisement::unsolicited(MAC, VIP);
        assert_eq!((sent.ip.src, sent.ip.dst, sent.ip.payload_len()), (VIP, ALL_NODES, 32));
        assert_eq!((sent.message.flags, sent.option.mac), (OVERRIDE, MAC));
        let sum = sent.ip.pseudo_sum().word([ADVERTISEMENT, 0]).word(sent.message.checksum);
        let sum = sum.word([OVERRIDE, 0]).address(&VIP).word([TARGET_LINK_LAYER, 1]);
        assert_eq!(sum.bytes(&MAC.0).checksum(), [0, 0]);
    }
}
