//! TCP to a VIP, and from a backend to a NAT source address.

use vipd_common::maps::{Address, FlowKey, ServiceKey, ServiceState};
use vipd_common::verdict::Verdict;
use vipd_common::wire::Header;
use vipd_common::wire::ipv4::Ipv4Header;
use vipd_common::wire::tcp::{self, TcpHeader};

use crate::frame::Frame;
use crate::program::ForUs;
use crate::reset::{self, Answer};
use crate::tables::Tables;
use crate::{dsr, nat};

/// An IPv4 header without options and the TCP header after it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Tcp {
    /// The IPv4 header.
    pub ip: Ipv4Header,
    /// The TCP header, without its options.
    pub tcp: TcpHeader,
}

const _: () = assert!(size_of::<Ipv4Tcp>() == 40 && align_of::<Ipv4Tcp>() == 1);

// SAFETY: two headers, each of alignment 1, without padding and valid for every pattern; the
// assertion above rules padding between them out.
unsafe impl Header for Ipv4Tcp {}

/// What the program wants to know of a TCP segment whose lengths are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The connection it belongs to, as it arrived.
    pub key: FlowKey,
    /// Sequence number after its last byte.
    pub next_seq: u32,
    /// Acknowledgment number; meaningful with [`tcp::ACK`].
    pub ack: u32,
    /// TCP flags.
    pub flags: u8,
    /// What is left of its time to live.
    pub ttl: u8,
}

impl Segment {
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
        let Ipv4Tcp { ip, tcp } = frame.at::<Ipv4Tcp>(l3)?;
        let headers = Ipv4Header::LEN as u16 + tcp.header_len();
        if tcp.header_len() < TcpHeader::LEN as u16 || ip.total_len() < headers {
            return None;
        }
        Some(Self {
            key: FlowKey { src: ip.src, dst: ip.dst, src_port: tcp.src, dst_port: tcp.dst },
            next_seq: tcp.next_seq(ip.total_len() - headers),
            ack: u32::from_be_bytes(tcp.ack),
            flags: tcp.flags,
            ttl: ip.ttl,
        })
    }
}

/// Handles a TCP segment whose IPv4 header was checked.
#[inline(always)]
pub fn handle<T: Tables>(frame: &mut impl Frame, tables: &T, packet: &ForUs) -> Verdict {
    let Some(segment) = Segment::read(frame, packet.arrival.l3()) else {
        return packet.reject(Verdict::BadTcpHeader);
    };
    if packet.address.has(Address::DSR) {
        let Some(service) = service_of(tables, &segment) else {
            return without_service(frame, packet);
        };
        return dsr::forward(frame, tables, &packet.arrival, service, Verdict::DsrToBackend);
    }
    nat::handle(frame, tables, packet, &segment)
}

/// The service a segment from a client is for.
#[inline(always)]
pub fn service_of(tables: &impl Tables, segment: &Segment) -> Option<u32> {
    tables.service(&ServiceKey::new(segment.key.dst, segment.key.dst_port))
}

/// Resets the sender with verdict `answered`, or, if the segment is a reset itself, drops it with
/// verdict `silent`.
#[inline(always)]
pub fn refuse(
    frame: &mut impl Frame,
    packet: &ForUs,
    answered: Verdict,
    silent: Verdict,
) -> Verdict {
    match reset::answer(frame, &packet.arrival) {
        Ok(Answer::Reset) => answered,
        Ok(Answer::Silence) => silent,
        Err(_) => Verdict::ResizeFailed,
    }
}

/// The verdict for a segment to a port that has no service: refused.
#[inline(always)]
pub fn without_service(frame: &mut impl Frame, packet: &ForUs) -> Verdict {
    refuse(frame, packet, Verdict::NoServiceReset, Verdict::NoServiceDrop)
}

/// The verdict for a segment to a service, but of no connection that is known: while the service
/// is up it is reset; between two masters nobody gets an error.
#[inline(always)]
pub fn without_flow(
    frame: &mut impl Frame,
    tables: &impl Tables,
    packet: &ForUs,
    service: u32,
) -> Verdict {
    match tables.active(service).state() {
        ServiceState::Up | ServiceState::Group => {
            refuse(frame, packet, Verdict::NoFlowReset, Verdict::NoFlowDrop)
        }
        ServiceState::Down => Verdict::ServiceDown,
        ServiceState::Parked => Verdict::ServiceParked,
    }
}
