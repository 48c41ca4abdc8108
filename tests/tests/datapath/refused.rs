//! What is not forwarded: resets and silence.

use vipd_common::maps::{FLOWS, ServiceState};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R1_SLOT, SERVICE, connect, director, flip};
use crate::family::{Family, in_both_families};
use crate::frames::{CLIENT, CLIENT_MAC, CLIENT_PORT, DIRECTOR_MAC, Tcp, VIP, reset_of};
use crate::kernel::{Kernel, Xdp_};

/// One segment of each kind that is no opening SYN and no reset.
fn segments() -> Vec<(&'static str, Tcp)> {
    let with_options = Tcp::to_vip("PA").options(&[1; 12]).payload(b"PING\r\n");
    vec![
        ("ACK: reset at its ACK number", Tcp::to_vip("A").seq(1001, 5001)),
        ("data with ACK", Tcp::to_vip("PA").seq(1001, 0xffff_ffff).payload(b"PING\r\n")),
        ("odd data with options", with_options),
        ("SYN-ACK", Tcp::to_vip("SA")),
        ("FIN-ACK", Tcp::to_vip("FA").payload(b"x")),
        ("without ACK: reset at zero, its length acknowledged", Tcp::to_vip("P").payload(b"abc")),
        ("FIN without ACK counts one", Tcp::to_vip("F").payload(b"ab")),
        ("the acknowledged number wraps", Tcp::to_vip("F").seq(u32::MAX, 0).payload(b"ab")),
        ("no flag at all", Tcp::to_vip("")),
        ("in a VLAN", Tcp::to_vip("A").vlan(Some(10))),
        ("with a low TTL: the reset has its own", Tcp::to_vip("A").ttl(1)),
        ("SYN with FIN opens nothing", Tcp::to_vip("SF")),
    ]
}

fn expect_resets(kernel: &mut Kernel<impl Family>, answered: Verdict, silent: Verdict) {
    for (what, segment) in segments() {
        let out = reset_of(&segment);
        kernel.expect(what, &segment.frame(), (answered, Xdp_::Tx), &out);
    }
    for flags in ["R", "RA", "RS", "RF"] {
        let reset = Tcp::to_vip(flags).frame();
        kernel.expect_untouched(flags, &reset, (silent, Xdp_::Drop));
    }
}

fn a_segment_of_no_connection_is_reset<F: Family>() {
    let mut kernel = director::<F>();
    expect_resets(&mut kernel, Verdict::NoFlowReset, Verdict::NoFlowDrop);
    assert!(kernel.events().is_empty());
}

fn a_segment_of_an_earlier_master_s_connection_is_reset<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    flip(&mut kernel);
    let of_this_connection = |(_, segment): &(&str, Tcp)| segment.vlan.is_none();
    for (what, segment) in segments().into_iter().filter(of_this_connection) {
        let out = reset_of(&segment);
        kernel.expect(what, &segment.frame(), (Verdict::NatStaleReset, Xdp_::Tx), &out);
    }
    let silent = (Verdict::NatStaleDrop, Xdp_::Drop);
    for flags in ["R", "RA"] {
        kernel.expect_untouched(flags, &Tcp::to_vip(flags).frame(), silent);
    }
    for flags in ["A", "PA", "FA", "RA", "SA", "S"] {
        let late = Tcp::from_r1(flags, CLIENT_PORT).payload(b"+OK").frame();
        kernel.expect_untouched("the old master", &late, silent);
    }
}

fn a_stale_connection_is_reset_even_while_the_service_is_held_back<F: Family>() {
    let states = [ServiceState::Parked, ServiceState::Down];
    for state in states {
        let mut kernel = director::<F>();
        connect(&mut kernel);
        kernel.active(SERVICE, state, R1_SLOT, GENERATION + 1);
        let ask = Tcp::to_vip("A").seq(1001, 5001);
        let expected = (Verdict::NatStaleReset, Xdp_::Tx);
        kernel.expect("stale", &ask.frame(), expected, &reset_of(&ask));
    }
}

fn a_port_without_a_service_is_refused<F: Family>() {
    let mut kernel = director::<F>();
    let wrong = |segment: &Tcp| Tcp { to: (DIRECTOR_MAC, VIP, 6380), ..segment.clone() };
    let refused = (Verdict::NoServiceReset, Xdp_::Tx);
    for (what, segment) in segments().into_iter().chain([("SYN", Tcp::to_vip("S"))]) {
        let segment = wrong(&segment);
        kernel.expect(what, &segment.frame(), refused, &reset_of(&segment));
    }
    let reset = wrong(&Tcp::to_vip("R")).frame();
    kernel.expect_untouched("RST", &reset, (Verdict::NoServiceDrop, Xdp_::Drop));
}

fn a_reset_is_cut_to_its_size<F: Family>() {
    let mut kernel = director::<F>();
    let mut frame = Tcp::to_vip("PA").payload(&[7; 1460]).frame();
    frame.resize(1514, 0);
    let run = kernel.run(&frame);
    assert_eq!((run.verdict, run.frame.len()), (Verdict::NoFlowReset, 54));
    let mut padded = Tcp::to_vip("A").frame();
    padded.resize(60, 0xaa);
    let out = reset_of(&Tcp::to_vip("A"));
    kernel.expect("padded", &padded, (Verdict::NoFlowReset, Xdp_::Tx), &out);
}

fn between_two_masters_nobody_gets_an_error<F: Family>() {
    let cases = [
        (ServiceState::Parked, Verdict::ServiceParked),
        (ServiceState::Down, Verdict::ServiceDown),
    ];
    for (state, verdict) in cases {
        let mut kernel = director::<F>();
        connect(&mut kernel);
        kernel.active(SERVICE, state, R1_SLOT, GENERATION);
        let known = [
            Tcp::to_vip("A").seq(1001, 5001),
            Tcp::to_vip("R").seq(1001, 0),
            Tcp::from_r1("A", CLIENT_PORT),
        ];
        let unknown = ["S", "A", "FA", "R", "P"]
            .map(|flags| Tcp::to_vip(flags).client([198, 18, 3, 3].into(), 1234));
        for segment in known.into_iter().chain(unknown) {
            kernel.expect_untouched(segment.flags, &segment.frame(), (verdict, Xdp_::Drop));
        }
        assert!(kernel.events().iter().all(|event| event.generation == GENERATION));
        // And the connection goes on when its master is back.
        kernel.active(SERVICE, ServiceState::Up, R1_SLOT, GENERATION);
        let ask = Tcp::to_vip("A").seq(1001, 5001);
        let out = ask.at_r1(CLIENT_PORT).frame();
        kernel.expect("after", &ask.frame(), (Verdict::NatToBackend, Xdp_::Tx), &out);
    }
}

fn a_service_that_was_never_up_is_down<F: Family>() {
    let mut kernel = director::<F>();
    kernel.service(VIP, 6380, 17);
    let syn = Tcp { to: (DIRECTOR_MAC, VIP, 6380), ..Tcp::to_vip("S") }.frame();
    kernel.expect_untouched("SYN", &syn, (Verdict::ServiceDown, Xdp_::Drop));
}

fn an_empty_slot_forwards_nothing<F: Family>() {
    let mut kernel = director::<F>();
    kernel.active(SERVICE, ServiceState::Up, 77, GENERATION);
    let no_backend = (Verdict::NoBackend, Xdp_::Drop);
    kernel.expect_untouched("SYN", &Tcp::to_vip("S").frame(), no_backend);
    // Nor does one beyond the table.
    kernel.active(SERVICE, ServiceState::Up, u16::MAX, GENERATION);
    kernel.expect_untouched("SYN", &Tcp::to_vip("S").frame(), no_backend);
}

fn a_packet_whose_time_to_live_ran_out_is_dropped<F: Family>() {
    let mut kernel = director::<F>();
    let expired = (Verdict::TtlExpired, Xdp_::Drop);
    for ttl in [0, 1] {
        kernel.expect_untouched("SYN", &Tcp::to_vip("S").ttl(ttl).frame(), expired);
    }
    connect(&mut kernel);
    for ttl in [0, 1] {
        kernel.expect_untouched("there", &Tcp::to_vip("A").ttl(ttl).frame(), expired);
        let back = Tcp::from_r1("A", CLIENT_PORT).ttl(ttl).frame();
        kernel.expect_untouched("back", &back, expired);
    }
    let last = Tcp::to_vip("A").seq(1001, 5001).ttl(2);
    let out = last.at_r1(CLIENT_PORT).frame();
    kernel.expect("the last hop", &last.frame(), (Verdict::NatToBackend, Xdp_::Tx), &out);
    assert_eq!(kernel.flows(FLOWS).len(), 2);
}

fn frames_for_another_machine_pass<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    let other = (Verdict::OtherHost, Xdp_::Pass);
    for mac in [crate::frames::STRANGER_MAC, vipd_common::addr::MacAddr::BROADCAST] {
        for flags in ["S", "A", "R"] {
            let mut segment = Tcp::to_vip(flags);
            segment.to.0 = mac;
            kernel.expect_untouched(flags, &segment.frame(), other);
        }
    }
}

fn traffic_for_other_addresses_passes<F: Family>() {
    let mut kernel = director::<F>();
    let not_vip = (Verdict::NotVip, Xdp_::Pass);
    for addr in [[198, 18, 0, 251], [8, 8, 8, 8], [255; 4], [0; 4]] {
        let segment = Tcp { to: (DIRECTOR_MAC, addr.into(), 6379), ..Tcp::to_vip("S") };
        kernel.expect_untouched("TCP", &segment.frame(), not_vip);
    }
    let mut v6 = Vec::new();
    etherparse::PacketBuilder::ethernet2(CLIENT_MAC.0, DIRECTOR_MAC.0)
        .ipv6([1; 16], [2; 16], 64)
        .udp(1, 2)
        .write(&mut v6, b"x")
        .unwrap();
    kernel.expect_untouched("IPv6", &v6, not_vip);
    let reply = Tcp {
        from: (CLIENT_MAC, CLIENT, 22),
        to: (DIRECTOR_MAC, crate::frames::DIRECTOR, 50_000),
        ..Tcp::to_vip("SA")
    };
    kernel.expect_untouched("ssh", &reply.frame(), (Verdict::HostTraffic, Xdp_::Pass));
}

in_both_families! {
    a_segment_of_no_connection_is_reset,
    a_segment_of_an_earlier_master_s_connection_is_reset,
    a_stale_connection_is_reset_even_while_the_service_is_held_back,
    a_port_without_a_service_is_refused,
    a_reset_is_cut_to_its_size,
    between_two_masters_nobody_gets_an_error,
    a_service_that_was_never_up_is_down,
    an_empty_slot_forwards_nothing,
    a_packet_whose_time_to_live_ran_out_is_dropped,
    frames_for_another_machine_pass,
    traffic_for_other_addresses_passes,
}
