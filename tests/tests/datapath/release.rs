//! The daemon's [`Releaser`](vipd::datapath::Releaser): what it injects is what the program handles,
//! and what leaves arrives at the other end of the cable.

use std::time::Duration;

use vipd::datapath::{Release, Released};
use vipd_common::maps::{Flow, ForwardMode, Pending, state};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, SERVICE};
use crate::family::{Family, Ipv4, in_both_families};
use crate::kernel::now;
use crate::site::{Site, arrived, key};

const MANY: u32 = 100_000;
const FEW: u32 = 1_000;

#[test]
fn a_hundred_thousand_unanswered_syns_reach_the_new_backend() {
    let mut site = Site::<Ipv4>::up(ForwardMode::Nat, 2 * MANY);
    for number in 0..MANY {
        let (key, pending) = site.syn(number);
        site.pending.insert(key, pending, 0).unwrap();
    }
    let before = arrived();
    let released = site.release(true, false);
    let time = released.replayed.since(released.begun);
    println!("{MANY} SYNs sent again in {time:?}");
    assert_eq!((released.syns, released.freed), (MANY, 0));
    assert_eq!(site.count(Verdict::NatNew), u64::from(MANY));
    assert!(arrived() - before >= u64::from(MANY), "{} of {MANY}", arrived() - before);
    // One replay each.
    assert_eq!(site.release(true, false).syns, 0);
}

#[test]
fn a_hundred_thousand_clients_of_the_old_backend_are_reset() {
    let mut site = Site::<Ipv4>::up(ForwardMode::Nat, 2 * MANY);
    for number in 0..MANY {
        for (key, flow) in site.connection(number, ForwardMode::Nat) {
            site.established.insert(key, flow, 0).unwrap();
        }
    }
    let before = arrived();
    let released = site.release(true, true);
    println!("{MANY} clients freed in {:?}", released.done.since(released.begun));
    assert_eq!((released.syns, released.freed), (0, MANY));
    assert_eq!(site.count(Verdict::NatStaleReset), u64::from(MANY));
    assert!(arrived() - before >= u64::from(MANY), "{} of {MANY}", arrived() - before);
    // Each is freed once.
    assert_eq!(site.release(true, true).freed, 0);
}

fn only_syns_that_wait_are_sent_again<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    type Case = (&'static str, bool, fn(&mut Pending));
    let cases: [Case; 8] = [
        ("went to r1", true, |_| {}),
        ("was parked", true, |it| it.state = Pending::HELD),
        ("was parked, and the same node serves again", true, |it| {
            (it.state, it.generation) = (Pending::HELD, GENERATION + 1);
        }),
        ("went to r2", false, |it| it.generation = GENERATION + 1),
        ("was sent again before", false, |it| it.state = Pending::REPLAYED),
        ("of another service", false, |it| it.service = SERVICE + 1),
        ("nearly too old", true, |it| it.at -= 14_000_000_000),
        ("too old", false, |it| it.at -= 16_000_000_000),
    ];
    assert!(now() > 16_000_000_000, "this machine has only just started");
    for (number, (_, _, change)) in (0..).zip(cases) {
        let (key, mut pending) = site.syn(number);
        change(&mut pending);
        site.pending.insert(key, pending, 0).unwrap();
    }
    let released = site.release(true, true);
    assert_eq!((released.syns, released.freed), (4, 0));
    assert_eq!(site.count(Verdict::NatNew), 4);
    for (number, (what, wanted, _)) in (0..).zip(cases) {
        let went = site.half_open.get(&key::<F>(number), 0).is_ok();
        assert_eq!(went, wanted, "{what}");
    }
}

fn only_clients_that_may_still_wait_are_reset<F: Family>() {
    for mode in [ForwardMode::Nat, ForwardMode::Dsr] {
        let mut site = Site::<F>::up(mode, FEW);
        type Case<A> = (&'static str, bool, fn(&mut Flow<A>));
        let cases: [Case<F::Addr>; 6] = [
            ("of r1", true, |_| {}),
            ("of r2", false, |it| it.generation = GENERATION + 1),
            ("knows", false, |it| it.state = state::RESET),
            ("is closing", true, |it| it.state = state::FIN),
            ("is closed", false, |it| it.state = state::FIN | state::PEER_FIN),
            ("of another service", false, |it| it.service = SERVICE + 1),
        ];
        let halves = if mode == ForwardMode::Nat { 2 } else { 1 };
        for (number, (_, _, change)) in (0..).zip(cases) {
            for (key, mut flow) in site.connection(number, mode).into_iter().take(halves) {
                change(&mut flow);
                site.established.insert(key, flow, 0).unwrap();
            }
        }
        let released = site.release(true, true);
        assert_eq!(released.freed, 2, "{mode:?}");
        for (number, (what, wanted, _)) in (0..).zip(cases) {
            let flow = site.established.get(&key::<F>(number), 0).unwrap();
            let knew = what == "knows";
            assert_eq!(flow.state & state::RESET != 0, wanted || knew, "{mode:?} {what}");
        }
        let verdict = match mode {
            ForwardMode::Nat => Verdict::NatStaleReset,
            _ => Verdict::DsrStaleReset,
        };
        assert_eq!(site.count(verdict), 2);
    }
}

/// Its client got the SYN-ACK and is connected; only we have not seen its ACK.
fn a_half_open_connection_is_reset_if_it_was_answered<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    for (number, state) in [(0, 0), (1, state::ANSWERED)] {
        let [(client, flow), (backend, other)] = site.connection(number, ForwardMode::Nat);
        site.half_open.insert(client, Flow { state, ..flow }, 0).unwrap();
        site.half_open.insert(backend, other, 0).unwrap();
    }
    assert_eq!(site.release(true, true).freed, 1);
    let state = |number| site.half_open.get(&key::<F>(number), 0).unwrap().state;
    assert_eq!((state(0), state(1)), (0, state::ANSWERED | state::RESET));
}

fn nothing_is_done_that_was_not_asked_for<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    let (key, pending) = site.syn(0);
    site.pending.insert(key, pending, 0).unwrap();
    for (key, flow) in site.connection(1, ForwardMode::Nat) {
        site.established.insert(key, flow, 0).unwrap();
    }
    let did = |released: Released| (released.syns, released.freed);
    assert_eq!(did(site.release(false, false)), (0, 0));
    assert_eq!(did(site.release(false, true)), (0, 1));
    assert_eq!(did(site.release(true, false)), (1, 0));
    assert_eq!(did(site.release(true, true)), (0, 0));
}

fn an_interface_that_is_gone_is_an_error_and_the_others_get_theirs<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    for number in 0..4 {
        let (key, mut pending) = site.syn(number);
        pending.ifindex = if number == 0 { 4_000 } else { site.ifindex };
        site.pending.insert(key, pending, 0).unwrap();
    }
    let lines = vec![SERVICE];
    let patience = Duration::from_secs(15);
    let job = Release { id: 1, lines, replay: true, free: true, patience };
    assert!(site.releaser.release(job));
    let released = site.released.blocking_recv().unwrap();
    assert_eq!(released.syns, 3);
    let error = released.error.unwrap();
    assert!(error.contains("interface 4000"), "{error}");
}

#[test]
fn a_full_queue_says_so() {
    let mut site = Site::<Ipv4>::up(ForwardMode::Nat, FEW);
    let job =
        || Release { id: 0, lines: vec![], replay: true, free: true, patience: Duration::ZERO };
    let taken = (0..100_000).take_while(|_| site.releaser.release(job())).count();
    assert!((64..100_000).contains(&taken), "{taken}");
    assert!(site.released.blocking_recv().is_some());
}

in_both_families! {
    only_syns_that_wait_are_sent_again,
    only_clients_that_may_still_wait_are_reset,
    a_half_open_connection_is_reset_if_it_was_answered,
    nothing_is_done_that_was_not_asked_for,
    an_interface_that_is_gone_is_an_error_and_the_others_get_theirs,
}
