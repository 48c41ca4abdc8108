//! ICMP to a VIP.

use etherparse::PacketBuilder;
use vipd_common::addr::MacAddr;
use vipd_common::maps::{Address, ServiceState};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R1_SLOT, SERVICE, connect, director, flip};
use crate::family::{Family, in_both_families};
use crate::frames::{
    CLIENT, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC, ROUTER, Tcp, VIP, icmp,
};
use crate::kernel::{Kernel, Xdp_};

const FROM_CLIENT: (MacAddr, std::net::Ipv4Addr) = (CLIENT_MAC, CLIENT);
const TO_VIP: (MacAddr, std::net::Ipv4Addr) = (DIRECTOR_MAC, VIP);
const IGNORED: (Verdict, Xdp_) = (Verdict::IcmpIgnored, Xdp_::Drop);

/// Type, code, and bytes 4 to 7.
type Error = (u8, u8, [u8; 4]);

/// Errors that RFC 792 has, each with what it carries in bytes 4 to 7.
const ERRORS: [(&str, Error); 4] = [
    ("fragmentation needed, MTU 1280", (3, 4, [0, 0, 5, 0])),
    ("host unreachable", (3, 1, [0; 4])),
    ("time exceeded", (11, 0, [0; 4])),
    ("parameter problem at byte 9", (12, 0, [9, 0, 0, 0])),
];

fn echo_requests_are_answered<F: Family>() {
    let mut kernel = director::<F>();
    for length in (0..18).chain([56, 57, 1471, 1472]) {
        let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        PacketBuilder::ethernet2(CLIENT_MAC.0, DIRECTOR_MAC.0)
            .ipv4(CLIENT.octets(), VIP.octets(), 3)
            .icmpv4_echo_request(0xbeef, 0xffff)
            .write(&mut request, &payload)
            .unwrap();
        PacketBuilder::ethernet2(DIRECTOR_MAC.0, CLIENT_MAC.0)
            .ipv4(VIP.octets(), CLIENT.octets(), 64)
            .icmpv4_echo_reply(0xbeef, 0xffff)
            .write(&mut reply, &payload)
            .unwrap();
        let expected = (Verdict::EchoReply, Xdp_::Tx);
        kernel.expect(&format!("{length} bytes"), &request, expected, &reply);
    }
}

fn echo_is_answered_only_while_a_service_is_up<F: Family>() {
    let mut kernel = director::<F>();
    kernel.address(VIP, Address::NAT | Address::ANNOUNCE);
    let request = icmp(FROM_CLIENT, TO_VIP, 64, (8, 0, [0, 1, 0, 1]), b"ping");
    kernel.expect_untouched("down", &request, (Verdict::EchoDown, Xdp_::Drop));
    let to_host = icmp(FROM_CLIENT, (DIRECTOR_MAC, DIRECTOR), 64, (8, 0, [0, 1, 0, 1]), b"ping");
    kernel.expect_untouched("the host's", &to_host, (Verdict::HostTraffic, Xdp_::Pass));
}

fn other_icmp_to_a_vip_is_ignored<F: Family>() {
    let mut kernel = director::<F>();
    for kind in [0, 4, 5, 9, 10, 13, 15, 17, 42, 255] {
        let frame = icmp(FROM_CLIENT, TO_VIP, 64, (kind, 0, [0; 4]), &[0; 40]);
        kernel.expect_untouched(&format!("type {kind}"), &frame, IGNORED);
    }
}

/// What the master sent, as it is on the client's side of NAT, where it met a router.
fn quoted_reply() -> (Tcp, Tcp) {
    let sent = Tcp::from_r1("PA", CLIENT_PORT).payload(&[0x5a; 301]).ttl(40);
    let seen = Tcp { ttl: 40, ..sent.at_client() };
    (sent, seen)
}

/// What the client sent, as it is on the master's side.
fn quoted_request() -> (Tcp, Tcp) {
    let sent = Tcp::to_vip("PA").seq(1001, 5001).payload(&[0xa5; 301]).ttl(40);
    let seen = Tcp { ttl: 40, ..sent.at_r1(CLIENT_PORT) };
    (sent, seen)
}

fn about_reply(seen: &Tcp, error: (u8, u8, [u8; 4]), length: usize) -> Vec<u8> {
    icmp((CLIENT_MAC, ROUTER), TO_VIP, 60, error, &seen.quote(length))
}

fn about_request(seen: &Tcp, error: (u8, u8, [u8; 4]), length: usize) -> Vec<u8> {
    icmp((R1_MAC, ROUTER), (DIRECTOR_MAC, DIRECTOR), 60, error, &seen.quote(length))
}

fn errors_are_carried_both_ways_with_what_they_quote<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    for (what, error) in ERRORS {
        // 8 bytes of TCP as RFC 792 demands, each length up to the checksum and past it, the whole
        // header, the whole segment.
        for length in (28..=36).chain([38, 39, 40, 41, 60, 341]) {
            let what = format!("{what}, {length} bytes quoted");
            let (sent, seen) = quoted_reply();
            let out = icmp((DIRECTOR_MAC, DIRECTOR), (R1_MAC, R1), 59, error, &sent.quote(length));
            let expected = (Verdict::IcmpToBackend, Xdp_::Tx);
            kernel.expect(&what, &about_reply(&seen, error, length), expected, &out);

            let (sent, seen) = quoted_request();
            let to = (CLIENT_MAC, CLIENT);
            let out = icmp((DIRECTOR_MAC, VIP), to, 59, error, &sent.quote(length));
            let expected = (Verdict::IcmpToClient, Xdp_::Tx);
            kernel.expect(&what, &about_request(&seen, error, length), expected, &out);
        }
    }
}

fn half_a_checksum_is_left_as_it_was_quoted<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    let (sent, seen) = quoted_reply();
    let mut quote = sent.quote(37);
    quote[36] = seen.quote(37)[36];
    let error = ERRORS[0].1;
    let out = icmp((DIRECTOR_MAC, DIRECTOR), (R1_MAC, R1), 59, error, &quote);
    let expected = (Verdict::IcmpToBackend, Xdp_::Tx);
    kernel.expect("37 bytes", &about_reply(&seen, error, 37), expected, &out);
}

fn errors_about_half_open_connections_are_carried<F: Family>() {
    let mut kernel = director::<F>();
    kernel.run(&Tcp::to_vip("S").frame());
    let (sent, seen) = quoted_request();
    let out = icmp((DIRECTOR_MAC, VIP), (CLIENT_MAC, CLIENT), 59, ERRORS[1].1, &sent.quote(28));
    let frame = about_request(&seen, ERRORS[1].1, 28);
    kernel.expect("unreachable", &frame, (Verdict::IcmpToClient, Xdp_::Tx), &out);
}

/// Runs `change` on an error whose quote is of a connection that is known; it must be ignored.
#[track_caller]
fn expect_ignored(kernel: &mut Kernel<impl Family>, what: &str, change: impl Fn(&mut Tcp)) {
    let (_, mut seen) = quoted_reply();
    change(&mut seen);
    kernel.expect_untouched(what, &about_reply(&seen, ERRORS[0].1, 28), IGNORED);
}

fn errors_about_nothing_known_are_ignored<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    expect_ignored(&mut kernel, "another port", |seen| seen.to.2 = 1);
    expect_ignored(&mut kernel, "another client", |seen| seen.to.1 = ROUTER);
    expect_ignored(&mut kernel, "another service", |seen| seen.from.2 = 1);
    expect_ignored(&mut kernel, "sent by somebody else", |seen| seen.from.1 = ROUTER);

    let (_, seen) = quoted_reply();
    let quote_with = |at: usize, byte: u8| {
        let mut quote = seen.quote(60);
        quote[at] = byte;
        icmp((CLIENT_MAC, ROUTER), TO_VIP, 60, ERRORS[0].1, &quote)
    };
    for (what, at, byte) in [
        ("UDP quoted", 9, 17),
        ("IP options quoted", 0, 0x46),
        ("IPv6 quoted", 0, 0x65),
        ("a later fragment quoted", 7, 1),
        ("a first fragment quoted", 6, 0x20),
    ] {
        kernel.expect_untouched(what, &quote_with(at, byte), IGNORED);
    }
    for length in 0..28 {
        let what = format!("{length} bytes quoted");
        kernel.expect_untouched(&what, &about_reply(&seen, ERRORS[0].1, length), IGNORED);
    }
    let (_, mut seen) = quoted_request();
    seen.from.2 = 22;
    let frame = about_request(&seen, ERRORS[0].1, 28);
    let host = (Verdict::HostTraffic, Xdp_::Pass);
    kernel.expect_untouched("about the host's own", &frame, host);
}

fn errors_about_an_earlier_master_s_connection_are_ignored<F: Family>() {
    let (_, reply) = quoted_reply();
    let (_, request) = quoted_request();
    let frames = [about_reply(&reply, ERRORS[0].1, 28), about_request(&request, ERRORS[0].1, 28)];
    let mut kernel = director::<F>();
    connect(&mut kernel);
    flip(&mut kernel);
    for frame in &frames {
        kernel.expect_untouched("stale", frame, IGNORED);
    }
    kernel.active(SERVICE, ServiceState::Parked, R1_SLOT, GENERATION);
    for frame in &frames {
        kernel.expect_untouched("parked", frame, IGNORED);
    }
}

fn an_error_whose_time_to_live_ran_out_is_dropped<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    let (_, seen) = quoted_reply();
    let frame = icmp((CLIENT_MAC, ROUTER), TO_VIP, 1, ERRORS[0].1, &seen.quote(28));
    kernel.expect_untouched("TTL 1", &frame, (Verdict::TtlExpired, Xdp_::Drop));
}

in_both_families! {
    echo_requests_are_answered,
    echo_is_answered_only_while_a_service_is_up,
    other_icmp_to_a_vip_is_ignored,
    errors_are_carried_both_ways_with_what_they_quote,
    half_a_checksum_is_left_as_it_was_quoted,
    errors_about_half_open_connections_are_carried,
    errors_about_nothing_known_are_ignored,
    errors_about_an_earlier_master_s_connection_are_ignored,
    an_error_whose_time_to_live_ran_out_is_dropped,
}
