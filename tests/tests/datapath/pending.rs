//! SYNs that nobody has answered: what is remembered of them, and for how long.

use vipd_common::maps::{
    FLOWS, HALF_OPEN, KernelEvent, Pending, REFUSED_INTERVAL_NS, ServiceState, state,
};
use vipd_common::verdict::Verdict;

use crate::director::{
    GENERATION, R1_SLOT, R2_SLOT, SERVICE, backend_key, client_key, connect, director, flip,
};
use crate::family::{Family, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R2, R2_MAC, Tcp, VIP, reset_of,
};
use crate::kernel::{INGRESS, Kernel, Xdp_, now};

/// The only one there is.
#[track_caller]
fn pending<F: Family>(kernel: &mut Kernel<F>) -> Pending {
    let [(key, pending)] = kernel.pending()[..] else { panic!("one SYN: {:?}", kernel.pending()) };
    assert_eq!(key, client_key());
    pending
}

fn a_syn_is_remembered_as_it_came<F: Family>() {
    let cases = [
        ("bare", Tcp::to_vip("S")),
        ("with the options that Linux sends", Tcp::to_vip("S").options(&[1; 20])),
        ("with all that there is room for", Tcp::to_vip("S").options(&[1; 40]).vlan(Some(7))),
        ("tagged", Tcp::to_vip("S").vlan(Some(4094))),
        ("with data", Tcp::to_vip("S").payload(b"PING\r\n")),
    ];
    for (what, segment) in cases {
        let mut kernel = director::<F>();
        let begun = now();
        let frame = segment.frame();
        let mut padded = frame.clone();
        padded.resize(padded.len().max(60), 0xaa);
        assert_eq!(kernel.run(&padded).verdict, Verdict::NatNew, "{what}");
        let found = pending(&mut kernel);
        assert_eq!(found.frame[..found.len.into()], F::frame(&frame), "{what}");
        // The program's clock is coarse.
        assert!(found.at + 20_000_000 > begun && found.at <= now(), "{what}");
        let rest = Pending { at: 0, len: 0, frame: Pending::EMPTY.frame, ..found };
        let expected = Pending {
            service: SERVICE,
            generation: GENERATION,
            ifindex: INGRESS,
            seq: 1000,
            ..Pending::EMPTY
        };
        assert_eq!(rest, expected, "{what}");
    }
}

fn one_that_is_too_long_is_not_remembered<F: Family>() {
    let mut kernel = director::<F>();
    for length in [80, 200, 1000] {
        let segment = Tcp::to_vip("S").payload(&vec![7; length]).frame();
        assert_eq!(kernel.run(&segment).action, Xdp_::Tx);
        assert_eq!(kernel.pending(), [], "{length}");
    }
}

fn it_is_forgotten_when_it_is_answered<F: Family>() {
    for answer in ["SA", "RA", "R"] {
        let mut kernel = director::<F>();
        kernel.run(&Tcp::to_vip("S").frame());
        pending(&mut kernel);
        let answer = Tcp::from_r1(answer, CLIENT_PORT).frame();
        assert_eq!(kernel.run(&answer).verdict, Verdict::NatToClient);
        assert_eq!(kernel.pending(), []);
        // Repeated, it is a segment of a connection.
        kernel.run(&Tcp::to_vip("A").seq(1001, 5001).frame());
        assert_eq!(kernel.pending(), []);
    }
}

fn a_repeated_syn_keeps_its_age_and_another_one_begins_anew<F: Family>() {
    let mut kernel = director::<F>();
    kernel.active(SERVICE, ServiceState::Parked, R1_SLOT, GENERATION);
    kernel.run(&Tcp::to_vip("S").frame());
    let first = pending(&mut kernel);
    std::thread::sleep(std::time::Duration::from_millis(20));
    kernel.run(&Tcp::to_vip("S").frame());
    assert_eq!(pending(&mut kernel), first);
    kernel.run(&Tcp::to_vip("S").seq(7000, 0).frame());
    let second = pending(&mut kernel);
    assert_eq!(second.seq, 7000);
    assert!(second.at > first.at);
}

fn another_attempt_on_a_half_open_connection_is_remembered<F: Family>() {
    let mut kernel = director::<F>();
    for seq in [1000, 7000] {
        let syn = Tcp::to_vip("S").seq(seq, 0);
        let expected = (Verdict::NatNew, Xdp_::Tx);
        kernel.expect("SYN", &syn.frame(), expected, &syn.at_r1(CLIENT_PORT).frame());
        assert_eq!(pending(&mut kernel).seq, seq);
        let again = (Verdict::NatToBackend, Xdp_::Tx);
        kernel.expect("again", &syn.frame(), again, &syn.at_r1(CLIENT_PORT).frame());
    }
    assert_eq!(kernel.flow(HALF_OPEN, client_key()).unwrap().next_seq, 7001);
}

fn nothing_is_remembered_for_a_service_that_is_down<F: Family>() {
    let mut kernel = director::<F>();
    kernel.active(SERVICE, ServiceState::Down, R1_SLOT, GENERATION);
    kernel.expect_untouched("down", &Tcp::to_vip("S").frame(), (Verdict::ServiceDown, Xdp_::Drop));
    let other = Tcp { to: (DIRECTOR_MAC, VIP, 6380), ..Tcp::to_vip("S") };
    assert_eq!(kernel.run(&other.frame()).verdict, Verdict::NoServiceReset);
    for flags in ["A", "SA", "SF", "R", "FA"] {
        kernel.run(&Tcp::to_vip(flags).frame());
    }
    assert_eq!(kernel.pending(), []);
}

/// What [`Pending::is_waiting`] says, in each life that a SYN can have.
fn a_syn_waits_until_a_backend_of_the_present_generation_has_it<F: Family>() {
    let mut kernel = director::<F>();
    let syn = Tcp::to_vip("S").frame();
    let waits = |kernel: &mut Kernel<F>, generation| pending(kernel).is_waiting(generation);
    // Sent on, and its master dies.
    kernel.run(&syn);
    assert!(!waits(&mut kernel, GENERATION));
    assert!(waits(&mut kernel, GENERATION + 1));
    // Parked, and repeated by its client meanwhile: nobody has it.
    kernel.active(SERVICE, ServiceState::Parked, R1_SLOT, GENERATION);
    kernel.expect_untouched("parked", &syn, (Verdict::ServiceParked, Xdp_::Drop));
    // The cutover; what the daemon injects is this very frame.
    flip(&mut kernel);
    assert!(waits(&mut kernel, GENERATION + 1));
    let at_r2 = Tcp::to_vip("S").moved(
        (DIRECTOR_MAC, DIRECTOR, CLIENT_PORT),
        (R2_MAC, R2, BACKEND_PORT),
        63,
    );
    kernel.expect("replayed", &syn, (Verdict::NatNew, Xdp_::Tx), &at_r2.frame());
    assert!(!waits(&mut kernel, GENERATION + 1));
    // One replay each, whatever happens.
    assert_eq!(pending(&mut kernel).state, Pending::REPLAYED);
    kernel.active(SERVICE, ServiceState::Up, R1_SLOT, GENERATION + 2);
    assert!(!waits(&mut kernel, GENERATION + 2));
}

fn a_syn_that_was_only_ever_parked_waits_for_the_same_master_too<F: Family>() {
    let mut kernel = director::<F>();
    kernel.active(SERVICE, ServiceState::Parked, R1_SLOT, GENERATION);
    let syn = Tcp::to_vip("S");
    kernel.expect_untouched("parked", &syn.frame(), (Verdict::ServiceParked, Xdp_::Drop));
    assert_eq!(pending(&mut kernel).state, Pending::HELD);
    // The failover was called off.
    kernel.active(SERVICE, ServiceState::Up, R1_SLOT, GENERATION);
    assert!(pending(&mut kernel).is_waiting(GENERATION));
    let expected = (Verdict::NatNew, Xdp_::Tx);
    kernel.expect("replayed", &syn.frame(), expected, &syn.at_r1(CLIENT_PORT).frame());
    assert_eq!(pending(&mut kernel).state, Pending::REPLAYED);
}

fn a_refusal_is_reported_at_a_bounded_rate<F: Family>() {
    let mut kernel = director::<F>();
    kernel.run(&Tcp::to_vip("S").frame());
    kernel.events();
    let reset = Tcp::from_r1("RA", CLIENT_PORT);
    let mut reported = vec![];
    let begun = now();
    for _ in 0..2_000 {
        kernel.feed(&reset.frame());
        reported.extend(kernel.events());
    }
    let most = (now() - begun) / REFUSED_INTERVAL_NS + 1;
    assert!((1..=most).contains(&(reported.len() as u64)), "{} of {most}", reported.len());
    for event in reported {
        let what = (event.kind, event.service, event.generation, event.ifindex);
        assert_eq!(what, (KernelEvent::REFUSED, SERVICE, GENERATION, INGRESS));
    }
}

fn a_reset_of_a_live_connection_is_a_refusal_and_a_client_s_own_is_none<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    kernel.events();
    kernel.run(&Tcp::to_vip("RA").seq(1001, 5001).frame());
    assert_eq!(kernel.events(), []);
    kernel.run(&Tcp::from_r1("R", CLIENT_PORT).frame());
    let [event] = kernel.events()[..] else { panic!("one event") };
    assert_eq!((event.kind, event.generation), (KernelEvent::REFUSED, GENERATION));
}

/// A vipd that died while a service was parked.
fn a_service_is_parked_only_while_the_lease_runs<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    kernel.active(SERVICE, ServiceState::Parked, R1_SLOT, GENERATION);
    let ask = Tcp::to_vip("A").seq(1001, 5001);
    let reply = Tcp::from_r1("A", CLIENT_PORT).seq(5001, 1001);
    let parked = (Verdict::ServiceParked, Xdp_::Drop);
    for segment in [&ask, &reply] {
        kernel.expect_untouched("while it runs", &segment.frame(), parked);
    }
    kernel.lease(now() - 10_000_000);
    let to_backend = (Verdict::NatToBackend, Xdp_::Tx);
    kernel.expect("afterwards", &ask.frame(), to_backend, &ask.at_r1(CLIENT_PORT).frame());
    let to_client = (Verdict::NatToClient, Xdp_::Tx);
    kernel.expect("afterwards", &reply.frame(), to_client, &reply.at_client().frame());
    let syn = Tcp::to_vip("S").client(CLIENT, 50_000);
    let new = (Verdict::NatNew, Xdp_::Tx);
    kernel.expect("somebody new", &syn.frame(), new, &syn.at_r1(50_000).frame());
}

fn what_a_backend_repeats_or_probes_with_says_nothing_new<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    for (seq, payload) in [(5001, &b"+PONG\r\n"[..]), (5001, b"+P"), (5007, b"")] {
        kernel.run(&Tcp::from_r1("A", CLIENT_PORT).seq(seq, 1001).payload(payload).frame());
    }
    let backend = kernel.flow(FLOWS, backend_key()).unwrap();
    assert_eq!(backend.next_seq, 5008);
}

fn a_client_that_answers_a_reset_is_reset_where_it_says<F: Family>() {
    let mut kernel = director::<F>();
    connect(&mut kernel);
    kernel.active(SERVICE, ServiceState::Up, R2_SLOT, GENERATION + 1);
    let reset = (Verdict::NatStaleReset, Xdp_::Tx);
    for ack in [5001, 4999, 9000] {
        let late = Tcp::to_vip("A").seq(1001, ack);
        kernel.expect("late", &late.frame(), reset, &reset_of(&late));
        let flow = kernel.flow(FLOWS, client_key()).unwrap();
        assert_eq!(flow.state & state::RESET, state::RESET);
    }
}

in_both_families! {
    a_syn_is_remembered_as_it_came,
    one_that_is_too_long_is_not_remembered,
    it_is_forgotten_when_it_is_answered,
    a_repeated_syn_keeps_its_age_and_another_one_begins_anew,
    another_attempt_on_a_half_open_connection_is_remembered,
    nothing_is_remembered_for_a_service_that_is_down,
    a_syn_waits_until_a_backend_of_the_present_generation_has_it,
    a_syn_that_was_only_ever_parked_waits_for_the_same_master_too,
    a_refusal_is_reported_at_a_bounded_rate,
    a_reset_of_a_live_connection_is_a_refusal_and_a_client_s_own_is_none,
    a_service_is_parked_only_while_the_lease_runs,
    what_a_backend_repeats_or_probes_with_says_nothing_new,
    a_client_that_answers_a_reset_is_reset_where_it_says,
}
