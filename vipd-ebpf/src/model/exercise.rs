//! Any bytes at all, read as a history of frames and cutovers, with what must hold after each. In
//! both families: 198.18.0.1 stands for fd98:18::c612:1 as well.

use std::vec::Vec;

use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes, MacAddr, mapped, unmapped};
use vipd_common::maps::{
    Active, Address, Backend, ForwardMode, Group, Pending, ServiceKey, ServiceState,
};
use vipd_common::verdict::{Action, Verdict};
use vipd_common::wire::ip::Ip;

use super::{Family, Outcome, World, run};
use crate::tables::Tables as _;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x11]);
const CLIENT: Ipv4Bytes = [198, 18, 0, 10];
const NAT_VIP: Ipv4Bytes = [198, 18, 0, 250];
const DSR_VIP: Ipv4Bytes = [198, 18, 0, 251];
const SOURCE: Ipv4Bytes = [198, 18, 0, 50];
const BACKEND: Ipv4Bytes = [198, 18, 0, 101];
const HOST_VIP: Ipv4Bytes = [198, 18, 0, 252];
const SERVICE_PORT: u16 = 6379;
const BACKEND_PORT: u16 = 8000;
/// Slots 0 to 5: NAT untagged, NAT with a tag, NAT by another interface with the VIP as its source,
/// DSR, the owner's and a stray's in mode `host`. The same again for IPv6 from [`SLOTS`] on.
const SLOTS: u16 = 6;
/// Lines of the services and of the host VIP, in IPv4 and in IPv6, and of a group's other member.
const LINES: [u32; 2] = [0, 1];
const MEMBER: u32 = 2;

/// Runs a history and asserts after each frame that:
///
/// * nothing panicked;
/// * a frame that passes or is dropped is unchanged (but for [`Verdict::ResizeFailed`]);
/// * valid checksums stay valid, and invalid ones are not mended by forwarding;
/// * a reset is 20 bytes of TCP; everything else keeps its length but for a VLAN tag;
/// * while everything is parked and the lease runs, nothing is forwarded;
/// * what is remembered as an unanswered SYN is one, and is sent again once;
/// * what is forwarded has a TTL one lower (NAT, strays) or the same (DSR), and its payload.
///
/// # Panics
///
/// If any of that does not hold.
pub fn exercise(mut history: &[u8]) {
    let mut world = world();
    let mut last: Vec<u8> = Vec::new();
    while let Some(step) = take::<1>(&mut history) {
        match step[0] % 8 {
            0 => {
                let [state, slot, generation] = take(&mut history).unwrap_or_default();
                let line = u32::from(state >> 4) % (MEMBER + 1);
                let state = match state % 5 {
                    0 => ServiceState::Down,
                    1 => ServiceState::Parked,
                    2 if line != MEMBER => ServiceState::Group,
                    _ => ServiceState::Up,
                };
                let mut slot = u16::from(slot) % (SLOTS + 1);
                if state == ServiceState::Up && line == 1 {
                    slot += SLOTS;
                }
                world.active.insert(line, Active::new(state, slot, u32::from(generation % 3)));
            }
            1 => {
                let [low, high] = take(&mut history).unwrap_or_default();
                let later = u64::from(low) << (u32::from(high) % 48);
                world.now = world.now.saturating_add(later);
                world.lease = world.now.saturating_add(u64::from(high & 1) << 30);
                if high & 2 != 0 {
                    replay(&world);
                }
            }
            // What left comes back, answered: a connection can go on.
            2 => {
                let mut frame = answer(&last);
                poke(&mut frame, &mut history);
                last = check(&world, &frame);
            }
            // A frame of nothing but the input.
            3 => {
                let [length] = take(&mut history).unwrap_or_default();
                let length = usize::from(length).min(history.len());
                let (frame, rest) = history.split_at(length);
                history = rest;
                check(&world, frame);
            }
            4 => {
                let mut frame = icmp_about(&last, step[0]);
                poke(&mut frame, &mut history);
                check(&world, &frame);
            }
            kind => {
                let mut frame = match step[0] & 0x18 {
                    0x18 if kind == 7 => solicitation(&mut history),
                    family => segment(kind, family & 0x08 != 0, &mut history),
                };
                poke(&mut frame, &mut history);
                last = check(&world, &frame);
            }
        }
    }
}

fn check(world: &World, frame: &[u8]) -> Vec<u8> {
    let outcome = run(world, 1, frame);
    let Outcome { verdict, frame: out, .. } = &outcome;
    if is_parked(world) {
        let leaves = verdict.action() == Action::Forward || *verdict == Verdict::HostLocal;
        assert!(!leaves, "{verdict:?} of a parked service");
    }
    check_pending(&world.v4);
    check_pending(&world.v6);
    match verdict.action() {
        Action::Pass | Action::Drop => {
            if *verdict != Verdict::ResizeFailed {
                assert_eq!(out, frame, "{verdict:?} changed the frame");
            }
        }
        Action::Transmit | Action::Forward => check_changed(frame, &outcome),
    }
    outcome.frame
}

/// Whether every line is.
fn is_parked(world: &World) -> bool {
    let parked = |line: u32| world.active(line).state() == ServiceState::Parked;
    (0..=MEMBER).all(parked) && world.now < world.lease
}

/// What is remembered are SYNs as they came.
fn check_pending<A: Ip>(family: &Family<A>) {
    for (key, pending) in family.pending() {
        let frame = &pending.frame[..pending.len.into()];
        let packet = &frame[l3(frame)..];
        let l4 = header_len(packet);
        assert_eq!(packet.len(), total_len(packet));
        assert_eq!(packet[l4 + 13] & 0x17, 0x02, "SYN, and no ACK, RST or FIN");
        assert_eq!(packet[l4 + 4..l4 + 8], pending.seq.to_be_bytes());
        assert_eq!(packet[l4..l4 + 4], [key.src_port, key.dst_port].concat());
        assert_eq!(pending.zero, [0; 4]);
    }
}

/// What the daemon does after a cutover: each SYN that waits is sent again, and waits no more unless
/// nobody can have it. (Those for another line than their family's were a group's.)
fn replay(world: &World) {
    fn waiting<A: Ip>(world: &World, family: &Family<A>, line: u32) -> Vec<Pending> {
        let waits = |it: &Pending| it.is_waiting(world.active(it.service).generation());
        let pending = family.pending().into_iter().map(|(_, pending)| pending);
        pending.filter(|it| it.service == line && waits(it)).collect()
    }
    let [v4, v6] = LINES;
    let all =
        |world: &World| [waiting(world, &world.v4, v4), waiting(world, &world.v6, v6)].concat();
    for pending in all(world) {
        check(world, &pending.frame[..pending.len.into()]);
    }
    for pending in all(world) {
        assert_ne!(world.standing(pending.service).state(), ServiceState::Up);
    }
}

fn check_changed(frame: &[u8], outcome: &Outcome) {
    let Outcome { verdict, frame: out, egress } = outcome;
    if *verdict == Verdict::ArpReply {
        assert_eq!(out.len(), frame.len());
        return;
    }
    let (before, after) = (l3(frame), l3(out));
    let (old, new) = (&frame[before..], &out[after..]);
    if *verdict == Verdict::NdpReply {
        assert!(new.len() == 72 && transport_is_valid(old) && transport_is_valid(new));
        assert_eq!((new[7], new[40], &new[8..24]), (255, 136, &old[48..64]));
        return;
    }
    let l4 = header_len(old);
    let ttl = if l4 == 20 { 8 } else { 7 };
    assert_eq!(l4, header_len(new), "{verdict:?}");
    if *verdict == Verdict::HostStray {
        assert_eq!((ip_is_valid(old), new[ttl]), (ip_is_valid(new), old[ttl] - 1));
        assert_eq!((&old[..ttl], &old[12..]), (&new[..ttl], &new[12..]));
        return;
    }
    assert_eq!(ip_is_valid(old) || is_reset(*verdict), ip_is_valid(new), "{verdict:?}");
    if is_reset(*verdict) {
        assert_eq!(new.len(), l4 + 20);
        assert!(transport_is_valid(new));
        assert_ne!(new[l4 + 13] & 0x04, 0, "RST is set");
        assert_eq!(old[l4 + 13] & 0x04, 0, "a reset is never answered");
        return;
    }
    assert_eq!(transport_is_valid(old), transport_is_valid(new), "{verdict:?}");
    assert_eq!(old.len(), new.len(), "{verdict:?}");
    match verdict {
        Verdict::EchoReply => assert_eq!(old[l4 + 4..], new[l4 + 4..]),
        Verdict::DsrToBackend => assert_eq!(old, new),
        Verdict::NatNew | Verdict::NatToBackend | Verdict::NatToClient => {
            assert_eq!(new[ttl], old[ttl] - 1, "TTL");
            assert_eq!(old[l4 + 4..l4 + 16], new[l4 + 4..l4 + 16]);
            assert_eq!(old[l4 + 18..], new[l4 + 18..]);
        }
        // In a VIP of mode DSR the error goes on as it is.
        Verdict::IcmpToBackend | Verdict::IcmpToClient => assert!(old[ttl] - new[ttl] <= 1),
        other => panic!("{other:?} changed the frame"),
    }
    assert!(verdict.action() == Action::Transmit || *egress != 0);
}

fn is_reset(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::NatStaleReset
            | Verdict::DsrStaleReset
            | Verdict::NoFlowReset
            | Verdict::NoServiceReset
    )
}

fn world() -> World {
    let mut world = World::default();
    world.interfaces.insert(1, OWN);
    let [v4, v6] = LINES;
    furnish(&mut world.v4, v4, |addr| addr);
    furnish(&mut world.v6, v6, ipv6);
    for slot in 0..SLOTS {
        let backend = backend(slot);
        world.backends.insert(slot, backend);
        let (addr, source) = (ipv6(unmapped(backend.addr)), ipv6(unmapped(backend.source)));
        world.backends.insert(SLOTS + slot, Backend { addr, source, ..backend });
    }
    for slot in 0..=SLOTS {
        let mut group = Group { count: u32::from(slot), ..Group::EMPTY };
        group.members[..3].copy_from_slice(&[2, 0, 1]);
        world.groups.insert(slot, group);
    }
    world.active.insert(v4, Active::new(ServiceState::Up, 0, 1));
    world.active.insert(v6, Active::new(ServiceState::Up, SLOTS, 1));
    world
}

fn furnish<A: Ip>(maps: &mut Family<A>, line: u32, addr: impl Fn(Ipv4Bytes) -> A) {
    let shown = Address::ANNOUNCE | Address::ECHO;
    maps.addresses.insert(addr(NAT_VIP), Address::new(Address::NAT | shown));
    maps.addresses.insert(addr(DSR_VIP), Address::new(Address::DSR | Address::ECHO));
    maps.addresses.insert(addr(SOURCE), Address::new(Address::SOURCE));
    let host = Address { flags: Address::HOST | Address::ANNOUNCE, service: line as u16 };
    maps.addresses.insert(addr(HOST_VIP), host);
    for vip in [NAT_VIP, DSR_VIP] {
        maps.services.insert(ServiceKey::new(addr(vip), SERVICE_PORT.to_be_bytes()), line);
    }
}

fn ipv6(addr: Ipv4Bytes) -> Ipv6Bytes {
    let [a, b, c, d] = addr;
    [0xfd, 0x98, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

fn backend(slot: u16) -> Backend {
    let mode = match slot {
        3 => ForwardMode::Dsr,
        4 => ForwardMode::Local,
        5 => ForwardMode::Stray,
        _ => ForwardMode::Nat,
    };
    Backend {
        addr: mapped(BACKEND),
        source: mapped(if slot == 2 { NAT_VIP } else { SOURCE }),
        port: BACKEND_PORT.to_be_bytes(),
        next_hop: if slot == 5 { OWNER } else { PEER },
        own_mac: OWN,
        vlan: if slot == 1 { 7 } else { 0 },
        first_port: 40_000,
        last_port: 40_007,
        ifindex: if slot == 2 { 2 } else { 1 },
        mode: mode as u32,
    }
}

/// A segment with valid checksums, from a client to a VIP or from the backend to a source.
fn segment(kind: u8, in_ipv6: bool, history: &mut &[u8]) -> Vec<u8> {
    let [flags, port, length, ttl] = take(history).unwrap_or_default();
    let client_port = 40_000 + u16::from(port % 16);
    let (src, dst, src_port, dst_port) = match kind {
        5 => (CLIENT, NAT_VIP, client_port, SERVICE_PORT + u16::from(port & 0x80 != 0)),
        6 if port & 0x80 != 0 => (CLIENT, HOST_VIP, client_port, SERVICE_PORT),
        6 => (CLIENT, DSR_VIP, client_port, SERVICE_PORT),
        _ => (BACKEND, SOURCE, BACKEND_PORT, client_port),
    };
    let payload = length % 32;
    let ttl = if ttl < 8 { ttl } else { 64 };
    let mut packet = header(in_ipv6, 6, ttl, (src, dst), 20 + u16::from(payload));
    packet.extend(src_port.to_be_bytes());
    packet.extend(dst_port.to_be_bytes());
    packet.extend([0, 0, 0, length, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend(0..payload);
    fill_checksums(&mut packet);
    framed(port & 0x40 != 0, &packet)
}

/// An IP header whose checksum is yet to be filled in.
fn header(
    in_ipv6: bool,
    protocol: u8,
    ttl: u8,
    (src, dst): (Ipv4Bytes, Ipv4Bytes),
    payload: u16,
) -> Vec<u8> {
    let mut packet = Vec::new();
    if in_ipv6 {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(payload.to_be_bytes());
        packet.extend([if protocol == 1 { 58 } else { protocol }, ttl]);
        packet.extend(ipv6(src));
        packet.extend(ipv6(dst));
    } else {
        packet.extend([0x45, 0]);
        packet.extend((20 + payload).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
        packet.extend(src);
        packet.extend(dst);
    }
    packet
}

/// A neighbour solicitation for a VIP or another address, with options of any bytes.
fn solicitation(history: &mut &[u8]) -> Vec<u8> {
    let [target, hops, options, how] = take(history).unwrap_or_default();
    let target = ipv6([198, 18, 0, 248 + target % 8]);
    let options = usize::from(options % 4) * 8;
    let mut packet = header(true, 1, if hops < 8 { hops } else { 255 }, (CLIENT, NAT_VIP), 0);
    packet[4..6].copy_from_slice(&(24 + options as u16).to_be_bytes());
    if how & 1 != 0 {
        packet[8..24].fill(0);
    }
    packet[24..37].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    packet[37..40].copy_from_slice(&target[13..]);
    packet.extend([if how & 2 != 0 { 136 } else { 135 }, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend(target);
    for at in 0..options {
        let [byte] = take(history).unwrap_or([1]);
        packet.push(if at % 8 < 2 { byte % 4 } else { byte });
    }
    fill_checksums(&mut packet);
    framed(false, &packet)
}

/// The segment that left, answered by whoever it went to: addresses and ports swapped, ACK set.
fn answer(sent: &[u8]) -> Vec<u8> {
    let mut packet = sent.get(l3(sent)..).unwrap_or_default().to_vec();
    let l4 = header_len(&packet);
    if packet.len() < l4 + 20 {
        return sent.to_vec();
    }
    let (addresses, ttl) = if l4 == 20 { (12..20, 8) } else { (8..40, 7) };
    let half = addresses.len() / 2;
    packet[addresses].rotate_left(half);
    packet[l4..l4 + 4].rotate_left(2);
    let seq: [u8; 4] = packet[l4 + 4..l4 + 8].try_into().unwrap_or_default();
    let next = u32::from_be_bytes(seq).wrapping_add(u32::from(packet[l4 + 13] & 3 != 0));
    packet.copy_within(l4 + 8..l4 + 12, l4 + 4);
    packet[l4 + 8..l4 + 12].copy_from_slice(&next.to_be_bytes());
    packet[l4 + 13] |= 0x10;
    packet[ttl] = 64;
    fill_checksums(&mut packet);
    framed(false, &packet)
}

/// An ICMP error about a packet that left.
fn icmp_about(sent: &[u8], seed: u8) -> Vec<u8> {
    let quoted = sent.get(l3(sent)..).unwrap_or_default();
    let l4 = header_len(quoted);
    let quoted = &quoted[..quoted.len().min(if seed & 0x80 != 0 { l4 + 8 } else { l4 + 40 })];
    let in_ipv6 = l4 == 40;
    let length = 8 + quoted.len() as u16;
    let mut packet = header(in_ipv6, 1, 64, ([10, 0, 0, 1], NAT_VIP), length);
    // To whoever sent it.
    let (from, to) = if in_ipv6 { (8..24, 24..40) } else { (12..16, 16..20) };
    if let Some(sender) = quoted.get(from) {
        packet[to].copy_from_slice(sender);
    }
    let kind = match (in_ipv6, seed & 0x40 != 0) {
        (false, false) => [3, 4],
        (false, true) => [11, 0],
        (true, false) => [2, 0],
        (true, true) => [3, 0],
    };
    packet.extend(kind);
    packet.extend([0, 0, 0, 0, 5, 0xdc]);
    packet.extend(quoted);
    fill_checksums(&mut packet);
    framed(false, &packet)
}

/// A packet in a frame from the peer to us.
fn framed(tagged: bool, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(OWN.0);
    frame.extend(PEER.0);
    if tagged {
        frame.extend([0x81, 0, 0x20, 5]);
    }
    frame.extend(if header_len(packet) == 40 { [0x86, 0xdd] } else { [0x08, 0] });
    frame.extend(packet);
    frame
}

/// Changes a byte or cuts the frame, sometimes.
fn poke(frame: &mut Vec<u8>, history: &mut &[u8]) {
    let [how, at, value] = take(history).unwrap_or_default();
    match how % 4 {
        0 | 1 => {}
        2 => frame.truncate(usize::from(at)),
        _ => {
            if let Some(byte) = frame.get_mut(usize::from(at)) {
                *byte = value;
            }
        }
    }
}

fn take<const N: usize>(history: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = history.split_first_chunk::<N>()?;
    *history = rest;
    Some(*head)
}

fn l3(frame: &[u8]) -> usize {
    if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 }
}

/// Bytes in the IP header.
fn header_len(packet: &[u8]) -> usize {
    if packet.first().is_some_and(|byte| byte >> 4 == 6) { 40 } else { 20 }
}

/// Header and payload, bytes.
fn total_len(packet: &[u8]) -> usize {
    let total = match header_len(packet) {
        20 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        header => header + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
    };
    total.min(packet.len())
}

fn protocol(packet: &[u8]) -> u8 {
    if header_len(packet) == 20 { packet[9] } else { packet[6] }
}

fn fill_checksums(packet: &mut [u8]) {
    let header = header_len(packet);
    if packet.len() < header {
        return;
    }
    if header == 20 {
        packet[10..12].fill(0);
        let sum = !sum(&packet[..20], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let at = header + if protocol(packet) == 6 { 16 } else { 2 };
    let total = total_len(packet);
    if total < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    let sum = !transport_sum(&packet[..total]);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn ip_is_valid(packet: &[u8]) -> bool {
    header_len(packet) == 40 || sum(&packet[..20], 0) == 0xffff
}

fn transport_is_valid(packet: &[u8]) -> bool {
    transport_sum(&packet[..total_len(packet)]) == 0xffff
}

/// TCP's sum has a pseudo header, ICMPv6's too; ICMP's has none.
fn transport_sum(packet: &[u8]) -> u16 {
    let header = header_len(packet);
    let payload = &packet[header..];
    let addresses = if header == 20 { &packet[12..20] } else { &packet[8..40] };
    let pseudo = match protocol(packet) {
        next @ (6 | 58) => u32::from(sum(addresses, 0)) + u32::from(next) + payload.len() as u32,
        _ => 0,
    };
    sum(payload, pseudo)
}

/// RFC 1071, sharing nothing with [`vipd_common::checksum`].
fn sum(data: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
