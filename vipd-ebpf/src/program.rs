//! The program: what kind of frame is it, and for which address.

use core::marker::PhantomData;

use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::maps::Address;
use vipd_common::verdict::Verdict;
use vipd_common::wire::eth;
use vipd_common::wire::icmp::IcmpHeader;
use vipd_common::wire::ip::{Ip, IpHeader};
use vipd_common::wire::ipv4::{Ipv4Header, PROTO_TCP};
use vipd_common::wire::ipv6::{Ipv6Header, NEXT_FRAGMENT, NEXT_ICMP};
use vipd_common::wire::{Header as _, ndp as neighbour};

use crate::frame::Frame;
use crate::link::{self, Arrival};
use crate::tables::TablesOf;
use crate::{arp, host, icmp, ndp, service};

/// A packet for one of our addresses.
#[derive(Clone, Copy, Debug)]
pub struct ForUs<A> {
    /// Where it came from. It is addressed to the interface it came in by.
    pub arrival: Arrival,
    /// What its destination is.
    pub address: Address,
    family: PhantomData<A>,
}

/// Handles one frame, unless it is IPv6: `None`, and the frame is untouched. Where the verdict is
/// to forward it, its egress has been set.
#[inline(always)]
pub fn run(frame: &mut impl Frame, tables: &impl TablesOf<Ipv4Bytes>) -> Option<Verdict> {
    let Some((arrival, ethertype)) = link::arrival(frame) else { return Some(Verdict::NotOurs) };
    match ethertype {
        eth::IPV4 => Some(ip(frame, tables, arrival)),
        eth::ARP => Some(arp::handle(frame, tables, &arrival)),
        eth::IPV6 => None,
        _ => Some(Verdict::NotOurs),
    }
}

/// Handles one frame that is IPv6: a program of its own, so that neither family pays for the other
/// in what the verifier and the stack allow.
#[inline(always)]
pub fn run_ipv6(frame: &mut impl Frame, tables: &impl TablesOf<Ipv6Bytes>) -> Verdict {
    let Some((arrival, eth::IPV6)) = link::arrival(frame) else { return Verdict::NotOurs };
    if is_neighbour_discovery(frame, &arrival) {
        return ndp::handle(frame, tables, &arrival);
    }
    ip(frame, tables, arrival)
}

/// Whether it is a solicitation or an advertisement: those are mostly for a group, and about an
/// address that only the message names.
#[inline(always)]
fn is_neighbour_discovery(frame: &mut impl Frame, arrival: &Arrival) -> bool {
    let Some(ip) = frame.at::<Ipv6Header>(arrival.l3()) else { return false };
    if ip.next_header != NEXT_ICMP {
        return false;
    }
    let Some(icmp) = frame.at::<IcmpHeader>(arrival.l3() + Ipv6Header::LEN) else { return false };
    matches!(icmp.kind, neighbour::SOLICITATION | neighbour::ADVERTISEMENT)
}

#[inline(always)]
fn ip<A: Ip<Header: Family>>(
    frame: &mut impl Frame,
    tables: &impl TablesOf<A>,
    arrival: Arrival,
) -> Verdict {
    let Some(ip) = frame.at::<A::Header>(arrival.l3()) else { return Verdict::NotOurs };
    // The one lookup that traffic which isn't ours pays for.
    let Some(address) = tables.address(ip.dst()) else { return Verdict::NotVip };

    let Some(own) = tables.interface(frame.ifindex()) else { return Verdict::NotVip };
    if arrival.dst != own {
        return Verdict::OtherHost;
    }
    if address.has(Address::REAL) {
        return Verdict::RealLocal;
    }
    let packet = ForUs { arrival, address, family: PhantomData };
    if address.has(Address::HOST) {
        return A::Header::apart(|| host::handle(frame, tables, &packet));
    }
    let available = frame.length() - arrival.l3();
    let Some(ip) = frame.at::<A::Header>(arrival.l3()) else { return Verdict::NotOurs };
    if let Err(verdict) = check(ip, available) {
        return packet.reject(verdict);
    }
    match ip.protocol() {
        PROTO_TCP => service::handle(frame, tables, &packet),
        protocol if protocol == A::Header::ICMP => icmp::handle(frame, tables, &packet),
        _ => packet.reject(Verdict::OtherProtocol),
    }
}

impl<A> ForUs<A> {
    /// `verdict` for a VIP; an address of the host itself gets its packets, whatever they are.
    #[inline(always)]
    pub fn reject(&self, verdict: Verdict) -> Verdict {
        if self.address.has(Address::VIRTUAL) { verdict } else { Verdict::HostTraffic }
    }
}

/// Whether the header is one that can be forwarded; `available` is the bytes in the frame from
/// the header on.
#[inline(always)]
fn check<H: Family>(ip: &H, available: usize) -> Result<(), Verdict> {
    // A source that can't be one, or the destination itself (the "land" attack).
    if !ip.is_sound(available) || !ip.src().is_unicast_source() || ip.src() == ip.dst() {
        return Err(Verdict::BadIpHeader);
    }
    ip.check_plain()
}

/// What the families differ in, as far as this program goes.
pub trait Family: IpHeader {
    /// The verdict where the payload doesn't begin right behind this header, or not from its
    /// beginning.
    ///
    /// # Errors
    ///
    /// See above.
    fn check_plain(&self) -> Result<(), Verdict>;

    /// Calls `part`: in a function of its own where the family's tuples are so large that the
    /// kernel's stack has no room for them beside what comes later, and else at no cost.
    fn apart<R>(part: impl FnOnce() -> R) -> R;
}

impl Family for Ipv4Header {
    #[inline(always)]
    fn check_plain(&self) -> Result<(), Verdict> {
        if self.has_options() {
            return Err(Verdict::IpOptions);
        }
        if self.is_fragment() {
            return Err(Verdict::Fragment);
        }
        Ok(())
    }

    #[inline(always)]
    fn apart<R>(part: impl FnOnce() -> R) -> R {
        part()
    }
}

impl Family for Ipv6Header {
    #[inline(always)]
    fn check_plain(&self) -> Result<(), Verdict> {
        if self.next_header == NEXT_FRAGMENT {
            return Err(Verdict::Fragment);
        }
        if self.has_extension() {
            return Err(Verdict::Extension);
        }
        Ok(())
    }

    #[inline(never)]
    fn apart<R>(part: impl FnOnce() -> R) -> R {
        part()
    }
}
