//! Full NAT: the client's connection to the VIP becomes one from a source address of ours to the
//! backend, and back.
//!
//! Each connection has two entries in a flow table, one a direction. They begin in the half-open
//! table and move to the established one when the client proves that it got the backend's
//! SYN-ACK; a flood of SYNs from invented sources therefore never pushes a real connection out.

use vipd_common::maps::{Active, Address, Backend, Flow, FlowKey, ServiceKey, ServiceState};
use vipd_common::verdict::Verdict;
use vipd_common::wire::tcp;

use crate::dsr::departure;
use crate::frame::Frame;
use crate::link::{self, Departure};
use crate::program::ForUs;
use crate::service::{self, Ipv4Tcp, Segment};
use crate::tables::{FlowTable, Tables};

/// Source ports tried for a new connection before giving up.
const PORT_TRIES: u32 = 12;
/// Members of a group that are asked for one that is up.
const MEMBER_TRIES: u32 = 3;
/// A connection that was quiet for this long may have lost one half to a full table, which drops
/// what was not used lately. Below the second after which Linux repeats a SYN.
const QUIET_NS: u64 = 500_000_000;

/// Handles a TCP segment to a VIP in mode `nat`, or to a source address.
#[inline(always)]
pub fn handle<T: Tables>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs,
    segment: &Segment,
) -> Verdict {
    let key = &segment.key;
    let Some((table, flow)) = find(tables, key) else {
        if !packet.address.has(Address::VIRTUAL) {
            return Verdict::HostTraffic;
        }
        return match service::service_of(tables, segment) {
            Some(service) if segment.is_syn() => open(frame, tables, packet, segment, service),
            Some(service) => service::without_flow(frame, tables, packet, service),
            None => service::without_service(frame, packet),
        };
    };
    let active = tables.active(flow.service);
    // Asked once: on some CPUs the call costs as much as half a look-up.
    let now = tables.now();
    let torn = is_torn(tables, table, key, &flow, now);
    let reusable = segment.is_syn()
        && flow.direction == Flow::FROM_CLIENT
        && (torn || flow.generation != active.generation() || is_over(&flow, table, now));
    if reusable {
        forget(tables, table, key, &flow);
        drop(flow);
        // The flow knows the member of a group; another one may have the next connection.
        return match service::service_of(tables, segment) {
            Some(service) => open(frame, tables, packet, segment, service),
            None => service::without_service(frame, packet),
        };
    }
    if flow.generation != active.generation() {
        return match flow.direction {
            Flow::FROM_CLIENT => {
                service::refuse(frame, packet, Verdict::NatStaleReset, Verdict::NatStaleDrop)
            }
            _ => Verdict::NatStaleDrop,
        };
    }
    match active.state() {
        ServiceState::Up => {}
        ServiceState::Parked => return Verdict::ServiceParked,
        ServiceState::Down | ServiceState::Group => return Verdict::ServiceDown,
    }
    if torn {
        tables.remove_flow(table, key);
        return service::refuse(frame, packet, Verdict::NoFlowReset, Verdict::NoFlowDrop);
    }
    if segment.ttl <= 1 {
        return Verdict::TtlExpired;
    }
    match flow.direction {
        Flow::FROM_CLIENT => to_backend(frame, tables, packet, segment, (table, flow), active, now),
        _ => to_client(frame, tables, packet, segment, (table, flow), now),
    }
}

/// The flow with this key and the table it stands in. A connection may move from the half-open to
/// the established table on another CPU between two look-ups, so a miss asks the latter again.
#[inline(always)]
pub fn find<'a, T: Tables>(tables: &'a T, key: &FlowKey) -> Option<(FlowTable, T::FlowRef<'a>)> {
    if let Some(flow) = tables.flow(FlowTable::Established, key) {
        return Some((FlowTable::Established, flow));
    }
    if let Some(flow) = tables.flow(FlowTable::HalfOpen, key) {
        return Some((FlowTable::HalfOpen, flow));
    }
    tables.flow(FlowTable::Established, key).map(|flow| (FlowTable::Established, flow))
}

/// Rewrites addresses, ports and checksums, and takes one from the TTL.
#[inline(always)]
pub fn translate(headers: &mut Ipv4Tcp, leaves: &FlowKey) {
    let addresses = headers.ip.set_addresses(leaves.src, leaves.dst);
    headers.tcp.set_ports(leaves.src_port, leaves.dst_port, addresses);
    headers.ip.decrement_ttl();
}

/// How to reach the client of a flow.
#[inline(always)]
pub fn client_departure(flow: &Flow) -> Departure {
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
fn open<T: Tables>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs,
    segment: &Segment,
    service: u32,
) -> Verdict {
    let service = choose(tables, service);
    let active = tables.active(service);
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
    let mut flow = Flow {
        last_seen: now,
        leaves: arrives.reversed(),
        service,
        generation: active.generation(),
        slot: u32::from(active.slot()),
        next_seq: 0,
        last_ack: 0,
        client_ifindex: frame.ifindex(),
        client_mac: packet.arrival.src,
        client_gateway: packet.arrival.dst,
        client_vlan: packet.arrival.vlan,
        direction: Flow::FROM_BACKEND,
        state: 0,
        zero: [0; 4],
    };
    let Some(reply) = claim_port(tables, backend, &flow, now) else {
        return Verdict::NoSourcePort;
    };
    flow.leaves = reply.reversed();
    flow.direction = Flow::FROM_CLIENT;
    flow.next_seq = segment.next_seq;
    if !tables.put_flow(FlowTable::HalfOpen, arrives, &flow) {
        tables.remove_flow(FlowTable::HalfOpen, &reply);
        return Verdict::FlowTableFull;
    }
    tables.note_packet(service, active.generation(), frame.ifindex());
    send(frame, packet, &flow.leaves, &departure(backend), Verdict::NatNew)
}

/// Whom a new connection to this service goes to: itself, or a member of its group at random. Of
/// members that went down a moment ago a few are passed over; the daemon takes them out.
#[inline(always)]
fn choose<T: Tables>(tables: &T, service: u32) -> u32 {
    let active = tables.active(service);
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
        if tables.active(member).state() == ServiceState::Up {
            break;
        }
        tries += 1;
    }
    chosen
}

/// Takes a source port towards `backend` by adding the backend's half of the connection, `flow`,
/// to the half-open table. Returns its key: the tuple that replies will arrive with.
///
/// The client's own port is kept if it is in the range and free; else ports are tried from a
/// random one on. If none of the tries is free, the last that only a half-open connection holds
/// is taken from it: a flood may not lock clients out.
#[inline(always)]
fn claim_port<T: Tables>(tables: &T, backend: &Backend, flow: &Flow, now: u64) -> Option<FlowKey> {
    let (first, last) = (u32::from(backend.first_port), u32::from(backend.last_port));
    let span = last.wrapping_sub(first).wrapping_add(1);
    if span == 0 || last < first {
        return None;
    }
    let source = vipd_common::addr::unmapped(backend.source);
    let client_port = u32::from(u16::from_be_bytes(flow.leaves.dst_port));
    let client_port_fits = client_port >= first && client_port <= last;
    let start = tables.random();
    let mut key = FlowKey {
        src: vipd_common::addr::unmapped(backend.addr),
        dst: source,
        src_port: backend.port,
        dst_port: [0; 2],
    };
    let mut stealable = None;
    let mut tries = 0;
    while tries < PORT_TRIES {
        let port = if tries == 0 && client_port_fits {
            client_port
        } else {
            first + start.wrapping_add(tries.wrapping_mul(7919)) % span
        };
        tries += 1;
        key.dst_port = (port as u16).to_be_bytes();
        match taken(tables, &key, now) {
            Taken::Established => continue,
            Taken::HalfOpen => stealable = Some(key.dst_port),
            Taken::No => {
                if tables.add_flow(FlowTable::HalfOpen, &key, flow) {
                    return Some(key);
                }
            }
        }
    }
    key.dst_port = stealable?;
    // With its client's half, or that client would go on sending into this connection.
    if let Some(robbed) = tables.flow(FlowTable::HalfOpen, &key) {
        forget(tables, FlowTable::HalfOpen, &key, &robbed);
    }
    tables.add_flow(FlowTable::HalfOpen, &key, flow).then_some(key)
}

/// Who holds a tuple towards a backend.
enum Taken {
    No,
    HalfOpen,
    Established,
}

#[inline(always)]
fn taken<T: Tables>(tables: &T, reply: &FlowKey, now: u64) -> Taken {
    // A port of the VIP that is itself a service is not a source port.
    if tables.service(&ServiceKey::new(reply.dst, reply.dst_port)).is_some() {
        return Taken::Established;
    }
    if let Some(flow) = tables.flow(FlowTable::Established, reply) {
        if !flow.is_expired(true, now) {
            return Taken::Established;
        }
        forget(tables, FlowTable::Established, reply, &flow);
    }
    match tables.flow(FlowTable::HalfOpen, reply) {
        Some(flow) if !flow.is_expired(false, now) => Taken::HalfOpen,
        Some(flow) => {
            forget(tables, FlowTable::HalfOpen, reply, &flow);
            Taken::No
        }
        None => Taken::No,
    }
}

/// Whether a SYN on this flow's tuple begins another connection: the old one was reset, closed by
/// both sides or forgotten. (RFC 9293 lets a SYN end TIME-WAIT.)
#[inline(always)]
fn is_over(flow: &Flow, table: FlowTable, now: u64) -> bool {
    let both = Flow::FIN | Flow::PEER_FIN;
    flow.state & Flow::RESET != 0
        || flow.state & both == both
        || flow.is_expired(table == FlowTable::Established, now)
}

/// Whether a table that was full dropped the backend's half of a connection and left the
/// client's: no answer would ever reach the client.
#[inline(always)]
fn is_torn<T: Tables>(tables: &T, table: FlowTable, key: &FlowKey, flow: &Flow, now: u64) -> bool {
    flow.direction == Flow::FROM_CLIENT
        && now.saturating_sub(flow.last_seen) > QUIET_NS
        && peer(tables, table, key, &flow.leaves.reversed()).is_none()
}

/// Removes both halves of a connection from the table they stand in. `flow` is the half with this
/// `key`.
#[inline(always)]
fn forget<T: Tables>(tables: &T, table: FlowTable, key: &FlowKey, flow: &Flow) {
    let other = flow.leaves.reversed();
    if peer(tables, table, key, &other).is_some() {
        tables.remove_flow(table, &other);
    }
    tables.remove_flow(table, key);
}

/// The half of a connection whose key is `other`, seen from the half whose key is `key`. Tables
/// that are full drop one half and not the other; its tuple may belong to somebody else by now.
#[inline(always)]
fn peer<'a, T: Tables>(
    tables: &'a T,
    table: FlowTable,
    key: &FlowKey,
    other: &FlowKey,
) -> Option<T::FlowRef<'a>> {
    tables.flow(table, other).filter(|peer| peer.leaves.is_reverse_of(key))
}

#[inline(always)]
fn to_backend<T: Tables>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs,
    segment: &Segment,
    (table, mut flow): (FlowTable, T::FlowRef<'_>),
    active: Active,
    now: u64,
) -> Verdict {
    let Some(backend) = tables.backend(active.slot()) else { return Verdict::NoBackend };
    let leaves = flow.leaves;
    let other = leaves.reversed();
    // The client may have moved behind another router or interface, or ours may have got another
    // index or address; its backend's half sends replies there.
    if !comes_by(&flow, packet, frame.ifindex()) {
        move_client(&mut flow, packet, frame.ifindex());
        if let Some(mut peer) = peer(tables, table, &segment.key, &other) {
            move_client(&mut peer, packet, frame.ifindex());
        }
    }
    let completes = table == FlowTable::HalfOpen
        && flow.state & Flow::ANSWERED != 0
        && !segment.is_syn()
        && segment.has(tcp::ACK)
        && segment.ack == flow.last_ack;
    note(tables, table, &mut flow, segment, &other, now);
    if completes {
        establish(tables, &segment.key, flow);
    }
    send(frame, packet, &leaves, &departure(backend), Verdict::NatToBackend)
}

/// Whether the client is where the flow says.
#[inline(always)]
fn comes_by(flow: &Flow, packet: &ForUs, ifindex: u32) -> bool {
    flow.client_mac == packet.arrival.src
        && flow.client_gateway == packet.arrival.dst
        && flow.client_vlan == packet.arrival.vlan
        && flow.client_ifindex == ifindex
}

#[inline(always)]
fn move_client(flow: &mut Flow, packet: &ForUs, ifindex: u32) {
    flow.client_mac = packet.arrival.src;
    flow.client_gateway = packet.arrival.dst;
    flow.client_vlan = packet.arrival.vlan;
    flow.client_ifindex = ifindex;
}

#[inline(always)]
fn to_client<T: Tables>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs,
    segment: &Segment,
    (table, mut flow): (FlowTable, T::FlowRef<'_>),
    now: u64,
) -> Verdict {
    let leaves = flow.leaves;
    let to = client_departure(&flow);
    let other = leaves.reversed();
    if table == FlowTable::HalfOpen && segment.is_syn_ack() {
        flow.last_seen = now;
        flow.next_seq = segment.next_seq;
        let expected = flow.next_seq;
        drop(flow);
        if let Some(mut client) = peer(tables, table, &segment.key, &other) {
            client.last_ack = expected;
            client.state |= Flow::ANSWERED;
        }
    } else {
        note(tables, table, &mut flow, segment, &other, now);
    }
    send(frame, packet, &leaves, &to, Verdict::NatToClient)
}

/// Remembers what this segment says about its direction, and tells the other half of a FIN or RST.
#[inline(always)]
fn note<T: Tables>(
    tables: &T,
    table: FlowTable,
    flow: &mut T::FlowRef<'_>,
    segment: &Segment,
    other: &FlowKey,
    now: u64,
) {
    flow.last_seen = now;
    flow.next_seq = segment.next_seq;
    if table == FlowTable::Established && segment.has(tcp::ACK) {
        flow.last_ack = segment.ack;
    }
    if segment.has(tcp::FIN | tcp::RST) {
        let (mine, theirs) = if segment.has(tcp::RST) {
            (Flow::RESET, Flow::RESET)
        } else {
            (Flow::FIN, Flow::PEER_FIN)
        };
        flow.state |= mine;
        if let Some(mut peer) = peer(tables, table, &segment.key, other) {
            peer.state |= theirs;
        }
    }
}

/// Moves both halves of a connection to the established table. They are added there before they
/// leave the other, so that [`find`] always sees them in one.
#[inline(always)]
fn establish<T: Tables>(tables: &T, key: &FlowKey, flow: T::FlowRef<'_>) {
    let other = flow.leaves.reversed();
    let Some(peer) = peer(tables, FlowTable::HalfOpen, key, &other) else { return };
    // Where the kernel refuses an entry the connection goes on half-open, and the next segment
    // tries again.
    if !tables.put_flow(FlowTable::Established, &other, &peer) {
        return;
    }
    if !tables.put_flow(FlowTable::Established, key, &flow) {
        tables.remove_flow(FlowTable::Established, &other);
        return;
    }
    drop((flow, peer));
    tables.remove_flow(FlowTable::HalfOpen, key);
    tables.remove_flow(FlowTable::HalfOpen, &other);
}

#[inline(always)]
fn send(
    frame: &mut impl Frame,
    packet: &ForUs,
    leaves: &FlowKey,
    to: &Departure,
    verdict: Verdict,
) -> Verdict {
    if let Some(headers) = frame.at::<Ipv4Tcp>(packet.arrival.l3()) {
        translate(headers, leaves);
    }
    match link::depart(frame, &packet.arrival, to) {
        Ok(()) => verdict,
        Err(_) => Verdict::ResizeFailed,
    }
}
