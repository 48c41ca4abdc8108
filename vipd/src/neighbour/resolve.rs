//! From a node's address to its next hop: route, neighbour entry, interface.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use tracing::debug;
use vipd_common::addr::MacAddr;

use super::monitor::key;
use super::{Network, Unreachable};
use crate::model::NextHop;
use crate::netdev::netlink::Netlink;
use crate::netdev::{HostAddress, Link, bits, family, is_link_local, read_addresses, read_links};

/// Reads the kernel's tables, and remembers the last link-layer address of each next hop.
pub(super) struct Resolver {
    netlink: Netlink,
    /// By (interface index, address), for the next hops in use.
    known: HashMap<(u32, IpAddr), MacAddr>,
    relevant: BTreeSet<(u32, IpAddr)>,
    /// Those that have failed and not answered since.
    silent: BTreeSet<(u32, IpAddr)>,
}

/// Where the routing table sends a node's packets.
struct Route {
    ifindex: u32,
    router: Option<IpAddr>,
    source: Option<IpAddr>,
}

/// A neighbour entry.
struct Entry {
    mac: Option<MacAddr>,
    state: NeighbourState,
}

/// What one reading has in hand.
struct Tables {
    links: BTreeMap<u32, Link>,
    addresses: Vec<HostAddress>,
    neighbours: HashMap<(u32, IpAddr), Entry>,
}

impl Resolver {
    /// Opens its netlink socket, in the caller's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::route()?,
            known: HashMap::new(),
            relevant: BTreeSet::new(),
            silent: BTreeSet::new(),
        })
    }

    /// The neighbours that the last reading's answers depend on.
    pub(super) fn relevant(&self) -> BTreeSet<(u32, IpAddr)> {
        self.relevant.clone()
    }

    /// Computes everything anew. With `confirm`, entries that are not known to be good are
    /// resolved by the kernel in the background; a missing one is in any case.
    pub(super) fn read(&mut self, nodes: &BTreeSet<IpAddr>, confirm: bool) -> io::Result<Network> {
        let links = read_links(&mut self.netlink)?;
        let tables = Tables {
            links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
            addresses: read_addresses(&mut self.netlink)?,
            neighbours: if nodes.is_empty() { HashMap::new() } else { self.read_neighbours()? },
        };
        self.relevant.clear();
        let mut network = Network::default();
        for node in nodes {
            let hop = self.resolve(*node, &tables, confirm);
            if let Ok((_, true)) = hop {
                network.silent.insert(*node);
            }
            network.next_hops.insert(*node, hop.map(|(next_hop, _)| next_hop));
        }
        self.known.retain(|hop, _| self.relevant.contains(hop));
        self.silent.retain(|hop| self.relevant.contains(hop));
        network.links = tables.links;
        network.addresses = tables.addresses;
        Ok(network)
    }

    /// The next hop, and whether it has stopped answering.
    fn resolve(
        &mut self,
        node: IpAddr,
        tables: &Tables,
        confirm: bool,
    ) -> Result<(NextHop, bool), Unreachable> {
        if is_link_local(node) {
            return Err(Unreachable::LinkLocal);
        }
        let route = self.route(node)?;
        let link = tables.links.get(&route.ifindex).ok_or(Unreachable::NoRoute)?;
        if !link.running {
            return Err(Unreachable::LinkDown(link.name.clone()));
        }
        let (port, vlan) = port_of(link, &tables.links)?;
        let own_mac = port.mac.ok_or_else(|| Unreachable::NotEthernet(link.name.clone()))?;

        let hop = (route.ifindex, route.router.unwrap_or(node));
        self.relevant.insert(hop);
        let entry = tables.neighbours.get(&hop);
        if needs_resolution(entry, confirm)
            && let Err(error) = self.ask_kernel_to_resolve(hop)
        {
            debug!(next_hop = %hop.1, interface = link.name, %error, "cannot start resolution");
        }
        let silent = match entry.map(|entry| entry.state) {
            Some(NeighbourState::Failed) => {
                self.silent.insert(hop);
                true
            }
            // Being asked for again, or about to be, is no answer.
            None | Some(NeighbourState::Incomplete | NeighbourState::None) => {
                self.silent.contains(&hop)
            }
            Some(_) => {
                self.silent.remove(&hop);
                false
            }
        };
        let mac = match entry.and_then(usable_mac) {
            Some(mac) => {
                self.known.insert(hop, mac);
                mac
            }
            None => *self.known.get(&hop).ok_or_else(|| Unreachable::Unresolved {
                next_hop: hop.1,
                interface: link.name.clone(),
            })?,
        };
        let on_link: Vec<_> = tables
            .addresses
            .iter()
            .filter(|host| host.ifindex == route.ifindex)
            .filter(|host| host.address.is_ipv4() == node.is_ipv4())
            .filter(|host| host.prefix < bits(host.address) && !is_link_local(host.address))
            .map(|host| (network_of(host.address, host.prefix), host.prefix))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let next_hop = NextHop {
            ifindex: port.ifindex,
            own_mac,
            mac,
            vlan,
            router: route.router,
            source: route.source.ok_or(Unreachable::NoRoute)?,
            on_link,
        };
        Ok((next_hop, silent))
    }

    /// `ip route get`.
    fn route(&mut self, node: IpAddr) -> Result<Route, Unreachable> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(node);
        request.header.destination_prefix_length = bits(node);
        request.attributes.push(RouteAttribute::Destination(node.into()));
        let answer = match self.netlink.get(RouteNetlinkMessage::GetRoute(request)) {
            Ok(RouteNetlinkMessage::NewRoute(answer)) => answer,
            Ok(_) => return Err(Unreachable::Kernel("unexpected answer".to_owned())),
            Err(error) => {
                return Err(match error.raw_os_error() {
                    // Also blackhole (EINVAL) and prohibit (EACCES) routes.
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES) => {
                        Unreachable::NoRoute
                    }
                    _ => Unreachable::Kernel(error.to_string()),
                });
            }
        };
        match answer.header.kind {
            RouteType::Unicast => {}
            RouteType::Local => return Err(Unreachable::Local),
            // IPv6 answers with such a route where IPv4 answers with an error.
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
                return Err(Unreachable::NoRoute);
            }
            kind => {
                return Err(Unreachable::UnsupportedRoute(format!("{kind:?}").to_lowercase()));
            }
        }
        let mut route = Route { ifindex: 0, router: None, source: None };
        for attribute in answer.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => route.ifindex = ifindex,
                // An IPv4 route may go by a router that is known by its IPv6 address (RFC 5549).
                RouteAttribute::Gateway(RouteAddress::Inet(router))
                | RouteAttribute::Via(RouteVia::Inet(router)) => route.router = Some(router.into()),
                RouteAttribute::Gateway(RouteAddress::Inet6(router))
                | RouteAttribute::Via(RouteVia::Inet6(router)) => {
                    route.router = Some(router.into());
                }
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                    return Err(Unreachable::UnsupportedRoute("by no router in IP".to_owned()));
                }
                RouteAttribute::Encap(_) => {
                    return Err(Unreachable::UnsupportedRoute("encapsulated".to_owned()));
                }
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => {
                    route.source = Some(source.into());
                }
                RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => {
                    route.source = Some(source.into());
                }
                _ => {}
            }
        }
        Ok(route)
    }

    fn read_neighbours(&mut self) -> io::Result<HashMap<(u32, IpAddr), Entry>> {
        // No family: ARP's and NDP's entries in one dump.
        let request = NeighbourMessage::default();
        let answers = self.netlink.dump(RouteNetlinkMessage::GetNeighbour(request))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => {
                    let state = message.header.state;
                    Some((key(&message), Entry { mac: mac_of(&message), state }))
                }
                _ => None,
            })
            .collect())
    }

    /// As if a packet had been sent to it: the kernel resolves a missing entry and confirms a
    /// stale one (`NTF_USE`, linux/neighbour.h).
    fn ask_kernel_to_resolve(&mut self, (ifindex, address): (u32, IpAddr)) -> io::Result<()> {
        let mut request = NeighbourMessage::default();
        request.header.family = family(address);
        request.header.ifindex = ifindex;
        request.header.flags = NeighbourFlags::Use;
        request.attributes.push(NeighbourAttribute::Destination(address.into()));
        self.netlink.set(RouteNetlinkMessage::NewNeighbour(request), NLM_F_CREATE | NLM_F_REPLACE)
    }
}

/// The interface that sees the frames, and their VLAN id: for an 802.1Q device its parent.
fn port_of<'a>(
    link: &'a Link,
    links: &'a BTreeMap<u32, Link>,
) -> Result<(&'a Link, u16), Unreachable> {
    let Some((parent, id)) = link.vlan else { return Ok((link, 0)) };
    match links.get(&parent) {
        Some(parent) if parent.vlan.is_none() => Ok((parent, id)),
        // Two tags, or a parent in another network namespace.
        _ => Err(Unreachable::NotEthernet(link.name.clone())),
    }
}

/// Never for a static entry: `NTF_USE` would clear its NUD_PERMANENT.
fn needs_resolution(entry: Option<&Entry>, confirm: bool) -> bool {
    match entry.map(|entry| entry.state) {
        None => true,
        Some(NeighbourState::None | NeighbourState::Failed | NeighbourState::Stale) => confirm,
        Some(_) => false,
    }
}

/// An address that the kernel itself would send to now (NUD_VALID).
fn usable_mac(entry: &Entry) -> Option<MacAddr> {
    match entry.state {
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent
        | NeighbourState::Noarp => entry.mac.filter(|mac| *mac != MacAddr::ZERO),
        _ => None,
    }
}

fn mac_of(message: &NeighbourMessage) -> Option<MacAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr)
        }
        _ => None,
    })
}

/// The first address of a prefix.
fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    let host_bits = u32::from(bits(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: NeighbourState) -> Entry {
        Entry { mac: Some(MacAddr([2, 0, 0, 0, 0, 1])), state }
    }

    #[test]
    fn a_prefix_starts_at_its_network_address() {
        for (address, prefix, network) in [
            ("198.19.171.5", 24, "198.19.171.0"),
            ("198.19.171.5", 15, "198.18.0.0"),
            ("198.19.171.5", 32, "198.19.171.5"),
            ("198.19.171.5", 0, "0.0.0.0"),
            ("fd98:18::1:5", 64, "fd98:18::"),
            ("fd98:18::1:5", 127, "fd98:18::1:4"),
            ("fd98:18::1:5", 128, "fd98:18::1:5"),
            ("fd98:18::1:5", 0, "::"),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect(text);
            assert_eq!(network_of(parse(address), prefix), parse(network), "{address}/{prefix}");
        }
    }

    #[test]
    fn a_vlan_device_is_its_parent_and_one_tag_and_two_tags_are_refused() {
        let link = |ifindex, vlan| Link {
            ifindex,
            name: format!("if{ifindex}"),
            mac: Some(MacAddr([2, 0, 0, 0, 0, ifindex as u8])),
            mtu: 1_500,
            admin_up: true,
            running: true,
            carrier_changes: 1,
            oper_state: "up",
            vlan,
            xdp: None,
        };
        let links: BTreeMap<_, _> =
            [link(1, None), link(2, Some((1, 7))), link(3, Some((2, 8))), link(4, Some((99, 9)))]
                .into_iter()
                .map(|link| (link.ifindex, link))
                .collect();
        assert_eq!(port_of(&links[&1], &links), Ok((&links[&1], 0)));
        assert_eq!(port_of(&links[&2], &links), Ok((&links[&1], 7)));
        for inner in [3, 4] {
            let refused = Err(Unreachable::NotEthernet(format!("if{inner}")));
            assert_eq!(port_of(&links[&inner], &links), refused);
        }
    }

    #[test]
    fn a_static_entry_is_used_and_never_resolved_again() {
        for state in [NeighbourState::Permanent, NeighbourState::Noarp] {
            assert!(usable_mac(&entry(state)).is_some());
            assert!(!needs_resolution(Some(&entry(state)), true));
        }
    }

    #[test]
    fn a_failed_or_incomplete_entry_has_no_usable_address() {
        for state in [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::None] {
            assert_eq!(usable_mac(&entry(state)), None);
        }
        assert!(needs_resolution(None, false));
        assert!(needs_resolution(Some(&entry(NeighbourState::Stale)), true));
        assert!(!needs_resolution(Some(&entry(NeighbourState::Stale)), false));
    }
}
