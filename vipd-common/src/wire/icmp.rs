//! ICMP for IPv4 (RFC 792). ICMPv6 has the same header.

use super::header;
use crate::checksum::Delta;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable; code 4 is "fragmentation needed".
pub const UNREACHABLE: u8 = 3;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

header! {
    /// The eight bytes that every ICMP message begins with.
    IcmpHeader, 8, {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// Checksum over the whole message.
        checksum: [u8; 2],
        /// Identifier and sequence number, MTU, or unused.
        rest: [u8; 4],
    }
}

impl IcmpHeader {
    /// Turns a message into one of another type.
    #[inline(always)]
    pub fn set_kind(&mut self, kind: u8) {
        let old = [self.kind, self.code];
        self.kind = kind;
        self.checksum = Delta::new().word(old, [self.kind, self.code]).apply(self.checksum);
    }
}

/// Whether a message of this type is an error that quotes the datagram it is about.
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
}
