//! ICMPv6 (RFC 4443). Its header is that of ICMP, [`super::icmp::IcmpHeader`].

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big: the MTU is in the last four bytes.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;

/// Whether a message of this type is an error that quotes the packet it is about. (All below 128
/// are errors; these four are those there are.)
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
}
