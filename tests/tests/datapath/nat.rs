//! Full NAT: what is forwarded, and what is remembered.

use std::collections::HashSet;

use vipd_common::maps::{
    Address, Backend, FLOWS, Flow, HALF_OPEN, KernelEvent, ServiceState, direction, state,
};
use vipd_common::verdict::Verdict;

use crate::director::{
    GENERATION, R1_SLOT, R2_SLOT, SERVICE, backend_key, client_key, connect, director, flip,
};
use crate::family::{Family, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT, CLIENT_2, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC,
    R2, R2_MAC, SERVICE_PORT, STRANGER_MAC, Tcp, VIP,
};
use crate::kernel::{INGRESS, Kernel, Xdp_, nat_backend, new_interface};

const NEW: (Verdict, Xdp_) = (Verdict::NatNew, Xdp_::Tx);
const TO_BACKEND: (Verdict, Xdp_) = (Verdict::NatToBackend, Xdp_::Tx);
const TO_CLIENT: (Verdict, Xdp_) = (Verdict::NatToClient, Xdp_::Tx);

/// MSS, SACK permitted, timestamps, window scale: what Linux puts on a SYN.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

/// The source port of a frame that went to the master.
fn source_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + 7) as u8).collect()
}

fn a_connection_goes_out_by_the_interface_it_came_in_by<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    // Even and odd, with a padding byte in the checksum or without.
    for length in (0..70).chain([535, 536, 1447, 1448, 1460]) {
        let ask = Tcp::to_vip("PA").seq(1001, 5001).payload(&payload(length));
        let out = ask.at_r1(CLIENT_PORT).frame();
        kernel.expect(&format!("{length} bytes there"), &ask.frame(), TO_BACKEND, &out);
        let reply = Tcp::from_r1("PA", CLIENT_PORT).seq(5001, 1001).payload(&payload(length));
        let out = reply.at_client().frame();
        kernel.expect(&format!("{length} bytes back"), &reply.frame(), TO_CLIENT, &out);
    }
}

fn extreme_values_keep_the_checksum_right<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    for fill in [0x00, 0xff] {
        for (seq, ack) in [(0, 0), (u32::MAX, u32::MAX), (0xffff, 0x1_0000)] {
            let ask = Tcp::to_vip("A").seq(seq, ack).payload(&[fill; 64]).ttl(255);
            let out = ask.at_r1(CLIENT_PORT).frame();
            kernel.expect(&format!("{fill:02x} {seq} {ack}"), &ask.frame(), TO_BACKEND, &out);
        }
    }
}

fn tcp_options_are_carried<F: Family>() {
    let mut kernel = director::<F>();
    let syn = Tcp::to_vip("S").options(&SYN_OPTIONS);
    kernel.expect("SYN", &syn.frame(), NEW, &syn.at_r1(CLIENT_PORT).frame());
    let syn_ack = Tcp::from_r1("SA", CLIENT_PORT).options(&SYN_OPTIONS);
    kernel.expect("SYN-ACK", &syn_ack.frame(), TO_CLIENT, &syn_ack.at_client().frame());
    let most = [1; 40];
    let ack = Tcp::to_vip("A").seq(1001, 5001).options(&most).payload(b"PING\r\n");
    kernel.expect("40 bytes", &ack.frame(), TO_BACKEND, &ack.at_r1(CLIENT_PORT).frame());
}

fn padding_is_kept<F: Family>() {
    let mut kernel = director::<F>();
    let pad = |segment: &Tcp| {
        let mut frame = segment.frame();
        frame.resize(60, 0xaa);
        frame
    };
    let syn = Tcp::to_vip("S");
    kernel.expect("SYN", &pad(&syn), NEW, &pad(&syn.at_r1(CLIENT_PORT)));
    // It is no payload: the sequence number after a SYN is the next one.
    assert_eq!(kernel.flow(HALF_OPEN, client_key()).unwrap().next_seq, 1001);
}

fn an_interface_that_cannot_be_sent_by_has_its_own_counter<F: Family>() {
    let mut kernel = director::<F>();
    let inside = new_interface("inside0");
    kernel.interface(inside, STRANGER_MAC);
    let backend = nat_backend(R2, BACKEND_PORT, R2_MAC, DIRECTOR);
    kernel.backend(3, Backend { ifindex: inside, own_mac: STRANGER_MAC, ..backend });
    kernel.active(SERVICE, ServiceState::Up, 3, 7);
    let run = kernel.run(&Tcp::to_vip("S").frame());
    assert_eq!((run.verdict, run.action), (Verdict::NoPort, Xdp_::Drop));
}

fn a_connection_crosses_to_another_interface_and_back<F: Family>() {
    let mut kernel = director::<F>();
    let inside = new_interface("inside0");
    let inside_mac = STRANGER_MAC;
    kernel.interface(inside, inside_mac);
    for ifindex in [INGRESS, inside] {
        kernel.port(ifindex);
    }
    let backend = nat_backend(R2, BACKEND_PORT, R2_MAC, DIRECTOR);
    kernel.backend(3, Backend { ifindex: inside, own_mac: inside_mac, ..backend });
    kernel.active(SERVICE, ServiceState::Up, 3, 7);

    let syn = Tcp::to_vip("S");
    let at_r2 = |segment: &Tcp| {
        let from = (inside_mac, DIRECTOR, CLIENT_PORT);
        segment.moved(from, (R2_MAC, R2, BACKEND_PORT), segment.ttl - 1).frame()
    };
    kernel.expect("there", &syn.frame(), (Verdict::NatNew, Xdp_::Redirect), &at_r2(&syn));
    let syn_ack = Tcp {
        from: (R2_MAC, R2, BACKEND_PORT),
        to: (inside_mac, DIRECTOR, CLIENT_PORT),
        ..Tcp::from_r1("SA", CLIENT_PORT)
    };
    let run = kernel.run_from(inside, &syn_ack.frame());
    assert_eq!((run.verdict, run.action), (Verdict::NatToClient, Xdp_::Redirect));
    assert_eq!(run.frame, syn_ack.at_client().frame());
    let ack = Tcp::to_vip("A").seq(1001, 5001);
    kernel.expect("on", &ack.frame(), (Verdict::NatToBackend, Xdp_::Redirect), &at_r2(&ack));
}

fn the_vip_itself_can_be_the_source<F: Family>() {
    let mut kernel = director::<F>();
    kernel.backend(R1_SLOT, nat_backend(R1, BACKEND_PORT, R1_MAC, VIP));
    let syn = Tcp::to_vip("S");
    let out = syn.moved((DIRECTOR_MAC, VIP, CLIENT_PORT), (R1_MAC, R1, BACKEND_PORT), 63);
    kernel.expect("SYN", &syn.frame(), NEW, &out.frame());
    let syn_ack = Tcp { to: (DIRECTOR_MAC, VIP, CLIENT_PORT), ..Tcp::from_r1("SA", CLIENT_PORT) };
    kernel.expect("SYN-ACK", &syn_ack.frame(), TO_CLIENT, &syn_ack.at_client().frame());
}

fn what_is_no_reply_to_a_flow_passes_to_the_host<F: Family>() {
    let mut kernel = director::<F>();
    let pass = (Verdict::HostTraffic, Xdp_::Pass);
    for flags in ["S", "SA", "A", "FA", "R", "RA"] {
        let segment = Tcp::from_r1(flags, 22);
        kernel.expect_untouched(flags, &segment.frame(), pass);
    }
}

fn a_port_in_use_towards_the_master_is_not_given_twice<F: Family>() {
    let mut kernel = director::<F>();
    let mut ports = HashSet::new();
    // Every client has the same port: one keeps it.
    for host in 1..=40 {
        let syn = Tcp::to_vip("S").client([198, 18, 1, host].into(), CLIENT_PORT);
        let run = kernel.run(&syn.frame());
        let port = source_port(&run.frame);
        kernel_made(&run, &syn, port);
        assert_eq!(port == CLIENT_PORT, host == 1);
        assert!(ports.insert(port), "{port} given twice");
    }
}

fn kernel_made(run: &crate::kernel::Run, syn: &Tcp, port: u16) {
    assert_eq!((run.verdict, run.action), NEW);
    assert_eq!(run.frame, syn.at_r1(port).frame());
}

fn ports_come_from_the_range<F: Family>() {
    let mut kernel = director::<F>();
    let backend = nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR);
    kernel.backend(R1_SLOT, Backend { first_port: 61_000, last_port: 61_003, ..backend });
    for host in 1..=40 {
        let syn = Tcp::to_vip("S").client([198, 18, 1, host].into(), CLIENT_PORT);
        let run = kernel.run(&syn.frame());
        assert_eq!(run.verdict, Verdict::NatNew);
        assert!((61_000..=61_003).contains(&source_port(&run.frame)));
    }
    let impossible = [("empty", 100, 99), ("reversed", 61_003, 61_000)];
    for (what, first_port, last_port) in impossible {
        kernel.backend(R1_SLOT, Backend { first_port, last_port, ..backend });
        let syn = Tcp::to_vip("S").client(CLIENT_2, 1234).frame();
        kernel.expect_untouched(what, &syn, (Verdict::NoSourcePort, Xdp_::Drop));
    }
    // The whole range, which in 16 bits has no length.
    kernel.backend(R1_SLOT, Backend { first_port: 0, last_port: 65_535, ..backend });
    let syn = Tcp::to_vip("S").client(CLIENT_2, 1234);
    kernel.expect("all", &syn.frame(), NEW, &syn.at_r1(1234).frame());
}

fn a_service_s_port_is_never_a_source_port<F: Family>() {
    let mut kernel = director::<F>();
    let backend = nat_backend(R1, BACKEND_PORT, R1_MAC, VIP);
    kernel.backend(R1_SLOT, Backend { first_port: 6379, last_port: 6380, ..backend });
    let syn = Tcp::to_vip("S").client(CLIENT, SERVICE_PORT);
    let run = kernel.run(&syn.frame());
    assert_eq!((run.verdict, source_port(&run.frame)), (Verdict::NatNew, 6380));
    kernel.service(VIP, 6380, 1);
    let syn = Tcp::to_vip("S").client(CLIENT_2, SERVICE_PORT).frame();
    kernel.expect_untouched("all are", &syn, (Verdict::NoSourcePort, Xdp_::Drop));
}

fn an_established_connection_keeps_its_port_against_any_syn<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    let backend = nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR);
    let only = Backend { first_port: CLIENT_PORT, last_port: CLIENT_PORT, ..backend };
    kernel.backend(R1_SLOT, only);
    let syn = Tcp::to_vip("S").client(CLIENT_2, CLIENT_PORT).frame();
    kernel.expect_untouched("SYN", &syn, (Verdict::NoSourcePort, Xdp_::Drop));
    let ask = Tcp::to_vip("A").seq(1001, 5001);
    kernel.expect("it goes on", &ask.frame(), TO_BACKEND, &ask.at_r1(CLIENT_PORT).frame());
}

fn a_repeated_syn_keeps_its_mapping<F: Family>() {
    let mut kernel = director::<F>();
    let other = Tcp::to_vip("S").client(CLIENT_2, CLIENT_PORT);
    kernel.run(&other.frame());
    let syn = Tcp::to_vip("S");
    let port = source_port(&kernel.run(&syn.frame()).frame);
    for _ in 0..3 {
        kernel.expect("again", &syn.frame(), TO_BACKEND, &syn.at_r1(port).frame());
    }
    assert_eq!(kernel.flows(HALF_OPEN).len(), 4);
}

fn only_the_ack_of_the_syn_ack_establishes<F: Family>() {
    let mut kernel = director::<F>();
    let tables =
        |kernel: &mut Kernel<F>| (kernel.flows(HALF_OPEN).len(), kernel.flows(FLOWS).len());
    kernel.run(&Tcp::to_vip("S").frame());
    let early = Tcp::to_vip("A").seq(1001, 5001).frame();
    assert_eq!(kernel.run(&early).verdict, Verdict::NatToBackend);
    assert_eq!(tables(&mut kernel), (2, 0), "before the SYN-ACK nothing is proof");

    kernel.run(&Tcp::from_r1("SA", CLIENT_PORT).frame());
    let wrong = [
        ("a SYN", Tcp::to_vip("S")),
        ("too low", Tcp::to_vip("A").seq(1001, 5000)),
        ("too high", Tcp::to_vip("A").seq(1001, 5002)),
        ("zero", Tcp::to_vip("A").seq(1001, 0)),
        ("no ACK", Tcp::to_vip("F").seq(1001, 0)),
    ];
    for (what, segment) in wrong {
        assert_eq!(kernel.run(&segment.frame()).verdict, Verdict::NatToBackend, "{what}");
        assert_eq!(tables(&mut kernel), (2, 0), "{what}");
    }
    let right = Tcp::to_vip("PA").seq(1001, 5001).payload(b"PING\r\n");
    kernel.expect("right", &right.frame(), TO_BACKEND, &right.at_r1(CLIENT_PORT).frame());
    assert_eq!(tables(&mut kernel), (0, 2));
    let client = kernel.flow(FLOWS, client_key()).unwrap();
    let backend = kernel.flow(FLOWS, backend_key()).unwrap();
    assert_eq!(
        (client.direction, backend.direction),
        (direction::FROM_CLIENT, direction::FROM_BACKEND)
    );
    assert_eq!((client.next_seq, backend.next_seq), (1007, 5001));
    assert_eq!(client.leaves.reversed(), backend_key());
    assert_eq!(backend.leaves.reversed(), client_key());
    assert_eq!((client.generation, client.slot), (GENERATION, u32::from(R1_SLOT)));
}

fn fin_and_rst_are_remembered_by_both_halves<F: Family>() {
    let states = |kernel: &mut Kernel<F>| {
        [client_key(), backend_key()].map(|key| kernel.flow(FLOWS, key).unwrap().state & 7)
    };
    let client_fin = Tcp::to_vip("FA").seq(1001, 5001).frame();
    let backend_fin = Tcp::from_r1("FA", CLIENT_PORT).seq(5001, 1002).frame();
    let (fin, peer_fin, reset) = (state::FIN, state::PEER_FIN, state::RESET);

    let mut kernel = director::<F>();
    connect(&mut kernel);
    assert_eq!(states(&mut kernel), [0, 0]);
    assert_eq!(kernel.run(&client_fin).verdict, Verdict::NatToBackend);
    assert_eq!(states(&mut kernel), [fin, peer_fin]);
    assert_eq!(kernel.run(&backend_fin).verdict, Verdict::NatToClient);
    assert_eq!(states(&mut kernel), [fin | peer_fin; 2]);

    for (what, frame) in [
        ("client", Tcp::to_vip("R").seq(1001, 0).frame()),
        ("master", Tcp::from_r1("RA", CLIENT_PORT).frame()),
    ] {
        let mut kernel = director::<F>();
        connect(&mut kernel);
        kernel.run(&frame);
        assert_eq!(states(&mut kernel), [reset; 2], "{what}");
    }
}

fn a_syn_reopens_what_is_over<F: Family>() {
    let both_fin = [
        Tcp::to_vip("FA").seq(1001, 5001).frame(),
        Tcp::from_r1("FA", CLIENT_PORT).seq(5001, 1002).frame(),
    ];
    let reset = [Tcp::from_r1("RA", CLIENT_PORT).frame()];
    let cases: [(&str, &[Vec<u8>], Verdict); 4] = [
        ("closed by both", &both_fin, Verdict::NatNew),
        ("reset", &reset, Verdict::NatNew),
        ("half closed", &both_fin[..1], Verdict::NatToBackend),
        ("open", &[], Verdict::NatToBackend),
    ];
    for (what, before, verdict) in cases {
        let mut kernel = director::<F>();
        connect(&mut kernel);
        for frame in before {
            kernel.run(frame);
        }
        let syn = Tcp::to_vip("S").seq(9000, 0);
        let out = syn.at_r1(CLIENT_PORT).frame();
        kernel.expect(what, &syn.frame(), (verdict, Xdp_::Tx), &out);
        let half_open = if verdict == Verdict::NatNew { 2 } else { 0 };
        assert_eq!(kernel.flows(HALF_OPEN).len(), half_open, "{what}");
        assert_eq!(kernel.flows(FLOWS).len(), 2 - half_open, "{what}");
    }
}

fn a_half_open_connection_is_forgotten_after_its_time<F: Family>() {
    let mut kernel = director::<F>();
    kernel.run(&Tcp::to_vip("S").frame());
    for key in [client_key(), backend_key()] {
        let flow = kernel.flow(HALF_OPEN, key).unwrap();
        kernel.put_flow(HALF_OPEN, key, Flow { last_seen: 0, ..flow });
    }
    let syn = Tcp::to_vip("S").client(CLIENT_2, CLIENT_PORT);
    kernel.expect("its port", &syn.frame(), NEW, &syn.at_r1(CLIENT_PORT).frame());
    let keys: HashSet<_> = kernel.flows(HALF_OPEN).into_iter().map(|(key, _)| key).collect();
    assert!(keys.contains(&backend_key()) && !keys.contains(&client_key()));
    assert_eq!(keys.len(), 2);
}

fn a_client_that_moved_behind_another_router_is_followed<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    let moved =
        Tcp { from: (STRANGER_MAC, CLIENT, CLIENT_PORT), ..Tcp::to_vip("A").seq(1001, 5001) };
    kernel.expect("there", &moved.frame(), TO_BACKEND, &moved.at_r1(CLIENT_PORT).frame());
    let reply = Tcp::from_r1("A", CLIENT_PORT);
    let mut out = reply.at_client();
    out.to.0 = STRANGER_MAC;
    kernel.expect("back", &reply.frame(), TO_CLIENT, &out.frame());
}

fn a_new_slot_of_the_same_generation_carries_open_connections<F: Family>() {
    // The master's next hop changed, the master did not.
    let mut kernel = director::<F>();
    connect(&mut kernel);
    kernel.backend(5, nat_backend(R1, BACKEND_PORT, STRANGER_MAC, DIRECTOR));
    kernel.active(SERVICE, ServiceState::Up, 5, GENERATION);
    let ask = Tcp::to_vip("A").seq(1001, 5001);
    let mut out = ask.at_r1(CLIENT_PORT);
    out.to.0 = STRANGER_MAC;
    kernel.expect("there", &ask.frame(), TO_BACKEND, &out.frame());
}

fn the_first_packet_of_a_generation_is_reported_once<F: Family>() {
    let mut kernel = director::<F>();
    let clients = 1..=5;
    let mut firsts = Vec::new();
    for generation in [1, 2, 3] {
        let slot = if generation == 2 { R2_SLOT } else { R1_SLOT };
        kernel.active(SERVICE, ServiceState::Up, slot, generation);
        for host in clients.clone() {
            let syn = Tcp::to_vip("S").client([198, 18, generation as u8, host].into(), 5000);
            assert_eq!(kernel.run(&syn.frame()).verdict, Verdict::NatNew);
        }
        let events = kernel.events();
        assert_eq!(events.len(), 1, "{events:?}");
        let event = events[0];
        assert_eq!((event.kind, event.service), (KernelEvent::FIRST_PACKET, SERVICE));
        assert_eq!((event.generation, event.ifindex), (generation, INGRESS));
        firsts.push(event.time_ns);
    }
    assert!(firsts.is_sorted());
}

fn a_cutover_between_two_packets_sends_the_next_connection_to_the_new_master<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    flip(&mut kernel);
    let syn = Tcp::to_vip("S").seq(70_000, 0);
    let at_r2 = |segment: &Tcp| {
        let from = (DIRECTOR_MAC, DIRECTOR, CLIENT_PORT);
        segment.moved(from, (R2_MAC, R2, BACKEND_PORT), 63).frame()
    };
    kernel.expect("SYN", &syn.frame(), NEW, &at_r2(&syn));
    let syn_ack = Tcp {
        from: (R2_MAC, R2, BACKEND_PORT),
        ..Tcp::from_r1("SA", CLIENT_PORT).seq(100, 70_001)
    };
    kernel.expect("SYN-ACK", &syn_ack.frame(), TO_CLIENT, &syn_ack.at_client().frame());
    // What the old master still sends on the old connection reaches nobody.
    let late = Tcp::from_r1("PA", CLIENT_PORT).payload(b"+OK\r\n").frame();
    let run = kernel.run(&late);
    assert_eq!((run.action, run.frame), (Xdp_::Pass, late));
    assert_eq!(run.verdict, Verdict::HostTraffic);
}

fn two_services_on_one_vip_go_to_two_masters<F: Family>() {
    let mut kernel = director::<F>();
    kernel.service(VIP, 6380, 1);
    kernel.active(1, ServiceState::Up, R2_SLOT, 9);
    kernel.address(VIP, Address::NAT);
    let to_r1 = Tcp::to_vip("S");
    kernel.expect("first", &to_r1.frame(), NEW, &to_r1.at_r1(CLIENT_PORT).frame());
    let to_r2 = Tcp { to: (DIRECTOR_MAC, VIP, 6380), ..Tcp::to_vip("S") };
    let from = (DIRECTOR_MAC, DIRECTOR, CLIENT_PORT);
    let out = to_r2.moved(from, (R2_MAC, R2, BACKEND_PORT), 63);
    kernel.expect("second", &to_r2.frame(), NEW, &out.frame());
    let reply = Tcp { from: (R2_MAC, R2, BACKEND_PORT), ..Tcp::from_r1("SA", CLIENT_PORT) };
    let back = reply.moved((DIRECTOR_MAC, VIP, 6380), (CLIENT_MAC, CLIENT, CLIENT_PORT), 63);
    kernel.expect("its reply", &reply.frame(), TO_CLIENT, &back.frame());
}

in_both_families! {
    a_connection_goes_out_by_the_interface_it_came_in_by,
    extreme_values_keep_the_checksum_right,
    tcp_options_are_carried,
    padding_is_kept,
    an_interface_that_cannot_be_sent_by_has_its_own_counter,
    a_connection_crosses_to_another_interface_and_back,
    the_vip_itself_can_be_the_source,
    what_is_no_reply_to_a_flow_passes_to_the_host,
    a_port_in_use_towards_the_master_is_not_given_twice,
    ports_come_from_the_range,
    a_service_s_port_is_never_a_source_port,
    an_established_connection_keeps_its_port_against_any_syn,
    a_repeated_syn_keeps_its_mapping,
    only_the_ack_of_the_syn_ack_establishes,
    fin_and_rst_are_remembered_by_both_halves,
    a_syn_reopens_what_is_over,
    a_half_open_connection_is_forgotten_after_its_time,
    a_client_that_moved_behind_another_router_is_followed,
    a_new_slot_of_the_same_generation_carries_open_connections,
    the_first_packet_of_a_generation_is_reported_once,
    a_cutover_between_two_packets_sends_the_next_connection_to_the_new_master,
    two_services_on_one_vip_go_to_two_masters,
}
