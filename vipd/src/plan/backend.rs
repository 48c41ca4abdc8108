//! How one service reaches one Redis node: the content of a slot.

use std::net::{IpAddr, SocketAddr};

use vipd_common::maps::{Backend, ForwardMode};

use super::{Service, Topology, Unreachable, Vip, Wanted};
use crate::config::{Mode, PortRange, Source};
use crate::model::{NextHop, mapped_ip};
use crate::netdev;

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
        match self.vip.mode {
            Mode::Nat => self.nat(node),
            Mode::Dsr => self.on_link(node, ForwardMode::Dsr),
            Mode::Host if self.wanted.own.contains(&node.ip()) => self.local(node),
            Mode::Host => self.on_link(node, ForwardMode::Stray),
            Mode::Real => Err(Unreachable::NextHopUnknown),
        }
    }

    /// How its packets are forwarded, whatever the way there.
    pub(super) fn mode_to(&self, node: SocketAddr) -> ForwardMode {
        match self.vip.mode {
            Mode::Nat => ForwardMode::Nat,
            Mode::Dsr => ForwardMode::Dsr,
            Mode::Host if self.wanted.own.contains(&node.ip()) => ForwardMode::Local,
            Mode::Host | Mode::Real => ForwardMode::Stray,
        }
    }

    /// Whether a slot's content is one of this VIP's mode: under another configuration it may have
    /// had another.
    pub(super) fn may_be(&self, backend: &Backend) -> bool {
        let modes: &[ForwardMode] = match self.vip.mode {
            Mode::Nat => &[ForwardMode::Nat],
            Mode::Dsr => &[ForwardMode::Dsr],
            Mode::Host => &[ForwardMode::Local, ForwardMode::Stray],
            Mode::Real => &[],
        };
        modes.iter().any(|mode| *mode as u32 == backend.mode)
    }

    /// What makes it another master: the address and port packets are sent to, in the form of
    /// [`Backend`].
    pub(super) fn identity(&self, node: SocketAddr) -> ([u8; 16], [u8; 2]) {
        let (ip, port) = match self.vip.mode {
            Mode::Nat => {
                let ip = self.topology.in_family_of(self.vip.addr, node.ip());
                (ip.unwrap_or(node.ip()), self.service.backend_port.unwrap_or(node.port()))
            }
            Mode::Dsr | Mode::Host | Mode::Real => (node.ip(), node.port()),
        };
        (mapped_ip(ip), port.to_be_bytes())
    }

    fn nat(&self, node: SocketAddr) -> Result<Backend, Unreachable> {
        let ip = self.topology.in_family_of(self.vip.addr, node.ip());
        let hop = self.hop(ip.ok_or(Unreachable::OtherFamily)?)?;
        let source = self.source(hop);
        let ports = self.ports(source);
        let (first_port, last_port) = (ports.first, ports.last);
        let source = mapped_ip(source);
        let backend = self.by(hop, node, ForwardMode::Nat);
        Ok(Backend { source, first_port, last_port, ..backend })
    }

    /// Only link-layer addresses are rewritten, so the node's address may be of either family.
    fn on_link(&self, node: SocketAddr, mode: ForwardMode) -> Result<Backend, Unreachable> {
        let hop = self.hop(node.ip())?;
        if let Some(router) = hop.router {
            return Err(Unreachable::ThroughRouter { router });
        }
        self.same_port(node)?;
        Ok(self.by(hop, node, mode))
    }

    fn local(&self, node: SocketAddr) -> Result<Backend, Unreachable> {
        self.same_port(node)?;
        let (addr, port) = self.identity(node);
        Ok(Backend { addr, port, mode: ForwardMode::Local as u32, ..Backend::EMPTY })
    }

    fn same_port(&self, node: SocketAddr) -> Result<(), Unreachable> {
        if node.port() == self.service.port {
            Ok(())
        } else {
            Err(Unreachable::Port { listens: node.port() })
        }
    }

    fn hop(&self, ip: IpAddr) -> Result<&NextHop, Unreachable> {
        let hop = self.wanted.next_hops.get(&ip).ok_or(Unreachable::NextHopUnknown)?;
        if self.wanted.interfaces.contains_key(&hop.ifindex) {
            Ok(hop)
        } else {
            Err(Unreachable::NotAttached { ifindex: hop.ifindex })
        }
    }

    fn by(&self, hop: &NextHop, node: SocketAddr, mode: ForwardMode) -> Backend {
        let (addr, port) = self.identity(node);
        Backend {
            addr,
            port,
            next_hop: hop.mac,
            own_mac: hop.own_mac,
            vlan: hop.vlan,
            ifindex: hop.ifindex,
            mode: mode as u32,
            ..Backend::EMPTY
        }
    }

    /// The VIP where it lies on the link towards the node: nothing else on this host uses it.
    /// Elsewhere nobody would send the replies here, so the host's own address must do.
    fn source(&self, hop: &NextHop) -> IpAddr {
        match self.vip.source {
            Source::Address(addr) => addr,
            Source::Auto => {
                let on_link = hop
                    .on_link
                    .iter()
                    .any(|&(network, length)| netdev::contains(network, length, self.vip.addr));
                if on_link { self.vip.addr } else { hop.source }
            }
        }
    }

    fn ports(&self, source: IpAddr) -> PortRange {
        if source == self.vip.addr {
            PortRange { first: FIRST_VIP_PORT, last: u16::MAX }
        } else {
            self.topology.source_ports
        }
    }
}
