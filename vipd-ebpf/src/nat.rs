//! Full NAT: the client's connection to the VIP becomes one from a source address of ours to the
//! backend, and back.
//!
//! Each connection has two entries in a flow table, one a direction. They begin in the half-open
//! table and move to the established one when the client proves that it got the backend's
//! SYN-ACK; a flood of SYNs from invented sources therefore never pushes a real connection out.

use vipd_common::maps::{Address, Flow, FlowKey, ServiceState, direction, state};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::{Ip, IpHeader as _};
use vipd_common::wire::tcp::{self, later};

use crate::dsr::departure;
use crate::frame::Frame;
use crate::link::{self, Departure};
use crate::pending::remember;
use crate::ports::claim_port;
use crate::program::{Family, ForUs};
use crate::reset::refuse;
use crate::service::{self, IpTcp, Segment};
use crate::tables::{FlowTable, Tables, TablesOf};

/// Members of a group that are asked for one that is up.
const MEMBER_TRIES: u32 = 3;
/// A connection that was quiet for this long may have lost one half to a full table, which drops
/// what was not used lately. Below the second after which Linux repeats a SYN.
const QUIET_NS: u64 = 500_000_000;

/// What is known of a segment's connection.
struct Known<'a, A: Ip, F> {
    /// Where it stands.
    table: FlowTable,
    /// The half whose segment it is.
    flow: F,
    /// The key of the other half: what leaves, reversed.
    other: &'a FlowKey<A>,
}

/// Handles a TCP segment to a VIP in mode `nat`, or to a source address.
#[inline(always)]
pub fn handle<A: Ip<Header: Family>, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
) -> Verdict {
    match A::Header::apart(|| carry(frame, tables, packet, segment)) {
        Some(verdict) => verdict,
        None => open(frame, tables, packet, segment),
    }
}

/// Handles any segment but one that opens a connection: `None`, and the frame is untouched.
#[inline(always)]
fn carry<A: Ip, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
) -> Option<Verdict> {
    let key = &segment.key;
    let Some((table, mut flow)) = find(tables, key) else {
        if !packet.address.has(Address::VIRTUAL) {
            return Some(Verdict::HostTraffic);
        }
        return match service::service_of(tables, segment) {
            Some(_) if segment.is_syn() => None,
            Some(service) => Some(service::without_flow(frame, tables, packet, service)),
            None => Some(service::without_service(frame, packet)),
        };
    };
    let active = tables.standing(flow.service);
    // Made once: an IPv6 tuple is large, and the kernel's stack small.
    let other = flow.leaves.reversed();
    // Asked once: on some CPUs the call costs as much as half a look-up.
    let now = tables.now();
    // A table that was full may have dropped the backend's half of a connection and left the
    // client's: no answer would ever reach the client.
    let torn = flow.direction == direction::FROM_CLIENT
        && now.saturating_sub(flow.last_seen) > QUIET_NS
        && peer(tables, table, key, &other).is_none();
    let reusable = segment.is_syn()
        && flow.direction == direction::FROM_CLIENT
        && (torn
            || flow.generation != active.generation()
            || is_over(&flow, table, now)
            || is_another_attempt(&flow, table, segment));
    if reusable {
        drop(flow);
        forget(tables, table, key, &other);
        return None;
    }
    Some(if flow.generation != active.generation() {
        match flow.direction {
            direction::FROM_CLIENT => {
                // Its client knows now, or says what it has received, and so will know.
                flow.state |= state::RESET;
                flow.last_seen = now;
                refuse(frame, packet, Verdict::NatStaleReset, Verdict::NatStaleDrop)
            }
            _ => Verdict::NatStaleDrop,
        }
    } else if active.state() == ServiceState::Parked {
        Verdict::ServiceParked
    } else if active.state() != ServiceState::Up {
        Verdict::ServiceDown
    } else if torn {
        tables.remove_flow(table, key);
        refuse(frame, packet, Verdict::NoFlowReset, Verdict::NoFlowDrop)
    } else if segment.ttl <= 1 {
        Verdict::TtlExpired
    } else {
        let known = Known { table, flow, other: &other };
        // Sent in one place: each more would have stack of its own.
        let (to, verdict) = match known.flow.direction {
            direction::FROM_CLIENT => {
                let Some(backend) = tables.backend(active.slot()) else {
                    return Some(Verdict::NoBackend);
                };
                to_backend(frame, tables, packet, segment, known, now);
                (departure(backend), Verdict::NatToBackend)
            }
            _ => (to_client(tables, segment, known, now, frame.ifindex()), Verdict::NatToClient),
        };
        send(frame, packet, &other, &to, verdict)
    })
}

/// The flow with this key and the table it stands in. A connection may move from the half-open to
/// the established table on another CPU between two look-ups, so a miss asks the latter again.
#[inline(always)]
pub fn find<'a, A: Ip, T: TablesOf<A>>(
    tables: &'a T,
    key: &FlowKey<A>,
) -> Option<(FlowTable, T::FlowRef<'a>)> {
    if let Some(flow) = tables.flow(FlowTable::Established, key) {
        return Some((FlowTable::Established, flow));
    }
    if let Some(flow) = tables.flow(FlowTable::HalfOpen, key) {
        return Some((FlowTable::HalfOpen, flow));
    }
    tables.flow(FlowTable::Established, key).map(|flow| (FlowTable::Established, flow))
}

/// Rewrites addresses, ports and checksums, and takes one from the TTL. `answer` is the tuple that
/// answers will arrive with.
#[inline(always)]
fn translate<A: Ip>(headers: &mut IpTcp<A>, answer: &FlowKey<A>) {
    let addresses = headers.ip.set_addresses(answer.dst, answer.src);
    headers.tcp.set_ports(answer.dst_port, answer.src_port, addresses);
    headers.ip.decrement_ttl();
}

/// How to reach the client of a flow.
#[inline(always)]
pub fn client_departure<A: Ip>(flow: &Flow<A>) -> Departure {
    Departure {
        dst: flow.client_mac,
        src: flow.client_gateway,
        vlan: flow.client_vlan,
        ifindex: flow.client_ifindex,
    }
}

/// Opens a new connection: the segment is a SYN. Not inlined: it is rare beside what the other
/// paths do, and the kernel's 512 bytes of stack don't hold all of them at once.
#[inline(never)]
fn open<A: Ip, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
) -> Verdict {
    // Asked again: only a scalar fits into what `carry` returns. It is gone at worst.
    let Some(service) = service::service_of(tables, segment) else { return Verdict::ServiceDown };
    // The flow will know the member of a group; another one may have the next connection.
    let service = choose(tables, service);
    remember(frame, tables, packet, segment, service);
    let active = tables.standing(service);
    match active.state() {
        ServiceState::Up => {}
        ServiceState::Parked => return Verdict::ServiceParked,
        ServiceState::Down | ServiceState::Group => return Verdict::ServiceDown,
    }
    let Some(backend) = tables.backend(active.slot()) else { return Verdict::NoBackend };
    if segment.ttl <= 1 {
        return Verdict::TtlExpired;
    }
    let arrives = &segment.key;
    let now = tables.now();
    // First the backend's half, which takes a port; then the client's, which knows it.
    let Some(mut draft) = tables.room() else { return Verdict::FlowTableFull };
    // Field by field: the compiler would gather a whole one on the stack.
    draft.flow = Flow::EMPTY;
    draft.flow.last_seen = now;
    draft.flow.leaves = arrives.reversed();
    draft.flow.service = service;
    draft.flow.generation = active.generation();
    draft.flow.slot = u32::from(active.slot());
    draft.flow.direction = direction::FROM_BACKEND;
    move_client(&mut draft.flow, packet, frame.ifindex());
    draft.reply = FlowKey::new(
        (A::unmapped(backend.addr), backend.port),
        (A::unmapped(backend.source), [0; 2]),
    );
    if !claim_port(tables, backend, &mut draft, now) {
        return Verdict::NoSourcePort;
    }
    draft.flow.leaves = draft.reply.reversed();
    draft.flow.direction = direction::FROM_CLIENT;
    draft.flow.next_seq = segment.next_seq;
    if !tables.put_flow(FlowTable::HalfOpen, arrives, &draft.flow) {
        tables.remove_flow(FlowTable::HalfOpen, &draft.reply);
        return Verdict::FlowTableFull;
    }
    tables.note_packet(service, active.generation(), frame.ifindex());
    send(frame, packet, &draft.reply, &departure(backend), Verdict::NatNew)
}

/// Whom a new connection to this service goes to: itself, or a member of its group at random. Of
/// members that went down a moment ago a few are passed over; the daemon takes them out.
#[inline(never)]
fn choose(tables: &impl Tables, service: u32) -> u32 {
    let active = tables.standing(service);
    if active.state() != ServiceState::Group {
        return service;
    }
    let Some(group) = tables.group(active.slot()) else { return service };
    let start = tables.random() >> 1;
    let mut chosen = service;
    let mut tries = 0;
    while tries < MEMBER_TRIES {
        let Some(member) = group.member(start + tries) else { return service };
        chosen = member;
        if tables.standing(member).state() == ServiceState::Up {
            break;
        }
        tries += 1;
    }
    chosen
}

/// Whether a SYN on this flow's tuple begins another connection: the old one was reset, closed by
/// both sides or forgotten. (RFC 9293 lets a SYN end TIME-WAIT.)
#[inline(always)]
fn is_over<A: Ip>(flow: &Flow<A>, table: FlowTable, now: u64) -> bool {
    let both = state::FIN | state::PEER_FIN;
    flow.state & state::RESET != 0
        || flow.state & both == both
        || flow.is_expired(table == FlowTable::Established, now)
}

/// Whether a SYN on a half-open connection's tuple is not the one that began it: its client gave up
/// and tries again.
#[inline(always)]
fn is_another_attempt<A: Ip>(flow: &Flow<A>, table: FlowTable, segment: &Segment<A>) -> bool {
    table == FlowTable::HalfOpen && flow.next_seq != segment.next_seq
}

/// Removes both halves of a connection from the table they stand in, given the key of either.
#[inline(always)]
pub fn forget<A: Ip, T: TablesOf<A>>(
    tables: &T,
    table: FlowTable,
    key: &FlowKey<A>,
    other: &FlowKey<A>,
) {
    if peer(tables, table, key, other).is_some() {
        tables.remove_flow(table, other);
    }
    tables.remove_flow(table, key);
}

/// The half of a connection whose key is `other`, seen from the half whose key is `key`. Tables
/// that are full drop one half and not the other; its tuple may belong to somebody else by now.
#[inline(always)]
fn peer<'a, A: Ip, T: TablesOf<A>>(
    tables: &'a T,
    table: FlowTable,
    key: &FlowKey<A>,
    other: &FlowKey<A>,
) -> Option<T::FlowRef<'a>> {
    tables.flow(table, other).filter(|peer| peer.leaves.is_reverse_of(key))
}

/// Goes on with a segment from the client.
#[inline(always)]
fn to_backend<A: Ip, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
    mut known: Known<'_, A, T::FlowRef<'_>>,
    now: u64,
) {
    // The client may have moved behind another router or interface, or ours may have got another
    // index or address; its backend's half sends replies there.
    if !comes_by(&known.flow, packet, frame.ifindex()) {
        move_client(&mut known.flow, packet, frame.ifindex());
        if let Some(mut peer) = peer(tables, known.table, &segment.key, known.other) {
            move_client(&mut peer, packet, frame.ifindex());
        }
    }
    let completes = known.table == FlowTable::HalfOpen
        && known.flow.state & state::ANSWERED != 0
        && !segment.is_syn()
        && segment.has(tcp::ACK)
        && segment.ack == known.flow.last_ack;
    note(tables, &mut known, segment, now);
    if completes {
        establish(tables, &segment.key, known);
    }
}

/// Whether the client is where the flow says.
#[inline(always)]
pub fn comes_by<A: Ip>(flow: &Flow<A>, packet: &ForUs<A>, ifindex: u32) -> bool {
    flow.client_mac == packet.arrival.src
        && flow.client_gateway == packet.arrival.dst
        && flow.client_vlan == packet.arrival.vlan
        && flow.client_ifindex == ifindex
}

/// Notes where the client is.
#[inline(always)]
pub fn move_client<A: Ip>(flow: &mut Flow<A>, packet: &ForUs<A>, ifindex: u32) {
    flow.client_mac = packet.arrival.src;
    flow.client_gateway = packet.arrival.dst;
    flow.client_vlan = packet.arrival.vlan;
    flow.client_ifindex = ifindex;
}

/// Goes on with a segment from the backend; returns the way to the client.
#[inline(always)]
fn to_client<A: Ip, T: TablesOf<A>>(
    tables: &T,
    segment: &Segment<A>,
    mut known: Known<'_, A, T::FlowRef<'_>>,
    now: u64,
    ifindex: u32,
) -> Departure {
    if known.table == FlowTable::HalfOpen {
        // Whatever it is, it is the answer.
        tables.remove_pending(known.other);
    }
    if segment.has(tcp::RST) {
        tables.note_refusal(known.flow.service, known.flow.generation, ifindex);
    }
    if known.table == FlowTable::HalfOpen && segment.is_syn_ack() {
        known.flow.last_seen = now;
        known.flow.next_seq = segment.next_seq;
        if let Some(mut client) = peer(tables, known.table, &segment.key, known.other) {
            client.last_ack = segment.next_seq;
            client.state |= state::ANSWERED;
        }
    } else {
        note(tables, &mut known, segment, now);
    }
    client_departure(&known.flow)
}

/// Remembers what this segment says about its direction, and tells the other half of a FIN or RST.
#[inline(always)]
fn note<A: Ip, T: TablesOf<A>>(
    tables: &T,
    known: &mut Known<'_, A, T::FlowRef<'_>>,
    segment: &Segment<A>,
    now: u64,
) {
    let flow = &mut known.flow;
    flow.last_seen = now;
    // Not back: what is sent again, and a probe of a peer that is alive, say nothing new.
    flow.next_seq = later(flow.next_seq, segment.next_seq);
    if known.table == FlowTable::Established && segment.has(tcp::ACK) {
        flow.last_ack = later(flow.last_ack, segment.ack);
    }
    if segment.has(tcp::FIN | tcp::RST) {
        let (mine, theirs) = if segment.has(tcp::RST) {
            (state::RESET, state::RESET)
        } else {
            (state::FIN, state::PEER_FIN)
        };
        flow.state |= mine;
        if let Some(mut peer) = peer(tables, known.table, &segment.key, known.other) {
            peer.state |= theirs;
        }
    }
}

/// Moves both halves of a connection to the established table. They are added there before they
/// leave the other, so that [`find`] always sees them in one.
#[inline(always)]
fn establish<A: Ip, T: TablesOf<A>>(
    tables: &T,
    key: &FlowKey<A>,
    Known { flow, other, .. }: Known<'_, A, T::FlowRef<'_>>,
) {
    let Some(peer) = peer(tables, FlowTable::HalfOpen, key, other) else { return };
    // Where the kernel refuses an entry the connection goes on half-open, and the next segment
    // tries again.
    if !tables.put_flow(FlowTable::Established, other, &peer) {
        return;
    }
    if !tables.put_flow(FlowTable::Established, key, &flow) {
        tables.remove_flow(FlowTable::Established, other);
        return;
    }
    drop((flow, peer));
    tables.remove_flow(FlowTable::HalfOpen, key);
    tables.remove_flow(FlowTable::HalfOpen, other);
}

#[inline(always)]
fn send<A: Ip>(
    frame: &mut impl Frame,
    packet: &ForUs<A>,
    answer: &FlowKey<A>,
    to: &Departure,
    verdict: Verdict,
) -> Verdict {
    if let Some(headers) = frame.at::<IpTcp<A>>(packet.arrival.l3()) {
        translate(headers, answer);
    }
    match link::depart(frame, &packet.arrival, to) {
        Ok(()) => verdict,
        Err(_) => Verdict::ResizeFailed,
    }
}
