//! A service that spreads its connections over a group.

use std::collections::BTreeMap;

use vipd_common::maps::{HALF_OPEN, ServiceState};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R1_SLOT, R2_SLOT, SERVICE, client_key, director};
use crate::family::{Family, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1_MAC, R2, R2_MAC, Tcp, reset_of,
};
use crate::kernel::{Kernel, Xdp_};

/// The members' lines, beyond any service's.
const AT_R1: u16 = 1024;
const AT_R2: u16 = 4095;
const GROUP: u16 = 255;

fn spread<F: Family>(members: &[u16]) -> Kernel<F> {
    let mut kernel = director::<F>();
    kernel.active(AT_R1.into(), ServiceState::Up, R1_SLOT, 5);
    kernel.active(AT_R2.into(), ServiceState::Up, R2_SLOT, 6);
    kernel.group(GROUP.into(), members);
    kernel.active(SERVICE, ServiceState::Group, GROUP, GENERATION);
    kernel
}

/// Opens `connections`; how many went where.
fn open(kernel: &mut Kernel<impl Family>, connections: u16) -> BTreeMap<[u8; 6], u32> {
    let mut opened = BTreeMap::new();
    for port in 1..=connections {
        let run = kernel.run(&Tcp::to_vip("S").client(CLIENT, port).frame());
        assert_eq!((run.verdict, run.action), (Verdict::NatNew, Xdp_::Tx));
        *opened.entry(run.frame[..6].try_into().unwrap()).or_default() += 1;
    }
    opened
}

fn new_connections_are_spread_over_all_members<F: Family>() {
    let mut kernel = spread::<F>(&[AT_R1, AT_R2]);
    let opened = open(&mut kernel, 100);
    assert_eq!(opened.keys().collect::<Vec<_>>(), [&R1_MAC.0, &R2_MAC.0]);
    // Binomial: outside of this once in 10^7 runs.
    assert!(opened.values().all(|count| *count >= 25), "{opened:?}");
    let mut lines: Vec<_> = kernel.flows(HALF_OPEN).into_iter().map(|(_, it)| it.service).collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines, [AT_R1, AT_R2].map(u32::from), "a flow knows its member");
}

fn a_connection_stays_with_its_member_while_the_group_changes<F: Family>() {
    let mut kernel = spread::<F>(&[AT_R2]);
    let at_r2 = |segment: &Tcp| {
        let from = (DIRECTOR_MAC, DIRECTOR, CLIENT_PORT);
        segment.moved(from, (R2_MAC, R2, BACKEND_PORT), 63).frame()
    };
    let syn = Tcp::to_vip("S");
    kernel.expect("SYN", &syn.frame(), (Verdict::NatNew, Xdp_::Tx), &at_r2(&syn));
    let [event] = kernel.events()[..] else { panic!("one event") };
    assert_eq!((event.service, event.generation), (u32::from(AT_R2), 6));
    kernel.group(GROUP.into(), &[AT_R1]);
    let syn_ack = Tcp { from: (R2_MAC, R2, BACKEND_PORT), ..Tcp::from_r1("SA", CLIENT_PORT) };
    let to_client = (Verdict::NatToClient, Xdp_::Tx);
    kernel.expect("SYN-ACK", &syn_ack.frame(), to_client, &syn_ack.at_client().frame());
    let ack = Tcp::to_vip("A").seq(1001, 5001);
    kernel.expect("ACK", &ack.frame(), (Verdict::NatToBackend, Xdp_::Tx), &at_r2(&ack));
    // Its member's own cutover makes it stale, and the next attempt goes to whoever is left.
    kernel.active(AT_R2.into(), ServiceState::Down, R2_SLOT, 7);
    let reset = (Verdict::NatStaleReset, Xdp_::Tx);
    kernel.expect("stale", &ack.frame(), reset, &reset_of(&ack));
    let new = syn.at_r1(CLIENT_PORT).frame();
    kernel.expect("again", &syn.frame(), (Verdict::NatNew, Xdp_::Tx), &new);
    assert_eq!(kernel.flow(HALF_OPEN, client_key()).unwrap().service, u32::from(AT_R1));
}

fn members_that_are_down_are_passed_over<F: Family>() {
    let mut kernel = spread::<F>(&[AT_R1, AT_R2]);
    kernel.active(AT_R1.into(), ServiceState::Parked, R1_SLOT, 5);
    assert_eq!(open(&mut kernel, 20).keys().collect::<Vec<_>>(), [&R2_MAC.0]);
    kernel.active(AT_R2.into(), ServiceState::Parked, R2_SLOT, 6);
    let syn = Tcp::to_vip("S").client(CLIENT, 50_000).frame();
    kernel.expect_untouched("none", &syn, (Verdict::ServiceParked, Xdp_::Drop));
    kernel.active(AT_R1.into(), ServiceState::Down, R1_SLOT, 5);
    kernel.active(AT_R2.into(), ServiceState::Down, R2_SLOT, 5);
    kernel.expect_untouched("none", &syn, (Verdict::ServiceDown, Xdp_::Drop));
}

fn a_group_of_nobody_serves_nobody<F: Family>() {
    let syn = Tcp::to_vip("S").frame();
    let down = (Verdict::ServiceDown, Xdp_::Drop);
    spread::<F>(&[]).expect_untouched("empty", &syn, down);
    // Nor does one that isn't there, or that names itself.
    let mut kernel = spread::<F>(&[SERVICE as u16]);
    kernel.expect_untouched("itself", &syn, down);
    kernel.active(SERVICE, ServiceState::Group, 256, GENERATION);
    kernel.expect_untouched("beyond the table", &syn, down);
}

fn as_many_members_as_there_may_be_are_all_reached<F: Family>() {
    let members: Vec<u16> = (1024..1054).collect();
    let mut kernel = spread::<F>(&members);
    for line in &members {
        kernel.active((*line).into(), ServiceState::Up, R1_SLOT, 5);
    }
    open(&mut kernel, 500);
    // Each member's first packet is reported.
    let mut lines: Vec<_> = kernel.events().iter().map(|event| event.service).collect();
    lines.sort_unstable();
    assert_eq!(lines, members.iter().map(|line| u32::from(*line)).collect::<Vec<_>>());
}

fn a_segment_of_no_connection_is_reset<F: Family>() {
    let mut kernel = spread::<F>(&[AT_R1]);
    let ask = Tcp::to_vip("A");
    kernel.expect("ACK", &ask.frame(), (Verdict::NoFlowReset, Xdp_::Tx), &reset_of(&ask));
    let reset = Tcp::to_vip("R").frame();
    kernel.expect_untouched("RST", &reset, (Verdict::NoFlowDrop, Xdp_::Drop));
}

in_both_families! {
    new_connections_are_spread_over_all_members,
    a_connection_stays_with_its_member_while_the_group_changes,
    members_that_are_down_are_passed_over,
    a_group_of_nobody_serves_nobody,
    as_many_members_as_there_may_be_are_all_reached,
    a_segment_of_no_connection_is_reset,
}
