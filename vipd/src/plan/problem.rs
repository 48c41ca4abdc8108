//! Why the maps can't be as they should.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use vipd_common::maps::{Group, MAX_GROUPS, MAX_LINES, MAX_SERVICES, MAX_SLOTS};

/// Something that [`super::diff`] can't put into the maps. It comes with every diff until it is
/// solved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Problem {
    /// No packet can be sent to a node for a service.
    Unreachable {
        /// VIP and port.
        service: SocketAddr,
        /// The Redis node.
        node: SocketAddr,
        /// Whether it is the master. If not, only a failover to it would suffer.
        master: bool,
        /// Why.
        why: Unreachable,
    },
    /// The services table is full.
    NoIndex {
        /// VIP and port.
        service: SocketAddr,
    },
    /// The table of backends is full.
    NoSlot {
        /// VIP and port.
        service: SocketAddr,
        /// The Redis node.
        node: SocketAddr,
    },
    /// No line is left for a replica of a read-only service.
    NoLine {
        /// VIP and port.
        service: SocketAddr,
        /// The Redis node.
        node: SocketAddr,
    },
    /// The table of groups is full.
    NoGroup {
        /// VIP and port.
        service: SocketAddr,
    },
    /// More replicas than a group holds.
    GroupFull {
        /// VIP and port.
        service: SocketAddr,
    },
}

/// Why no packet can be sent to a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unreachable {
    /// `nat`, and its address is of the other family.
    OtherFamily,
    /// No route, or no answer to ARP.
    NextHopUnknown,
    /// The way there is by an interface that the program is not attached to.
    NotAttached {
        /// That interface's index.
        ifindex: u32,
    },
    /// `dsr` or `host`, but the node isn't on the link: a router would not know the VIP.
    ThroughRouter {
        /// The router.
        router: IpAddr,
    },
    /// `dsr` or `host`, which leave ports as they are, but the node listens on another one.
    Port {
        /// The node's port.
        listens: u16,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { service, node, master, why } => {
                let what = if *master { "the master" } else { "the replica" };
                write!(f, "{service} can't reach {what} {node}: {why}")
            }
            Self::NoIndex { service } => write!(
                f,
                "{service} has no place: at most {MAX_SERVICES} services; remove some, or run a \
                 second vipd on other interfaces"
            ),
            Self::NoSlot { service, node } => write!(
                f,
                "{service} has no place for {node}: at most {MAX_SLOTS} pairs of service and node; \
                 remove services, or run a second vipd on other interfaces"
            ),
            Self::NoLine { service, node } => write!(
                f,
                "{service} has no place for the replica {node}: at most {} pairs of read-only \
                 service and node; remove services, or run a second vipd on other interfaces",
                MAX_LINES - MAX_SERVICES
            ),
            Self::NoGroup { service } => write!(
                f,
                "{service} has no place: at most {MAX_GROUPS} services with role = \"replica\"; \
                 remove some, or run a second vipd on other interfaces"
            ),
            Self::GroupFull { service } => write!(
                f,
                "{service} has more than {} healthy replicas: the others get no connections",
                Group::MAX
            ),
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherFamily => f.write_str(
                "its address is of the other family than the VIP's; name both of its addresses in \
                 `[redis] same_host`, or let it announce the other one (replica-announce-ip)",
            ),
            Self::NextHopUnknown => f.write_str(
                "no route to it, or nobody answers for its address; see `ip route get` and \
                 `ip neigh`",
            ),
            Self::NotAttached { ifindex } => write!(
                f,
                "the route leads to interface index {ifindex}, which vipd is not attached to; add \
                 it to `interfaces`"
            ),
            Self::ThroughRouter { router } => write!(
                f,
                "it is behind the router {router}, and this VIP's mode needs it on the same link; \
                 use mode \"nat\""
            ),
            Self::Port { listens } => write!(
                f,
                "it listens on port {listens}, and this VIP's mode can't translate ports; use the \
                 same port on the VIP, or mode \"nat\""
            ),
        }
    }
}
