//! ARP for IPv4 over Ethernet (RFC 826), address probes and announcements (RFC 5227).

use super::header;
use crate::addr::{Ipv4Bytes, MacAddr};

/// Hardware type Ethernet, protocol IPv4, lengths 6 and 4.
pub const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Operation: who has.
pub const REQUEST: [u8; 2] = [0, 1];
/// Operation: is at.
pub const REPLY: [u8; 2] = [0, 2];

header! {
    /// An ARP packet for IPv4 over Ethernet.
    ArpPacket, 28, {
        /// Hardware and protocol types and lengths; anything but [`ETHERNET_IPV4`] isn't ours.
        format: [u8; 6],
        /// [`REQUEST`] or [`REPLY`].
        operation: [u8; 2],
        /// Sender's link-layer address.
        sender_mac: MacAddr,
        /// Sender's IPv4 address; zero in an RFC 5227 probe.
        sender_ip: Ipv4Bytes,
        /// Target's link-layer address; ignored in a request.
        target_mac: MacAddr,
        /// Target's IPv4 address.
        target_ip: Ipv4Bytes,
    }
}

impl ArpPacket {
    /// Turns a request into the answer "`target_ip` is at `mac`". A probe's zero sender address
    /// is echoed as the target address, as the kernel does.
    #[inline(always)]
    pub fn answer(&mut self, mac: MacAddr) {
        let asked = self.target_ip;
        self.operation = REPLY;
        self.target_mac = self.sender_mac;
        self.target_ip = self.sender_ip;
        self.sender_mac = mac;
        self.sender_ip = asked;
    }

    /// An RFC 5227 section 2.1.1 probe: is anybody using `addr`?
    pub const fn probe(mac: MacAddr, addr: Ipv4Bytes) -> Self {
        Self {
            format: ETHERNET_IPV4,
            operation: REQUEST,
            sender_mac: mac,
            sender_ip: [0; 4],
            target_mac: MacAddr::ZERO,
            target_ip: addr,
        }
    }

    /// A gratuitous ARP in the form `operation` says: request (RFC 5227 section 2.3, what most
    /// stacks update from) or reply (what some switches and appliances want).
    pub const fn announcement(operation: [u8; 2], mac: MacAddr, addr: Ipv4Bytes) -> Self {
        Self {
            format: ETHERNET_IPV4,
            operation,
            sender_mac: mac,
            sender_ip: addr,
            target_mac: if operation[1] == REPLY[1] { MacAddr::BROADCAST } else { MacAddr::ZERO },
            target_ip: addr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 10]);
    const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 50]);
    const VIP: Ipv4Bytes = [198, 18, 0, 250];

    #[test]
    fn an_answer_swaps_the_roles() {
        let mut packet = ArpPacket {
            format: ETHERNET_IPV4,
            operation: REQUEST,
            sender_mac: CLIENT,
            sender_ip: [198, 18, 0, 10],
            target_mac: MacAddr::ZERO,
            target_ip: VIP,
        };
        packet.answer(DIRECTOR);
        assert_eq!(packet.operation, REPLY);
        assert_eq!((packet.sender_mac, packet.sender_ip), (DIRECTOR, VIP));
        assert_eq!((packet.target_mac, packet.target_ip), (CLIENT, [198, 18, 0, 10]));
    }

    #[test]
    fn a_probe_claims_nothing() {
        let probe = ArpPacket::probe(DIRECTOR, VIP);
        assert_eq!(probe.sender_ip, [0; 4]);
        assert_eq!(probe.target_ip, VIP);
    }

    #[test]
    fn an_announcement_names_the_address_twice() {
        for operation in [REQUEST, REPLY] {
            let packet = ArpPacket::announcement(operation, DIRECTOR, VIP);
            assert_eq!((packet.sender_ip, packet.target_ip), (VIP, VIP));
            assert_eq!(packet.sender_mac, DIRECTOR);
        }
    }
}
