//! The program on the host: whole conversations, and any bytes at all.

use std::vec::Vec;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use vipd_common::addr::{Ipv4Bytes, MacAddr, mapped};
use vipd_common::maps::{Active, Address, Backend, FlowKey, ForwardMode, ServiceKey, ServiceState};
use vipd_common::verdict::{Action, Verdict};

use super::{World, exercise, run};
use crate::tables::{FlowTable, TablesOf as _};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
const CLIENT: ([u8; 4], u16) = ([198, 18, 0, 10], 40_000);
const VIP: ([u8; 4], u16) = ([198, 18, 0, 250], 6379);
const SOURCE: [u8; 4] = [198, 18, 0, 50];
const BACKEND: ([u8; 4], u16) = ([198, 18, 0, 101], 8000);

fn world() -> World {
    let mut world = World::default();
    world.interfaces.insert(1, OWN);
    world.v4.addresses.insert(VIP.0, Address::new(Address::NAT));
    world.v4.addresses.insert(SOURCE, Address::new(Address::SOURCE));
    world.v4.services.insert(ServiceKey::new(VIP.0, VIP.1.to_be_bytes()), 0);
    world.active.insert(0, Active::new(ServiceState::Up, 1, 1));
    world.backends.insert(1, backend());
    world
}

fn backend() -> Backend {
    Backend {
        addr: mapped(BACKEND.0),
        source: mapped(SOURCE),
        port: BACKEND.1.to_be_bytes(),
        next_hop: PEER,
        own_mac: OWN,
        first_port: 1024,
        last_port: 65_535,
        ifindex: 1,
        mode: ForwardMode::Nat as u32,
        ..Backend::EMPTY
    }
}

/// What one end of the conversation sees of a segment.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    seq: u32,
    ack: u32,
    payload: Vec<u8>,
}

/// Parses a frame and checks both checksums, by a library that shares nothing with the program.
fn see(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
    assert_eq!(tcp.calc_checksum_ipv4(header.source, header.destination).unwrap(), tcp.checksum());
    Seen {
        from: (header.source, tcp.source_port()),
        to: (header.destination, tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        payload: tcp.payload().to_vec(),
    }
}

fn segment(
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    flags: &str,
    (seq, ack): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = PacketBuilder::ethernet2(PEER.0, OWN.0)
        .ipv4(from.0, to.0, 64)
        .tcp(from.1, to.1, seq, 64_000);
    for flag in flags.chars() {
        tcp = match flag {
            'S' => tcp.syn(),
            'F' => tcp.fin(),
            'R' => tcp.rst(),
            _ => tcp.ack(ack),
        };
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).unwrap();
    frame
}

fn forwarded(world: &World, frame: &[u8], verdict: Verdict) -> Seen {
    let outcome = run(world, 1, frame);
    assert_eq!((outcome.verdict, outcome.egress), (verdict, 1));
    see(&outcome.frame)
}

/// Opens a connection with initial sequence numbers `(client, backend)`; returns the tuple that the
/// backend sees as its client.
fn connect(world: &World, client: ([u8; 4], u16), isn: (u32, u32)) -> ([u8; 4], u16) {
    let syn = segment(client, VIP, "S", (isn.0, 0), &[]);
    let source = forwarded(world, &syn, Verdict::NatNew).from;
    let acks = (isn.1, isn.0.wrapping_add(1));
    let syn_ack = segment(BACKEND, source, "SA", acks, &[]);
    forwarded(world, &syn_ack, Verdict::NatToClient);
    let ack = segment(client, VIP, "A", (acks.1, isn.1.wrapping_add(1)), &[]);
    forwarded(world, &ack, Verdict::NatToBackend);
    source
}

proptest! {
    #[test]
    fn a_conversation_keeps_its_bytes_and_its_checksums(
        isn in any::<(u32, u32)>(),
        turns in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..1461)), 0..12),
    ) {
        let world = world();
        let source = connect(&world, CLIENT, isn);
        prop_assert_eq!(source, (SOURCE, CLIENT.1));
        prop_assert_eq!(world.v4.flows(FlowTable::Established).len(), 2);
        prop_assert_eq!(world.v4.flows(FlowTable::HalfOpen).len(), 0);
        let (mut client, mut backend) = (isn.0.wrapping_add(1), isn.1.wrapping_add(1));
        for (from_client, payload) in turns {
            let seen = if from_client {
                let frame = segment(CLIENT, VIP, "A", (client, backend), &payload);
                let seen = forwarded(&world, &frame, Verdict::NatToBackend);
                let expected = Seen { from: source, to: BACKEND, seq: client, ack: backend, payload };
                client = client.wrapping_add(expected.payload.len() as u32);
                (seen, expected)
            } else {
                let frame = segment(BACKEND, source, "A", (backend, client), &payload);
                let seen = forwarded(&world, &frame, Verdict::NatToClient);
                let expected = Seen { from: VIP, to: CLIENT, seq: backend, ack: client, payload };
                backend = backend.wrapping_add(expected.payload.len() as u32);
                (seen, expected)
            };
            prop_assert_eq!(seen.0, seen.1);
        }
    }

    #[test]
    fn arbitrary_frames_are_never_changed_unless_answered_or_forwarded(
        frame in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let outcome = run(&world(), 1, &frame);
        if matches!(outcome.verdict.action(), Action::Pass | Action::Drop) {
            prop_assert_eq!(outcome.frame, frame);
        }
    }

    // The stable stand-in for the fuzz target, which calls the same function.
    #[test]
    fn any_history_keeps_the_program_s_promises(
        history in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        exercise(&history);
    }
}

#[test]
fn two_clients_with_one_port_get_two_source_ports() {
    let world = world();
    let first = connect(&world, CLIENT, (1, 2));
    let second = connect(&world, ([198, 18, 0, 11], CLIENT.1), (3, 4));
    assert_eq!(first, (SOURCE, CLIENT.1));
    assert_eq!(second.0, SOURCE);
    assert_ne!(second.1, first.1);
}

#[test]
fn a_robbed_half_open_client_never_sends_into_the_new_connection() {
    let mut world = world();
    world.backends.insert(1, Backend { first_port: 5000, last_port: 5000, ..backend() });
    let (slow, quick) = (CLIENT, ([198, 18, 0, 11], 40_001));
    let syn = |client| segment(client, VIP, "S", (1, 0), &[]);
    forwarded(&world, &syn(slow), Verdict::NatNew);
    forwarded(&world, &syn(quick), Verdict::NatNew);
    let outcome = run(&world, 1, &segment(slow, VIP, "A", (2, 1), b"INFO"));
    assert_eq!(outcome.verdict, Verdict::NoFlowReset);
    assert_eq!(world.v4.flows(FlowTable::HalfOpen).len(), 2);
}

#[test]
fn an_established_connection_is_never_robbed() {
    let mut world = world();
    world.backends.insert(1, Backend { first_port: 5000, last_port: 5000, ..backend() });
    connect(&world, CLIENT, (1, 2));
    let outcome = run(&world, 1, &segment(([198, 18, 0, 11], 40_001), VIP, "S", (1, 0), &[]));
    assert_eq!(outcome.verdict, Verdict::NoSourcePort);
}

#[test]
fn a_table_that_takes_no_more_leaves_nothing_behind() {
    let mut world = world();
    world.flow_capacity = 1;
    let frame = segment(CLIENT, VIP, "S", (1, 0), &[]);
    assert_eq!(run(&world, 1, &frame).verdict, Verdict::FlowTableFull);
    assert_eq!(world.v4.flows(FlowTable::HalfOpen), []);
}

#[test]
fn a_flow_that_outlived_its_time_gives_its_port_away() {
    let mut world = world();
    world.backends.insert(1, Backend { first_port: 5000, last_port: 5000, ..backend() });
    connect(&world, CLIENT, (1, 2));
    let reset = segment(CLIENT, VIP, "RA", (2, 3), &[]);
    forwarded(&world, &reset, Verdict::NatToBackend);
    let syn = segment(([198, 18, 0, 11], 40_001), VIP, "S", (1, 0), &[]);
    assert_eq!(run(&world, 1, &syn).verdict, Verdict::NoSourcePort);
    world.now += vipd_common::maps::RESET_NS + 1;
    assert_eq!(run(&world, 1, &syn).verdict, Verdict::NatNew);
    assert_eq!(world.v4.flows(FlowTable::Established), []);
}

#[test]
fn a_connection_whose_backend_half_was_evicted_is_reset_instead_of_hanging() {
    let mut world = world();
    let source = connect(&world, CLIENT, (1, 2));
    world.remove_flow(FlowTable::Established, &reply_key(source));
    world.now += SECOND;
    let query = segment(CLIENT, VIP, "A", (2, 3), b"PING");
    assert_eq!(run(&world, 1, &query).verdict, Verdict::NoFlowReset);
    assert_eq!(world.v4.flows(FlowTable::Established), []);
}

#[test]
fn a_repeated_syn_whose_backend_half_was_evicted_opens_anew() {
    let mut world = world();
    let syn = segment(CLIENT, VIP, "S", (1, 0), &[]);
    let source = forwarded(&world, &syn, Verdict::NatNew).from;
    world.remove_flow(FlowTable::HalfOpen, &reply_key(source));
    world.now += SECOND;
    let source = forwarded(&world, &syn, Verdict::NatNew).from;
    let syn_ack = segment(BACKEND, source, "SA", (7, 2), &[]);
    forwarded(&world, &syn_ack, Verdict::NatToClient);
}

#[test]
fn a_quiet_connection_is_not_taken_for_a_torn_one() {
    let mut world = world();
    connect(&world, CLIENT, (1, 2));
    world.now += 3600 * SECOND;
    forwarded(&world, &segment(CLIENT, VIP, "A", (2, 3), b"PING"), Verdict::NatToBackend);
}

#[test]
fn replies_follow_a_client_to_another_interface() {
    let mut world = world();
    let source = connect(&world, CLIENT, (1, 2));
    let other = MacAddr([2, 0, 0, 0, 0, 0x51]);
    world.interfaces.insert(2, other);
    let mut query = segment(CLIENT, VIP, "A", (2, 3), b"PING");
    query[..6].copy_from_slice(&other.0);
    assert_eq!(run(&world, 2, &query).verdict, Verdict::NatToBackend);
    let outcome = run(&world, 1, &segment(BACKEND, source, "A", (3, 6), b"+PONG\r\n"));
    assert_eq!((outcome.verdict, outcome.egress), (Verdict::NatToClient, 2));
    assert_eq!(outcome.frame[..12], [PEER.0, other.0].concat());
}

const SECOND: u64 = 1_000_000_000;

/// The key of the backend's half of a connection from `source`.
fn reply_key(source: ([u8; 4], u16)) -> FlowKey<Ipv4Bytes> {
    FlowKey::new((BACKEND.0, BACKEND.1.to_be_bytes()), (source.0, source.1.to_be_bytes()))
}
