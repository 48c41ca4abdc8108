//! Waits for rtnetlink's notifications; their content matters only as far as it says whether
//! something relevant changed.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::netdev::netlink::split;
use crate::netdev::payload;

/// What is listened to.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];
/// Datagrams read at one go; more wait for the next round.
const MAX_DATAGRAMS: usize = 1_024;
/// Larger than any notification.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for a burst of changes before the kernel starts to drop notifications.
const SOCKET_BYTES: u32 = 1 << 20;

/// Why [`Monitor::wait`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// Something that may matter changed.
    Changed,
    /// The set of nodes changed, or the handle was dropped.
    Nudged,
    /// The time is up.
    TimedOut,
    /// The kernel dropped notifications: anything may have changed.
    Overrun,
}

/// The multicast socket and the wake-up pipe.
pub(super) struct Monitor {
    socket: Socket,
    wake: UnixStream,
    buffer: Vec<u8>,
    /// Neighbours that matter: (interface index, address).
    relevant: BTreeSet<(u32, IpAddr)>,
}

impl Monitor {
    /// Joins the groups. `wake` is readable when somebody wants [`Self::wait`] to return.
    pub(super) fn open(wake: UnixStream) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_rx_buf_sz(SOCKET_BYTES)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group as u32)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket,
            wake,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
            relevant: BTreeSet::new(),
        })
    }

    /// Only these neighbours matter; links, addresses and routes always do.
    pub(super) fn relevant(&mut self, neighbours: BTreeSet<(u32, IpAddr)>) {
        self.relevant = neighbours;
    }

    /// Waits until something changed, somebody asked, or the time is up.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<Woken> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Woken::TimedOut);
            }
            self.poll(left)?;
            if let Some(woken) = self.drain() {
                return Ok(woken);
            }
        }
    }

    /// Sleeps until either descriptor is readable; may return early.
    fn poll(&self, left: Duration) -> io::Result<()> {
        let readable = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [readable(self.socket.as_raw_fd()), readable(self.wake.as_raw_fd())];
        // Rounded up, or the last part of a millisecond would be spent spinning.
        let milliseconds = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        // SAFETY: `fds` is an array of that many valid pollfd.
        let result = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as _, milliseconds) };
        match result {
            0.. => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Reads what is queued; the strongest reason to look again, if any.
    pub(super) fn drain(&mut self) -> Option<Woken> {
        let mut woken = None;
        for _ in 0..MAX_DATAGRAMS {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) if woken.is_none() && self.matters() => woken = Some(Woken::Changed),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    woken = Some(Woken::Overrun);
                }
                Err(_) => break,
            }
        }
        let mut bytes = [0; 64];
        let nudged = matches!(io::Read::read(&mut &self.wake, &mut bytes), Ok(1..));
        woken.or(nudged.then_some(Woken::Nudged))
    }

    fn matters(&self) -> bool {
        let mut rest = self.buffer.as_slice();
        while let Some((message, next)) = split(rest) {
            rest = next;
            match payload(message) {
                Some(
                    RouteNetlinkMessage::NewNeighbour(neighbour)
                    | RouteNetlinkMessage::DelNeighbour(neighbour),
                ) if !self.relevant.contains(&key(&neighbour)) => {}
                // What cannot be read is taken for a change.
                _ => return true,
            }
        }
        false
    }
}

/// (interface index, address) of a neighbour; another family's has the unspecified address.
pub(super) fn key(neighbour: &NeighbourMessage) -> (u32, IpAddr) {
    let address = neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    });
    (neighbour.header.ifindex, address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}
