//! Direct server return.

use vipd_common::maps::{
    Address, Backend, FLOWS, ForwardMode, HALF_OPEN, Pending, ServiceState, state,
};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R1_SLOT, R2_SLOT, SERVICE, client_key};
use crate::family::{Family, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC, R2, R2_MAC,
    ROUTER, SERVICE_PORT, STRANGER_MAC, Tcp, VIP, icmp, reset_of,
};
use crate::kernel::{Kernel, Xdp_, nat_backend, new_interface};

const TO_BACKEND: (Verdict, Xdp_) = (Verdict::DsrToBackend, Xdp_::Tx);

fn director<F: Family>() -> Kernel<F> {
    let mut kernel = Kernel::<F>::load(DIRECTOR_MAC);
    kernel.address(VIP, Address::DSR | Address::ANNOUNCE | Address::ECHO);
    kernel.service(VIP, SERVICE_PORT, SERVICE);
    for (slot, addr, mac) in [(R1_SLOT, R1, R1_MAC), (R2_SLOT, R2, R2_MAC)] {
        let backend = nat_backend(addr, BACKEND_PORT, mac, DIRECTOR);
        kernel.backend(slot, Backend { mode: ForwardMode::Dsr as u32, ..backend });
    }
    kernel.active(SERVICE, ServiceState::Up, R1_SLOT, GENERATION);
    kernel
}

/// The frame with other link-layer addresses, and not a byte else.
fn sent_on(frame: &[u8], to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    [&to[..], &from[..], &frame[12..]].concat()
}

fn only_the_link_layer_addresses_change<F: Family>() {
    let mut kernel = director::<F>();
    let segments = [
        ("SYN", Tcp::to_vip("S").options(&[1; 20])),
        ("data", Tcp::to_vip("PA").payload(b"odd")),
        ("FIN", Tcp::to_vip("FA")),
        ("RST", Tcp::to_vip("R")),
        ("the last hop: this is no router", Tcp::to_vip("A").ttl(1)),
        ("tagged with priority", Tcp::to_vip("A")),
    ];
    for (what, segment) in segments {
        let mut frame = segment.frame();
        frame.resize(frame.len().max(60), 0xaa);
        let out = sent_on(&frame, R1_MAC.0, DIRECTOR_MAC.0);
        kernel.expect(what, &frame, TO_BACKEND, &out);
    }
    assert_eq!(kernel.flows(FLOWS).len() + kernel.flows(HALF_OPEN).len(), 0);
    assert_eq!(kernel.events().len(), 1);
}

fn a_wrong_checksum_is_the_receiver_s_business<F: Family>() {
    let mut kernel = director::<F>();
    let mut frame = Tcp::to_vip("PA").payload(b"PING\r\n").frame();
    frame[50] ^= 0xff;
    let out = sent_on(&frame, R1_MAC.0, DIRECTOR_MAC.0);
    kernel.expect("TCP", &frame, TO_BACKEND, &out);
}

fn the_next_packet_after_a_cutover_goes_to_the_new_master<F: Family>() {
    let mut kernel = director::<F>();
    let ask = Tcp::to_vip("A").frame();
    kernel.expect("before", &ask, TO_BACKEND, &sent_on(&ask, R1_MAC.0, DIRECTOR_MAC.0));
    kernel.active(SERVICE, ServiceState::Up, R2_SLOT, GENERATION + 1);
    kernel.expect("after", &ask, TO_BACKEND, &sent_on(&ask, R2_MAC.0, DIRECTOR_MAC.0));
    let generations: Vec<_> = kernel.events().iter().map(|event| event.generation).collect();
    assert_eq!(generations, [GENERATION, GENERATION + 1]);
}

fn packets_cross_to_another_interface<F: Family>() {
    let mut kernel = director::<F>();
    let inside = new_interface("inside0");
    kernel.port(inside);
    let backend = nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR);
    let mode = ForwardMode::Dsr as u32;
    kernel.backend(3, Backend { ifindex: inside, own_mac: STRANGER_MAC, mode, ..backend });
    kernel.active(SERVICE, ServiceState::Up, 3, GENERATION);
    let ask = Tcp::to_vip("A").frame();
    let out = sent_on(&ask, R1_MAC.0, STRANGER_MAC.0);
    kernel.expect("ACK", &ask, (Verdict::DsrToBackend, Xdp_::Redirect), &out);
}

fn states_and_wrong_ports_are_as_in_nat<F: Family>() {
    let mut kernel = director::<F>();
    let refused = Tcp { to: (DIRECTOR_MAC, VIP, 6380), ..Tcp::to_vip("S") };
    let expected = (Verdict::NoServiceReset, Xdp_::Tx);
    kernel.expect("wrong port", &refused.frame(), expected, &reset_of(&refused));
    let reset = Tcp { to: (DIRECTOR_MAC, VIP, 6380), ..Tcp::to_vip("RA") }.frame();
    kernel.expect_untouched("RST to it", &reset, (Verdict::NoServiceDrop, Xdp_::Drop));
    let cases = [
        (ServiceState::Down, R1_SLOT, Verdict::ServiceDown),
        (ServiceState::Parked, R1_SLOT, Verdict::ServiceParked),
        (ServiceState::Up, 99, Verdict::NoBackend),
    ];
    for (state, slot, verdict) in cases {
        kernel.active(SERVICE, state, slot, GENERATION);
        for flags in ["S", "A", "R"] {
            let frame = Tcp::to_vip(flags).frame();
            kernel.expect_untouched(flags, &frame, (verdict, Xdp_::Drop));
        }
    }
    assert!(kernel.events().is_empty());
}

fn an_icmp_error_follows_its_connection<F: Family>() {
    let mut kernel = director::<F>();
    let sent = Tcp {
        from: (R1_MAC, VIP, SERVICE_PORT),
        to: (DIRECTOR_MAC, CLIENT, CLIENT_PORT),
        ..Tcp::to_vip("A")
    };
    let too_big = |sent: &Tcp| {
        let (from, to) = ((CLIENT_MAC, ROUTER), (DIRECTOR_MAC, VIP));
        icmp(from, to, 60, (3, 4, [0, 0, 5, 0]), &sent.quote(28))
    };
    let frame = too_big(&sent);
    let out = sent_on(&frame, R1_MAC.0, DIRECTOR_MAC.0);
    kernel.expect("ours", &frame, (Verdict::IcmpToBackend, Xdp_::Tx), &out);
    let mut other = sent.clone();
    other.from.2 = 22;
    let ignored = (Verdict::IcmpIgnored, Xdp_::Drop);
    kernel.expect_untouched("no service's", &too_big(&other), ignored);
    other = sent;
    other.from.1 = R1;
    kernel.expect_untouched("about another address", &too_big(&other), ignored);
}

/// The client's half of a handshake; the other one isn't seen.
fn connect<F: Family>(kernel: &mut Kernel<F>) {
    for segment in [Tcp::to_vip("S"), Tcp::to_vip("A").seq(1001, 5001)] {
        let frame = segment.frame();
        let out = sent_on(&frame, R1_MAC.0, DIRECTOR_MAC.0);
        kernel.expect(segment.flags, &frame, TO_BACKEND, &out);
    }
}

fn a_connection_is_known_by_its_client_s_half<F: Family>() {
    let mut kernel = director::<F>();
    kernel.run(&Tcp::to_vip("S").frame());
    assert_eq!(kernel.flows(FLOWS), []);
    assert_eq!(kernel.pending()[0].1.seq, 1000);
    kernel.forget_flows();
    connect(&mut kernel);
    assert_eq!(kernel.pending(), []);
    let flow = kernel.flow(FLOWS, client_key()).unwrap();
    assert_eq!((flow.next_seq, flow.last_ack, flow.state), (1001, 5001, 0));
    assert_eq!((flow.service, flow.generation, flow.leaves), (SERVICE, GENERATION, client_key()));
    assert_eq!((flow.client_mac, flow.client_gateway), (CLIENT_MAC, DIRECTOR_MAC));
    kernel.run(&Tcp::to_vip("PA").seq(1001, 5009).payload(b"PING\r\n").frame());
    kernel.run(&Tcp::to_vip("A").seq(1001, 5001).frame());
    let flow = kernel.flow(FLOWS, client_key()).unwrap();
    assert_eq!((flow.next_seq, flow.last_ack), (1007, 5009));
    kernel.run(&Tcp::to_vip("FA").seq(1007, 5009).frame());
    assert_eq!(kernel.flow(FLOWS, client_key()).unwrap().state, state::FIN);
    kernel.run(&Tcp::to_vip("R").seq(1008, 0).frame());
    assert_eq!(kernel.flow(FLOWS, client_key()).unwrap().state, state::FIN | state::RESET);
    assert_eq!(kernel.flows(HALF_OPEN), []);
}

fn only_what_follows_the_syn_begins_a_connection<F: Family>() {
    for (what, segment) in [
        ("another number", Tcp::to_vip("A").seq(1002, 5001)),
        ("no ACK", Tcp::to_vip("P").seq(1001, 0)),
        ("a reset", Tcp::to_vip("RA").seq(1001, 5001)),
    ] {
        let mut kernel = director::<F>();
        kernel.run(&Tcp::to_vip("S").frame());
        assert_eq!(kernel.run(&segment.frame()).verdict, Verdict::DsrToBackend, "{what}");
        assert_eq!(kernel.flows(FLOWS), [], "{what}");
        // And yet it is an answer to an answer.
        assert_eq!(kernel.pending(), [], "{what}");
    }
}

fn a_segment_of_an_earlier_master_s_connection_is_reset<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    kernel.active(SERVICE, ServiceState::Up, R2_SLOT, GENERATION + 1);
    for segment in [
        Tcp::to_vip("A").seq(1001, 5001),
        Tcp::to_vip("PA").seq(1001, 5005).payload(b"PING\r\n"),
        Tcp::to_vip("FA").seq(1007, 5001),
    ] {
        let expected = (Verdict::DsrStaleReset, Xdp_::Tx);
        kernel.expect(segment.flags, &segment.frame(), expected, &reset_of(&segment));
    }
    assert_eq!(kernel.flow(FLOWS, client_key()).unwrap().state, state::RESET);
    let reset = Tcp::to_vip("R").seq(1001, 0).frame();
    kernel.expect_untouched("RST", &reset, (Verdict::DsrStaleDrop, Xdp_::Drop));
    // The same client comes back.
    let syn = Tcp::to_vip("S").seq(9000, 0).frame();
    kernel.expect("SYN", &syn, TO_BACKEND, &sent_on(&syn, R2_MAC.0, DIRECTOR_MAC.0));
    assert_eq!(kernel.flows(FLOWS), []);
    let ack = Tcp::to_vip("A").seq(9001, 1).frame();
    kernel.expect("ACK", &ack, TO_BACKEND, &sent_on(&ack, R2_MAC.0, DIRECTOR_MAC.0));
    assert_eq!(kernel.flow(FLOWS, client_key()).unwrap().generation, GENERATION + 1);
}

fn a_connection_whose_handshake_was_cut_in_two_is_nobody_s<F: Family>() {
    let mut kernel = director::<F>();
    kernel.run(&Tcp::to_vip("S").frame());
    kernel.active(SERVICE, ServiceState::Up, R2_SLOT, GENERATION + 1);
    let ack = Tcp::to_vip("A").seq(1001, 5001).frame();
    kernel.expect("ACK", &ack, TO_BACKEND, &sent_on(&ack, R2_MAC.0, DIRECTOR_MAC.0));
    assert_eq!(kernel.flows(FLOWS), []);
}

fn what_a_parked_client_says_is_noted<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    kernel.run(&Tcp::to_vip("S").client(CLIENT, 50_000).frame());
    kernel.active(SERVICE, ServiceState::Parked, R1_SLOT, GENERATION);
    let parked = (Verdict::ServiceParked, Xdp_::Drop);
    let ask = Tcp::to_vip("PA").seq(1001, 6000).payload(b"PING\r\n").frame();
    kernel.expect_untouched("query", &ask, parked);
    let flow = kernel.flow(FLOWS, client_key()).unwrap();
    assert_eq!((flow.next_seq, flow.last_ack), (1007, 6000));
    // The master had answered this one before.
    let ack = Tcp::to_vip("A").seq(1001, 5001).client(CLIENT, 50_000).frame();
    kernel.expect_untouched("ACK", &ack, parked);
    assert_eq!(kernel.flows(FLOWS).len(), 2);
    let syn = Tcp::to_vip("S").client(CLIENT, 50_001).frame();
    kernel.expect_untouched("SYN", &syn, parked);
    assert_eq!(kernel.pending()[0].1.state, Pending::HELD);
    // And the lease ends it.
    kernel.lease(1);
    kernel.expect("lease", &syn, TO_BACKEND, &sent_on(&syn, R1_MAC.0, DIRECTOR_MAC.0));
}

fn a_flood_of_syns_makes_no_connection<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    for number in 0..5_000_u16 {
        kernel.feed(&Tcp::to_vip("S").client([10, 1, 2, 3].into(), 10_000 + number).frame());
    }
    assert_eq!(kernel.flows(FLOWS).len(), 1);
}

in_both_families! {
    only_the_link_layer_addresses_change,
    a_wrong_checksum_is_the_receiver_s_business,
    the_next_packet_after_a_cutover_goes_to_the_new_master,
    packets_cross_to_another_interface,
    states_and_wrong_ports_are_as_in_nat,
    an_icmp_error_follows_its_connection,
    a_connection_is_known_by_its_client_s_half,
    only_what_follows_the_syn_begins_a_connection,
    a_segment_of_an_earlier_master_s_connection_is_reset,
    a_connection_whose_handshake_was_cut_in_two_is_nobody_s,
    what_a_parked_client_says_is_noted,
    a_flood_of_syns_makes_no_connection,
}
