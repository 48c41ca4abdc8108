//! TCP to a VIP, and from a backend to a NAT source address.

use vipd_common::maps::{Address, FlowKey, ServiceKey, ServiceState};
use vipd_common::verdict::Verdict;
use vipd_common::wire::Header;
use vipd_common::wire::ipv4::Ipv4Header;
use vipd_common::wire::tcp::TcpHeader;

use crate::frame::Frame;
use crate::program::{ForUs, Outcome};
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

impl Ipv4Tcp {
    /// The connection this segment belongs to, as it arrived.
    #[inline(always)]
    pub const fn key(&self) -> FlowKey {
        FlowKey {
            src: self.ip.src,
            dst: self.ip.dst,
            src_port: self.tcp.src,
            dst_port: self.tcp.dst,
        }
    }

    /// Bytes of TCP payload. Only meaningful once [`handle`] has checked the data offset.
    #[inline(always)]
    pub const fn payload(&self) -> u16 {
        self.ip.total_len().wrapping_sub(Ipv4Header::LEN as u16 + self.tcp.header_len())
    }
}

/// Handles a TCP segment whose IPv4 header was checked.
#[inline(always)]
pub fn handle<T: Tables>(frame: &mut impl Frame, tables: &T, packet: &ForUs) -> Outcome {
    let Some(segment) = frame.at::<Ipv4Tcp>(packet.arrival.l3).copied() else {
        return packet.reject(Verdict::BadTcpHeader);
    };
    let header_len = segment.tcp.header_len();
    if header_len < TcpHeader::LEN as u16
        || segment.ip.total_len() < Ipv4Header::LEN as u16 + header_len
    {
        return packet.reject(Verdict::BadTcpHeader);
    }
    if packet.address.has(Address::DSR) {
        let Some(service) = service_of(tables, &segment) else {
            return refuse(frame, packet, Verdict::NoServiceReset, Verdict::NoServiceDrop);
        };
        return dsr::forward(frame, tables, &packet.arrival, service, Verdict::DsrToBackend);
    }
    nat::handle(frame, tables, packet, &segment)
}

/// The service a segment from a client is for.
#[inline(always)]
pub fn service_of(tables: &impl Tables, segment: &Ipv4Tcp) -> Option<u32> {
    tables.service(&ServiceKey::new(segment.ip.dst, segment.tcp.dst))
}

/// Resets the sender with verdict `answered`, or, if the segment is a reset itself, drops it with
/// verdict `silent`.
#[inline(always)]
pub fn refuse(
    frame: &mut impl Frame,
    packet: &ForUs,
    answered: Verdict,
    silent: Verdict,
) -> Outcome {
    match reset::answer(frame, &packet.arrival, packet.own) {
        Ok(Answer::Reset) => answered,
        Ok(Answer::Silence) => silent,
        Err(_) => Verdict::ResizeFailed,
    }
    .into()
}

/// The verdict for a segment without a connection, on a port that has a service: while the
/// service is up it is reset; between two masters nobody gets an error.
#[inline(always)]
pub fn without_flow(
    frame: &mut impl Frame,
    tables: &impl Tables,
    packet: &ForUs,
    segment: &Ipv4Tcp,
) -> Outcome {
    let Some(service) = service_of(tables, segment) else {
        return refuse(frame, packet, Verdict::NoServiceReset, Verdict::NoServiceDrop);
    };
    match tables.active(service).state() {
        ServiceState::Up => refuse(frame, packet, Verdict::NoFlowReset, Verdict::NoFlowDrop),
        ServiceState::Down => Verdict::ServiceDown.into(),
        ServiceState::Parked => Verdict::ServiceParked.into(),
    }
}
