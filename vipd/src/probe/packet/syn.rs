//! Connections that are begun and never completed: SYN, and SYN-ACK, RST or silence. This host's
//! kernel answers a SYN-ACK that belongs to no socket with a reset, which clears the other end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use etherparse::{TcpHeader, TcpHeaderSlice, TcpOptionElement};
use socket2::{Protocol, SockFilter};

use super::socket::PacketSocket;
use super::volley::{Answer, Probe};

/// SYNs from changing ports. The number of each is its sequence number, so that an answer tells it
/// whatever a NAT did to the ports.
#[derive(Debug)]
pub struct Syn {
    from: IpAddr,
    to: SocketAddr,
    ports: RangeInclusive<u16>,
    first_sequence: u32,
}

/// What most stacks announce; a SYN without is seen by few.
const MSS: u16 = 1460;
const WINDOW: u16 = 64240;

impl Syn {
    /// With a socket to send them by. `first_sequence` is best a random number.
    pub fn new(
        to: SocketAddr,
        ports: RangeInclusive<u16>,
        first_sequence: u32,
    ) -> io::Result<(PacketSocket, Self)> {
        let socket = PacketSocket::raw(to.ip(), Protocol::TCP)?;
        socket.attach(&to_ports(to.ip(), &ports))?;
        let from = socket.source()?;
        Ok((socket, Self { from, to, ports, first_sequence }))
    }

    fn port(&self, number: u64) -> u16 {
        let count = u64::from(self.ports.end() - self.ports.start()) + 1;
        self.ports.start() + (number % count) as u16
    }

    fn number(&self, sequence: u32) -> u64 {
        u64::from(sequence.wrapping_sub(self.first_sequence))
    }
}

impl Probe for Syn {
    fn packet(&self, number: u64) -> Vec<u8> {
        let sequence = self.first_sequence.wrapping_add(number as u32);
        let mut tcp = TcpHeader::new(self.port(number), self.to.port(), sequence, WINDOW);
        tcp.syn = true;
        // It always fits.
        let _ = tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(MSS)]);
        let checksum = match (self.from, self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[])
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &[])
            }
            // A connected socket has the family of its peer.
            _ => Ok(0),
        };
        tcp.checksum = checksum.unwrap_or(0);
        tcp.to_bytes().to_vec()
    }

    fn read(&self, bytes: &[u8]) -> Option<Answer> {
        let tcp = TcpHeaderSlice::from_slice(bytes).ok()?;
        let is_for_us = tcp.source_port() == self.to.port()
            && self.ports.contains(&tcp.destination_port())
            && tcp.ack();
        let what = match (tcp.rst(), tcp.syn()) {
            (true, _) => "rst",
            (false, true) => "syn_ack",
            (false, false) => return None,
        };
        let number = self.number(tcp.acknowledgment_number().wrapping_sub(1));
        // The port belongs to the number; else it is an answer to somebody else.
        if !is_for_us || self.port(number) != tcp.destination_port() {
            return None;
        }
        Some(Answer { number: Some(number), good: !tcp.rst(), what, node: None })
    }

    /// An ICMP error quotes eight bytes at least: ports and sequence number.
    fn number_of(&self, transport: &[u8]) -> Option<u64> {
        let port = u16::from_be_bytes(transport.get(..2)?.try_into().ok()?);
        let sequence = u32::from_be_bytes(transport.get(4..8)?.try_into().ok()?);
        let number = self.number(sequence);
        (self.port(number) == port).then_some(number)
    }
}

/// Only what is for these ports: else whatever else this host exchanges with the address would push
/// answers out of the queue.
fn to_ports(to: IpAddr, ports: &RangeInclusive<u16>) -> [SockFilter; 6] {
    const LOAD_HEADER: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const LOAD_X: u16 = (libc::BPF_LDX | libc::BPF_IMM) as u16;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        // IPv4 sockets see the IP header, IPv6 sockets don't.
        if to.is_ipv4() {
            SockFilter::new(LOAD_HEADER, 0, 0, 0)
        } else {
            SockFilter::new(LOAD_X, 0, 0, 0)
        },
        SockFilter::new(LOAD, 0, 0, 2),
        SockFilter::new(AT_LEAST, 0, 1, u32::from(*ports.start())),
        SockFilter::new(ABOVE, 0, 1, u32::from(*ports.end())),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Syn {
        Syn {
            from: "198.18.0.10".parse().unwrap(),
            to: "198.18.0.250:6379".parse().unwrap(),
            ports: 20_000..=29_999,
            first_sequence: u32::MAX - 5,
        }
    }

    fn answer(packet: &[u8], change: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
        let syn = TcpHeader::from_slice(packet).unwrap().0;
        let mut tcp = TcpHeader::new(syn.destination_port, syn.source_port, 7, 1);
        tcp.ack = true;
        tcp.acknowledgment_number = syn.sequence_number.wrapping_add(1);
        change(&mut tcp);
        tcp.to_bytes().to_vec()
    }

    #[test]
    fn answers_are_told_by_their_number_also_when_sequence_numbers_wrap() {
        let syn = syn();
        for number in [0, 5, 6, 9_999, 10_000, 123_456] {
            let packet = syn.packet(number);
            assert_eq!(syn.number_of(&packet), Some(number));
            assert_eq!(syn.number_of(&packet[..8]), Some(number), "what ICMP quotes");
            let good = syn.read(&answer(&packet, |tcp| tcp.syn = true)).unwrap();
            assert_eq!((good.number, good.good, good.what), (Some(number), true, "syn_ack"));
            let refused = syn.read(&answer(&packet, |tcp| tcp.rst = true)).unwrap();
            assert_eq!((refused.number, refused.good, refused.what), (Some(number), false, "rst"));
        }
    }

    #[test]
    fn what_belongs_to_others_is_no_answer() {
        let (syn, packet) = (syn(), syn().packet(3));
        for (what, bytes) in [
            ("data", answer(&packet, |_| {})),
            ("another service", answer(&packet, |tcp| (tcp.syn, tcp.source_port) = (true, 80))),
            ("another port", answer(&packet, |tcp| (tcp.syn, tcp.destination_port) = (true, 2))),
            (
                "another SYN",
                answer(&packet, |tcp| (tcp.syn, tcp.acknowledgment_number) = (true, 9)),
            ),
            ("cut short", packet[..19].to_vec()),
        ] {
            assert_eq!(syn.read(&bytes), None, "{what}");
        }
        assert_eq!(syn.number_of(&packet[..7]), None);
    }

    #[test]
    fn the_checksum_is_right_and_ports_change() {
        let packet = syn().packet(1);
        let (tcp, _) = TcpHeader::from_slice(&packet).unwrap();
        let right = tcp.calc_checksum_ipv4_raw([198, 18, 0, 10], [198, 18, 0, 250], &[]).unwrap();
        assert_eq!((tcp.checksum, tcp.source_port), (right, 20_001));
        assert_eq!(syn().port(10_000), 20_000);
    }
}
