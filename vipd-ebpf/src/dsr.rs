//! Direct server return: only the link-layer addresses are rewritten. The backend holds the VIP
//! itself (and doesn't answer ARP for it), so its replies go straight to the client.
//!
//! Nothing is remembered. After a cutover the packets of an old connection reach the new master,
//! whose own TCP resets them. The TTL stays: this is a bridge's work, not a router's.

use vipd_common::maps::{Backend, ServiceState};
use vipd_common::verdict::Verdict;

use crate::frame::Frame;
use crate::link::{self, Arrival, Departure};
use crate::tables::Tables;

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
