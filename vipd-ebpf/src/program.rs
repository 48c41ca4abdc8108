//! The program: what kind of frame is it, and for which address.

use vipd_common::maps::Address;
use vipd_common::verdict::Verdict;
use vipd_common::wire::eth;
use vipd_common::wire::ipv4::{Ipv4Header, PROTO_ICMP, PROTO_TCP};

use crate::frame::Frame;
use crate::link::{self, Arrival};
use crate::tables::Tables;
use crate::{arp, host, icmp, service};

/// An IPv4 packet for one of our addresses, its header checked.
#[derive(Clone, Copy, Debug)]
pub struct ForUs {
    /// Where it came from. It is addressed to the interface it came in by.
    pub arrival: Arrival,
    /// What its destination is.
    pub address: Address,
}

/// Handles one frame. Where the verdict is to forward it, its egress has been set.
#[inline(always)]
pub fn run(frame: &mut impl Frame, tables: &impl Tables) -> Verdict {
    let Some((arrival, ethertype)) = link::arrival(frame) else { return Verdict::NotOurs };
    match ethertype {
        eth::IPV4 => ipv4(frame, tables, arrival),
        eth::ARP => arp::handle(frame, tables, &arrival),
        _ => Verdict::NotOurs,
    }
}

#[inline(always)]
fn ipv4(frame: &mut impl Frame, tables: &impl Tables, arrival: Arrival) -> Verdict {
    let Some(ip) = frame.at::<Ipv4Header>(arrival.l3()) else { return Verdict::NotOurs };
    // The one lookup that traffic which isn't ours pays for.
    let Some(address) = tables.address(ip.dst) else { return Verdict::NotVip };
    let ip = *ip;

    let Some(own) = tables.interface(frame.ifindex()) else { return Verdict::NotVip };
    if arrival.dst != own {
        return Verdict::OtherHost;
    }
    if address.has(Address::REAL) {
        return Verdict::RealLocal;
    }
    let packet = ForUs { arrival, address };
    if address.has(Address::HOST) {
        return host::handle(frame, tables, &packet);
    }
    if let Err(verdict) = check(&ip, frame.length() - arrival.l3()) {
        return packet.reject(verdict);
    }
    match ip.protocol {
        PROTO_TCP => service::handle(frame, tables, &packet),
        PROTO_ICMP => icmp::handle(frame, tables, &packet),
        _ => packet.reject(Verdict::OtherProtocol),
    }
}

impl ForUs {
    /// `verdict` for a VIP; an address of the host itself gets its packets, whatever they are.
    #[inline(always)]
    pub fn reject(&self, verdict: Verdict) -> Verdict {
        if self.address.has(Address::VIRTUAL) { verdict } else { Verdict::HostTraffic }
    }
}

/// Whether the header is one that can be forwarded; `available` is the bytes in the frame from
/// the header on.
#[inline(always)]
fn check(ip: &Ipv4Header, available: usize) -> Result<(), Verdict> {
    const PLAIN: u8 = 0x45;
    if !ip.is_sound(available) {
        return Err(Verdict::BadIpHeader);
    }
    // A source that can't be one, or the destination itself (the "land" attack).
    if !Ipv4Header::is_unicast_source(ip.src) || ip.src == ip.dst {
        return Err(Verdict::BadIpHeader);
    }
    if ip.version_ihl != PLAIN {
        return Err(Verdict::IpOptions);
    }
    if ip.is_fragment() {
        return Err(Verdict::Fragment);
    }
    Ok(())
}
