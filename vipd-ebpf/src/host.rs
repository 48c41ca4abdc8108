//! Mode `host`: the VIP is an address of the host that runs the master, and of no other.
//!
//! That host's own stack takes its packets. What reaches another one (a client or switch that still
//! believes in the old owner) is sent on to the owner as a router would, whatever it is.

use vipd_common::maps::{Active, Address, ForwardMode, ServiceState};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::{Ip, IpHeader as _};

use crate::dsr::departure;
use crate::frame::Frame;
use crate::link;
use crate::program::ForUs;
use crate::tables::Tables;

/// Handles any packet for such an address.
#[inline(always)]
pub fn handle<A: Ip>(frame: &mut impl Frame, tables: &impl Tables, packet: &ForUs<A>) -> Verdict {
    let service = u32::from(packet.address.service);
    let active = tables.standing(service);
    match active.state() {
        ServiceState::Up => {}
        ServiceState::Parked => return Verdict::ServiceParked,
        // An array's initial value: nobody has ever decided whose it is. Whoever bound it here by
        // hand, before vipd came, is served on.
        ServiceState::Down if active == Active::default() => return Verdict::HostUndecided,
        ServiceState::Down | ServiceState::Group => return Verdict::ServiceDown,
    }
    let Some(backend) = tables.backend(active.slot()) else { return Verdict::NoBackend };
    if backend.mode == ForwardMode::Local as u32 {
        tables.note_packet(service, active.generation(), frame.ifindex());
        return Verdict::HostLocal;
    }
    if backend.mode != ForwardMode::Stray as u32 {
        return Verdict::NoBackend;
    }
    if backend.next_hop == packet.arrival.src {
        return Verdict::HostLoop;
    }
    let l3 = packet.arrival.l3();
    let available = frame.length() - l3;
    let Some(ip) = frame.at::<A::Header>(l3) else { return Verdict::BadIpHeader };
    if !ip.is_sound(available) {
        return Verdict::BadIpHeader;
    }
    if ip.ttl() <= 1 {
        return Verdict::TtlExpired;
    }
    ip.decrement_ttl();
    match link::depart(frame, &packet.arrival, &departure(backend)) {
        Ok(()) => {}
        Err(_) => return Verdict::ResizeFailed,
    }
    tables.note_packet(service, active.generation(), frame.ifindex());
    Verdict::HostStray
}

/// Whether ARP and neighbour solicitations for a virtual address are answered now. In mode `host`
/// a daemon that died or froze must fall silent, for another host will have become the owner.
#[inline(always)]
pub fn is_announced(tables: &impl Tables, address: Address) -> bool {
    address.has(Address::ANNOUNCE) && (!address.has(Address::HOST) || tables.now() < tables.lease())
}

/// Whether somebody else's claim of an address is a rival's. In mode `host` the owner's is none
/// unless that is what we are, and a real server's VIP is its director's.
#[inline(always)]
pub fn is_contested(tables: &impl Tables, address: Address) -> bool {
    if address.has(Address::HOST) {
        return is_announced(tables, address);
    }
    address.has(Address::NAT | Address::DSR)
}
