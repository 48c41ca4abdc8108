//! ARP for the VIP.

use std::net::Ipv4Addr;

use etherparse::ArpOperation;
use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::{Address, KernelEvent};
use vipd_common::verdict::Verdict;

use crate::family::Ipv4;
use crate::frames::{CLIENT, CLIENT_MAC, DIRECTOR, DIRECTOR_MAC, R1, STRANGER_MAC, VIP, arp};
use crate::kernel::{Kernel, Xdp_};

const ANNOUNCED: u16 = Address::NAT | Address::ANNOUNCE;

fn request(dst: MacAddr, sender_ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::REQUEST, dst, (CLIENT_MAC, sender_ip), (MacAddr::ZERO, target))
}

fn kernel(flags: u16) -> Kernel<Ipv4> {
    let mut kernel = Kernel::load(DIRECTOR_MAC);
    kernel.address(VIP, flags);
    kernel
}

#[test]
fn requests_for_an_announced_vip_are_answered() {
    let mut kernel = kernel(ANNOUNCED);
    let cases = [
        ("broadcast", request(MacAddr::BROADCAST, CLIENT, VIP), CLIENT),
        ("unicast to us", request(DIRECTOR_MAC, CLIENT, VIP), CLIENT),
        ("RFC 5227 probe", request(MacAddr::BROADCAST, [0; 4].into(), VIP), [0; 4].into()),
    ];
    for (what, frame, asker) in cases {
        let run = kernel.run(&frame);
        assert_eq!((run.verdict, run.action), (Verdict::ArpReply, Xdp_::Tx), "{what}");
        let expected =
            arp(ArpOperation::REPLY, CLIENT_MAC, (DIRECTOR_MAC, VIP), (CLIENT_MAC, asker));
        assert_eq!(run.frame, expected, "{what}");
    }
}

#[test]
fn an_answer_keeps_the_vlan_tag_and_the_padding() {
    let mut kernel = kernel(ANNOUNCED);
    let tag = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0x00, 0x60, 0x0a]);
        frame.resize(64, 0xaa);
        frame
    };
    let run = kernel.run(&tag(request(MacAddr::BROADCAST, CLIENT, VIP)));
    assert_eq!(run.verdict, Verdict::ArpReply);
    let reply = arp(ArpOperation::REPLY, CLIENT_MAC, (DIRECTOR_MAC, VIP), (CLIENT_MAC, CLIENT));
    assert_eq!(run.frame, tag(reply));
}

#[test]
fn all_other_arp_is_untouched() {
    let mut kernel = kernel(ANNOUNCED);
    let announcement =
        |operation, mac| arp(operation, MacAddr::BROADCAST, (mac, VIP), (MacAddr::ZERO, VIP));
    let mut not_ethernet = request(MacAddr::BROADCAST, CLIENT, VIP);
    not_ethernet[15] = 6;
    let cases = [
        ("another address", request(MacAddr::BROADCAST, CLIENT, R1), Verdict::ArpOther),
        ("our own address", request(MacAddr::BROADCAST, CLIENT, DIRECTOR), Verdict::ArpOther),
        (
            "somebody's reply to us",
            arp(ArpOperation::REPLY, DIRECTOR_MAC, (CLIENT_MAC, CLIENT), (DIRECTOR_MAC, DIRECTOR)),
            Verdict::ArpOther,
        ),
        (
            "our own announcement, reflected",
            announcement(ArpOperation::REQUEST, DIRECTOR_MAC),
            Verdict::ArpOther,
        ),
        ("unicast to another host", request(STRANGER_MAC, CLIENT, VIP), Verdict::OtherHost),
        ("a rival's request", announcement(ArpOperation::REQUEST, STRANGER_MAC), Verdict::ArpRival),
        ("a rival's reply", announcement(ArpOperation::REPLY, STRANGER_MAC), Verdict::ArpRival),
        ("another hardware type", not_ethernet, Verdict::ArpOther),
    ];
    for (what, frame, verdict) in cases {
        let run = kernel.run(&frame);
        assert_eq!((run.verdict, run.action), (verdict, Xdp_::Pass), "{what}");
        assert_eq!(run.frame, frame, "{what}");
    }
}

#[test]
fn a_vip_that_is_not_announced_is_kept_silent() {
    let mut kernel = kernel(Address::NAT);
    let frame = request(MacAddr::BROADCAST, CLIENT, VIP);
    let run = kernel.run(&frame);
    assert_eq!((run.verdict, run.action), (Verdict::ArpSilent, Xdp_::Drop));
}

#[test]
fn another_director_s_probe_for_a_silent_vip_reaches_the_daemon() {
    let mut kernel = kernel(Address::NAT);
    let frame = request(MacAddr::BROADCAST, [0; 4].into(), VIP);
    let run = kernel.run(&frame);
    assert_eq!((run.verdict, run.action), (Verdict::ArpOther, Xdp_::Pass));
    assert_eq!(run.frame, frame);
}

#[test]
fn a_rival_is_reported_once_a_second_at_most() {
    let mut kernel = kernel(ANNOUNCED);
    let claim =
        arp(ArpOperation::REQUEST, MacAddr::BROADCAST, (STRANGER_MAC, VIP), (MacAddr::ZERO, VIP));
    for _ in 0..100 {
        kernel.run(&claim);
    }
    let events = kernel.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].kind, KernelEvent::RIVAL);
    assert_eq!((events[0].addr, events[0].mac), (mapped(VIP.octets()), STRANGER_MAC));
}

#[test]
fn arp_cut_off_anywhere_passes_untouched() {
    let mut kernel = kernel(ANNOUNCED);
    let frame = request(MacAddr::BROADCAST, CLIENT, VIP);
    // The kernel refuses test frames shorter than an Ethernet header.
    for length in 14..frame.len() {
        let run = kernel.run(&frame[..length]);
        assert_eq!(run.verdict, Verdict::ArpOther, "{length} bytes");
        assert_eq!(run.frame, frame[..length], "{length} bytes");
    }
}
