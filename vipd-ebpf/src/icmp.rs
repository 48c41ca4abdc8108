//! ICMP to a VIP: echo, and errors about packets that were forwarded.

use vipd_common::checksum::Delta;
use vipd_common::maps::{Address, Flow, FlowKey, ServiceKey, ServiceState};
use vipd_common::verdict::Verdict;
use vipd_common::wire::Header;
use vipd_common::wire::icmp::{ECHO_REQUEST, IcmpHeader};
use vipd_common::wire::ipv4::{Ipv4Header, PROTO_TCP};
use vipd_common::wire::tcp::TcpQuote;

use crate::dsr::{self, departure};
use crate::frame::Frame;
use crate::link;
use crate::nat;
use crate::program::ForUs;
use crate::tables::Tables;

/// An IPv4 header and the ICMP header after it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Icmp {
    /// The IPv4 header.
    pub ip: Ipv4Header,
    /// The ICMP header.
    pub icmp: IcmpHeader,
}

/// An ICMP error about a TCP segment: what RFC 792 makes every such error quote.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4IcmpError {
    /// The error's own IPv4 header.
    pub ip: Ipv4Header,
    /// The ICMP header.
    pub icmp: IcmpHeader,
    /// The quoted IPv4 header.
    pub quoted_ip: Ipv4Header,
    /// The first bytes of the quoted TCP header.
    pub quoted_tcp: TcpQuote,
}

const _: () = assert!(size_of::<Ipv4Icmp>() == 28 && align_of::<Ipv4Icmp>() == 1);
const _: () = assert!(size_of::<Ipv4IcmpError>() == 56 && align_of::<Ipv4IcmpError>() == 1);

// SAFETY: headers of alignment 1, without padding and valid for every pattern; the assertions
// above rule padding between them out.
unsafe impl Header for Ipv4Icmp {}
// SAFETY: as above.
unsafe impl Header for Ipv4IcmpError {}

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM_AT: usize = 16;

impl Ipv4IcmpError {
    /// The connection the error is about, as its receiver's *incoming* packets would have it.
    #[inline(always)]
    const fn key(&self) -> FlowKey {
        FlowKey {
            src: self.quoted_ip.dst,
            dst: self.quoted_ip.src,
            src_port: self.quoted_tcp.dst,
            dst_port: self.quoted_tcp.src,
        }
    }
}

/// Handles ICMP whose IPv4 header was checked.
#[inline(never)]
pub fn handle<T: Tables>(frame: &mut impl Frame, tables: &T, packet: &ForUs) -> Verdict {
    let Some(headers) = frame.at::<Ipv4Icmp>(packet.arrival.l3()) else {
        return packet.reject(Verdict::IcmpIgnored);
    };
    if (headers.ip.total_len() as usize) < Ipv4Icmp::LEN {
        return packet.reject(Verdict::IcmpIgnored);
    }
    if headers.icmp.kind == ECHO_REQUEST && packet.address.has(Address::VIRTUAL) {
        return echo(frame, packet);
    }
    if headers.icmp.is_error() {
        return error(frame, tables, packet);
    }
    packet.reject(Verdict::IcmpIgnored)
}

#[inline(always)]
fn echo(frame: &mut impl Frame, packet: &ForUs) -> Verdict {
    /// The TTL of the reply, whatever was left of the request's.
    const TTL: u8 = 64;
    if !packet.address.has(Address::ECHO) {
        return Verdict::EchoDown;
    }
    let Some(headers) = frame.at::<Ipv4Icmp>(packet.arrival.l3()) else {
        return Verdict::IcmpIgnored;
    };
    headers.icmp.answer_echo();
    headers.ip.set_addresses(headers.ip.dst, headers.ip.src);
    let old = [headers.ip.ttl, headers.ip.protocol];
    headers.ip.ttl = TTL;
    headers.ip.checksum =
        Delta::new().word(old, [TTL, headers.ip.protocol]).apply(headers.ip.checksum);
    link::turn_around(frame, packet.arrival.dst);
    Verdict::EchoReply
}

#[inline(always)]
fn error<T: Tables>(frame: &mut impl Frame, tables: &T, packet: &ForUs) -> Verdict {
    let Some(headers) = frame.at::<Ipv4IcmpError>(packet.arrival.l3()).copied() else {
        return packet.reject(Verdict::IcmpIgnored);
    };
    // A quote with options or of a later fragment doesn't have its ports where we look.
    if (headers.ip.total_len() as usize) < Ipv4IcmpError::LEN
        || headers.quoted_ip.version_ihl != 0x45
        || headers.quoted_ip.protocol != PROTO_TCP
        || headers.quoted_ip.is_fragment()
        || headers.quoted_ip.src != headers.ip.dst
    {
        return packet.reject(Verdict::IcmpIgnored);
    }
    if packet.address.has(Address::DSR) {
        let service = ServiceKey::new(headers.quoted_ip.src, headers.quoted_tcp.src);
        return match tables.service(&service) {
            Some(service) => {
                dsr::forward(frame, tables, &packet.arrival, service, Verdict::IcmpToBackend)
            }
            None => Verdict::IcmpIgnored,
        };
    }

    let Some((_, flow)) = nat::find(tables, &headers.key()) else {
        return packet.reject(Verdict::IcmpIgnored);
    };
    let active = tables.active(flow.service);
    if flow.generation != active.generation() || active.state() != ServiceState::Up {
        return Verdict::IcmpIgnored;
    }
    if headers.ip.ttl <= 1 {
        return Verdict::TtlExpired;
    }
    let (to, verdict) = match flow.direction {
        Flow::FROM_CLIENT => {
            let Some(backend) = tables.backend(active.slot()) else {
                return Verdict::NoBackend;
            };
            (departure(backend), Verdict::IcmpToBackend)
        }
        _ => (nat::client_departure(&flow), Verdict::IcmpToClient),
    };
    let leaves = flow.leaves;
    drop(flow);
    translate(frame, packet.arrival.l3(), &leaves);
    match link::depart(frame, &packet.arrival, &to) {
        Ok(()) => verdict,
        Err(_) => Verdict::ResizeFailed,
    }
}

/// Rewrites an ICMP error and the segment it quotes: its receiver sees the packet that it sent
/// itself. `leaves` is the tuple of the receiver's connection as its packets would leave here, so
/// the quote is that reversed. The TCP checksum is mended where it was quoted (RFC 5508 section
/// 4.2).
#[inline(always)]
fn translate(frame: &mut impl Frame, l3: usize, leaves: &FlowKey) {
    let quoted = leaves.reversed();
    let Some(headers) = frame.at::<Ipv4IcmpError>(l3) else { return };
    let total_len = headers.ip.total_len() as usize;

    // The quoted header's checksum mends itself, which the ICMP checksum sees as one more word.
    let old_checksum = headers.quoted_ip.checksum;
    let addresses = headers.quoted_ip.set_addresses(quoted.src, quoted.dst);
    let ports = Delta::new()
        .word(headers.quoted_tcp.src, quoted.src_port)
        .word(headers.quoted_tcp.dst, quoted.dst_port);
    headers.quoted_tcp.src = quoted.src_port;
    headers.quoted_tcp.dst = quoted.dst_port;
    let mut icmp = addresses.and(ports).word(old_checksum, headers.quoted_ip.checksum);

    let tcp_checksum = Ipv4Icmp::LEN + Ipv4Header::LEN + TCP_CHECKSUM_AT;
    if total_len >= tcp_checksum + 2
        && let Some(checksum) = frame.at::<[u8; 2]>(l3 + tcp_checksum)
    {
        let old = *checksum;
        *checksum = addresses.and(ports).apply(old);
        icmp = icmp.word(old, *checksum);
    }
    let Some(headers) = frame.at::<Ipv4IcmpError>(l3) else { return };
    headers.icmp.checksum = icmp.apply(headers.icmp.checksum);
    headers.ip.set_addresses(leaves.src, leaves.dst);
    headers.ip.decrement_ttl();
}
