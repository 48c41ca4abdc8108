//! Any bytes at all, read as a history of frames and cutovers, with what must hold after each.

use std::vec::Vec;

use vipd_common::addr::{Ipv4Bytes, MacAddr, mapped};
use vipd_common::maps::{Active, Address, Backend, ForwardMode, ServiceKey, ServiceState};
use vipd_common::verdict::{Action, Verdict};

use super::{Outcome, World, run};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
const CLIENT: Ipv4Bytes = [198, 18, 0, 10];
const NAT_VIP: Ipv4Bytes = [198, 18, 0, 250];
const DSR_VIP: Ipv4Bytes = [198, 18, 0, 251];
const SOURCE: Ipv4Bytes = [198, 18, 0, 50];
const BACKEND: Ipv4Bytes = [198, 18, 0, 101];
const SERVICE_PORT: u16 = 6379;
const BACKEND_PORT: u16 = 8000;
/// Slots 0 to 3: NAT untagged, NAT with a tag, NAT by another interface with the VIP as its source,
/// DSR.
const SLOTS: u16 = 4;

/// Runs a history and asserts after each frame that:
///
/// * nothing panicked;
/// * a frame that passes or is dropped is unchanged (but for [`Verdict::ResizeFailed`]);
/// * valid checksums stay valid, and invalid ones are not mended by forwarding;
/// * a reset is 40 bytes of TCP; everything else keeps its length but for a VLAN tag;
/// * what is forwarded has a TTL one lower (NAT) or the same (DSR), and its payload.
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
                let state = match state % 4 {
                    0 => ServiceState::Down,
                    1 => ServiceState::Parked,
                    _ => ServiceState::Up,
                };
                let active =
                    Active::new(state, u16::from(slot) % (SLOTS + 1), u32::from(generation % 3));
                world.active.insert(0, active);
            }
            1 => {
                let [low, high] = take(&mut history).unwrap_or_default();
                world.now += u64::from(low) << (u32::from(high) % 48);
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
                let mut frame = segment(kind, &mut history);
                poke(&mut frame, &mut history);
                last = check(&world, &frame);
            }
        }
    }
}

fn check(world: &World, frame: &[u8]) -> Vec<u8> {
    let outcome = run(world, 1, frame);
    let Outcome { verdict, frame: out, .. } = &outcome;
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

fn check_changed(frame: &[u8], outcome: &Outcome) {
    let Outcome { verdict, frame: out, egress } = outcome;
    if *verdict == Verdict::ArpReply {
        assert_eq!(out.len(), frame.len());
        return;
    }
    let (before, after) = (l3(frame), l3(out));
    let (old, new) = (&frame[before..], &out[after..]);
    assert_eq!(ip_is_valid(old) || is_reset(*verdict), ip_is_valid(new), "{verdict:?}");
    if is_reset(*verdict) {
        assert_eq!(new.len(), 40);
        assert!(transport_is_valid(new));
        assert_ne!(new[33] & 0x04, 0, "RST is set");
        assert_eq!(old[33] & 0x04, 0, "a reset is never answered");
        return;
    }
    assert_eq!(transport_is_valid(old), transport_is_valid(new), "{verdict:?}");
    assert_eq!(old.len(), new.len(), "{verdict:?}");
    match verdict {
        Verdict::EchoReply => assert_eq!(old[24..], new[24..]),
        Verdict::DsrToBackend => assert_eq!(old, new),
        Verdict::NatNew | Verdict::NatToBackend | Verdict::NatToClient => {
            assert_eq!(new[8], old[8] - 1, "TTL");
            assert_eq!((&old[24..36], &old[38..]), (&new[24..36], &new[38..]));
        }
        // In a VIP of mode DSR the error goes on as it is.
        Verdict::IcmpToBackend | Verdict::IcmpToClient => assert!(old[8] - new[8] <= 1),
        other => panic!("{other:?} changed the frame"),
    }
    assert!(verdict.action() == Action::Transmit || *egress != 0);
}

fn is_reset(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::NatStaleReset | Verdict::NoFlowReset | Verdict::NoServiceReset)
}

fn world() -> World {
    let mut world = World::default();
    world.interfaces.insert(1, OWN);
    world
        .v4
        .addresses
        .insert(NAT_VIP, Address::new(Address::NAT | Address::ANNOUNCE | Address::ECHO));
    world.v4.addresses.insert(DSR_VIP, Address::new(Address::DSR | Address::ECHO));
    world.v4.addresses.insert(SOURCE, Address::new(Address::SOURCE));
    for vip in [NAT_VIP, DSR_VIP] {
        world.v4.services.insert(ServiceKey::new(vip, SERVICE_PORT.to_be_bytes()), 0);
    }
    for slot in 0..SLOTS {
        world.backends.insert(slot, backend(slot));
    }
    world.active.insert(0, Active::new(ServiceState::Up, 0, 1));
    world
}

fn backend(slot: u16) -> Backend {
    Backend {
        addr: mapped(BACKEND),
        source: mapped(if slot == 2 { NAT_VIP } else { SOURCE }),
        port: BACKEND_PORT.to_be_bytes(),
        next_hop: PEER,
        own_mac: OWN,
        vlan: if slot == 1 { 7 } else { 0 },
        first_port: 40_000,
        last_port: 40_007,
        ifindex: if slot == 2 { 2 } else { 1 },
        mode: if slot == 3 { ForwardMode::Dsr } else { ForwardMode::Nat } as u32,
    }
}

/// A segment with valid checksums, from a client to a VIP or from the backend to a source.
fn segment(kind: u8, history: &mut &[u8]) -> Vec<u8> {
    let [flags, port, length, ttl] = take(history).unwrap_or_default();
    let client_port = 40_000 + u16::from(port % 16);
    let (src, dst, src_port, dst_port) = match kind {
        5 => (CLIENT, NAT_VIP, client_port, SERVICE_PORT + u16::from(port & 0x80 != 0)),
        6 => (CLIENT, DSR_VIP, client_port, SERVICE_PORT),
        _ => (BACKEND, SOURCE, BACKEND_PORT, client_port),
    };
    let payload = usize::from(length % 32);
    let mut frame = ethernet(port & 0x40 != 0);
    let total = (40 + payload) as u16;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, if ttl < 8 { ttl } else { 64 }, 6, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(src_port.to_be_bytes());
    packet.extend(dst_port.to_be_bytes());
    packet.extend([0, 0, 0, length, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|at| at as u8));
    fill_checksums(&mut packet);
    frame.extend(packet);
    frame
}

/// The segment that left, answered by whoever it went to: addresses and ports swapped, ACK set.
fn answer(sent: &[u8]) -> Vec<u8> {
    if sent.len() < l3(sent) + 40 {
        return sent.to_vec();
    }
    let mut packet = sent[l3(sent)..].to_vec();
    let (src, dst) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    packet[12..16].copy_from_slice(&dst);
    packet[16..20].copy_from_slice(&src);
    packet.swap(20, 22);
    packet.swap(21, 23);
    let seq: [u8; 4] = packet[24..28].try_into().unwrap_or_default();
    let next = u32::from_be_bytes(seq).wrapping_add(u32::from(packet[33] & 3 != 0));
    packet.copy_within(28..32, 24);
    packet[28..32].copy_from_slice(&next.to_be_bytes());
    packet[33] |= 0x10;
    packet[8] = 64;
    fill_checksums(&mut packet);
    let mut frame = ethernet(false);
    frame.extend(packet);
    frame
}

/// An ICMP error about a packet that left.
fn icmp_about(sent: &[u8], seed: u8) -> Vec<u8> {
    let quoted = sent.get(l3(sent)..).unwrap_or_default();
    let quoted = &quoted[..quoted.len().min(if seed & 0x80 != 0 { 28 } else { 60 })];
    let about = |at: usize| quoted.get(at..at + 4).and_then(|it| it.try_into().ok());
    let mut packet = Vec::new();
    packet.extend([0x45, 0]);
    packet.extend((28 + quoted.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 1, 0, 0]);
    packet.extend([10, 0, 0, 1]);
    packet.extend(about(12).unwrap_or(NAT_VIP));
    packet.extend([if seed & 0x40 != 0 { 11 } else { 3 }, 4, 0, 0, 0, 0, 5, 0xdc]);
    packet.extend(quoted);
    fill_checksums(&mut packet);
    let mut frame = ethernet(false);
    frame.extend(packet);
    frame
}

fn ethernet(tagged: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(OWN.0);
    frame.extend(PEER.0);
    if tagged {
        frame.extend([0x81, 0, 0x20, 5]);
    }
    frame.extend([0x08, 0]);
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

fn fill_checksums(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = !sum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let at = if packet[9] == 6 { 36 } else { 22 };
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]])).min(packet.len());
    if total < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    let sum = !transport_sum(&packet[..total]);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn ip_is_valid(packet: &[u8]) -> bool {
    sum(&packet[..20], 0) == 0xffff
}

fn transport_is_valid(packet: &[u8]) -> bool {
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    transport_sum(&packet[..total]) == 0xffff
}

/// TCP's sum has a pseudo header, ICMP's has none.
fn transport_sum(packet: &[u8]) -> u16 {
    let payload = &packet[20..];
    let pseudo = match packet[9] {
        6 => u32::from(sum(&packet[12..20], 0)) + 6 + payload.len() as u32,
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
