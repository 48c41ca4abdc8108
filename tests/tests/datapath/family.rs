//! The same cases in both families: they are written in IPv4, and what goes into the kernel and is
//! expected to come out is translated. The translator shares nothing with the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::maps;
use vipd_common::wire::ip::Ip;
use vipd_ebpf::model;

use crate::frames::{ones_complement, set_word};

/// A family that cases run in.
pub trait Family {
    /// What its maps hold.
    type Addr: Ip;
    /// Where the transport header is in an untagged frame.
    const L4: usize;

    /// The address that stands for an IPv4 address.
    fn addr(addr: Ipv4Addr) -> IpAddr;

    /// The same, as its maps hold it.
    fn bytes(addr: Ipv4Bytes) -> Self::Addr;

    /// The frame that stands for an IPv4 frame.
    fn frame(frame: &[u8]) -> Vec<u8>;

    /// The reverse.
    fn back(frame: &[u8]) -> Vec<u8>;

    /// The reverse of [`Self::bytes`].
    fn bytes_back(addr: Self::Addr) -> Ipv4Bytes;

    /// Its map instead of an IPv4 map.
    fn map(name: &str) -> &str;

    /// Its maps in the model.
    fn maps(world: &mut model::World) -> &mut model::Family<Self::Addr>;
}

/// As the cases are written.
pub struct Ipv4;

impl Family for Ipv4 {
    type Addr = Ipv4Bytes;
    const L4: usize = 34;

    fn addr(addr: Ipv4Addr) -> IpAddr {
        addr.into()
    }

    fn bytes(addr: Ipv4Bytes) -> Ipv4Bytes {
        addr
    }

    fn frame(frame: &[u8]) -> Vec<u8> {
        frame.to_vec()
    }

    fn back(frame: &[u8]) -> Vec<u8> {
        frame.to_vec()
    }

    fn bytes_back(addr: Ipv4Bytes) -> Ipv4Bytes {
        addr
    }

    fn map(name: &str) -> &str {
        name
    }

    fn maps(world: &mut model::World) -> &mut model::Family<Ipv4Bytes> {
        &mut world.v4
    }
}

/// 198.18.0.250 is fd98:18::c612:fa.
pub struct Ipv6;

/// The first 12 bytes of every address.
const PREFIX: [u8; 12] = [0xfd, 0x98, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0];
/// EtherTypes.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// ICMP types (and codes) with their counterparts: those that ask and answer, then errors.
const ICMP: [(u8, u8); 5] = [(8, 128), (0, 129), (3, 1), (11, 3), (12, 4)];
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const PACKET_TOO_BIG: [u8; 2] = [2, 0];

impl Family for Ipv6 {
    type Addr = Ipv6Bytes;
    const L4: usize = 54;

    fn addr(addr: Ipv4Addr) -> IpAddr {
        Ipv6Addr::from(Self::bytes(addr.octets())).into()
    }

    fn bytes(addr: Ipv4Bytes) -> Ipv6Bytes {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&PREFIX);
        bytes[12..].copy_from_slice(&addr);
        bytes
    }

    fn frame(frame: &[u8]) -> Vec<u8> {
        let (link, packet) = frame.split_at(l3(frame));
        if link[link.len() - 2..] != IPV4 || packet.len() < 20 {
            return frame.to_vec();
        }
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let (datagram, padding) = packet.split_at(total.clamp(20, packet.len()));
        let mut link = link.to_vec();
        let at = link.len() - 2;
        link[at..].copy_from_slice(&IPV6);
        [link, ipv6(datagram, false), padding.to_vec()].concat()
    }

    fn back(frame: &[u8]) -> Vec<u8> {
        let (link, packet) = frame.split_at(l3(frame));
        if link[link.len() - 2..] != IPV6 || packet.len() < 40 {
            return frame.to_vec();
        }
        let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        let (datagram, padding) = packet.split_at((40 + length).min(packet.len()));
        let mut link = link.to_vec();
        let at = link.len() - 2;
        link[at..].copy_from_slice(&IPV4);
        [link, ipv4(datagram), padding.to_vec()].concat()
    }

    fn bytes_back(addr: Ipv6Bytes) -> Ipv4Bytes {
        assert_eq!(addr[..12], PREFIX);
        [addr[12], addr[13], addr[14], addr[15]]
    }

    fn map(name: &str) -> &str {
        match name {
            maps::FLOWS => maps::FLOWS6,
            maps::HALF_OPEN => maps::HALF_OPEN6,
            maps::PENDING => maps::PENDING6,
            other => other,
        }
    }

    fn maps(world: &mut model::World) -> &mut model::Family<Ipv6Bytes> {
        &mut world.v6
    }
}

fn l3(frame: &[u8]) -> usize {
    if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 }
}

/// A datagram, or, in an ICMP error, the beginning of one.
fn ipv6(datagram: &[u8], quoted: bool) -> Vec<u8> {
    let (ip, payload) = datagram.split_at(20);
    let total = u16::from_be_bytes([ip[2], ip[3]]);
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let next = match ip[9] {
        _ if fragment => 44,
        _ if ip[0] != 0x45 => 0,
        1 => 58,
        other => other,
    };
    // What is no IPv4 header becomes no IPv6 header, and options an extension header.
    let is_sound = (0x45..0x50).contains(&ip[0]);
    let mut out = vec![if is_sound { 0x60 } else { 0x40 }, 0, 0, 0];
    out.extend(total.wrapping_sub(20).to_be_bytes());
    out.extend([next, ip[8]]);
    out.extend(Ipv6::bytes(ip[12..16].try_into().unwrap()));
    out.extend(Ipv6::bytes(ip[16..20].try_into().unwrap()));
    out.extend(payload);
    match next {
        6 if payload.len() >= 18 => translate_tcp(&mut out, datagram, quoted),
        58 if payload.len() >= 8 => translate_icmp(&mut out),
        _ => {}
    }
    out
}

/// A valid checksum becomes a valid one. Of a segment that was cut off nobody knows, and a wrong one
/// stays wrong: then it is changed by what the pseudo header was.
fn translate_tcp(out: &mut [u8], datagram: &[u8], quoted: bool) {
    let pseudo = |addresses: &[u8], segment: &[u8]| {
        let addresses = ones_complement(addresses, 0);
        ones_complement(segment, u32::from(addresses) + 6 + segment.len() as u32)
    };
    if !quoted && pseudo(&datagram[12..20], &datagram[20..]) == 0xffff {
        set_word(out, 56, 0);
        let sum = pseudo(&out[8..40], &out[40..]);
        set_word(out, 56, !sum);
        return;
    }
    let old = u32::from(u16::from_be_bytes([out[56], out[57]]));
    let before = u32::from(ones_complement(&datagram[12..20], 0));
    let after = ones_complement(&out[8..40], 0);
    let sum = ones_complement(&(!after).to_be_bytes(), old + before);
    set_word(out, 56, sum);
}

fn translate_icmp(out: &mut Vec<u8>) {
    let kind = [out[40], out[41]];
    if kind == FRAGMENTATION_NEEDED {
        out[40..42].copy_from_slice(&PACKET_TOO_BIG);
    } else if let Some((_, kind)) = ICMP.iter().find(|(v4, _)| *v4 == kind[0]) {
        out[40] = *kind;
    } else {
        // Something that there is in neither family.
        out[40] = 200;
    }
    let is_error = out[40] < 128;
    if is_error && out.len() >= 48 + 20 {
        let quote = ipv6(&out[48..], true);
        let grown = quote.len() - (out.len() - 48);
        out.truncate(48);
        out.extend(quote);
        let length = u16::from_be_bytes([out[4], out[5]]) + grown as u16;
        set_word(out, 4, length);
    }
    fix_icmpv6_checksum(out);
}

/// Computes the checksum of an ICMPv6 message right behind its IPv6 header.
pub fn fix_icmpv6_checksum(packet: &mut [u8]) {
    let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let end = (40 + length).min(packet.len());
    set_word(packet, 42, 0);
    let addresses = u32::from(ones_complement(&packet[8..40], 0));
    let sum = ones_complement(&packet[40..end], addresses + 58 + length as u32);
    set_word(packet, 42, !sum);
}

/// A TCP segment or an echo; errors are compared in IPv6.
fn ipv4(datagram: &[u8]) -> Vec<u8> {
    let (ip, payload) = datagram.split_at(40);
    let next = if ip[6] == 58 { 1 } else { ip[6] };
    let mut out = vec![0x45, 0];
    out.extend((20 + payload.len() as u16).to_be_bytes());
    out.extend([0, 0, 0x40, 0, ip[7], next, 0, 0]);
    out.extend(&ip[20..24]);
    out.extend(&ip[36..40]);
    let sum = !ones_complement(&out, 0);
    set_word(&mut out, 10, sum);
    out.extend(payload);
    if next == 6 && payload.len() >= 20 {
        set_word(&mut out, 36, 0);
        let addresses = u32::from(ones_complement(&out[12..20], 0));
        let sum = ones_complement(&out[20..], addresses + 6 + payload.len() as u32);
        set_word(&mut out, 36, !sum);
    }
    out
}

/// Makes two tests of each case.
macro_rules! in_both_families {
    ($($case:ident),* $(,)?) => {
        mod ipv4 {
            $(#[test]
            fn $case() {
                super::$case::<$crate::family::Ipv4>();
            })*
        }

        mod ipv6 {
            $(#[test]
            fn $case() {
                super::$case::<$crate::family::Ipv6>();
            })*
        }
    };
}
pub(crate) use in_both_families;

#[test]
fn a_frame_survives_the_way_there_and_back() {
    use crate::frames::Tcp;
    for segment in [
        Tcp::to_vip("S"),
        Tcp::to_vip("PA").payload(b"odd").vlan(Some(7)),
        Tcp::from_r1("FA", 1).options(&[1; 12]).ttl(3),
    ] {
        let mut frame = segment.frame();
        frame.resize(frame.len().max(80), 0xaa);
        let there = Ipv6::frame(&frame);
        assert_eq!(there.len(), frame.len() + 20);
        assert_eq!(Ipv6::back(&there), frame);
        let packet = etherparse::SlicedPacket::from_ethernet(&there).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
        let (src, dst) = (ip.header().source(), ip.header().destination());
        let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
        assert_eq!(tcp.calc_checksum_ipv6(src, dst).unwrap(), tcp.checksum());
    }
}
