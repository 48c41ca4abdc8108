//! What VIPS must hold: each VIP with its mode and what it shows, and the addresses that NAT uses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vipd_common::maps::{Address, ForwardMode};

use super::group::Groups;
use super::{Actual, Line, SHOWN, Topology, Vip, Wanted, carries};
use crate::config::Mode;
use crate::model::unmapped_ip;

/// What VIPS must hold.
pub(super) fn addresses(
    lines: &[Line<'_>],
    groups: &Groups,
    topology: &Topology,
    wanted: &Wanted<'_>,
    actual: &Actual,
) -> BTreeMap<IpAddr, Address> {
    let mut addresses: BTreeMap<IpAddr, Address> =
        topology.vips.iter().map(|vip| (vip.addr, bare(vip, lines))).collect();
    for line in lines.iter().filter(|line| line.is_up()) {
        let address = addresses.entry(line.place.route.vip.addr).or_default();
        address.flags |= Address::ECHO;
        if line.may_announce(wanted) {
            address.flags |= Address::ANNOUNCE;
        }
    }
    let backends = lines.iter().flat_map(|line| line.backends(actual));
    for backend in backends.chain(groups.kept(actual)) {
        if backend.mode == ForwardMode::Nat as u32 {
            let source = Address::new(Address::SOURCE);
            addresses.entry(unmapped_ip(backend.source)).or_insert(source);
        }
    }
    addresses
}

/// A VIP that shows nothing.
fn bare(vip: &Vip, lines: &[Line<'_>]) -> Address {
    match vip.mode {
        Mode::Nat => Address::new(Address::NAT),
        Mode::Dsr => Address::new(Address::DSR),
        Mode::Real => Address::new(Address::REAL),
        // All of its services follow one master: any of them that works decides for the address. An
        // index is below MAX_LINES.
        Mode::Host => match deciding(vip, lines) {
            Some(line) => Address { flags: Address::HOST, service: line.place.index as u16 },
            // No index was left for it; an address that nothing decides for is nobody's.
            None => Address::new(Address::REAL),
        },
    }
}

fn deciding<'a, 'b>(vip: &Vip, lines: &'b [Line<'a>]) -> Option<&'b Line<'a>> {
    let of_vip = || lines.iter().filter(|line| line.place.route.vip.addr == vip.addr);
    of_vip().find(|line| carries(line.active)).or_else(|| of_vip().next())
}

/// What an address shows now and may go on to show meanwhile: nothing, if it changes its mode.
pub(super) fn kept(present: Option<&Address>, wanted: &Address) -> u16 {
    let Some(present) = present else { return 0 };
    let same_mode = (present.flags ^ wanted.flags) & Address::VIRTUAL == 0;
    if same_mode { present.flags & SHOWN } else { 0 }
}
