//! Raw sockets whose packets have the kernel's times.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr, RcvBufForce, Timestamping};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Type};

use crate::clock::Monotonic;

/// Longest packet that is looked at.
const SNAP: usize = 2048;
/// Room for what arrives while the receiver doesn't run.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A socket that sends to, and hears, one address.
#[derive(Debug)]
pub struct PacketSocket {
    socket: socket2::Socket,
    family: Family,
}

/// What the kernel puts in front of what it delivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    /// The IP header (raw(7)).
    RawV4,
    /// Nothing (RFC 3542; ping sockets; packet sockets, whose frames are whole).
    Bare,
}

/// What came out of a socket.
#[derive(Debug)]
pub struct Received<'a> {
    /// The kernel's time of it.
    pub at: Monotonic,
    /// The same by the wall clock, since 1970.
    pub wall_clock: Duration,
    /// The packet, from its transport header on (or a whole frame, from a packet socket).
    pub bytes: &'a [u8],
}

/// What came out of a socket's error queue.
#[derive(Debug)]
pub enum Note<'a> {
    /// A packet was handed to the driver then: the end of `frame` is what was sent.
    Sent {
        /// The kernel's time of it.
        at: Monotonic,
        /// As it was sent, with all headers.
        frame: &'a [u8],
    },
    /// Somebody says that a packet can't be delivered.
    Undeliverable {
        /// When this was read.
        at: Monotonic,
        /// The beginning of the packet, from its transport header on; perhaps nothing.
        quoted: &'a [u8],
        /// What of it.
        why: &'static str,
    },
}

/// Space for one packet, and what it takes to tell its time.
pub struct Buffer {
    bytes: Box<[u8; SNAP]>,
    control: Vec<u8>,
    clocks: Clocks,
}

impl Buffer {
    /// Empty.
    pub fn new() -> Self {
        let control = nix::cmsg_space!([TimeSpec; 3], [u8; 64], [u8; 64]);
        Self { bytes: Box::new([0; SNAP]), control, clocks: Clocks::compare() }
    }
}

impl PacketSocket {
    /// Sends and hears what `protocol` carries to and from `to`. Takes CAP_NET_RAW.
    pub fn raw(to: IpAddr, protocol: Protocol) -> io::Result<Self> {
        Self::connected(to, Type::RAW, protocol)
    }

    /// Echo without CAP_NET_RAW, where net.ipv4.ping_group_range allows it.
    pub fn ping(to: IpAddr) -> io::Result<Self> {
        Self::connected(to, Type::DGRAM, echo_protocol(to))
    }

    fn connected(to: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Self> {
        let domain = Domain::for_address(SocketAddr::new(to, 0));
        let socket = socket2::Socket::new(domain, kind.cloexec(), Some(protocol))?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        // Undeliverable packets are told of in the error queue.
        if to.is_ipv4() {
            setsockopt(&socket, Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, Ipv6RecvErr, &true)?;
        }
        let bare = to.is_ipv6() || kind == Type::DGRAM;
        Self::timed(socket, if bare { Family::Bare } else { Family::RawV4 })
    }

    /// Takes a packet socket.
    pub fn of_frames(socket: socket2::Socket) -> io::Result<Self> {
        Self::timed(socket, Family::Bare)
    }

    fn timed(socket: socket2::Socket, family: Family) -> io::Result<Self> {
        let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        setsockopt(&socket, Timestamping, &flags)?;
        socket.set_nonblocking(true)?;
        // More than rmem_max only with CAP_NET_ADMIN; what there is must do.
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        Ok(Self { socket, family })
    }

    /// Has the kernel drop what `filter` refuses.
    pub fn attach(&self, filter: &[SockFilter]) -> io::Result<()> {
        self.socket.attach_filter(filter)
    }

    /// The address that packets are sent from.
    pub fn source(&self) -> io::Result<IpAddr> {
        let local = self.socket.local_addr()?.as_socket();
        local.map(|local| local.ip()).ok_or_else(|| io::Error::other("it has no address"))
    }

    /// Sends one packet.
    ///
    /// # Errors
    ///
    /// The kernel's, for this packet. (An error that is still pending for an earlier one is in the
    /// error queue as well, and is not this one's.)
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self.socket.send(packet) {
            Err(error) if is_of_an_earlier_packet(&error) => self.socket.send(packet).map(drop),
            sent => sent.map(drop),
        }
    }

    /// Waits for something to be received, or an error, for at most `timeout`.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut poll_fd = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut poll_fd, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many packets arrived that there was no room for.
    pub fn dropped(&self) -> io::Result<u64> {
        /// As in linux/sock_diag.h: nine numbers, the drops last.
        const DROPS: usize = 8;
        let mut numbers = [0_u32; DROPS + 1];
        let mut length = size_of_val(&numbers) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes of numbers there.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                numbers.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(numbers[DROPS].into()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next packet; `None` if there is none.
    pub fn receive<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Received<'a>>> {
        let Some((length, at, _)) = self.message(buffer, MsgFlags::empty())? else {
            return Ok(None);
        };
        let wall_clock = buffer.clocks.wall_clock(at);
        let bytes = &buffer.bytes[..length];
        let bytes = match self.family {
            Family::Bare => bytes,
            Family::RawV4 => {
                let header = bytes.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
                bytes.get(header..).unwrap_or_default()
            }
        };
        Ok(Some(Received { at, wall_clock, bytes }))
    }

    /// The next entry of the error queue; `None` if there is none.
    pub fn note<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Note<'a>>> {
        let Some((length, at, error)) = self.message(buffer, MsgFlags::MSG_ERRQUEUE)? else {
            return Ok(None);
        };
        let bytes = &buffer.bytes[..length];
        Ok(Some(match error {
            Some(error) if error.ee_origin != libc::SO_EE_ORIGIN_TIMESTAMPING => {
                Note::Undeliverable { at, quoted: bytes, why: undeliverable(&error) }
            }
            _ => Note::Sent { at, frame: bytes },
        }))
    }

    fn message(
        &self,
        buffer: &mut Buffer,
        flags: MsgFlags,
    ) -> io::Result<Option<(usize, Monotonic, Option<libc::sock_extended_err>)>> {
        let mut parts = [IoSliceMut::new(&mut buffer.bytes[..])];
        let flags = flags | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message =
            match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut buffer.control), flags) {
                Ok(message) => message,
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
                // No socket, or no memory of ours: nobody else's fault.
                Err(error @ (nix::Error::EBADF | nix::Error::ENOTSOCK | nix::Error::EFAULT)) => {
                    return Err(error.into());
                }
                // A pending error, such as an ICMP error is turned into: the error queue has it with more
                // detail. Or the link is down for a while.
                Err(_) => return Ok(None),
            };
        let mut stamp = None;
        let mut error = None;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampsns(times) => stamp = Some(times.system),
                ControlMessageOwned::Ipv4RecvErr(it, _) => error = Some(it),
                ControlMessageOwned::Ipv6RecvErr(it, _) => error = Some(it),
                _ => {}
            }
        }
        let length = message.bytes;
        let at = stamp.map_or_else(Monotonic::now, |stamp| buffer.clocks.monotonic(stamp));
        Ok(Some((length, at, error)))
    }
}

/// Of an echo to `to`.
pub fn echo_protocol(to: IpAddr) -> Protocol {
    if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 }
}

/// The kernel's stamps are by the wall clock, which may be set or slewed: how far ahead of
/// CLOCK_MONOTONIC it is has to be looked at again and again.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// Nanoseconds.
    ahead: u64,
    compared: Monotonic,
}

/// Slewing (500 ppm) moves the clocks apart by 50 µs meanwhile, at most.
const FRESH: Duration = Duration::from_millis(100);
/// Somebody else may run between two looks at two clocks: the closest pair of so many counts.
const LOOKS: usize = 5;

impl Clocks {
    fn compare() -> Self {
        let look = || {
            let before = Monotonic::now();
            let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let after = Monotonic::now();
            let apart = after.since(before);
            let middle = before + apart / 2;
            let ahead = (wall_clock.as_nanos() as u64).saturating_sub(middle.0);
            (apart, Self { ahead, compared: after })
        };
        let looks: [_; LOOKS] = std::array::from_fn(|_| look());
        // There is one.
        looks.into_iter().min_by_key(|(apart, _)| *apart).map_or_else(|| look().1, |(_, it)| it)
    }

    fn wall_clock(&self, at: Monotonic) -> Duration {
        Duration::from_nanos(at.0.saturating_add(self.ahead))
    }

    fn monotonic(&mut self, stamp: TimeSpec) -> Monotonic {
        let now = Monotonic::now();
        if now.since(self.compared) > FRESH || self.tell(stamp) > now {
            *self = Self::compare();
        }
        // Still not, if the clock was set between the stamp and now.
        self.tell(stamp).min(now)
    }

    fn tell(&self, stamp: TimeSpec) -> Monotonic {
        Monotonic((Duration::from(stamp).as_nanos() as u64).saturating_sub(self.ahead))
    }
}

/// Linux reports an ICMP error to the next system call on the socket, which then has done nothing
/// (icmp_err_convert in net/ipv4/icmp.c).
fn is_of_an_earlier_packet(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EOPNOTSUPP
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EMSGSIZE
                | libc::EACCES
        )
    )
}

/// A system call's error in a word or two, for counting.
pub fn reason_of(error: &io::Error) -> &'static str {
    reason(error.raw_os_error().unwrap_or(0).cast_unsigned())
}

/// What somebody on the way says. Linux has one error number for several of these: a firewall is no
/// host that is gone.
fn undeliverable(error: &libc::sock_extended_err) -> &'static str {
    match (error.ee_origin, error.ee_type, error.ee_code) {
        // RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1.
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) => PROHIBITED,
        // RFC 4443 sections 3.1 and 3.3.
        (libc::SO_EE_ORIGIN_ICMP6, 1, 1 | 5 | 6) => PROHIBITED,
        (libc::SO_EE_ORIGIN_ICMP, 11, _) | (libc::SO_EE_ORIGIN_ICMP6, 3, _) => "time exceeded",
        _ => reason(error.ee_errno),
    }
}

const PROHIBITED: &str = "prohibited";

fn reason(errno: u32) -> &'static str {
    match errno.cast_signed() {
        libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ENONET => "host unreachable",
        libc::ENETUNREACH => "network unreachable",
        libc::ENETDOWN => "network down",
        libc::ECONNREFUSED => "port unreachable",
        libc::EACCES | libc::EPERM => PROHIBITED,
        libc::ENOBUFS | libc::ENOMEM => "no buffer",
        libc::EMSGSIZE => "too big",
        libc::EPROTO | libc::ENOPROTOOPT => "protocol unreachable",
        _ => "not sent",
    }
}
