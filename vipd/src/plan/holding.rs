//! Which VIPs are addresses of this host: in mode `host` while its Redis is the master, in mode
//! `real` always.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vipd_common::maps::Address;

use super::{Actual, Line, Topology, Wanted};
use crate::config::Mode;
use crate::host_address::LOOPBACK;
use crate::netdev::{HostAddress, contains};

/// The addresses of this host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnAddresses {
    /// Every address with its interface and prefix length.
    pub addresses: Vec<HostAddress>,
    /// The interfaces that vipd serves, in the order of the configuration.
    pub interfaces: Vec<u32>,
}

impl OwnAddresses {
    /// Whether this host has the address.
    pub fn contains(&self, addr: &IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == *addr)
    }

    /// The interface that a VIP belongs on: the first in whose subnet it lies, or else the first.
    fn interface_for(&self, vip: IpAddr) -> Option<u32> {
        let in_subnet = |ifindex: &&u32| {
            let on = self.addresses.iter().filter(|own| own.ifindex == **ifindex);
            on.filter(|own| own.address != vip).any(|own| contains(own.address, own.prefix, vip))
        };
        self.interfaces.iter().find(in_subnet).or(self.interfaces.first()).copied()
    }
}

/// The VIPs that this host must have, with the interface for each.
pub(super) fn wanted(
    lines: &[Line<'_>],
    topology: &Topology,
    wanted: &Wanted<'_>,
) -> BTreeMap<IpAddr, u32> {
    let owned: BTreeSet<IpAddr> = lines
        .iter()
        .filter(|line| line.place.route.vip.mode == Mode::Host && line.may_announce(wanted))
        .map(|line| line.place.route.vip.addr)
        .collect();
    let interface = |vip: &super::Vip| match vip.mode {
        Mode::Real => Some(LOOPBACK),
        // From an address on Ethernet the kernel also sends its neighbour solicitations, and whoever
        // hears one believes that the address is here, whatever the lease says. (For IPv4,
        // arp_announce prevents that; IPv6 has nothing like it.)
        Mode::Host if owned.contains(&vip.addr) && vip.addr.is_ipv6() => Some(LOOPBACK),
        Mode::Host if owned.contains(&vip.addr) => wanted.own.interface_for(vip.addr),
        Mode::Host | Mode::Nat | Mode::Dsr => None,
    };
    topology.vips.iter().filter_map(|vip| Some((vip.addr, interface(vip)?))).collect()
}

/// Those of them that it has not.
pub(super) fn missing(held: &BTreeMap<IpAddr, u32>, own: &OwnAddresses) -> Vec<HostAddress> {
    let is_held = |addr: &IpAddr, ifindex: u32| {
        own.addresses.iter().any(|own| own.address == *addr && is_in_place(own, ifindex))
    };
    let missing = held.iter().filter(|(addr, ifindex)| !is_held(addr, **ifindex));
    missing.map(|(&address, &ifindex)| HostAddress::alone(address, ifindex)).collect()
}

/// VIPs that it has and must not. While no master is known they are left as they are: somebody may
/// have bound them by hand, and rightly.
pub(super) fn surplus(
    held: &BTreeMap<IpAddr, u32>,
    lines: &[Line<'_>],
    topology: &Topology,
    own: &OwnAddresses,
    actual: &Actual,
) -> Vec<HostAddress> {
    let undecided = |addr: &IpAddr| {
        let mut of_vip = lines.iter().filter(|line| line.place.route.vip.addr == *addr);
        of_vip.any(|line| line.place.target.is_none())
    };
    let is_ours = |addr: &IpAddr| {
        let configured = topology.vips.iter().find(|vip| vip.addr == *addr);
        // Or of a configuration before this one.
        configured.is_some_and(|vip| vip.mode.holds_the_address())
            || actual
                .addresses
                .get(addr)
                .is_some_and(|address| address.has(Address::HOST | Address::REAL))
    };
    own.addresses
        .iter()
        .filter(|it| match held.get(&it.address) {
            Some(ifindex) => !is_in_place(it, *ifindex),
            None => is_ours(&it.address) && !undecided(&it.address),
        })
        .copied()
        .collect()
}

/// Whoever bound an IPv4 VIP by hand may have chosen another interface; an IPv6 VIP must be where it
/// is silent.
fn is_in_place(own: &HostAddress, ifindex: u32) -> bool {
    own.address.is_ipv4() || own.ifindex == ifindex
}
