//! Neighbour discovery frames (RFC 4861): probes, announcements, and what others' say.

use std::net::Ipv6Addr;

use vipd_common::addr::MacAddr;
use vipd_common::checksum::Sum;

use super::Claim;

const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// RFC 4861 sections 4.3 and 4.4: nothing that a router has forwarded is believed.
const HOP_LIMIT: u8 = 255;
/// RFC 4861 section 4.4: replaces what the receiver knows.
const OVERRIDE: u8 = 0x20;
/// Option: target's link-layer address.
const TARGET_ADDRESS: u8 = 2;
/// ff02::1
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Where the parts of a frame begin: Ethernet, IPv6, ICMPv6.
const IP: usize = 14;
const ICMP: usize = IP + 40;
/// Type, code, checksum, flags, target.
const ICMP_BYTES: usize = 24;

/// RFC 4291 section 2.7.1: the group on which an address's holder hears solicitations.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 2464 section 7.
pub(super) fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// RFC 4862 section 5.4.2: a solicitation from nobody, so that nobody's cache changes by it.
pub(super) fn probe(mac: MacAddr, vip: Ipv6Addr) -> Vec<u8> {
    let mut body = [0; ICMP_BYTES];
    body[0] = SOLICITATION;
    body[8..].copy_from_slice(&vip.octets());
    frame(mac, Ipv6Addr::UNSPECIFIED, solicited_node(vip), &body)
}

/// RFC 4861 section 7.2.6: an unsolicited advertisement to all nodes, that overrides. Receivers
/// update an entry they have (section 7.2.5); they don't make one.
pub(super) fn announcement(mac: MacAddr, vip: Ipv6Addr) -> Vec<u8> {
    let mut body = [0; ICMP_BYTES + 8];
    body[0] = ADVERTISEMENT;
    body[4] = OVERRIDE;
    body[8..24].copy_from_slice(&vip.octets());
    // In units of eight bytes.
    body[24..26].copy_from_slice(&[TARGET_ADDRESS, 1]);
    body[26..].copy_from_slice(&mac.0);
    frame(mac, vip, ALL_NODES, &body)
}

/// What this frame says of `vip`: it advertises it, is sent from it, or asks for it without a source
/// (duplicate address detection). Only frames that RFC 4861 section 7.1 lets pass are believed.
pub(super) fn claim(bytes: &[u8], vip: Ipv6Addr) -> Option<Claim> {
    let eth = bytes.get(..IP)?;
    let ip: &[u8; 40] = bytes.get(IP..ICMP)?.try_into().ok()?;
    let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let body = bytes.get(ICMP..)?.get(..length)?;
    let plain = eth[12..] == IPV6 && ip[0] >> 4 == 6 && ip[6] == ICMPV6 && ip[7] == HOP_LIMIT;
    if !plain || body.len() < ICMP_BYTES || body[1] != 0 {
        return None;
    }
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&ip[8..24]).ok()?);
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&ip[24..]).ok()?);
    if checksum(source, destination, body) != [0, 0] {
        return None;
    }
    let sender = MacAddr(eth[6..12].try_into().ok()?);
    let targets = body[8..24] == vip.octets();
    match body[0] {
        ADVERTISEMENT if targets => {
            Some(Claim::Uses(option(&body[ICMP_BYTES..], TARGET_ADDRESS).unwrap_or(sender)))
        }
        SOLICITATION if source == vip => Some(Claim::Uses(sender)),
        SOLICITATION if targets && source.is_unspecified() => Some(Claim::Probes(sender)),
        _ => None,
    }
}

/// The link-layer address in the first option of this type.
fn option(mut options: &[u8], kind: u8) -> Option<MacAddr> {
    while let [this, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 {
            return None;
        }
        let option = options.get(..length)?;
        if this == kind {
            return Some(MacAddr(option.get(2..8)?.try_into().ok()?));
        }
        options = &options[length..];
    }
    None
}

fn frame(mac: MacAddr, source: Ipv6Addr, group: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ICMP + body.len());
    frame.extend(multicast_mac(group).0);
    frame.extend(mac.0);
    frame.extend(IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(group.octets());
    frame.extend(body);
    let sum = checksum(source, group, body);
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&sum);
    frame
}

/// RFC 4443 section 2.3, of a body as it is: zero over one whose checksum is right.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> [u8; 2] {
    let length = (body.len() as u32).to_be_bytes();
    let pseudo = Sum::new()
        .bytes(&source.octets())
        .bytes(&destination.octets())
        .dword(length)
        .dword([0, 0, 0, ICMPV6]);
    let words = body.chunks(2).map(|word| [word[0], word.get(1).copied().unwrap_or(0)]);
    words.fold(pseudo, Sum::word).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd98, 0x18, 0, 0, 0, 0, 0x12, 0x3456);

    #[test]
    fn the_groups_of_an_address() {
        let group = solicited_node(VIP);
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().expect("a group"));
        assert_eq!(multicast_mac(group), MacAddr([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
        assert_eq!(multicast_mac(ALL_NODES), MacAddr([0x33, 0x33, 0, 0, 0, 1]));
    }

    #[test]
    fn every_byte_of_an_announcement() {
        let mut expected = vec![0x33, 0x33, 0, 0, 0, 1];
        expected.extend(OTHER.0);
        expected.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        expected.extend(VIP.octets());
        expected.extend(ALL_NODES.octets());
        let frame = announcement(OTHER, VIP);
        expected.extend([136, 0, frame[ICMP + 2], frame[ICMP + 3], 0x20, 0, 0, 0]);
        expected.extend(VIP.octets());
        expected.extend([2, 1]);
        expected.extend(OTHER.0);
        assert_eq!(frame, expected);
        // RFC 1071, without the code under test: the sum over everything is all ones.
        let mut sum: u32 = 58 + 32;
        for word in frame[IP + 8..].chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(word[1]);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }

    #[test]
    fn who_advertises_it_or_sends_from_it_uses_it() {
        assert_eq!(claim(&announcement(OTHER, VIP), VIP), Some(Claim::Uses(OTHER)));
        let mut body = [0; ICMP_BYTES];
        body[0] = SOLICITATION;
        body[8..].copy_from_slice(&"fd98:18::10".parse::<Ipv6Addr>().expect("address").octets());
        let from_it = frame(OTHER, VIP, solicited_node(VIP), &body);
        assert_eq!(claim(&from_it, VIP), Some(Claim::Uses(OTHER)));
        assert_eq!(claim(&probe(OTHER, VIP), VIP), Some(Claim::Probes(OTHER)));
    }

    #[test]
    fn the_holder_is_who_the_option_names_and_else_the_sender() {
        let holder = MacAddr([2, 0, 0, 0, 0, 67]);
        let mut body = announcement(holder, VIP).split_off(ICMP);
        body[2..4].fill(0);
        let proxied = frame(OTHER, VIP, ALL_NODES, &body);
        assert_eq!(claim(&proxied, VIP), Some(Claim::Uses(holder)));
        // An option of no length ends the search, and RFC 4861 would drop the packet.
        for (units, options) in [(0, 8), (9, 8), (1, 0)] {
            let mut body = body[..ICMP_BYTES + options].to_vec();
            if let Some(length) = body.get_mut(25) {
                *length = units;
            }
            let found = claim(&frame(OTHER, VIP, ALL_NODES, &body), VIP);
            assert_eq!(found, Some(Claim::Uses(OTHER)), "{units} units, {options} bytes");
        }
    }

    #[test]
    fn what_the_rfc_does_not_believe_says_nothing() {
        let good = announcement(OTHER, VIP);
        for (at, what) in [
            (12, "ethertype"),
            (IP, "version"),
            (IP + 6, "next header"),
            (IP + 7, "hop limit"),
            (ICMP, "type"),
            (ICMP + 1, "code"),
            (ICMP + 2, "checksum"),
            (ICMP + 20, "another target"),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            if what == "version" {
                bad[at] = 0x40;
            }
            assert_eq!(claim(&bad, VIP), None, "{what}");
        }
        for length in 0..good.len() {
            assert_eq!(claim(&good[..length], VIP), None, "length {length}");
        }
        assert_eq!(claim(&good, Ipv6Addr::LOCALHOST), None);
    }

    #[test]
    fn a_question_for_it_says_nothing() {
        let mut body = [0; ICMP_BYTES];
        body[0] = SOLICITATION;
        body[8..].copy_from_slice(&VIP.octets());
        let client = "fd98:18::10".parse().expect("address");
        assert_eq!(claim(&frame(OTHER, client, solicited_node(VIP), &body), VIP), None);
    }
}
