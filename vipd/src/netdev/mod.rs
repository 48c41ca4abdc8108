//! Facts about network interfaces, read without disturbing them.
//!
//! Everything comes from rtnetlink, ethtool ioctls and generic netlink, never from /sys: under
//! `nsenter --net` /sys still shows the other namespace's interfaces.

use std::io;
use std::net::IpAddr;

use aya::programs::loaded_programs;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    State, XdpAttached,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::Serialize;
use vipd_common::addr::MacAddr;

use crate::config;

mod ethtool;
mod generic;
pub(crate) mod netlink;

use netlink::Netlink;

/// MTU above which drivers that need a frame in one 4 KiB page refuse native XDP: veth, and most
/// NICs without multi-buffer support (4096 less 256 headroom, less some 320 for skb_shared_info).
pub const SINGLE_PAGE_MTU: u32 = 3_498;

/// An interface as rtnetlink shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Link-layer address; `None` unless it is Ethernet.
    pub mac: Option<MacAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up (`ip link set up`).
    pub admin_up: bool,
    /// Up and with a carrier: frames can pass.
    pub running: bool,
    /// How often the carrier came or went since the interface was made: tells one that went down
    /// and came back from one that stayed.
    pub carrier_changes: u32,
    /// The operational state's word in `ip link`: `up`, `down`, `unknown`, `dormant`, …
    pub oper_state: &'static str,
    /// For an 802.1Q device: the parent's interface index and the VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// The XDP program on it.
    pub xdp: Option<AttachedXdp>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct AttachedXdp {
    /// Kernel's id, as in `bpftool prog show id`.
    pub program_id: u32,
    /// How it is attached.
    pub mode: AttachedMode,
}

/// How an XDP program is attached (IFLA_XDP_ATTACHED).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
    /// In the NIC.
    Offload,
    /// In more than one place.
    Multiple,
}

impl AttachedMode {
    /// The word in messages and in `status --json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
            Self::Multiple => "multiple",
        }
    }
}

/// Whether the driver can run XDP, from the kernel's own list (generic netlink family `netdev`,
/// Linux 6.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NativeXdp {
    /// The driver runs XDP programs.
    Supported {
        /// It can be the target of XDP_REDIRECT.
        redirect_target: bool,
    },
    /// It does not.
    Unsupported,
    /// Not known, and why: the kernel is older than 6.3, or refused the question.
    Unknown(String),
}

/// What `vipd check` says of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The interface.
    pub link: Link,
    /// Kernel driver, such as `veth` or `ixgbe`; `None` where ethtool doesn't know.
    pub driver: Option<String>,
    /// Name of the XDP program on it, if there is one and it has a name.
    pub xdp_program: Option<String>,
    /// Whether the driver can run XDP.
    pub native: NativeXdp,
    /// Whether transmit checksum offload is on. On veth XDP then forwards packets of the local
    /// stack with checksums that nobody completes; on a real NIC it is harmless.
    pub tx_checksum: Option<bool>,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// The XDP mode an attachment would get, judged without trying.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Driver mode.
    Native,
    /// The generic hook, and why.
    Generic(String),
    /// It would fail, and why.
    Refused(String),
    /// Not known until tried, and why.
    Unknown(String),
}

impl Facts {
    /// What attaching with `mode` would give.
    pub fn expected(&self, mode: config::XdpMode) -> Expected {
        let driver = self.driver.as_deref().unwrap_or("unknown");
        let mtu = self.link.mtu;
        match (mode, &self.native) {
            (config::XdpMode::Generic, _) => Expected::Generic("xdp_mode = \"generic\"".to_owned()),
            (config::XdpMode::Native, NativeXdp::Unsupported) => {
                Expected::Refused(format!("its driver ({driver}) has no native XDP"))
            }
            (config::XdpMode::Auto, NativeXdp::Unsupported) => {
                Expected::Generic(format!("its driver ({driver}) has no native XDP"))
            }
            (_, NativeXdp::Unknown(why)) => Expected::Unknown(why.clone()),
            // Only an attachment would tell: drivers differ, and veth looks at its peer's MTU.
            (_, NativeXdp::Supported { .. }) if mtu > SINGLE_PAGE_MTU => {
                Expected::Unknown(format!(
                    "with MTU {mtu} its driver ({driver}) may refuse native XDP, for which \
                 {SINGLE_PAGE_MTU} always fits"
                ))
            }
            (_, NativeXdp::Supported { .. }) => Expected::Native,
        }
    }
}

/// An address of this host (of this network namespace).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// The interface it is on.
    pub ifindex: u32,
}

impl HostAddress {
    /// As vipd itself puts a VIP on an interface.
    pub fn alone(address: IpAddr, ifindex: u32) -> Self {
        Self { address, prefix: bits(address), ifindex }
    }
}

/// Why an interface can't be described.
#[derive(Debug, thiserror::Error)]
pub enum NetdevError {
    /// No such interface.
    #[error("there is no interface {name:?} in this network namespace; it has: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The kernel refused.
    #[error("cannot read the {what} through netlink")]
    Netlink {
        /// Links, addresses.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Everything about the interface `name`.
pub fn facts(name: &str) -> Result<Facts, NetdevError> {
    let link = link(name)?;
    let addresses = host_addresses()?
        .into_iter()
        .filter(|host| host.ifindex == link.ifindex)
        .map(|host| (host.address, host.prefix))
        .collect();
    Ok(Facts {
        driver: ethtool::driver(name).ok(),
        tx_checksum: ethtool::tx_checksum(name).ok(),
        xdp_program: link.xdp.and_then(|xdp| program_name(xdp.program_id)),
        native: generic::native_xdp(link.ifindex),
        link,
        addresses,
    })
}

/// The interface `name`.
pub fn link(name: &str) -> Result<Link, NetdevError> {
    let all = links()?;
    let known = || all.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
    match all.iter().find(|link| link.name == name) {
        Some(link) => Ok(link.clone()),
        None => Err(NetdevError::Unknown { name: name.to_owned(), known: known() }),
    }
}

/// Every interface of this network namespace.
pub fn links() -> Result<Vec<Link>, NetdevError> {
    read_links(&mut route_socket()?)
        .map_err(|source| NetdevError::Netlink { what: "links", source })
}

/// Every IPv4 and IPv6 address of this network namespace.
pub fn host_addresses() -> Result<Vec<HostAddress>, NetdevError> {
    read_addresses(&mut route_socket()?)
        .map_err(|source| NetdevError::Netlink { what: "addresses", source })
}

/// The interface that holds `vip` as an address of this host, if one does. In modes `nat` and
/// `dsr` none may: the kernel would answer for it, and the stack would take its packets.
pub fn interface_holding(vip: IpAddr) -> Result<Option<String>, NetdevError> {
    let Some(holder) = host_addresses()?.into_iter().find(|host| host.address == vip) else {
        return Ok(None);
    };
    let name = links()?.into_iter().find(|link| link.ifindex == holder.ifindex);
    Ok(Some(name.map_or_else(|| format!("interface {}", holder.ifindex), |link| link.name)))
}

/// The name of a loaded BPF program; `None` if it is gone, nameless or may not be seen.
pub fn program_name(id: u32) -> Option<String> {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
}

fn route_socket() -> Result<Netlink, NetdevError> {
    Netlink::route().map_err(|source| NetdevError::Netlink { what: "links", source })
}

/// Bits of an address of this one's family.
pub(crate) const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Whether a prefix (an address in it, its length) contains an address.
pub(crate) fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    // Aligned to the left, so that a prefix length means the same in both families.
    let (difference, bits) = match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()) << 96, 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    difference.leading_zeros() >= u32::from(prefix).min(bits)
}

/// fe80::/10: means another host on each interface. IPv4's 169.254.0.0/16 is routed like any other.
pub(crate) const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// An address's family, as rtnetlink names it.
pub(crate) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Every interface, over an open socket.
pub(crate) fn read_links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump(request)?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(parse_link(message)),
            _ => None,
        })
        .collect())
}

/// Every IPv4 and IPv6 address, over an open socket.
pub(crate) fn read_addresses(netlink: &mut Netlink) -> io::Result<Vec<HostAddress>> {
    let mut addresses = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = AddressMessage::default();
        request.header.family = family;
        let answers = netlink.dump(RouteNetlinkMessage::GetAddress(request))?;
        addresses.extend(answers.into_iter().filter_map(|answer| parse_address(answer, family)));
    }
    Ok(addresses)
}

fn parse_address(answer: RouteNetlinkMessage, family: AddressFamily) -> Option<HostAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    // A kernel without IPv6 answers a question for it with every family there is.
    if message.header.family != family {
        return None;
    }
    // On a point-to-point link IFA_ADDRESS is the peer; IFA_LOCAL is ours wherever it is given.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    Some(HostAddress {
        address: local.or(address)?,
        prefix: message.header.prefix_len,
        ifindex: message.header.index,
    })
}

fn parse_link(message: LinkMessage) -> Link {
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        admin_up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        carrier_changes: 0,
        oper_state: "unknown",
        vlan: None,
        xdp: None,
    };
    let (mut parent, mut vlan_id) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) if ethernet => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            LinkAttribute::OperState(state) => link.oper_state = oper_state(state),
            LinkAttribute::CarrierChanges(changes) => link.carrier_changes = changes,
            LinkAttribute::Link(ifindex) => parent = Some(ifindex),
            LinkAttribute::LinkInfo(infos) => vlan_id = infos.iter().find_map(vlan_id_of),
            LinkAttribute::Xdp(attributes) => link.xdp = attached_xdp(&attributes),
            _ => {}
        }
    }
    link.vlan = parent.zip(vlan_id);
    link
}

fn oper_state(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Down => "down",
        State::NotPresent => "notpresent",
        State::LowerLayerDown => "lowerlayerdown",
        State::Testing => "testing",
        State::Dormant => "dormant",
        _ => "unknown",
    }
}

fn vlan_id_of(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(attributes)) = info else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn attached_xdp(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(AttachedMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(AttachedMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(AttachedMode::Offload),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(AttachedMode::Multiple),
        _ => None,
    })?;
    let program_id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id)
            if *id != 0 =>
        {
            Some(*id)
        }
        _ => None,
    })?;
    Some(AttachedXdp { program_id, mode })
}

/// The rtnetlink message in a datagram's part (for [`crate::neighbour`]).
pub(crate) fn payload(bytes: &[u8]) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{InfoKind, LinkHeader};

    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header = LinkHeader {
            index: 5,
            link_layer_type: LinkLayerType::Ether,
            flags: LinkFlags::Up | LinkFlags::LowerUp,
            ..LinkHeader::default()
        };
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_vlan_device_names_its_parent_and_its_tag() {
        let link = parse_link(message(vec![
            LinkAttribute::IfName("eth0.7".to_owned()),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
            ]),
        ]));
        assert_eq!((link.vlan, link.running), (Some((2, 7)), true));
    }

    #[test]
    fn a_veth_has_a_peer_but_no_vlan() {
        let link = parse_link(message(vec![LinkAttribute::Link(2)]));
        assert_eq!(link.vlan, None);
    }

    #[test]
    fn a_program_in_two_places_is_reported_with_the_first_id() {
        let both = [
            LinkXdp::Attached(XdpAttached::Multiple),
            LinkXdp::DrvProgId(12),
            LinkXdp::SkbProgId(13),
        ];
        let expected = AttachedXdp { program_id: 12, mode: AttachedMode::Multiple };
        assert_eq!(attached_xdp(&both), Some(expected));
        assert_eq!(attached_xdp(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }

    #[test]
    fn a_prefix_contains_its_addresses() {
        for (network, length, addr, expected) in [
            ("198.18.0.50", 24, "198.18.0.250", true),
            ("198.18.1.50", 24, "198.18.0.250", false),
            ("198.18.0.250", 32, "198.18.0.250", true),
            ("198.18.0.251", 32, "198.18.0.250", false),
            ("0.0.0.0", 0, "198.18.0.250", true),
            ("198.18.0.50", 0, "203.0.113.1", true),
            ("198.18.0.50", 32, "198.18.0.50", true),
            ("0.0.0.0", 0, "fd98:18::250", false),
            ("fd98:18::50", 64, "fd98:18::250", true),
            ("fd98:19::50", 64, "fd98:18::250", false),
            ("fd98:18::251", 128, "fd98:18::250", false),
            ("::", 0, "fd98:18::250", true),
            ("::", 0, "198.18.0.250", false),
        ] {
            let found = contains(network.parse().unwrap(), length, addr.parse().unwrap());
            assert_eq!(found, expected, "{network}/{length} {addr}");
        }
    }
}
