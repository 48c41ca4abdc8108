//! The words that every part of the daemon shares.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;
use vipd_common::addr::{MacAddr, mapped};

/// A Sentinel master name, as an index into [`crate::config::Config::masters`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MasterId(pub usize);

/// One Sentinel. The configured ones are `0..config.sentinel.endpoints.len()`, in that order;
/// higher numbers were named by other Sentinels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SentinelId(pub usize);

/// Sentinel's config-epoch. A lower one never replaces a higher one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The 16 bytes in which the maps hold an address of either family: IPv4 as
/// [`vipd_common::addr::mapped`].
pub fn mapped_ip(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The reverse of [`mapped_ip`].
pub fn unmapped_ip(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// How a Redis node is reached on the link layer, as the routing and neighbour tables say now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The interface that sees the frames: for a VLAN device, its parent.
    pub ifindex: u32,
    /// That interface's link-layer address.
    pub own_mac: MacAddr,
    /// The link-layer address of the node, or of the router towards it.
    pub mac: MacAddr,
    /// 802.1Q VLAN id, 0 for none.
    pub vlan: u16,
    /// The router, if the node is not on the link.
    pub router: Option<IpAddr>,
    /// The source address the kernel would use towards the node.
    pub source: IpAddr,
    /// The prefixes (address, length) that are on-link on that interface.
    pub on_link: Vec<(IpAddr, u8)>,
}
