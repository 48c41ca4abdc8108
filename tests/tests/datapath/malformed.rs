//! Frames that are not what they say: never mis-parsed, never changed.

use vipd_common::maps::{FLOWS, HALF_OPEN};
use vipd_common::verdict::Verdict;

use crate::director::{connect, director};
use crate::family::Ipv4;
use crate::frames::{
    CLIENT_MAC, CLIENT_PORT, DIRECTOR_MAC, ROUTER, Tcp, VIP, fix_icmp_checksum, fix_ip_checksum,
    fix_tcp_checksum, icmp, set_word,
};
use crate::kernel::{Kernel, Xdp_};

const BAD_IP: (Verdict, Xdp_) = (Verdict::BadIpHeader, Xdp_::Drop);
const BAD_TCP: (Verdict, Xdp_) = (Verdict::BadTcpHeader, Xdp_::Drop);
const FRAGMENT: (Verdict, Xdp_) = (Verdict::Fragment, Xdp_::Drop);
const HOST: (Verdict, Xdp_) = (Verdict::HostTraffic, Xdp_::Pass);

/// A change to a frame.
type Change = fn(&mut Vec<u8>);

/// What can be wrong with an IPv4 header, at offset 14, and what a VIP makes of it.
const IP: [(&str, Change, (Verdict, Xdp_)); 17] = [
    ("version 6", |it| it[14] = 0x65, BAD_IP),
    ("version 0", |it| it[14] = 0x05, BAD_IP),
    ("version 15", |it| it[14] = 0xf5, BAD_IP),
    ("no header length", |it| it[14] = 0x40, BAD_IP),
    ("header length 4", |it| it[14] = 0x44, BAD_IP),
    ("total length 0", |it| set_word(it, 16, 0), BAD_IP),
    ("total length 19", |it| set_word(it, 16, 19), BAD_IP),
    ("total length beyond the frame", |it| it[17] += 1, BAD_IP),
    ("total length 65535", |it| set_word(it, 16, 65_535), BAD_IP),
    ("land: from the VIP itself", |it| it[26..30].copy_from_slice(&VIP.octets()), BAD_IP),
    ("from nobody", |it| it[26..30].fill(0), BAD_IP),
    ("from loopback", |it| it[26..30].copy_from_slice(&[127, 0, 0, 1]), BAD_IP),
    ("from a group", |it| it[26..30].copy_from_slice(&[224, 0, 0, 1]), BAD_IP),
    ("from everybody", |it| it[26..30].fill(255), BAD_IP),
    ("the first fragment", |it| it[20] = 0x20, FRAGMENT),
    ("a middle fragment", |it| (it[20], it[21]) = (0x20, 0xb9), FRAGMENT),
    ("the last fragment", |it| (it[20], it[21]) = (0, 1), FRAGMENT),
];

/// What can be wrong with a TCP header, at offset 34.
const TCP: [(&str, Change); 6] = [
    ("data offset 0", |it| it[46] = 0),
    ("data offset 4", |it| it[46] = 0x40),
    ("data offset beyond the datagram", |it| it[46] = 0x60),
    ("data offset 15", |it| it[46] = 0xf0),
    ("a datagram that ends in the TCP header", |it| set_word(it, 16, 39)),
    ("a datagram without a TCP header", |it| set_word(it, 16, 20)),
];

#[test]
fn bad_ip_headers_are_dropped_at_a_vip_and_passed_to_the_host() {
    let mut kernel = director::<Ipv4>();
    for (what, change, expected) in IP {
        let mut frame = Tcp::to_vip("S").frame();
        change(&mut frame);
        fix_ip_checksum_of(&mut frame);
        kernel.expect_untouched(what, &frame, expected);
        // The host's own stack judges for itself.
        let mut frame = Tcp::from_r1("SA", CLIENT_PORT).frame();
        change(&mut frame);
        fix_ip_checksum_of(&mut frame);
        kernel.expect_untouched(what, &frame, HOST);
    }
    assert_eq!(kernel.flows(HALF_OPEN).len(), 0);
}

fn fix_ip_checksum_of(frame: &mut [u8]) {
    if frame[14] == 0x45 {
        fix_ip_checksum(frame, 14);
    }
}

#[test]
fn bad_tcp_headers_are_dropped_at_a_vip_and_passed_to_the_host() {
    let mut kernel = director::<Ipv4>();
    for (what, change) in TCP {
        let mut frame = Tcp::to_vip("S").frame();
        change(&mut frame);
        fix_ip_checksum(&mut frame, 14);
        kernel.expect_untouched(what, &frame, BAD_TCP);
        let mut frame = Tcp::from_r1("SA", CLIENT_PORT).frame();
        change(&mut frame);
        fix_ip_checksum(&mut frame, 14);
        kernel.expect_untouched(what, &frame, HOST);
    }
    assert_eq!(kernel.flows(HALF_OPEN).len(), 0);
}

#[test]
fn padding_is_no_part_of_the_datagram() {
    let mut kernel = director::<Ipv4>();
    // A header that says 24 bytes, of which only 20 are in the datagram; the rest is padding.
    let mut frame = Tcp::to_vip("S").frame();
    frame[46] = 0x60;
    frame.resize(60, 1);
    kernel.expect_untouched("TCP", &frame, BAD_TCP);
}

#[test]
fn ip_options_are_dropped() {
    let mut kernel = director::<Ipv4>();
    for words in 6..=15 {
        let mut frame = Tcp::to_vip("S").frame();
        let options = usize::from(words - 5) * 4;
        frame.splice(34..34, vec![1; options]);
        frame[14] = 0x40 | words;
        set_word(&mut frame, 16, (40 + options) as u16);
        fix_ip_checksum(&mut frame, 14);
        let what = format!("{options} bytes");
        kernel.expect_untouched(&what, &frame, (Verdict::IpOptions, Xdp_::Drop));
    }
}

#[test]
fn other_protocols_are_dropped() {
    let mut kernel = director::<Ipv4>();
    for protocol in [0, 2, 4, 17, 41, 47, 50, 132, 255] {
        let mut frame = Tcp::to_vip("S").frame();
        frame[23] = protocol;
        fix_ip_checksum(&mut frame, 14);
        let what = format!("protocol {protocol}");
        kernel.expect_untouched(&what, &frame, (Verdict::OtherProtocol, Xdp_::Drop));
        let mut frame = Tcp::from_r1("SA", CLIENT_PORT).frame();
        frame[23] = protocol;
        kernel.expect_untouched(&what, &frame, HOST);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut kernel = director::<Ipv4>();
    connect(&mut kernel);
    for (what, at) in [("IP", 24), ("TCP", 50), ("payload", 54)] {
        let ask = Tcp::to_vip("A").seq(1001, 5001).payload(b"PING\r\n");
        let mut frame = ask.frame();
        frame[at] ^= 0x10;
        let run = kernel.run(&frame);
        assert_eq!(run.verdict, Verdict::NatToBackend, "{what}");
        let right = ask.at_r1(CLIENT_PORT).frame();
        assert_ne!(run.frame, right, "{what}");
        let mut mended = run.frame;
        mended[at] ^= 0x10;
        fix_ip_checksum(&mut mended, 14);
        fix_tcp_checksum(&mut mended, 34);
        assert_eq!(mended, right, "{what}: nothing but the checksum is wrong");
        let l4_differs = |frame: &[u8]| {
            let mut fixed = frame.to_vec();
            fix_tcp_checksum(&mut fixed, 34);
            fixed != frame
        };
        assert_eq!(l4_differs(&kernel.run(&frame).frame), what != "IP", "{what}");
    }
}

/// One good frame of each kind.
fn good_frames() -> Vec<(&'static str, Vec<u8>)> {
    let quoted = Tcp::from_r1("A", CLIENT_PORT).at_client();
    let error =
        icmp((CLIENT_MAC, ROUTER), (DIRECTOR_MAC, VIP), 64, (3, 4, [0; 4]), &quoted.quote(40));
    let echo = icmp((CLIENT_MAC, ROUTER), (DIRECTOR_MAC, VIP), 64, (8, 0, [0; 4]), b"ping");
    let in_vlan = Tcp::to_vip("S").client(ROUTER, 1).vlan(Some(10));
    vec![
        ("SYN", Tcp::to_vip("S").client(ROUTER, 1).options(&[1; 20]).frame()),
        ("SYN in a VLAN", in_vlan.frame()),
        ("data", Tcp::to_vip("PA").seq(1001, 5001).payload(b"PING\r\n").frame()),
        ("reply", Tcp::from_r1("PA", CLIENT_PORT).payload(b"+PONG\r\n").frame()),
        ("unknown flow", Tcp::to_vip("A").client(ROUTER, 2).frame()),
        ("wrong port", Tcp { to: (DIRECTOR_MAC, VIP, 1), ..Tcp::to_vip("S") }.frame()),
        ("echo", echo),
        ("ICMP error", error),
    ]
}

fn connected() -> Kernel<Ipv4> {
    let mut kernel = director::<Ipv4>();
    connect(&mut kernel);
    kernel
}

#[test]
fn a_frame_cut_off_anywhere_is_never_forwarded_answered_or_changed() {
    let mut kernel = connected();
    for (what, frame) in good_frames() {
        let l3 = if frame[12] == 0x81 { 18 } else { 14 };
        // The kernel refuses test frames shorter than an Ethernet header.
        for length in 14..frame.len() {
            let expected = match (length < l3 + 20, what) {
                (true, _) => (Verdict::NotOurs, Xdp_::Pass),
                (false, "reply") => HOST,
                (false, _) => BAD_IP,
            };
            kernel.expect_untouched(&format!("{what}, {length} bytes"), &frame[..length], expected);
        }
    }
    assert_eq!((kernel.flows(FLOWS).len(), kernel.flows(HALF_OPEN).len()), (2, 0));
}

#[test]
fn a_datagram_that_ends_in_its_headers_is_never_forwarded_answered_or_changed() {
    let mut kernel = connected();
    for (what, frame) in good_frames() {
        let l3 = if frame[12] == 0x81 { 18 } else { 14 };
        let is_icmp = frame[l3 + 9] == 1;
        let headers = match what {
            "echo" => 28,
            "ICMP error" => 56,
            "SYN" => 60,
            _ => 40,
        };
        for length in 20..headers {
            // Both as the whole frame and with padding behind.
            for padded in [false, true] {
                let mut frame = frame[..l3 + length].to_vec();
                set_word(&mut frame, l3 + 2, length as u16);
                fix_ip_checksum(&mut frame, l3);
                if is_icmp && length >= 24 {
                    fix_icmp_checksum(&mut frame, l3 + 20);
                }
                if padded {
                    frame.resize(l3 + headers + 10, 0x11);
                }
                let expected = match what {
                    "reply" => HOST,
                    _ if is_icmp => (Verdict::IcmpIgnored, Xdp_::Drop),
                    _ => BAD_TCP,
                };
                let what = format!("{what}, {length} bytes, padded: {padded}");
                kernel.expect_untouched(&what, &frame, expected);
            }
        }
    }
    assert_eq!((kernel.flows(FLOWS).len(), kernel.flows(HALF_OPEN).len()), (2, 0));
}
