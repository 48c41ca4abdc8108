//! ARP for the VIPs: answers, silence, and rivals.

use vipd_common::addr::{Ipv4Bytes, mapped};
use vipd_common::maps::Address;
use vipd_common::verdict::Verdict;
use vipd_common::wire::arp::{self, ArpPacket};

use crate::frame::Frame;
use crate::host;
use crate::link::{self, Arrival};
use crate::tables::TablesOf;

/// Handles an ARP frame. Whatever isn't about a VIP is left to the stack untouched.
#[inline(never)]
pub fn handle(
    frame: &mut impl Frame,
    tables: &impl TablesOf<Ipv4Bytes>,
    arrival: &Arrival,
) -> Verdict {
    let Some(packet) = frame.at::<ArpPacket>(arrival.l3()).copied() else {
        return Verdict::ArpOther;
    };
    if packet.format != arp::ETHERNET_IPV4 {
        return Verdict::ArpOther;
    }
    let ifindex = frame.ifindex();
    let Some(own) = tables.interface(ifindex) else { return Verdict::ArpOther };

    // A claim: anybody's ARP, of either operation, with the VIP as its sender (RFC 5227
    // section 2.4). Our own announcements, reflected by a switch, are none.
    if packet.sender_mac != own
        && let Some(address) = tables.address(packet.sender_ip)
        && host::is_contested(tables, address)
    {
        tables.note_rival(mapped(packet.sender_ip), packet.sender_mac, ifindex);
        return Verdict::ArpRival;
    }

    let Some(address) = tables.address(packet.target_ip) else { return Verdict::ArpOther };
    if packet.operation != arp::REQUEST || !address.has(Address::VIRTUAL) {
        return Verdict::ArpOther;
    }
    if arrival.dst != own && !arrival.dst.is_multicast() {
        return Verdict::OtherHost;
    }
    if packet.sender_mac == own {
        // Our own duplicate-address probe, sent back to us: answering would find ourselves.
        return Verdict::ArpOther;
    }
    if !host::is_announced(tables, address) {
        // RFC 5227 section 2.1.1: two that probe at once must hear each other. (The stack doesn't
        // hold the address, and so doesn't answer. One that the stack holds is kept from it.)
        if packet.sender_ip == [0; 4] && !address.has(Address::HOST | Address::REAL) {
            return Verdict::ArpOther;
        }
        return Verdict::ArpSilent;
    }
    if let Some(packet) = frame.at::<ArpPacket>(arrival.l3()) {
        packet.answer(own);
    }
    link::turn_around(frame, own);
    Verdict::ArpReply
}
