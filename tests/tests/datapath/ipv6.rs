//! IPv6 headers that are not what they say, and extension headers.

use etherparse::PacketBuilder;
use vipd_common::maps::{Address, Backend, FLOWS, ForwardMode, HALF_OPEN, ServiceState};
use vipd_common::verdict::Verdict;

use crate::director::{connect, director};
use crate::family::{Family, Ipv4, Ipv6};
use crate::frames::{
    BACKEND_PORT, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC, R2_MAC,
    SERVICE_PORT, Tcp, VIP, icmp, set_word,
};
use crate::kernel::{INGRESS, Kernel, Xdp_, nat_backend};

const BAD: (Verdict, Xdp_) = (Verdict::BadIpHeader, Xdp_::Drop);
const FRAGMENT: (Verdict, Xdp_) = (Verdict::Fragment, Xdp_::Drop);
const EXTENSION: (Verdict, Xdp_) = (Verdict::Extension, Xdp_::Drop);
const PROTOCOL: (Verdict, Xdp_) = (Verdict::OtherProtocol, Xdp_::Drop);
const HOST: (Verdict, Xdp_) = (Verdict::HostTraffic, Xdp_::Pass);

/// A change to a frame.
type Change = fn(&mut Vec<u8>);

/// What can be wrong with an IPv6 header, at offset 14, and what a VIP makes of it.
const HEADERS: [(&str, Change, (Verdict, Xdp_)); 19] = [
    ("version 4", |it| it[14] = 0x40, BAD),
    ("version 0", |it| it[14] = 0, BAD),
    ("version 15", |it| it[14] = 0xf0, BAD),
    ("payload beyond the frame", |it| it[19] += 1, BAD),
    ("payload length 65535", |it| set_word(it, 18, 65_535), BAD),
    ("land: from the VIP itself", |it| it.copy_within(38..54, 22), BAD),
    ("from nobody", |it| it[22..38].fill(0), BAD),
    ("from loopback", |it| it[22..38].copy_from_slice(&[&[0; 15][..], &[1]].concat()), BAD),
    ("from a group", |it| it[22] = 0xff, BAD),
    ("a fragment", |it| it[20] = 44, FRAGMENT),
    ("hop-by-hop options", |it| it[20] = 0, EXTENSION),
    ("routing", |it| it[20] = 43, EXTENSION),
    ("authentication", |it| it[20] = 51, EXTENSION),
    ("destination options", |it| it[20] = 60, EXTENSION),
    ("mobility", |it| it[20] = 135, EXTENSION),
    ("nothing", |it| it[20] = 59, PROTOCOL),
    ("encryption", |it| it[20] = 50, PROTOCOL),
    ("UDP", |it| it[20] = 17, PROTOCOL),
    ("ICMP for IPv4", |it| it[20] = 1, PROTOCOL),
];

#[track_caller]
fn expect_untouched(kernel: &mut Kernel<Ipv6>, what: &str, it: &[u8], expected: (Verdict, Xdp_)) {
    let run = kernel.run_raw(INGRESS, it);
    assert_eq!((run.verdict, run.action), expected, "{what}");
    assert_eq!(run.frame, it, "{what}");
}

#[test]
fn what_is_not_plain_is_dropped_at_a_vip_and_passed_to_the_host() {
    let mut kernel = director::<Ipv6>();
    for (what, change, expected) in HEADERS {
        let mut frame = Ipv6::frame(&Tcp::to_vip("S").frame());
        change(&mut frame);
        expect_untouched(&mut kernel, what, &frame, expected);
        // The host's own stack judges for itself.
        let mut frame = Ipv6::frame(&Tcp::from_r1("SA", CLIENT_PORT).frame());
        change(&mut frame);
        expect_untouched(&mut kernel, what, &frame, HOST);
    }
    assert_eq!(kernel.flows(HALF_OPEN).len(), 0);
}

#[test]
fn traffic_class_and_flow_label_are_carried() {
    let mut kernel = director::<Ipv6>();
    connect(&mut kernel);
    let label = |mut frame: Vec<u8>| {
        frame[14..18].copy_from_slice(&[0x6b, 0x8a, 0xbc, 0xde]);
        frame
    };
    let ask = Tcp::to_vip("A").seq(1001, 5001);
    let run = kernel.run_raw(INGRESS, &label(Ipv6::frame(&ask.frame())));
    assert_eq!(run.verdict, Verdict::NatToBackend);
    assert_eq!(run.frame, label(Ipv6::frame(&ask.at_r1(CLIENT_PORT).frame())));
}

#[test]
fn a_frame_cut_off_anywhere_is_never_forwarded_answered_or_changed() {
    let mut kernel = director::<Ipv6>();
    connect(&mut kernel);
    let quoted = Tcp::from_r1("A", CLIENT_PORT).at_client();
    let to = (DIRECTOR_MAC, VIP);
    let from = (CLIENT_MAC, crate::frames::ROUTER);
    for (what, frame) in [
        ("data", Tcp::to_vip("PA").seq(1001, 5001).payload(b"PING\r\n").frame()),
        ("reply", Tcp::from_r1("PA", CLIENT_PORT).payload(b"+PONG\r\n").frame()),
        ("in a VLAN", Tcp::to_vip("S").client(from.1, 1).vlan(Some(10)).frame()),
        ("echo", icmp(from, to, 64, (8, 0, [0; 4]), b"ping")),
        ("ICMP error", icmp(from, to, 64, (3, 4, [0; 4]), &quoted.quote(40))),
    ] {
        let frame = Ipv6::frame(&frame);
        let l3 = if frame[12] == 0x81 { 18 } else { 14 };
        for length in 14..frame.len() {
            let expected = match (length < l3 + 40, what) {
                (true, _) => (Verdict::NotOurs, Xdp_::Pass),
                (false, "reply") => HOST,
                (false, _) => BAD,
            };
            let what = format!("{what}, {length} bytes");
            expect_untouched(&mut kernel, &what, &frame[..length], expected);
        }
        // And as long as it was, but with a datagram that ends early.
        let headers = match what {
            "echo" => 8,
            "ICMP error" => 56,
            _ => 20,
        };
        for length in 0..headers {
            let mut frame = frame.clone();
            set_word(&mut frame, l3 + 4, length);
            let expected = match what {
                "reply" => HOST,
                "echo" | "ICMP error" => (Verdict::IcmpIgnored, Xdp_::Drop),
                _ => (Verdict::BadTcpHeader, Xdp_::Drop),
            };
            expect_untouched(&mut kernel, &format!("{what}, {length} left"), &frame, expected);
        }
    }
    assert_eq!((kernel.flows(FLOWS).len(), kernel.flows(HALF_OPEN).len()), (2, 0));
}

#[test]
fn an_echo_has_its_own_checksum_whatever_it_carries() {
    let mut kernel = director::<Ipv6>();
    let (client, vip) = (Ipv6::bytes(crate::frames::CLIENT.octets()), Ipv6::bytes(VIP.octets()));
    for length in [0, 1, 56, 57, 1452] {
        let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        PacketBuilder::ethernet2(CLIENT_MAC.0, DIRECTOR_MAC.0)
            .ipv6(client, vip, 3)
            .icmpv6_echo_request(0xbeef, 0xffff)
            .write(&mut request, &payload)
            .unwrap();
        PacketBuilder::ethernet2(DIRECTOR_MAC.0, CLIENT_MAC.0)
            .ipv6(vip, client, 64)
            .icmpv6_echo_reply(0xbeef, 0xffff)
            .write(&mut reply, &payload)
            .unwrap();
        let run = kernel.run_raw(INGRESS, &request);
        assert_eq!((run.verdict, run.action), (Verdict::EchoReply, Xdp_::Tx));
        assert_eq!(run.frame, reply, "{length} bytes");
    }
}

#[test]
fn strays_of_any_kind_are_sent_on() {
    let mut kernel = Kernel::<Ipv6>::load(DIRECTOR_MAC);
    kernel.host_address(VIP, Address::ANNOUNCE, 9);
    let mode = ForwardMode::Stray as u32;
    kernel.backend(1, Backend { mode, ..nat_backend(R1, 0, R1_MAC, DIRECTOR) });
    kernel.active(9, ServiceState::Up, 1, 1);
    for (what, change, expected) in HEADERS {
        let mut frame = Ipv6::frame(&Tcp::to_vip("S").frame());
        change(&mut frame);
        if expected == BAD && frame[20] == 6 && (frame[14] != 0x60 || frame[18..20] != [0, 20]) {
            expect_untouched(&mut kernel, what, &frame, BAD);
            continue;
        }
        let mut out = [&R1_MAC.0[..], &DIRECTOR_MAC.0, &frame[12..]].concat();
        out[21] -= 1;
        let run = kernel.run_raw(INGRESS, &frame);
        assert_eq!((run.verdict, run.action), (Verdict::HostStray, Xdp_::Tx), "{what}");
        assert_eq!(run.frame, out, "{what}");
    }
}

/// Both families side by side: the tables that they share tell them apart.
#[test]
fn a_service_on_both_families_is_one_line_each() {
    let mut kernel = director::<Ipv4>();
    kernel.ipv6_service(Ipv6::addr(VIP), SERVICE_PORT, 1);
    let in_ipv6 = Kernel::<Ipv6>::translated(nat_backend(R1, BACKEND_PORT, R2_MAC, DIRECTOR));
    kernel.backend(7, in_ipv6);
    kernel.active(1, ServiceState::Up, 7, 1);
    let syn = Tcp::to_vip("S");
    let out = syn.at_r1(CLIENT_PORT);
    kernel.expect("IPv4", &syn.frame(), (Verdict::NatNew, Xdp_::Tx), &out.frame());
    let run = kernel.run_raw(INGRESS, &Ipv6::frame(&syn.frame()));
    assert_eq!((run.verdict, run.action), (Verdict::NatNew, Xdp_::Tx));
    let mut out = out;
    out.to.0 = R2_MAC;
    assert_eq!(run.frame, Ipv6::frame(&out.frame()));
    // The services differ, and each reports its first packet.
    let services: Vec<_> = kernel.events().iter().map(|event| event.service).collect();
    assert_eq!(services, [0, 1]);
}

#[test]
fn ipv6_passes_while_its_program_is_not_there() {
    let mut kernel = director::<Ipv6>();
    kernel.without_ipv6_program();
    let syn = Ipv6::frame(&Tcp::to_vip("S").frame());
    expect_untouched(&mut kernel, "SYN", &syn, (Verdict::NotOurs, Xdp_::Pass));
}
