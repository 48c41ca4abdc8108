//! Mode `host`: the owner's stack takes the VIP's packets, everybody else sends them there. And
//! mode `real`, for a director's servers.

use etherparse::ArpOperation;
use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::{Address, Backend, ForwardMode, KernelEvent, ServiceState};
use vipd_common::verdict::Verdict;

use crate::family::{Family, Ipv4, in_both_families};
use crate::frames::{
    CLIENT, CLIENT_MAC, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC, R2_MAC, STRANGER_MAC, Tcp, VIP, arp,
    fix_ip_checksum, icmp, set_word,
};
use crate::kernel::{INGRESS, Kernel, Xdp_, nat_backend, new_interface, now};

/// A change to a frame.
type Change = fn(&mut Vec<u8>);

const LINE: u16 = 4095;
const LOCAL: u16 = 1;
const AT_R1: u16 = 2;
const ANNOUNCED: u16 = Address::ANNOUNCE;
const SECOND: u64 = 1_000_000_000;

/// This host is [`DIRECTOR`], a Redis host beside r1.
fn host<F: Family>(slot: u16) -> Kernel<F> {
    let mut kernel = Kernel::<F>::load(DIRECTOR_MAC);
    kernel.host_address(VIP, 0, LINE);
    let backend =
        |mode, addr, mac| Backend { mode: mode as u32, ..nat_backend(addr, 0, mac, DIRECTOR) };
    kernel.backend(LOCAL, backend(ForwardMode::Local, DIRECTOR, MacAddr::ZERO));
    kernel.backend(AT_R1, backend(ForwardMode::Stray, R1, R1_MAC));
    kernel.active(LINE.into(), ServiceState::Up, slot, 1);
    kernel
}

/// Whatever may be sent to a VIP, all from the client and with a TTL of 64.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let mut udp = Vec::new();
    etherparse::PacketBuilder::ethernet2(CLIENT_MAC.0, DIRECTOR_MAC.0)
        .ipv4(CLIENT.octets(), VIP.octets(), 64)
        .udp(53, 53)
        .write(&mut udp, b"x")
        .unwrap();
    let from = (CLIENT_MAC, CLIENT);
    let echo = icmp(from, (DIRECTOR_MAC, VIP), 64, (8, 0, [0; 4]), b"ping");
    let mut fragment = Tcp::to_vip("A").payload(&[7; 64]).frame();
    set_word(&mut fragment, 20, 0x2000);
    fix_ip_checksum(&mut fragment, 14);
    let mut last = udp.clone();
    set_word(&mut last, 20, 185);
    fix_ip_checksum(&mut last, 14);
    let mut options = Tcp::to_vip("S").frame();
    options.splice(34..34, [1; 8]);
    options[14] = 0x47;
    set_word(&mut options, 16, 48);
    fix_ip_checksum(&mut options, 14);
    let mut padded = Tcp::to_vip("A").frame();
    padded.resize(60, 0xaa);
    vec![
        ("SYN", Tcp::to_vip("S").frame()),
        ("data", Tcp::to_vip("PA").payload(b"PING\r\n").frame()),
        ("RST", Tcp::to_vip("R").frame()),
        ("padded", padded),
        ("another port", Tcp { to: (DIRECTOR_MAC, VIP, 1), ..Tcp::to_vip("S") }.frame()),
        ("UDP", udp),
        ("echo", echo),
        ("a first fragment", fragment),
        ("a last fragment", last),
        ("IP options", options),
        ("tagged", Tcp::to_vip("S").vlan(Some(10)).frame()),
    ]
}

/// What a router towards r1 would make of it.
fn at_r1(frame: &[u8]) -> Vec<u8> {
    let mut out = [&R1_MAC.0[..], &DIRECTOR_MAC.0, &frame[12..]].concat();
    let mut l3 = 14;
    if out[12] == 0x81 {
        // r1 is on the untagged network.
        out.drain(12..16);
        l3 = 14;
    }
    out[l3 + 8] -= 1;
    fix_ip_checksum(&mut out, l3);
    out
}

fn the_owner_s_stack_takes_everything<F: Family>() {
    let mut kernel = host::<F>(LOCAL);
    for (what, frame) in packets() {
        kernel.expect_untouched(what, &frame, (Verdict::HostLocal, Xdp_::Pass));
    }
    // Its stack judges what is malformed, and how often it may be forwarded is no question.
    let mut bad = Tcp::to_vip("S").ttl(1).frame();
    bad[14] = 0x44;
    kernel.expect_untouched("bad header", &bad, (Verdict::HostLocal, Xdp_::Pass));
    let events = kernel.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].kind, events[0].service), (KernelEvent::FIRST_PACKET, LINE.into()));
    assert_eq!((events[0].generation, events[0].ifindex), (1, INGRESS));
}

fn strays_are_sent_on_to_the_owner<F: Family>() {
    let mut kernel = host::<F>(AT_R1);
    for (what, frame) in packets() {
        kernel.expect(what, &frame, (Verdict::HostStray, Xdp_::Tx), &at_r1(&frame));
    }
    assert_eq!(kernel.events().len(), 1);
}

fn strays_cross_to_another_interface_and_another_vlan<F: Family>() {
    let mut kernel = host::<F>(AT_R1);
    let inside = new_interface("inside0");
    kernel.port(inside);
    let stray = ForwardMode::Stray as u32;
    let backend = Backend { mode: stray, vlan: 20, ..nat_backend(R1, 0, R1_MAC, DIRECTOR) };
    kernel.backend(3, Backend { ifindex: inside, own_mac: STRANGER_MAC, ..backend });
    kernel.active(LINE.into(), ServiceState::Up, 3, 1);
    let syn = Tcp::to_vip("S").vlan(Some(10));
    let mut out = syn.clone().ttl(63).vlan(Some(20));
    (out.from.0, out.to.0) = (STRANGER_MAC, R1_MAC);
    kernel.expect("SYN", &syn.frame(), (Verdict::HostStray, Xdp_::Redirect), &out.frame());
}

fn a_stray_never_goes_back_to_where_it_came_from<F: Family>() {
    let mut kernel = host::<F>(AT_R1);
    let mut syn = Tcp::to_vip("S");
    syn.from.0 = R1_MAC;
    kernel.expect_untouched("from r1", &syn.frame(), (Verdict::HostLoop, Xdp_::Drop));
    // In a ring of three, each hop takes one.
    for ttl in [0, 1] {
        let frame = Tcp::to_vip("S").ttl(ttl).frame();
        kernel.expect_untouched("expired", &frame, (Verdict::TtlExpired, Xdp_::Drop));
    }
}

#[test]
fn what_is_no_ip_packet_is_not_sent_on() {
    let mut kernel = host::<Ipv4>(AT_R1);
    let cases: [(&str, Change); 6] = [
        ("version 6", |it| it[14] = 0x65),
        ("header length 4", |it| it[14] = 0x44),
        ("header beyond the datagram", |it| it[14] = 0x4f),
        ("total length 19", |it| set_word(it, 16, 19)),
        ("total length beyond the frame", |it| it[17] += 1),
        ("cut off", |it| it.truncate(40)),
    ];
    for (what, change) in cases {
        let mut frame = Tcp::to_vip("S").frame();
        change(&mut frame);
        kernel.expect_untouched(what, &frame, (Verdict::BadIpHeader, Xdp_::Drop));
    }
}

fn between_two_owners_everything_is_held_back<F: Family>() {
    let mut kernel = host::<F>(LOCAL);
    let cases = [
        (ServiceState::Parked, LOCAL, Verdict::ServiceParked),
        (ServiceState::Down, LOCAL, Verdict::ServiceDown),
        (ServiceState::Group, LOCAL, Verdict::ServiceDown),
        (ServiceState::Up, 77, Verdict::NoBackend),
        (ServiceState::Up, 78, Verdict::NoBackend),
    ];
    kernel.backend(78, nat_backend(R1, 0, R1_MAC, DIRECTOR));
    for (state, slot, verdict) in cases {
        kernel.active(LINE.into(), state, slot, 2);
        for (what, frame) in packets() {
            kernel.expect_untouched(what, &frame, (verdict, Xdp_::Drop));
        }
    }
    assert!(kernel.events().is_empty());
}

fn until_anybody_knows_whose_it_is_the_stack_decides<F: Family>() {
    let mut kernel = host::<F>(LOCAL);
    kernel.active(LINE.into(), ServiceState::Down, 0, 0);
    for (what, frame) in packets() {
        kernel.expect_untouched(what, &frame, (Verdict::HostUndecided, Xdp_::Pass));
    }
}

fn frames_for_another_machine_pass<F: Family>() {
    let mut kernel = host::<F>(AT_R1);
    for mac in [R2_MAC, MacAddr::BROADCAST] {
        let mut syn = Tcp::to_vip("S");
        syn.to.0 = mac;
        kernel.expect_untouched("SYN", &syn.frame(), (Verdict::OtherHost, Xdp_::Pass));
    }
}

fn ask(sender: std::net::Ipv4Addr) -> Vec<u8> {
    let sender = (CLIENT_MAC, sender);
    arp(ArpOperation::REQUEST, MacAddr::BROADCAST, sender, (MacAddr::ZERO, VIP))
}

fn claim() -> Vec<u8> {
    let rival = (STRANGER_MAC, VIP);
    arp(ArpOperation::REPLY, MacAddr::BROADCAST, rival, (MacAddr::BROADCAST, VIP))
}

#[test]
fn arp_is_answered_by_the_owner_as_long_as_its_lease_lasts() {
    let mut kernel = host::<Ipv4>(LOCAL);
    let silent = (Verdict::ArpSilent, Xdp_::Drop);
    let nobody = std::net::Ipv4Addr::UNSPECIFIED;
    let cases = [
        ("not announced", 0, now() + 100 * SECOND),
        ("no lease yet", ANNOUNCED, 0),
        ("the lease has run out", ANNOUNCED, now() - SECOND),
    ];
    for (what, flags, lease) in cases {
        kernel.host_address(VIP, flags, LINE);
        kernel.lease(lease);
        kernel.expect_untouched(what, &ask(CLIENT), silent);
        // The stack holds the address, and would answer a probe.
        kernel.expect_untouched(what, &ask(nobody), silent);
        // The owner may say so.
        kernel.expect_untouched(what, &claim(), (Verdict::ArpOther, Xdp_::Pass));
        assert!(kernel.events().is_empty(), "{what}");
    }
    kernel.host_address(VIP, ANNOUNCED, LINE);
    kernel.lease(now() + 100 * SECOND);
    for asker in [CLIENT, nobody] {
        let reply = arp(ArpOperation::REPLY, CLIENT_MAC, (DIRECTOR_MAC, VIP), (CLIENT_MAC, asker));
        kernel.expect("owner", &ask(asker), (Verdict::ArpReply, Xdp_::Tx), &reply);
    }
    kernel.expect_untouched("rival", &claim(), (Verdict::ArpRival, Xdp_::Pass));
    let [event] = kernel.events()[..] else { panic!("one event") };
    assert_eq!((event.kind, event.addr), (KernelEvent::RIVAL, mapped(VIP.octets())));
    assert_eq!(event.mac, STRANGER_MAC);
}

#[test]
fn a_lease_is_of_no_concern_to_a_director() {
    let mut kernel = Kernel::<Ipv4>::load(DIRECTOR_MAC);
    kernel.address(VIP, Address::NAT | Address::ANNOUNCE);
    assert_eq!(kernel.run(&ask(CLIENT)).verdict, Verdict::ArpReply);
}

fn a_real_server_takes_whatever_its_director_sends<F: Family>() {
    let mut kernel = Kernel::<F>::load(DIRECTOR_MAC);
    kernel.lease(now() + 100 * SECOND);
    // Even if it were told to.
    for flags in [0, ANNOUNCED] {
        kernel.address(VIP, Address::REAL | flags);
        for (what, frame) in packets() {
            kernel.expect_untouched(what, &frame, (Verdict::RealLocal, Xdp_::Pass));
        }
    }
    assert!(kernel.events().is_empty());
}

#[test]
fn a_real_server_never_answers_for_its_vip() {
    let mut kernel = Kernel::<Ipv4>::load(DIRECTOR_MAC);
    kernel.lease(now() + 100 * SECOND);
    kernel.address(VIP, Address::REAL);
    for asker in [CLIENT, std::net::Ipv4Addr::UNSPECIFIED] {
        kernel.expect_untouched("ARP", &ask(asker), (Verdict::ArpSilent, Xdp_::Drop));
    }
    kernel.expect_untouched("the director", &claim(), (Verdict::ArpOther, Xdp_::Pass));
    assert!(kernel.events().is_empty());
}

in_both_families! {
    the_owner_s_stack_takes_everything,
    strays_are_sent_on_to_the_owner,
    strays_cross_to_another_interface_and_another_vlan,
    a_stray_never_goes_back_to_where_it_came_from,
    between_two_owners_everything_is_held_back,
    until_anybody_knows_whose_it_is_the_stack_decides,
    frames_for_another_machine_pass,
    a_real_server_takes_whatever_its_director_sends,
}
