//! ICMP to a VIP: echo, and errors about packets that were forwarded.

use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::checksum::Delta;
use vipd_common::maps::{Address, FlowKey, ServiceKey, ServiceState, direction};
use vipd_common::verdict::Verdict;
use vipd_common::wire::Header;
use vipd_common::wire::icmp::IcmpHeader;
use vipd_common::wire::ip::{Ip, IpHeader};
use vipd_common::wire::tcp::TcpQuote;

use crate::dsr::{self, departure};
use crate::frame::Frame;
use crate::link;
use crate::nat;
use crate::program::ForUs;
use crate::tables::TablesOf;

/// An IP header and the ICMP header after it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpIcmp<A: Ip> {
    /// The IP header.
    pub ip: A::Header,
    /// The ICMP header.
    pub icmp: IcmpHeader,
}

/// An ICMP error about a TCP segment: what RFC 792 makes every such error quote, and RFC 4443 more
/// than that.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpIcmpError<A: Ip> {
    /// The error's own IP header.
    pub ip: A::Header,
    /// The ICMP header.
    pub icmp: IcmpHeader,
    /// The quoted IP header.
    pub quoted_ip: A::Header,
    /// The first bytes of the quoted TCP header.
    pub quoted_tcp: TcpQuote,
}

const _: () = assert!(size_of::<IpIcmp<Ipv4Bytes>>() == 28);
const _: () = assert!(size_of::<IpIcmpError<Ipv4Bytes>>() == 56);
const _: () = assert!(size_of::<IpIcmp<Ipv6Bytes>>() == 48);
const _: () = assert!(size_of::<IpIcmpError<Ipv6Bytes>>() == 96);

// SAFETY: headers of alignment 1, without padding and valid for every pattern; the assertions
// above rule padding between them out.
unsafe impl<A: Ip> Header for IpIcmp<A> {}
// SAFETY: as above.
unsafe impl<A: Ip> Header for IpIcmpError<A> {}

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM_AT: usize = 16;

impl<A: Ip> IpIcmpError<A> {
    /// The connection the error is about, as its receiver's *incoming* packets would have it.
    #[inline(always)]
    fn key(&self) -> FlowKey<A> {
        FlowKey::new(
            (self.quoted_ip.dst(), self.quoted_tcp.dst),
            (self.quoted_ip.src(), self.quoted_tcp.src),
        )
    }

    /// Whether the quote is of a segment that the error's receiver sent, and its ports are where
    /// we look: with options or in a later fragment they aren't.
    #[inline(always)]
    fn is_readable(&self) -> bool {
        self.ip.payload_len() as usize >= Self::LEN - A::Header::LEN
            && self.quoted_ip.is_plain_tcp()
            && self.quoted_ip.src() == self.ip.dst()
    }
}

/// Handles ICMP whose IP header was checked.
#[inline(never)]
pub fn handle<A: Ip, T: TablesOf<A>>(
    frame: &mut impl Frame,
    tables: &T,
    packet: &ForUs<A>,
) -> Verdict {
    let Some(headers) = frame.at::<IpIcmp<A>>(packet.arrival.l3()) else {
        return packet.reject(Verdict::IcmpIgnored);
    };
    if (headers.ip.payload_len() as usize) < IcmpHeader::LEN {
        return packet.reject(Verdict::IcmpIgnored);
    }
    let kind = headers.icmp.kind;
    if kind == A::Header::ECHO_REQUEST && packet.address.has(Address::VIRTUAL) {
        return echo(frame, packet);
    }
    if A::Header::is_icmp_error(kind) {
        return error(frame, tables, packet);
    }
    packet.reject(Verdict::IcmpIgnored)
}

#[inline(always)]
fn echo<A: Ip>(frame: &mut impl Frame, packet: &ForUs<A>) -> Verdict {
    /// The TTL of the reply, whatever was left of the request's.
    const TTL: u8 = 64;
    if !packet.address.has(Address::ECHO) {
        return Verdict::EchoDown;
    }
    let Some(headers) = frame.at::<IpIcmp<A>>(packet.arrival.l3()) else {
        return Verdict::IcmpIgnored;
    };
    headers.icmp.set_kind(A::Header::ECHO_REPLY);
    // Exchanged, they add up to the same: ICMPv6's checksum needs no more than that.
    headers.ip.set_addresses(headers.ip.dst(), headers.ip.src());
    headers.ip.set_ttl(TTL);
    link::turn_around(frame, packet.arrival.dst);
    Verdict::EchoReply
}

#[inline(always)]
fn error<A: Ip, T: TablesOf<A>>(frame: &mut impl Frame, tables: &T, packet: &ForUs<A>) -> Verdict {
    let Some(headers) = frame.at::<IpIcmpError<A>>(packet.arrival.l3()) else {
        return packet.reject(Verdict::IcmpIgnored);
    };
    if !headers.is_readable() {
        return packet.reject(Verdict::IcmpIgnored);
    }
    let ttl = headers.ip.ttl();
    let key = headers.key();
    if packet.address.has(Address::DSR) {
        let service = ServiceKey::new(key.dst, key.dst_port);
        return match tables.service(&service) {
            Some(service) => {
                dsr::forward(frame, tables, &packet.arrival, service, Verdict::IcmpToBackend)
            }
            None => Verdict::IcmpIgnored,
        };
    }

    let Some((_, flow)) = nat::find(tables, &key) else {
        return packet.reject(Verdict::IcmpIgnored);
    };
    let active = tables.standing(flow.service);
    if flow.generation != active.generation() || active.state() != ServiceState::Up {
        return Verdict::IcmpIgnored;
    }
    if ttl <= 1 {
        return Verdict::TtlExpired;
    }
    let (to, verdict) = match flow.direction {
        direction::FROM_CLIENT => {
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
fn translate<A: Ip>(frame: &mut impl Frame, l3: usize, leaves: &FlowKey<A>) {
    let Some(headers) = frame.at::<IpIcmpError<A>>(l3) else { return };
    let total_len = A::Header::LEN + headers.ip.payload_len() as usize;

    // The quoted header's checksum mends itself, which the ICMP checksum sees as one more word.
    let old_checksum = headers.quoted_ip.checksum();
    let addresses = headers.quoted_ip.set_addresses(leaves.dst, leaves.src);
    let ports = Delta::new()
        .word(headers.quoted_tcp.src, leaves.dst_port)
        .word(headers.quoted_tcp.dst, leaves.src_port);
    headers.quoted_tcp.src = leaves.dst_port;
    headers.quoted_tcp.dst = leaves.src_port;
    let mut icmp = addresses.and(ports).word(old_checksum, headers.quoted_ip.checksum());

    let tcp_checksum = IpIcmp::<A>::LEN + A::Header::LEN + TCP_CHECKSUM_AT;
    if total_len >= tcp_checksum + 2
        && let Some(checksum) = frame.at::<[u8; 2]>(l3 + tcp_checksum)
    {
        let old = *checksum;
        *checksum = addresses.and(ports).apply(old);
        icmp = icmp.word(old, *checksum);
    }
    let Some(headers) = frame.at::<IpIcmp<A>>(l3) else { return };
    let addresses = headers.ip.set_addresses(leaves.src, leaves.dst);
    headers.icmp.checksum = icmp.and(A::Header::in_icmp(addresses)).apply(headers.icmp.checksum);
    headers.ip.decrement_ttl();
}
