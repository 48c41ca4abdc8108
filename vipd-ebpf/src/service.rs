//! TCP to a VIP, and from a backend to a NAT source address.

use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::maps::{Address, FlowKey, ServiceKey, ServiceState};
use vipd_common::verdict::Verdict;
use vipd_common::wire::Header;
use vipd_common::wire::ip::{Ip, IpHeader as _};
use vipd_common::wire::tcp::{self, TcpHeader};

use crate::frame::Frame;
use crate::program::{Family, ForUs};
use crate::reset::refuse;
use crate::tables::{Tables, TablesOf};
use crate::{dsr, nat};

/// An IP header without options and the TCP header after it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpTcp<A: Ip> {
    /// The IP header.
    pub ip: A::Header,
    /// The TCP header, without its options.
    pub tcp: TcpHeader,
}

const _: () = assert!(size_of::<IpTcp<Ipv4Bytes>>() == 40 && align_of::<IpTcp<Ipv4Bytes>>() == 1);
const _: () = assert!(size_of::<IpTcp<Ipv6Bytes>>() == 60 && align_of::<IpTcp<Ipv6Bytes>>() == 1);

// SAFETY: two headers, each of alignment 1, without padding and valid for every pattern; the
// assertions above rule padding between them out.
unsafe impl<A: Ip> Header for IpTcp<A> {}

/// What the program wants to know of a TCP segment whose lengths are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<A: Ip> {
    /// The connection it belongs to, as it arrived.
    pub key: FlowKey<A>,
    /// Sequence number of its first byte.
    pub seq: u32,
    /// Sequence number after its last byte.
    pub next_seq: u32,
    /// Acknowledgment number; meaningful with [`tcp::ACK`].
    pub ack: u32,
    /// TCP flags.
    pub flags: u8,
    /// What is left of its time to live.
    pub ttl: u8,
}

impl<A: Ip> Segment<A> {
    /// Whether any of `flags` is set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Opens a connection: SYN, and nothing that contradicts it. (A listening Linux discards SYN
    /// with RST or FIN.)
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }

    /// The answer to one: SYN and ACK.
    #[inline(always)]
    pub const fn is_syn_ack(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
    }

    /// Reads a segment; `None` if the frame or the datagram is too short for what the headers
    /// say.
    #[inline(always)]
    fn read(frame: &mut impl Frame, l3: usize) -> Option<Self> {
        let IpTcp { ip, tcp } = frame.at::<IpTcp<A>>(l3)?;
        let header = tcp.header_len();
        if header < TcpHeader::LEN as u16 || ip.payload_len() < header {
            return None;
        }
        Some(Self {
            key: FlowKey::new((ip.src(), tcp.src), (ip.dst(), tcp.dst)),
            seq: u32::from_be_bytes(tcp.seq),
            next_seq: tcp.next_seq(ip.payload_len() - header),
            ack: u32::from_be_bytes(tcp.ack),
            flags: tcp.flags,
            ttl: ip.ttl(),
        })
    }
}

/// Handles a TCP segment whose IP header was checked.
#[inline(always)]
pub fn handle<A: Ip<Header: Family>, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
) -> Verdict {
    let Some(segment) = Segment::read(frame, packet.arrival.l3()) else {
        return packet.reject(Verdict::BadTcpHeader);
    };
    if packet.address.has(Address::DSR) {
        return A::Header::apart(|| dsr::handle(frame, tables, packet, &segment));
    }
    nat::handle(frame, tables, packet, &segment)
}

/// The service a segment from a client is for.
#[inline(always)]
pub fn service_of<A: Ip>(tables: &impl TablesOf<A>, segment: &Segment<A>) -> Option<u32> {
    tables.service(&ServiceKey::new(segment.key.dst, segment.key.dst_port))
}

/// The verdict for a segment to a port that has no service: refused.
#[inline(always)]
pub fn without_service<A: Ip>(frame: &mut impl Frame, packet: &ForUs<A>) -> Verdict {
    refuse(frame, packet, Verdict::NoServiceReset, Verdict::NoServiceDrop)
}

/// The verdict for a segment to a service, but of no connection that is known: while the service
/// is up it is reset; between two masters nobody gets an error.
#[inline(always)]
pub fn without_flow<A: Ip>(
    frame: &mut impl Frame,
    tables: &impl Tables,
    packet: &ForUs<A>,
    service: u32,
) -> Verdict {
    match tables.standing(service).state() {
        ServiceState::Up | ServiceState::Group => {
            refuse(frame, packet, Verdict::NoFlowReset, Verdict::NoFlowDrop)
        }
        ServiceState::Down => Verdict::ServiceDown,
        ServiceState::Parked => Verdict::ServiceParked,
    }
}
