//! Neighbour discovery for the VIPs: answers, silence, and rivals. What [`crate::arp`] is for IPv4.

use vipd_common::addr::{Ipv6Bytes, MacAddr};
use vipd_common::checksum::Sum;
use vipd_common::maps::Address;
use vipd_common::verdict::Verdict;
use vipd_common::wire::Header as _;
use vipd_common::wire::eth::EthHeader;
use vipd_common::wire::ip::{Ip as _, IpHeader as _};
use vipd_common::wire::ndp::{self, Advertisement, NeighbourMessage, NeighbourPacket};

use crate::frame::{Frame, ResizeFailed};
use crate::host;
use crate::link::{self, Arrival};
use crate::tables::TablesOf;

/// Bytes in a unit of options.
const UNIT: usize = 8;
/// Units of options at most. Hosts send one or two: their link-layer address, a nonce (RFC 7527).
const MAX_UNITS: usize = 8;

/// Handles a solicitation or an advertisement. Whatever isn't about a VIP is left to the stack
/// untouched.
#[inline(never)]
pub fn handle(
    frame: &mut impl Frame,
    tables: &impl TablesOf<Ipv6Bytes>,
    arrival: &Arrival,
) -> Verdict {
    let ifindex = frame.ifindex();
    let Some(own) = tables.interface(ifindex) else { return Verdict::NdpOther };
    let Some(NeighbourPacket { ip, message }) = frame.at::<NeighbourPacket>(arrival.l3()) else {
        return Verdict::NdpOther;
    };
    let (sender, target) = (ip.src(), message.target);
    let claimed = if message.kind == ndp::SOLICITATION { sender } else { target };
    let verdict = if arrival.src != own && is_contested(tables, claimed) {
        Verdict::NdpRival
    } else if message.kind == ndp::SOLICITATION {
        asked(tables, arrival, own, sender == Ipv6Bytes::UNSPECIFIED, target)
    } else {
        Verdict::NdpOther
    };
    if !matches!(verdict, Verdict::NdpRival | Verdict::NdpReply) {
        return verdict;
    }
    if !is_valid(frame, arrival) {
        return Verdict::NdpInvalid;
    }
    if verdict == Verdict::NdpRival {
        tables.note_rival(claimed, arrival.src, ifindex);
        return verdict;
    }
    match answer(frame, arrival, own) {
        Ok(()) => verdict,
        Err(_) => Verdict::ResizeFailed,
    }
}

/// Whether an address is one that nobody else may claim: by advertising it, or by a solicitation
/// sent from it. (Our own, reflected by a switch, are no claims.)
#[inline(always)]
fn is_contested(tables: &impl TablesOf<Ipv6Bytes>, claimed: Ipv6Bytes) -> bool {
    match tables.address(claimed) {
        Some(address) => host::is_contested(tables, address),
        None => false,
    }
}

/// What to do with a solicitation for `target`: [`Verdict::NdpReply`] is to answer it.
#[inline(always)]
fn asked(
    tables: &impl TablesOf<Ipv6Bytes>,
    arrival: &Arrival,
    own: MacAddr,
    from_nobody: bool,
    target: Ipv6Bytes,
) -> Verdict {
    let Some(address) = tables.address(target) else { return Verdict::NdpOther };
    if !address.has(Address::VIRTUAL) {
        return Verdict::NdpOther;
    }
    if arrival.dst != own && !arrival.dst.is_multicast() {
        return Verdict::OtherHost;
    }
    if arrival.src == own {
        // Our own duplicate-address probe, sent back to us: answering would find ourselves.
        return Verdict::NdpOther;
    }
    if host::is_announced(tables, address) {
        return Verdict::NdpReply;
    }
    // As in ARP: two that probe at once must hear each other, unless the stack holds the address
    // and would answer.
    if from_nobody && !address.has(Address::HOST | Address::REAL) {
        return Verdict::NdpOther;
    }
    Verdict::NdpSilent
}

/// Turns a solicitation into the advertisement that answers it (RFC 4861 section 7.2.4).
#[inline(always)]
fn answer(frame: &mut impl Frame, arrival: &Arrival, own: MacAddr) -> Result<(), ResizeFailed> {
    let l3 = arrival.l3();
    let packet = frame.at::<NeighbourPacket>(l3).ok_or(ResizeFailed)?;
    let (asker, target) = (packet.ip.src(), packet.message.target);
    // Who has no address yet, and probes for this one, can't be answered but through everybody.
    let to_nobody = asker == Ipv6Bytes::UNSPECIFIED;
    let (to, flags) = if to_nobody {
        (ndp::ALL_NODES, ndp::OVERRIDE)
    } else {
        (asker, ndp::SOLICITED | ndp::OVERRIDE)
    };
    frame.resize(l3 + Advertisement::LEN)?;
    link::turn_around(frame, own);
    if to_nobody {
        frame.at::<EthHeader>(0).ok_or(ResizeFailed)?.dst = ndp::multicast_mac(ndp::ALL_NODES);
    }
    *frame.at::<Advertisement>(l3).ok_or(ResizeFailed)? =
        Advertisement::new(own, target, to, flags);
    Ok(())
}

/// Whether a message is one that RFC 4861 (sections 7.1.1 and 7.1.2) has not discarded: from this
/// link, with the right checksum and lengths, and from and to whom it can be.
#[inline(always)]
fn is_valid(frame: &mut impl Frame, arrival: &Arrival) -> bool {
    let l3 = arrival.l3();
    let available = frame.length() - l3;
    let Some(NeighbourPacket { ip, message }) = frame.at::<NeighbourPacket>(l3) else {
        return false;
    };
    let options = (ip.payload_len() as usize).wrapping_sub(NeighbourMessage::LEN);
    let is_question = message.kind == ndp::SOLICITATION;
    let from_nobody = ip.src == Ipv6Bytes::UNSPECIFIED;
    let to_group = ip.dst[0] == 0xff;
    let ends = if is_question {
        !from_nobody || ip.dst == ndp::solicited_node(message.target)
    } else {
        !to_group || message.flags & ndp::SOLICITED == 0
    };
    if !ip.is_sound(available)
        || ip.hop_limit != ndp::HOP_LIMIT
        || message.code != 0
        || message.target[0] == 0xff
        || options > MAX_UNITS * UNIT
        || !options.is_multiple_of(UNIT)
        || !ends
    {
        return false;
    }
    let sum = ip.pseudo_sum().bytes(message.as_bytes());
    let Some(sum) = add_options(frame, l3, options / UNIT, is_question && from_nobody, sum) else {
        return false;
    };
    sum.checksum() == [0; 2]
}

/// Walks the options, adding them to `sum`. `None` if they are malformed, or hold the link-layer
/// address of a sender that, having no address, must not name one.
#[inline(always)]
fn add_options(
    frame: &mut impl Frame,
    l3: usize,
    units: usize,
    from_nobody: bool,
    mut sum: Sum,
) -> Option<Sum> {
    // The unit in which the next option begins.
    let mut next = 0;
    let mut unit = 0;
    while unit < MAX_UNITS && unit < units {
        let bytes = frame.at::<[u8; UNIT]>(l3 + NeighbourPacket::LEN + unit * UNIT)?;
        sum = sum.bytes(bytes);
        if unit == next {
            let [kind, length, ..] = *bytes;
            if length == 0 || (from_nobody && kind == ndp::SOURCE_LINK_LAYER) {
                return None;
            }
            next += length as usize;
        }
        unit += 1;
    }
    (next == units).then_some(sum)
}
