//! ARP frames: probes, announcements, and what others' say.

use std::net::Ipv4Addr;

use vipd_common::addr::MacAddr;
use vipd_common::wire::Header;
use vipd_common::wire::arp::{ArpPacket, ETHERNET_IPV4, REPLY, REQUEST};
use vipd_common::wire::eth::{ARP, EthHeader};

use super::Claim;

/// An ARP frame without the padding that the driver adds.
const FRAME: usize = EthHeader::LEN + ArpPacket::LEN;

/// RFC 5227 section 2.1.1: does anybody use `vip`?
pub(super) fn probe(mac: MacAddr, vip: Ipv4Addr) -> Vec<u8> {
    frame(mac, ArpPacket::probe(mac, vip.octets()))
}

/// Both forms, request first.
pub(super) fn announcements(mac: MacAddr, vip: Ipv4Addr) -> Vec<Vec<u8>> {
    [REQUEST, REPLY]
        .map(|operation| frame(mac, ArpPacket::announcement(operation, mac, vip.octets())))
        .into()
}

/// What this frame says of `vip` (RFC 5227 section 2.1.1): its sender address is the VIP, or it is
/// a probe for it.
pub(super) fn claim(bytes: &[u8], vip: Ipv4Addr) -> Option<Claim> {
    let packet = parse(bytes)?;
    if packet.sender_ip == vip.octets() {
        return Some(Claim::Uses(packet.sender_mac));
    }
    let probes = packet.operation == REQUEST
        && packet.sender_ip == [0; 4]
        && packet.target_ip == vip.octets();
    probes.then_some(Claim::Probes(packet.sender_mac))
}

/// The ARP packet in an Ethernet frame, if it is one for IPv4.
fn parse(bytes: &[u8]) -> Option<ArpPacket> {
    let bytes = bytes.get(..FRAME)?;
    let (eth, body) = bytes.split_at(EthHeader::LEN);
    if eth[12..14] != ARP {
        return None;
    }
    // SAFETY: `body` is ArpPacket::LEN bytes long, and a `Header` has alignment 1 and is valid for
    // any bytes.
    let packet = unsafe { body.as_ptr().cast::<ArpPacket>().read() };
    (packet.format == ETHERNET_IPV4).then_some(packet)
}

/// A broadcast Ethernet frame around `packet`.
fn frame(source: MacAddr, packet: ArpPacket) -> Vec<u8> {
    let mut frame = vec![0; FRAME];
    let eth = EthHeader { dst: MacAddr::BROADCAST, src: source, ethertype: ARP };
    // SAFETY: a `Header` has alignment 1 and no padding, and the frame has room for both.
    unsafe {
        frame.as_mut_ptr().cast::<EthHeader>().write(eth);
        frame.as_mut_ptr().add(EthHeader::LEN).cast::<ArpPacket>().write(packet);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);
    const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 250);

    #[test]
    fn who_sends_from_the_address_uses_it() {
        for frame in announcements(OTHER, VIP) {
            assert_eq!(claim(&frame, VIP), Some(Claim::Uses(OTHER)));
        }
        assert_eq!(claim(&probe(OTHER, VIP), VIP), Some(Claim::Probes(OTHER)));
    }

    #[test]
    fn a_question_another_address_and_another_protocol_say_nothing() {
        let mut question = ArpPacket::probe(OTHER, VIP.octets());
        question.sender_ip = [198, 18, 0, 10];
        assert_eq!(claim(&frame(OTHER, question), VIP), None);
        let elsewhere = Ipv4Addr::new(198, 18, 0, 1);
        assert_eq!(claim(&announcements(OTHER, elsewhere)[1], VIP), None);
        let mut other = announcements(OTHER, VIP).remove(1);
        other[12] = 0x86;
        assert_eq!(claim(&other, VIP), None);
    }

    #[test]
    fn a_short_frame_is_no_arp() {
        let bytes = probe(OTHER, VIP);
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), None, "length {length}");
        }
        assert!(parse(&bytes).is_some());
    }
}
