//! TCP sockets of this host, through the kernel's sock_diag: destroying those of a VIP that leaves,
//! and finding out whether anybody listens on a port.
//!
//! **Why destroy.** In mode `host` clients are connected to sockets of this host. When the VIP goes
//! to another one, the kernel here keeps these connections: a client that only waits (BLPOP,
//! SUBSCRIBE) would never hear that it waits at the wrong place. `SOCK_DESTROY` (tcp_abort in
//! net/ipv4/tcp.c) ends each with a reset to the client, and Redis sees ECONNABORTED. It has to be
//! done while the VIP is still an address of this host: the resets are sent from it.
//!
//! **Whose.** A reset that is lost is not sent again, and its client waits for good. Whether a client
//! can be reached just now shows in what came from its host lately (`tcp_info`).
//!
//! Needs CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY (4.5; distributions have it).
//! Everything happens in the network namespace of the calling thread, and blocks it for some
//! microseconds a socket, never longer than the caller allows.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr};

use crate::netdev::netlink::split;

/// linux/netlink.h
const NETLINK_SOCK_DIAG: isize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// linux/inet_diag.h: the attribute with a filter, and its operation "the local address is".
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
/// The attribute with `struct tcp_info` (linux/tcp.h), how it is asked for, and two of its fields.
const INET_DIAG_INFO: u16 = 2;
const WITH_INFO: u8 = 1 << (INET_DIAG_INFO - 1);
const LAST_DATA_RECV: usize = 52;
const LAST_ACK_RECV: usize = 56;

/// net/tcp_states.h, as bits: everything that has a peer to be told. Not those that listen (the
/// Redis that does is to go on), nor TIME_WAIT, whose peer is done.
const CONNECTED: u32 = bit(1) | bit(2) | bit(3) | bit(4) | bit(5) | bit(8) | bit(9) | bit(11);
const LISTENING: u32 = bit(10);

const HEADER: usize = 16;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const SOCKET_ID: usize = 48;
/// `struct inet_diag_msg`: family, state and two more, the id, five numbers.
const ANSWER: usize = 4 + SOCKET_ID + 20;
/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, and the id.
const REQUEST: usize = 8 + SOCKET_ID;

const RECEIVE_BYTES: usize = 64 * 1024;
/// Datagrams of one dump: each holds some hundred sockets.
const MAX_DATAGRAMS: usize = 16_384;
/// Requests in one write; their acknowledgments must fit into the socket's buffer.
const BATCH: usize = 64;
/// No single wait for the kernel is longer, though it answers at once.
const TIMEOUT_MS: i64 = 100;
/// Finding out who listens may take this long.
const SEARCH: Duration = Duration::from_millis(500);

/// Whose connections are to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Everybody's.
    Everybodys,
    /// Those of peers from whose address anything came within this time, through whichever of these
    /// connections.
    HeardWithin(Duration),
}

/// What became of the sockets of an address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Destroyed {
    /// Destroyed.
    pub sockets: usize,
    /// Those of peers that it was not about.
    pub kept: usize,
    /// Found and left, for lack of time.
    pub left: usize,
    /// There may be more: the kernel took too long to name them all.
    pub more: bool,
}

/// Ends TCP connections of this host whose own end is `local`; after `deadline`, at most one
/// answer of the kernel is waited for. To find them may take half of that time. Those that end by
/// themselves meanwhile are no error.
///
/// # Errors
///
/// The kernel's: EPERM without CAP_NET_ADMIN, EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY.
pub fn destroy(local: IpAddr, whose: Whose, deadline: Instant) -> io::Result<Destroyed> {
    let now = Instant::now();
    let searched = now + deadline.saturating_duration_since(now) / 2;
    let mut found = Vec::new();
    let mut more = false;
    for family in families(local) {
        // The rest of an answer that was too long for the time must not be read as the next one's.
        let dump = Diag::open()?.dump(family, CONNECTED, Some(local), searched)?;
        found.extend(dump.found);
        more |= dump.cut;
    }
    let all = found.len();
    if let Whose::HeardWithin(limit) = whose {
        let heard = |it: &&Found| it.heard.is_some_and(|ago| ago <= limit);
        let peers: BTreeSet<IpAddr> = found.iter().filter(heard).map(|it| it.peer().ip()).collect();
        found.retain(|it| peers.contains(&it.peer().ip()));
    }
    let (kept, left) = (all - found.len(), found.len());
    let mut destroyed = Destroyed { sockets: 0, kept, left, more };
    let mut diag = Diag::open()?;
    for batch in found.chunks(BATCH) {
        if Instant::now() >= deadline {
            break;
        }
        destroyed.sockets += diag.destroy(batch)?;
        destroyed.left -= batch.len();
    }
    Ok(destroyed)
}

/// Whether [`destroy`] would work, asked with a socket that doesn't exist.
///
/// # Errors
///
/// As of [`destroy`].
pub fn can_destroy() -> io::Result<()> {
    let nobody = Found { family: libc::AF_INET as u8, id: [0; SOCKET_ID], heard: None };
    Diag::open()?.destroy(&[nobody]).map(drop)
}

/// Whether a socket of this host listens for connections to `addr`, be it by its wildcard address.
///
/// # Errors
///
/// The kernel's.
pub fn is_listening(addr: SocketAddr) -> io::Result<bool> {
    let deadline = Instant::now() + SEARCH;
    for family in families(addr.ip()) {
        let listening = Diag::open()?.dump(family, LISTENING, None, deadline)?;
        if listening.found.iter().any(|found| found.listens_for(addr)) {
            return Ok(true);
        }
        if listening.cut {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
    }
    Ok(false)
}

/// Connections to an IPv4 address may be an IPv6 socket's (`::ffff:a.b.c.d`).
fn families(ip: IpAddr) -> impl Iterator<Item = u8> {
    let v4 = ip.is_ipv4().then_some(libc::AF_INET as u8);
    v4.into_iter().chain([libc::AF_INET6 as u8])
}

/// A socket, as the kernel names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    family: u8,
    /// `struct inet_diag_sockid`, unchanged: it is what a request names the socket by.
    id: [u8; SOCKET_ID],
    /// How long ago anything came; none where the kernel doesn't tell.
    heard: Option<Duration>,
}

impl Found {
    /// From `struct inet_diag_msg`.
    fn parse(message: &[u8]) -> Option<Self> {
        let id = message.get(4..4 + SOCKET_ID)?.try_into().ok()?;
        let attributes = message.get(ANSWER..).unwrap_or_default();
        Some(Self { family: *message.first()?, id, heard: last_heard(attributes) })
    }

    fn listens_for(&self, addr: SocketAddr) -> bool {
        let local = self.local();
        local.port() == addr.port() && (local.ip().is_unspecified() || local.ip() == addr.ip())
    }

    fn local(&self) -> SocketAddr {
        self.end(0, 4)
    }

    fn peer(&self) -> SocketAddr {
        self.end(2, 20)
    }

    fn end(&self, port: usize, address: usize) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[port], self.id[port + 1]]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.id[address..address + 16]);
        let ip = if self.family == libc::AF_INET as u8 {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            Ipv6Addr::from(bytes).to_canonical()
        };
        SocketAddr::new(ip, port)
    }
}

/// From the attributes of `struct inet_diag_msg`.
fn last_heard(mut attributes: &[u8]) -> Option<Duration> {
    // struct nlattr: a length that counts itself, and a type; each begins at a multiple of four.
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_INFO {
            let millis = |at: usize| {
                let bytes = value.get(at..at + 4)?.try_into().ok()?;
                Some(Duration::from_millis(u32::from_ne_bytes(bytes).into()))
            };
            return Some(millis(LAST_DATA_RECV)?.min(millis(LAST_ACK_RECV)?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// What the kernel has named.
struct Dump {
    found: Vec<Found>,
    /// There was no time for the rest.
    cut: bool,
}

/// A NETLINK_SOCK_DIAG socket.
struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(TIMEOUT_MS))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// TCP sockets of this family in these states, all or those with this local address.
    fn dump(
        &mut self,
        family: u8,
        states: u32,
        local: Option<IpAddr>,
        deadline: Instant,
    ) -> io::Result<Dump> {
        self.sequence += 1;
        let sequence = self.sequence;
        let filter = local.map(local_is).unwrap_or_default();
        let mut request = Vec::new();
        let payload = Request { family, states, id: &[0; SOCKET_ID], filter: &filter };
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        payload.write(&mut request, SOCK_DIAG_BY_FAMILY, flags, sequence);
        self.socket.send(&request, 0)?;
        let mut found = Vec::new();
        for _ in 0..MAX_DATAGRAMS {
            if Instant::now() >= deadline {
                return Ok(Dump { found, cut: true });
            }
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Some((bytes, next)) = split(rest) {
                rest = next;
                let Some(message) = Message::parse(bytes) else { continue };
                match message.kind {
                    _ if message.sequence != sequence => {}
                    NLMSG_DONE => return Ok(Dump { found, cut: false }),
                    NLMSG_ERROR => {
                        return message.result().map(|()| Dump { found, cut: false });
                    }
                    _ => found.extend(Found::parse(message.payload)),
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a sock_diag answer without an end"))
    }

    /// Destroys these, at most [`BATCH`]; returns how many were still there.
    fn destroy(&mut self, batch: &[Found]) -> io::Result<usize> {
        let mut requests = Vec::new();
        let first = self.sequence + 1;
        for found in batch {
            self.sequence += 1;
            let payload = Request { family: found.family, states: 0, id: &found.id, filter: &[] };
            let flags = NLM_F_REQUEST | NLM_F_ACK;
            payload.write(&mut requests, SOCK_DESTROY, flags, self.sequence);
        }
        self.socket.send(&requests, 0)?;
        let (mut answered, mut destroyed) = (0, 0);
        // Each answer is a datagram of its own at worst.
        for _ in 0..MAX_DATAGRAMS {
            if answered == batch.len() {
                break;
            }
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Some((bytes, next)) = split(rest) {
                rest = next;
                let Some(message) = Message::parse(bytes) else { continue };
                if message.kind != NLMSG_ERROR || message.sequence < first {
                    continue;
                }
                answered += 1;
                match message.result() {
                    Ok(()) => destroyed += 1,
                    // It ended by itself.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(destroyed)
    }
}

/// A request for sockets, or for the end of one.
struct Request<'a> {
    family: u8,
    states: u32,
    id: &'a [u8; SOCKET_ID],
    /// A netlink attribute, or nothing.
    filter: &'a [u8],
}

impl Request<'_> {
    fn write(&self, out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
        let length = (HEADER + REQUEST + self.filter.len()) as u32;
        out.extend(length.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend([0; 4]);
        out.extend([self.family, libc::IPPROTO_TCP as u8, WITH_INFO, 0]);
        out.extend(self.states.to_ne_bytes());
        out.extend(self.id);
        out.extend(self.filter);
    }
}

/// The kernel's filter "the local address is this one": one operation with its condition. `yes` and
/// `no` are how far to go on in the code; past its end by 4 means that the socket is not wanted
/// (`inet_diag_bc_run`).
fn local_is(ip: IpAddr) -> Vec<u8> {
    let (family, octets) = match ip {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    };
    // struct inet_diag_bc_op, struct inet_diag_hostcond
    let code = 4 + 8 + octets.len();
    let mut filter = Vec::new();
    filter.extend(((4 + code) as u16).to_ne_bytes());
    filter.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    filter.extend([INET_DIAG_BC_S_COND, code as u8]);
    filter.extend(((code + 4) as u16).to_ne_bytes());
    filter.extend([family, (octets.len() * 8) as u8, 0, 0]);
    // Any port.
    filter.extend((-1_i32).to_ne_bytes());
    filter.extend(octets);
    filter
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?),
            payload: bytes.get(HEADER..)?,
        })
    }

    /// Of an acknowledgment: 0, or an errno below it.
    fn result(&self) -> io::Result<()> {
        let code = self.payload.get(..4).and_then(|code| code.try_into().ok());
        match code.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

const fn bit(state: u32) -> u32 {
    1 << state
}

#[cfg(test)]
mod tests;
