//! Direct server return: only the link-layer addresses are rewritten. The backend holds the VIP
//! itself (and doesn't answer ARP for it), so its replies go straight to the client.
//!
//! What goes that way is not seen, so a connection is known by its client's half alone: it begins
//! with the client's first segment after a SYN, and is remembered so that it can be reset once its
//! backend is no longer the master. Who spoofs both can make such a connection; a flood of SYNs can
//! not. Segments of connections that are not known go to the backend, whose own TCP resets them. The
//! TTL stays: this is a bridge's work, not a router's.

use vipd_common::maps::{Active, Backend, Flow, FlowKey, ServiceState, direction, state};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::Ip;
use vipd_common::wire::tcp::{self, later};

use crate::frame::Frame;
use crate::link::{self, Arrival, Departure};
use crate::nat::{comes_by, move_client};
use crate::pending::remember;
use crate::program::ForUs;
use crate::reset::refuse;
use crate::service::{self, Segment};
use crate::tables::{FlowTable, Tables, TablesOf};

/// Handles a TCP segment to a VIP in this mode.
#[inline(always)]
pub fn handle<A: Ip, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
) -> Verdict {
    let Some(service) = service::service_of(tables, segment) else {
        return service::without_service(frame, packet);
    };
    let active = tables.standing(service);
    if segment.is_syn() {
        if begins(tables, &segment.key, active) {
            remember(frame, tables, packet, segment, service);
        }
    } else if let Some(flow) = tables.flow(FlowTable::Established, &segment.key) {
        if follow(tables, flow, packet, segment, active, frame.ifindex()) {
            return refuse(frame, packet, Verdict::DsrStaleReset, Verdict::DsrStaleDrop);
        }
    } else {
        answered(tables, packet, segment, service, frame.ifindex());
    }
    forward(frame, tables, &packet.arrival, service, Verdict::DsrToBackend)
}

/// Whether a SYN with this key begins a connection: the one that had it is stale or over, and is
/// forgotten.
#[inline(always)]
fn begins<A: Ip, T: TablesOf<A>>(tables: &T, key: &FlowKey<A>, active: Active) -> bool {
    let Some(flow) = tables.flow(FlowTable::Established, key) else { return true };
    let goes_on = flow.generation == active.generation()
        && flow.state & (state::FIN | state::RESET) == 0
        && !flow.is_expired(true, tables.now());
    drop(flow);
    if !goes_on {
        tables.remove_flow(FlowTable::Established, key);
    }
    !goes_on
}

/// Notes a segment of a connection, and says whether that is stale. What is dropped because the
/// service is parked is noted as well: it says what the client has received.
#[inline(always)]
fn follow<A: Ip, T: TablesOf<A>>(
    tables: &T,
    mut flow: T::FlowRef<'_>,
    packet: &ForUs<A>,
    segment: &Segment<A>,
    active: Active,
    ifindex: u32,
) -> bool {
    flow.last_seen = tables.now();
    if flow.generation != active.generation() {
        flow.state |= state::RESET;
        return true;
    }
    if !comes_by(&flow, packet, ifindex) {
        move_client(&mut flow, packet, ifindex);
    }
    flow.next_seq = later(flow.next_seq, segment.next_seq);
    if segment.has(tcp::ACK) {
        flow.last_ack = later(flow.last_ack, segment.ack);
    }
    flow.state |= ended(segment);
    false
}

#[inline(always)]
fn ended<A: Ip>(segment: &Segment<A>) -> u8 {
    if segment.has(tcp::RST) {
        state::RESET
    } else if segment.has(tcp::FIN) {
        state::FIN
    } else {
        0
    }
}

/// A segment of no connection that is known: if it follows a SYN, that was answered, and if it
/// acknowledges the answer, a connection has begun. Not inlined, for the kernel's stack.
#[inline(never)]
fn answered<A: Ip, T: TablesOf<A>>(
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
    service: u32,
    ifindex: u32,
) {
    let key = &segment.key;
    let Some(pending) = tables.pending(key) else { return };
    let generation = pending.generation;
    let follows = segment.seq == pending.seq.wrapping_add(1)
        && segment.has(tcp::ACK)
        && !segment.has(tcp::RST);
    drop(pending);
    tables.remove_pending(key);
    let active = tables.active(service);
    if !follows || generation != active.generation() {
        return;
    }
    let Some(mut draft) = tables.room() else { return };
    let flow = &mut draft.flow;
    // Field by field: the compiler would gather a whole one on the stack.
    *flow = Flow::EMPTY;
    flow.last_seen = tables.now();
    flow.leaves = *key;
    flow.service = service;
    flow.generation = generation;
    flow.slot = u32::from(active.slot());
    flow.direction = direction::FROM_CLIENT;
    flow.next_seq = segment.next_seq;
    flow.last_ack = segment.ack;
    flow.state = ended(segment);
    move_client(flow, packet, ifindex);
    // Where the kernel refuses it, the connection goes on unknown.
    tables.put_flow(FlowTable::Established, key, flow);
}

/// Sends a packet to the service's backend as it is.
#[inline(always)]
pub fn forward<T: Tables>(
    frame: &mut impl Frame,
    tables: &T,
    arrival: &Arrival,
    service: u32,
    verdict: Verdict,
) -> Verdict {
    let active = tables.standing(service);
    match active.state() {
        ServiceState::Up => {}
        ServiceState::Parked => return Verdict::ServiceParked,
        ServiceState::Down | ServiceState::Group => return Verdict::ServiceDown,
    }
    let Some(backend) = tables.backend(active.slot()) else { return Verdict::NoBackend };
    let to = departure(backend);
    if link::depart(frame, arrival, &to).is_err() {
        return Verdict::ResizeFailed;
    }
    tables.note_packet(service, active.generation(), frame.ifindex());
    verdict
}

/// How to reach a backend.
#[inline(always)]
pub fn departure(backend: &Backend) -> Departure {
    Departure {
        dst: backend.next_hop,
        src: backend.own_mac,
        vlan: backend.vlan,
        ifindex: backend.ifindex,
    }
}
