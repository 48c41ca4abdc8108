//! TCP (RFC 9293).

use super::header;
use super::ip::Ip;
use crate::checksum::{Delta, Sum};

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// The acknowledgment field is significant.
pub const ACK: u8 = 0x10;

header! {
    /// A TCP header without options.
    TcpHeader, 20, {
        /// Source port.
        src: [u8; 2],
        /// Destination port.
        dst: [u8; 2],
        /// Sequence number of the first byte.
        seq: [u8; 4],
        /// Next sequence number expected, when [`ACK`] is set.
        ack: [u8; 4],
        /// Header length in 32-bit words in the high nibble.
        data_offset: u8,
        /// [`FIN`], [`SYN`], [`RST`], [`ACK`] and others.
        flags: u8,
        /// Receive window.
        window: [u8; 2],
        /// Checksum over pseudo header, header and payload.
        checksum: [u8; 2],
        /// Urgent pointer.
        urgent: [u8; 2],
    }
}

header! {
    /// The first eight bytes, which every ICMP error must quote (RFC 792; in IPv6 there is more).
    TcpQuote, 8, {
        /// Source port.
        src: [u8; 2],
        /// Destination port.
        dst: [u8; 2],
        /// Sequence number.
        seq: [u8; 4],
    }
}

/// The later of two sequence numbers (RFC 9293 section 3.4).
#[inline(always)]
pub const fn later(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) < 0 { b } else { a }
}

impl TcpHeader {
    /// Header length in bytes as the data offset says; below 20 it is malformed.
    #[inline(always)]
    pub const fn header_len(&self) -> u16 {
        (self.data_offset >> 4) as u16 * 4
    }

    /// Whether any of `flags` is set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Writes new ports and mends the checksum, for the change of addresses as well.
    #[inline(always)]
    pub fn set_ports(&mut self, src: [u8; 2], dst: [u8; 2], addresses: Delta) {
        let delta = addresses.word(self.src, src).word(self.dst, dst);
        self.src = src;
        self.dst = dst;
        self.checksum = delta.apply(self.checksum);
    }

    /// The sequence number after this segment: SYN and FIN count one each (RFC 9293 section 3.4).
    /// `payload` is in bytes.
    #[inline(always)]
    pub const fn next_seq(&self, payload: u16) -> u32 {
        let syn = (self.flags & SYN != 0) as u32;
        let fin = (self.flags & FIN != 0) as u32;
        u32::from_be_bytes(self.seq).wrapping_add(payload as u32).wrapping_add(syn + fin)
    }

    /// The reset that answers this segment (RFC 9293 section 3.10.7.1), checksum included, or
    /// `None` for a segment that is a reset itself: those are never answered.
    ///
    /// * with ACK: `<SEQ=SEG.ACK><CTL=RST>`
    /// * without: `<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>`
    ///
    /// `src` and `dst` are the answered datagram's addresses.
    #[inline(always)]
    pub fn reset<A: Ip>(&self, payload: u16, src: A, dst: A) -> Option<Self> {
        if self.has(RST) {
            return None;
        }
        let mut reset = Self {
            src: self.dst,
            dst: self.src,
            seq: [0; 4],
            ack: [0; 4],
            data_offset: 5 << 4,
            flags: RST,
            window: [0; 2],
            checksum: [0; 2],
            urgent: [0; 2],
        };
        if self.has(ACK) {
            reset.seq = self.ack;
        } else {
            reset.ack = self.next_seq(payload).to_be_bytes();
            reset.flags = RST | ACK;
        }
        reset.checksum = reset.bare_checksum(src, dst);
        Some(reset)
    }

    /// An acknowledgment without data, checksum included. Its window is zero: nobody is to send
    /// anything on account of it.
    pub fn acknowledgment<A: Ip>(
        (src, src_port): (A, [u8; 2]),
        (dst, dst_port): (A, [u8; 2]),
        seq: u32,
        ack: u32,
    ) -> Self {
        let mut header = Self {
            src: src_port,
            dst: dst_port,
            seq: seq.to_be_bytes(),
            ack: ack.to_be_bytes(),
            data_offset: 5 << 4,
            flags: ACK,
            window: [0; 2],
            checksum: [0; 2],
            urgent: [0; 2],
        };
        header.checksum = header.bare_checksum(src, dst);
        header
    }

    /// The checksum of a segment that is this header alone, with neither window nor urgent pointer.
    #[inline(always)]
    fn bare_checksum<A: Ip>(&self, src: A, dst: A) -> [u8; 2] {
        src.add_to(dst.add_to(Sum::new()))
            .word([0, super::ipv4::PROTO_TCP])
            .word([0, 20])
            .word(self.src)
            .word(self.dst)
            .dword(self.seq)
            .dword(self.ack)
            .word([self.data_offset, self.flags])
            .checksum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8) -> TcpHeader {
        TcpHeader {
            src: 40_000u16.to_be_bytes(),
            dst: 6379u16.to_be_bytes(),
            seq: 1000u32.to_be_bytes(),
            ack: 77u32.to_be_bytes(),
            data_offset: 0x50,
            flags,
            window: [0xff, 0xff],
            checksum: [0; 2],
            urgent: [0; 2],
        }
    }

    #[test]
    fn a_segment_with_ack_is_reset_at_its_ack_number() {
        let reset = segment(ACK).reset(5, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        assert_eq!((reset.flags, reset.seq, reset.ack), (RST, 77u32.to_be_bytes(), [0; 4]));
    }

    #[test]
    fn a_segment_without_ack_is_reset_with_the_sum_of_its_length() {
        let reset = segment(SYN | FIN).reset(5, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        assert_eq!((reset.flags, reset.seq), (RST | ACK, [0; 4]));
        assert_eq!(reset.ack, 1007u32.to_be_bytes());
    }

    #[test]
    fn a_reset_is_never_answered() {
        assert_eq!(segment(RST).reset(0, [0; 4], [0; 4]), None);
        assert_eq!(segment(RST | ACK).reset(0, [0; 4], [0; 4]), None);
    }

    #[test]
    fn sequence_numbers_are_compared_round_the_circle() {
        assert_eq!((later(5, 7), later(7, 5)), (7, 7));
        assert_eq!((later(3, u32::MAX), later(u32::MAX, 3)), (3, 3));
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut fin = segment(FIN | ACK);
        fin.seq = u32::MAX.to_be_bytes();
        assert_eq!(fin.next_seq(3), 3);
    }
}
