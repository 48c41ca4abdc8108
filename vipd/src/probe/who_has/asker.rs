//! Questions for an address, and what hosts say about it: ARP (RFC 826, RFC 5227) and neighbour
//! discovery (RFC 4861).

use std::net::{IpAddr, Ipv6Addr};

use vipd_common::addr::MacAddr;

use super::record::Kind;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet and IPv4, address lengths 6 and 4.
const ARP_FORMAT: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// In the flags of an advertisement.
const SOLICITED: u8 = 0x40;

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    mac: MacAddr,
    vip: IpAddr,
    own: IpAddr,
    direct: Option<IpAddr>,
}

impl Asker {
    /// A host with that link-layer address asks for `vip`, from its address `own`. Single hosts are
    /// asked from `direct`, which nobody has, so that their answers can be told apart.
    pub fn new(mac: MacAddr, vip: IpAddr, own: IpAddr, direct: Option<IpAddr>) -> Self {
        Self { mac, vip, own, direct }
    }

    /// The question to everybody.
    pub fn ask_everybody(&self) -> Vec<u8> {
        match (self.vip, self.own) {
            (IpAddr::V6(vip), IpAddr::V6(own)) => {
                let [.., a, b, c] = vip.octets();
                let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
                let to = MacAddr([0x33, 0x33, 0xff, a, b, c]);
                self.solicitation(to, own, Ipv6Addr::from(group), vip)
            }
            _ => self.request(MacAddr::BROADCAST, self.own),
        }
    }

    /// The question to one host.
    pub fn ask(&self, host: MacAddr) -> Vec<u8> {
        match (self.vip, self.direct.unwrap_or(self.own)) {
            (IpAddr::V6(vip), IpAddr::V6(direct)) => self.solicitation(host, direct, vip, vip),
            (_, direct) => self.request(host, direct),
        }
    }

    /// Whom a frame says to have the VIP, and how; `None` if it says nothing about it.
    pub fn read(&self, frame: &[u8]) -> Option<(MacAddr, Kind)> {
        let (ethernet, packet) = frame.split_at_checked(14)?;
        let from = MacAddr(ethernet[6..12].try_into().ok()?);
        if from == self.mac {
            return None;
        }
        match (self.vip, &ethernet[12..14]) {
            (IpAddr::V4(vip), protocol) if protocol == ARP => {
                self.read_arp(packet.get(..28)?, vip.octets())
            }
            (IpAddr::V6(vip), protocol) if protocol == IPV6 => {
                self.read_neighbour_discovery(packet, from, vip)
            }
            _ => None,
        }
    }

    fn read_arp(&self, packet: &[u8], vip: [u8; 4]) -> Option<(MacAddr, Kind)> {
        let (format, operation) = (&packet[..6], &packet[6..8]);
        let mac = MacAddr(packet[8..14].try_into().ok()?);
        let (sender, target) = (&packet[14..18], &packet[24..28]);
        if format != ARP_FORMAT || sender != vip {
            return None;
        }
        let kind = if target == vip {
            Kind::Announcement
        } else if operation != REPLY {
            Kind::Question
        } else if self.direct == Some(<[u8; 4]>::try_from(target).ok()?.into()) {
            Kind::DirectAnswer
        } else {
            Kind::Answer
        };
        Some((mac, kind))
    }

    fn read_neighbour_discovery(
        &self,
        packet: &[u8],
        from: MacAddr,
        vip: Ipv6Addr,
    ) -> Option<(MacAddr, Kind)> {
        let (ip, icmp) = packet.split_at_checked(40)?;
        if ip[6] != ICMPV6 || icmp.len() < 24 {
            return None;
        }
        let (source, to) = (&ip[8..24], Ipv6Addr::from(<[u8; 16]>::try_from(&ip[24..40]).ok()?));
        match icmp[0] {
            SOLICITATION if source == vip.octets() => Some((from, Kind::Question)),
            ADVERTISEMENT if icmp[8..24] == vip.octets() => {
                let options = &icmp[24..];
                let mac = match options.get(..8) {
                    Some([TARGET_LINK_LAYER, 1, mac @ ..]) => MacAddr(mac.try_into().ok()?),
                    _ => from,
                };
                let kind = if icmp[4] & SOLICITED == 0 {
                    Kind::Announcement
                } else if self.direct == Some(to.into()) {
                    Kind::DirectAnswer
                } else {
                    Kind::Answer
                };
                Some((mac, kind))
            }
            _ => None,
        }
    }

    fn request(&self, to: MacAddr, from: IpAddr) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(vip)) = (from, self.vip) else { return vec![] };
        let mut frame = self.ethernet(to, ARP);
        frame.extend(ARP_FORMAT);
        frame.extend(REQUEST);
        frame.extend(self.mac.0);
        frame.extend(from.octets());
        frame.extend(MacAddr::ZERO.0);
        frame.extend(vip.octets());
        frame
    }

    fn solicitation(&self, mac: MacAddr, from: Ipv6Addr, to: Ipv6Addr, vip: Ipv6Addr) -> Vec<u8> {
        let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        icmp.extend(vip.octets());
        icmp.extend([SOURCE_LINK_LAYER, 1]);
        icmp.extend(self.mac.0);
        let length = u8::try_from(icmp.len()).unwrap_or(u8::MAX);
        let sum = checksum(&[&from.octets(), &to.octets(), &[0, length, 0, ICMPV6], &icmp]);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());

        let mut frame = self.ethernet(mac, IPV6);
        // RFC 4861 section 7.1.1: a hop limit of 255 proves that no router forwarded it.
        frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(icmp);
        frame
    }

    fn ethernet(&self, to: MacAddr, protocol: [u8; 2]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(86);
        frame.extend(to.0);
        frame.extend(self.mac.0);
        frame.extend(protocol);
        frame
    }
}

/// RFC 1071, over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBSERVER: MacAddr = MacAddr([2, 0, 0, 0x12, 0, 20]);
    const HOST: MacAddr = MacAddr([2, 0, 0, 0x12, 0, 101]);

    fn asker(vip: &str, own: &str, direct: &str) -> Asker {
        let parse = |address: &str| address.parse().expect("an address");
        Asker { mac: OBSERVER, vip: parse(vip), own: parse(own), direct: Some(parse(direct)) }
    }

    fn v4() -> Asker {
        asker("198.18.0.250", "198.18.0.20", "198.18.0.21")
    }

    fn v6() -> Asker {
        asker("fd98:18::250", "fd98:18::20", "fd98:18::21")
    }

    /// What `HOST` answers to an ARP request.
    fn arp_reply(request: &[u8]) -> Vec<u8> {
        let mut reply = request.to_vec();
        reply[..6].copy_from_slice(&request[6..12]);
        reply[6..12].copy_from_slice(&HOST.0);
        reply[20..22].copy_from_slice(&REPLY);
        reply[22..28].copy_from_slice(&HOST.0);
        reply[28..32].copy_from_slice(&request[38..42]);
        reply[32..42].copy_from_slice(&request[22..32]);
        reply
    }

    /// An advertisement by `HOST`.
    fn advertisement(to: &str, flags: u8) -> Vec<u8> {
        let mut frame = v6().ethernet(OBSERVER, IPV6);
        frame[6..12].copy_from_slice(&HOST.0);
        frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
        frame.extend("fd98:18::250".parse::<Ipv6Addr>().expect("an address").octets());
        frame.extend(to.parse::<Ipv6Addr>().expect("an address").octets());
        frame.extend([ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        frame.extend("fd98:18::250".parse::<Ipv6Addr>().expect("an address").octets());
        frame.extend([TARGET_LINK_LAYER, 1]);
        frame.extend(HOST.0);
        frame
    }

    #[test]
    fn an_answer_is_told_by_the_question() {
        let asker = v4();
        let everybody = arp_reply(&asker.ask_everybody());
        assert_eq!(asker.read(&everybody), Some((HOST, Kind::Answer)));
        let direct = arp_reply(&asker.ask(HOST));
        assert_eq!(asker.read(&direct), Some((HOST, Kind::DirectAnswer)));
        assert_eq!(asker.read(&asker.ask_everybody()), None, "its own question");

        let asker = v6();
        let solicited = SOLICITED | 0x20;
        let read = |to, flags| asker.read(&advertisement(to, flags));
        assert_eq!(read("fd98:18::20", solicited), Some((HOST, Kind::Answer)));
        assert_eq!(read("fd98:18::21", solicited), Some((HOST, Kind::DirectAnswer)));
    }

    #[test]
    fn both_forms_of_an_announcement_are_known() {
        let asker = v4();
        for operation in [REQUEST, REPLY] {
            let mut frame = arp_reply(&asker.ask_everybody());
            frame[20..22].copy_from_slice(&operation);
            frame.copy_within(28..32, 38);
            assert_eq!(asker.read(&frame), Some((HOST, Kind::Announcement)));
        }
        let unsolicited = advertisement("ff02::1", 0x20);
        assert_eq!(v6().read(&unsolicited), Some((HOST, Kind::Announcement)));
    }

    #[test]
    fn a_question_that_comes_from_the_vip_is_a_claim_too() {
        let asker = v4();
        let mut frame = arp_reply(&asker.ask_everybody());
        frame[20..22].copy_from_slice(&REQUEST);
        assert_eq!(asker.read(&frame), Some((HOST, Kind::Question)));
    }

    #[test]
    fn what_is_about_another_address_or_cut_short_says_nothing() {
        let frame = arp_reply(&v4().ask_everybody());
        let other = asker("198.18.0.251", "198.18.0.20", "198.18.0.21");
        assert_eq!(other.read(&frame), None);
        for length in 0..42 {
            assert_eq!(v4().read(&frame[..length]), None);
        }
        let frame = advertisement("fd98:18::20", SOLICITED);
        for length in 0..14 + 40 + 24 {
            assert_eq!(v6().read(&frame[..length]), None);
        }
    }

    #[test]
    fn a_solicitation_has_a_right_checksum() {
        let frame = v6().ask_everybody();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 2, 0x50]);
        let (ip, icmp) = frame[14..].split_at(40);
        assert_eq!(checksum(&[&ip[8..40], &[0, 32, 0, ICMPV6], icmp]), 0);
    }
}
