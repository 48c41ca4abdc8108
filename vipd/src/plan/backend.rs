//! How one service reaches one Redis node: the content of a slot.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use vipd_common::addr::mapped;
use vipd_common::maps::{Backend, ForwardMode};

use super::{Service, Topology, Unreachable, Vip, Wanted};
use crate::config::{Mode, PortRange, Source};
use crate::model::NextHop;

/// First source port where the source is the VIP itself: no socket of this host uses that address,
/// so only the well-known ports are left alone.
const FIRST_VIP_PORT: u16 = 1024;

/// One service on its VIP, and all that decides how it reaches a node.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) topology: &'a Topology,
    pub(super) wanted: &'a Wanted<'a>,
    pub(super) vip: &'a Vip,
    pub(super) service: &'a Service,
}

impl Route<'_> {
    /// The slot's content for `node`.
    pub(super) fn to(&self, node: SocketAddr) -> Result<Backend, Unreachable> {
        let SocketAddr::V4(v4) = node else { return Err(Unreachable::Ipv6) };
        let (addr, port) = self.identity(node);
        let hop = self.wanted.next_hops.get(v4.ip()).ok_or(Unreachable::NextHopUnknown)?;
        if !self.wanted.interfaces.contains_key(&hop.ifindex) {
            return Err(Unreachable::NotAttached { ifindex: hop.ifindex });
        }
        let (mode, source, ports) = match self.vip.mode {
            Mode::Nat => {
                let source = self.source(hop);
                (ForwardMode::Nat, mapped(source.octets()), self.ports(source))
            }
            Mode::Dsr => {
                if let Some(router) = hop.router {
                    return Err(Unreachable::DsrThroughRouter { router });
                }
                if node.port() != self.service.port {
                    return Err(Unreachable::DsrPort { listens: node.port() });
                }
                (ForwardMode::Dsr, [0; 16], PortRange { first: 0, last: 0 })
            }
        };
        Ok(Backend {
            addr,
            source,
            port,
            next_hop: hop.mac,
            own_mac: hop.own_mac,
            vlan: hop.vlan,
            first_port: ports.first,
            last_port: ports.last,
            ifindex: hop.ifindex,
            mode: mode as u32,
        })
    }

    /// What makes it another master: the address and port packets are sent to, in the form of
    /// [`Backend`].
    pub(super) fn identity(&self, node: SocketAddr) -> ([u8; 16], [u8; 2]) {
        let addr = match node {
            SocketAddr::V4(node) => mapped(node.ip().octets()),
            SocketAddr::V6(node) => node.ip().octets(),
        };
        let port = match self.vip.mode {
            Mode::Nat => self.service.backend_port.unwrap_or(node.port()),
            Mode::Dsr => node.port(),
        };
        (addr, port.to_be_bytes())
    }

    /// The VIP where it lies on the link towards the node: nothing else on this host uses it.
    /// Elsewhere nobody would send the replies here, so the host's own address must do.
    fn source(&self, hop: &NextHop) -> Ipv4Addr {
        match self.vip.source {
            Source::Address(addr) => addr,
            Source::Auto => {
                let on_link = hop.on_link.iter().any(|&prefix| contains(prefix, self.vip.addr));
                match hop.source {
                    IpAddr::V4(source) if !on_link => source,
                    _ => self.vip.addr,
                }
            }
        }
    }

    fn ports(&self, source: Ipv4Addr) -> PortRange {
        if source == self.vip.addr {
            PortRange { first: FIRST_VIP_PORT, last: u16::MAX }
        } else {
            self.topology.source_ports
        }
    }
}

fn contains((network, length): (IpAddr, u8), addr: Ipv4Addr) -> bool {
    let IpAddr::V4(network) = network else { return false };
    let host_bits = 32_u32.saturating_sub(u32::from(length));
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    (network.to_bits() ^ addr.to_bits()) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_its_addresses() {
        let addr = Ipv4Addr::new(198, 18, 0, 250);
        assert!(contains((Ipv4Addr::new(198, 18, 0, 50).into(), 24), addr));
        assert!(!contains((Ipv4Addr::new(198, 18, 1, 50).into(), 24), addr));
        assert!(contains((addr.into(), 32), addr));
        assert!(!contains((Ipv4Addr::new(198, 18, 0, 251).into(), 32), addr));
        assert!(contains((Ipv4Addr::UNSPECIFIED.into(), 0), addr));
    }
}
