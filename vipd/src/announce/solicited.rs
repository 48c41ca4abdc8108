//! Membership in the solicited-node groups of VIPs that the XDP program answers for.
//!
//! A neighbour solicitation goes to a multicast group made of the address's last 24 bits (RFC 4291
//! section 2.7.1). An interface, and a switch that snoops MLD, pass a group's frames only to who has
//! joined it; for an address that is on an interface the kernel does so, for a VIP in mode `nat` or
//! `dsr`, which is on none, this does. The reports that keep the switch informed (RFC 3810) are then
//! the kernel's business too, and closing a socket leaves all its groups.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use socket2::{Domain, Socket, Type};

use super::ndp::solicited_node;

/// Joined by one socket; the kernel accounts memberships to a socket's option memory
/// (`net.core.optmem_max`, 20 KiB on older kernels: some 250).
const GROUPS_PER_SOCKET: usize = 128;

/// A group on an interface.
type Group = (u32, Ipv6Addr);

/// A VIP whose group could not be joined: no solicitation for it may arrive.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot join the group {group} of the VIP {vip} on {}: is IPv6 enabled there?",
    crate::host_address::Interface(*.ifindex)
)]
pub struct NotJoined {
    /// The VIP.
    pub vip: Ipv6Addr,
    /// Its group.
    pub group: Ipv6Addr,
    /// Interface index.
    pub ifindex: u32,
    /// The kernel's reason.
    pub source: io::Error,
}

/// The groups joined now.
#[derive(Debug, Default)]
pub struct SolicitedNode {
    /// With how many groups each has joined.
    sockets: Vec<(Socket, usize)>,
    /// Which of the sockets joined it.
    joined: BTreeMap<Group, usize>,
}

impl SolicitedNode {
    /// Is a member for exactly these VIPs from now on; those of IPv4 need none. Those that could
    /// not be joined are tried again at the next call.
    pub fn follow(&mut self, wanted: impl IntoIterator<Item = (u32, IpAddr)>) -> Vec<NotJoined> {
        // Several VIPs may share a group.
        let wanted: BTreeMap<Group, Ipv6Addr> = wanted
            .into_iter()
            .filter_map(|(ifindex, vip)| match vip {
                IpAddr::V4(_) => None,
                IpAddr::V6(vip) => Some(((ifindex, solicited_node(vip)), vip)),
            })
            .collect();
        let gone: BTreeSet<Group> =
            self.joined.keys().filter(|group| !wanted.contains_key(group)).copied().collect();
        for group in gone {
            self.leave(group);
        }
        let mut failed = Vec::new();
        for (group, vip) in wanted {
            if !self.joined.contains_key(&group)
                && let Err(source) = self.join(group)
            {
                failed.push(NotJoined { vip, group: group.1, ifindex: group.0, source });
            }
        }
        failed
    }

    fn join(&mut self, group: Group) -> io::Result<()> {
        let roomy = self.sockets.iter().position(|(_, groups)| *groups < GROUPS_PER_SOCKET);
        let at = match roomy {
            Some(at) => at,
            None => {
                // It never sends or receives: its memberships are all there is to it.
                let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
                self.sockets.push((socket, 0));
                self.sockets.len() - 1
            }
        };
        let (socket, groups) = &mut self.sockets[at];
        socket.join_multicast_v6(&group.1, group.0)?;
        *groups += 1;
        self.joined.insert(group, at);
        Ok(())
    }

    fn leave(&mut self, group: Group) {
        let Some(at) = self.joined.remove(&group) else { return };
        let Some((socket, groups)) = self.sockets.get_mut(at) else { return };
        // An interface that is gone has taken the membership along.
        let _ = socket.leave_multicast_v6(&group.1, group.0);
        *groups -= 1;
    }
}
