//! The program: what kind of frame is it, and for which address.

use vipd_common::addr::MacAddr;
use vipd_common::maps::Address;
use vipd_common::verdict::Verdict;
use vipd_common::wire::{Header as _, eth};
use vipd_common::wire::ipv4::{Ipv4Header, PROTO_ICMP, PROTO_TCP};

use crate::frame::Frame;
use crate::link::{self, Arrival};
use crate::tables::Tables;
use crate::{arp, icmp, service};

/// What the program decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why; the action follows from it.
    pub verdict: Verdict,
    /// Interface index to leave by, where the action is to forward.
    pub egress: u32,
}

impl From<Verdict> for Outcome {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self { verdict, egress: 0 }
    }
}

/// An IPv4 packet for one of our addresses, its header checked.
#[derive(Clone, Copy, Debug)]
pub struct ForUs {
    /// Where it came from.
    pub arrival: Arrival,
    /// Link-layer address of the interface it came in by.
    pub own: MacAddr,
    /// What its destination is.
    pub address: Address,
}

/// Handles one frame.
#[inline(always)]
pub fn run(frame: &mut impl Frame, tables: &impl Tables) -> Outcome {
    let Some(arrival) = link::arrival(frame) else { return Verdict::NotOurs.into() };
    match arrival.ethertype {
        eth::IPV4 => ipv4(frame, tables, arrival),
        eth::ARP => arp::handle(frame, tables, &arrival).into(),
        _ => Verdict::NotOurs.into(),
    }
}

#[inline(always)]
fn ipv4(frame: &mut impl Frame, tables: &impl Tables, arrival: Arrival) -> Outcome {
    let Some(ip) = frame.at::<Ipv4Header>(arrival.l3) else { return Verdict::NotOurs.into() };
    // The one lookup that traffic which isn't ours pays for.
    let Some(address) = tables.address(ip.dst) else { return Verdict::NotVip.into() };
    let ip = *ip;

    let Some(own) = tables.interface(frame.ifindex()) else { return Verdict::NotVip.into() };
    if arrival.dst != own {
        return Verdict::OtherHost.into();
    }
    let packet = ForUs { arrival, own, address };
    if let Err(verdict) = check(&ip, frame.length() - arrival.l3) {
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
    pub fn reject(&self, verdict: Verdict) -> Outcome {
        if self.address.has(Address::VIRTUAL) { verdict } else { Verdict::HostTraffic }.into()
    }
}

/// Whether the header is one that can be forwarded; `available` is the bytes in the frame from
/// the header on.
#[inline(always)]
fn check(ip: &Ipv4Header, available: usize) -> Result<(), Verdict> {
    const PLAIN: u8 = 0x45;
    if ip.version_ihl & 0xf0 != 0x40 || ip.version_ihl < PLAIN {
        return Err(Verdict::BadIpHeader);
    }
    let length = ip.total_len() as usize;
    if length < Ipv4Header::LEN || length > available {
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
