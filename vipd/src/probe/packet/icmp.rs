//! Echo requests (RFC 792, RFC 4443).

use std::io;
use std::net::IpAddr;

use super::socket::{PacketSocket, echo_protocol};
use super::volley::{Answer, MAX_PACKETS, Probe};

/// Echo requests that carry their number.
#[derive(Debug)]
pub struct Icmp {
    request: u8,
    reply: u8,
    id: u16,
    /// ICMPv6 checksums are the kernel's, since they cover addresses.
    checksum: bool,
    mark: u64,
    first: u64,
}

const HEADER: usize = 8;
/// Where the mark is.
pub(super) const MARK: std::ops::Range<usize> = HEADER..HEADER + 8;
/// Behind the header: the mark, and the number.
const PAYLOAD: usize = 16;

impl Icmp {
    /// With a socket to send them by: a raw one, or what this user may have. `mark` tells this probe's
    /// from others', and `first`, the number that stands in the first one, this run's from those of an
    /// earlier one. Both are best random numbers.
    pub fn new(to: IpAddr, mark: u64, first: u64) -> io::Result<(PacketSocket, Self)> {
        let socket = match PacketSocket::raw(to, echo_protocol(to)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                PacketSocket::ping(to).map_err(|_| error)?
            }
            socket => socket?,
        };
        let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
        Ok((socket, Self { request, reply, id: mark as u16, checksum: to.is_ipv4(), mark, first }))
    }
}

impl Probe for Icmp {
    fn packet(&self, number: u64) -> Vec<u8> {
        let mut packet = vec![self.request, 0, 0, 0];
        packet.extend(self.id.to_be_bytes());
        packet.extend((number as u16).to_be_bytes());
        packet.extend(self.mark.to_be_bytes());
        packet.extend(self.first.wrapping_add(number).to_be_bytes());
        if self.checksum {
            let sum = etherparse::checksum::u64_16bit_word::ones_complement(
                etherparse::checksum::u64_16bit_word::add_slice(0, &packet),
            );
            packet[2..4].copy_from_slice(&sum.to_ne_bytes());
        }
        packet
    }

    fn read(&self, bytes: &[u8]) -> Option<Answer> {
        let number = self.numbered(bytes, self.reply)?;
        Some(Answer { number: Some(number), good: true, what: "echo_reply", node: None })
    }

    fn number_of(&self, transport: &[u8]) -> Option<u64> {
        self.numbered(transport, self.request)
    }
}

impl Icmp {
    /// A ping socket changes the identifier, so the mark has to tell. What quotes no more than the
    /// header (RFC 792 asks for no more; Linux quotes all) is not known for an answer.
    fn numbered(&self, bytes: &[u8], kind: u8) -> Option<u64> {
        if *bytes.first()? != kind {
            return None;
        }
        let (mark, number) = bytes.get(HEADER..HEADER + PAYLOAD)?.split_at(8);
        let number = u64::from_be_bytes(number.try_into().ok()?).wrapping_sub(self.first);
        (mark == self.mark.to_be_bytes() && number < MAX_PACKETS).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn icmp() -> Icmp {
        Icmp {
            request: 8,
            reply: 0,
            id: 7,
            checksum: true,
            mark: 0x1234_5678_9abc_def0,
            first: u64::MAX - 1,
        }
    }

    #[test]
    fn an_echo_reply_is_told_by_the_number_in_it() {
        let icmp = icmp();
        for number in [0, 1, 70_000] {
            let mut packet = icmp.packet(number);
            assert_eq!(icmp.number_of(&packet), Some(number));
            assert_eq!(icmp.read(&packet), None, "a request is no reply");
            packet[0] = 0;
            // A ping socket's identifier is the kernel's.
            packet[4..6].copy_from_slice(&[9, 9]);
            assert_eq!(icmp.read(&packet).and_then(|answer| answer.number), Some(number));
            let other = Icmp { mark: 1, ..icmp.clone_for_test() };
            assert_eq!(other.read(&packet), None, "another probe's");
            let later = Icmp { first: 1 << 40, ..icmp.clone_for_test() };
            assert_eq!(later.read(&packet), None, "another run's");
            assert_eq!(icmp.read(&packet[..20]), None);
        }
    }

    #[test]
    fn the_checksum_is_right() {
        let packet = icmp().packet(77);
        let words = packet.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    impl Icmp {
        fn clone_for_test(&self) -> Self {
            Self { ..*self }
        }
    }
}
