//! The other end of a veth pair: it is the peer's MTU that decides whether a veth device takes
//! native XDP (`veth_xdp_set` in drivers/net/veth.c), wherever that peer is.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use crate::netdev::SINGLE_PAGE_MTU;
use crate::netdev::netlink::Netlink;

/// What a frame can't have of its page in any kernel: XDP_PACKET_HEADROOM and the Ethernet header.
const NEVER_FRAME: u32 = 256 + 14;

/// Whether a peer's MTU lets a veth device run XDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// It does.
    Fits,
    /// It does not.
    TooLarge,
    /// It depends on the kernel's version.
    Close,
}

/// The MTU of the peer of the veth device `ifindex`; `None` if it may not be seen.
pub(super) fn mtu(ifindex: u32) -> Option<u32> {
    let mut netlink = Netlink::route().ok()?;
    let own = link(&mut netlink, ifindex, None)?;
    let peer = own.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(peer) => Some(*peer),
        _ => None,
    })?;
    let namespace = own.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) => Some(*id),
        _ => None,
    });
    link(&mut netlink, peer, namespace)?.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(mtu),
        _ => None,
    })
}

/// Judges it, for pages of that many bytes.
pub(super) fn fit(mtu: u32, page: u32) -> Fit {
    match mtu {
        _ if mtu <= SINGLE_PAGE_MTU => Fit::Fits,
        _ if mtu > page.saturating_sub(NEVER_FRAME) => Fit::TooLarge,
        _ => Fit::Close,
    }
}

/// Bytes of a page.
pub(super) fn page() -> u32 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(4096)
}

/// An interface of this network namespace, or of the one that it knows by that id
/// (IFLA_TARGET_NETNSID, which the crate has by its older name).
fn link(netlink: &mut Netlink, ifindex: u32, namespace: Option<i32>) -> Option<Vec<LinkAttribute>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    request.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
    match netlink.get(RouteNetlinkMessage::GetLink(request)) {
        Ok(RouteNetlinkMessage::NewLink(answer)) => Some(answer.attributes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jumbo_peer_is_too_large_for_a_page_of_4_kib() {
        for (mtu, page, expected) in [
            (1_500, 4_096, Fit::Fits),
            (3_498, 4_096, Fit::Fits),
            (3_700, 4_096, Fit::Close),
            (9_000, 4_096, Fit::TooLarge),
            (9_000, 65_536, Fit::Close),
        ] {
            assert_eq!(fit(mtu, page), expected, "{mtu} {page}");
        }
    }
}
