//! SYNs that nobody has answered yet.
//!
//! A SYN that is lost, because its service is between two masters or because the master has just
//! died, is repeated by its sender only after a second. So each is remembered with its frame until it
//! is answered, and after a cutover the daemon sends it again (`vipd_replay`), as if its client had.

use vipd_common::maps::{MAX_SYN, Pending, ServiceState};
use vipd_common::wire::Header as _;
use vipd_common::wire::ip::{Ip, IpHeader as _};

use crate::frame::Frame;
use crate::program::ForUs;
use crate::service::Segment;
use crate::tables::TablesOf;

/// Remembers a SYN that is about to be sent on, unless `service`, of a group the member chosen, is
/// down. One that is repeated keeps its age. Not inlined, for the kernel's stack.
#[inline(never)]
pub fn remember<A: Ip, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
    segment: &Segment<A>,
    service: u32,
) {
    let active = tables.standing(service);
    let held = match active.state() {
        ServiceState::Down | ServiceState::Group => return,
        ServiceState::Parked => Pending::HELD,
        ServiceState::Up => 0,
    };
    if let Some(mut known) = tables.pending(&segment.key)
        && known.seq == segment.seq
    {
        if held != 0 {
            known.state |= Pending::HELD;
        } else if known.service != service || known.is_waiting(active.generation()) {
            known.state = Pending::REPLAYED;
            known.service = service;
            known.generation = active.generation();
        }
        return;
    }
    let l3 = packet.arrival.l3();
    let Some(ip) = frame.at::<A::Header>(l3) else { return };
    let length = l3 + A::Header::LEN + ip.payload_len() as usize;
    let Some(mut draft) = tables.room() else { return };
    let pending = &mut draft.pending;
    if length > MAX_SYN || !frame.copy(&mut pending.frame, length) {
        return;
    }
    pending.at = tables.now();
    pending.service = service;
    pending.generation = active.generation();
    pending.ifindex = frame.ifindex();
    pending.seq = segment.seq;
    pending.len = length as u16;
    pending.state = held;
    pending.zero = [0; 4];
    tables.put_pending(&segment.key, pending);
}
