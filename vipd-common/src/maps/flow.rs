//! One direction of a connection, and how long it is remembered.

use super::SECOND_NS;
use crate::addr::MacAddr;
use crate::wire::ip::Ip;

/// A half-open connection is forgotten after this long without a packet.
pub const HALF_OPEN_NS: u64 = 60 * SECOND_NS;
/// A connection that carried nothing for this long is forgotten; Redis's own `tcp-keepalive`
/// (300 s by default) is far below.
pub const IDLE_NS: u64 = 24 * 3600 * SECOND_NS;
/// How long a connection lives on after both sides sent FIN: TIME-WAIT's 60 s.
pub const CLOSED_NS: u64 = 60 * SECOND_NS;
/// How long a connection lives on after a FIN from one side (Linux gives FIN-WAIT-2 60 s; a client
/// that only half-closes and goes on reading gets more).
pub const CLOSING_NS: u64 = 600 * SECOND_NS;
/// How long a connection lives on after a RST, so that crossing segments still find it.
pub const RESET_NS: u64 = 5 * SECOND_NS;

/// Key of [`FLOWS`] and [`HALF_OPEN`]: a TCP 4-tuple as it arrives. (TCP is all that is carried,
/// so the protocol is not part of it.)
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FlowKey<A: Ip> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, big-endian.
    pub src_port: [u8; 2],
    /// Destination port, big-endian.
    pub dst_port: [u8; 2],
    zero: A::KeyPad,
    align: [A::Word; 0],
}

impl<A: Ip> FlowKey<A> {
    /// From the first end to the second.
    #[inline(always)]
    pub const fn new((src, src_port): (A, [u8; 2]), (dst, dst_port): (A, [u8; 2])) -> Self {
        Self { src, dst, src_port, dst_port, zero: A::KEY_PAD, align: [] }
    }

    /// The same connection seen from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new((self.dst, self.dst_port), (self.src, self.src_port))
    }

    /// Whether this is `other` seen from the other end. (Compares in place: a reversed key on the
    /// kernel's small stack is one too many.)
    #[inline(always)]
    pub fn is_reverse_of(&self, other: &Self) -> bool {
        self.src == other.dst
            && self.dst == other.src
            && self.src_port == other.dst_port
            && self.dst_port == other.src_port
    }
}

/// Which direction of a connection a [`Flow`] is.
pub mod direction {
    /// From the client to the VIP.
    pub const FROM_CLIENT: u8 = 0;
    /// From the backend to the source address.
    pub const FROM_BACKEND: u8 = 1;
}

/// What a [`Flow`] has seen.
pub mod state {
    /// This direction sent a FIN.
    pub const FIN: u8 = 1;
    /// The other direction sent a FIN.
    pub const PEER_FIN: u8 = 1 << 1;
    /// Either side sent a RST.
    pub const RESET: u8 = 1 << 2;
    /// Half-open, client's half: the backend's SYN-ACK was seen, and `next_seq` of the peer is in
    /// `last_ack`.
    pub const ANSWERED: u8 = 1 << 3;
}

/// One direction of a connection: value of [`FLOWS`] and [`HALF_OPEN`]. Each connection has two,
/// each found by the tuple that arrives and holding the tuple that leaves; one's `leaves`
/// reversed is the other's key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<A: Ip> {
    /// CLOCK_MONOTONIC ns (coarse) of the last packet in this direction.
    pub last_seen: u64,
    /// The tuple that leaves.
    pub leaves: FlowKey<A>,
    /// Service index.
    pub service: u32,
    /// Sequence number after the last byte seen in this direction.
    pub next_seq: u32,
    /// The service's generation when the connection was made.
    pub generation: u32,
    /// Last acknowledgment number seen in this direction.
    pub last_ack: u32,
    /// Slot it was made for.
    pub slot: u32,
    /// Where the client is: interface index, its link-layer address (or its router's), the
    /// link-layer address it sends to, and its VLAN.
    pub client_ifindex: u32,
    /// See `client_ifindex`.
    pub client_mac: MacAddr,
    /// See `client_ifindex`; 0 is untagged.
    pub client_vlan: u16,
    /// See `client_ifindex`.
    pub client_gateway: MacAddr,
    /// A [`direction`].
    pub direction: u8,
    /// Or of [`state`] bits.
    pub state: u8,
    /// Always zero.
    pub zero: A::FlowPad,
}

impl<A: Ip> Flow<A> {
    /// Nothing.
    pub const EMPTY: Self = Self {
        last_seen: 0,
        leaves: FlowKey::new((A::UNSPECIFIED, [0; 2]), (A::UNSPECIFIED, [0; 2])),
        service: 0,
        next_seq: 0,
        generation: 0,
        last_ack: 0,
        slot: 0,
        client_ifindex: 0,
        client_mac: MacAddr::ZERO,
        client_vlan: 0,
        client_gateway: MacAddr::ZERO,
        direction: direction::FROM_CLIENT,
        state: 0,
        zero: A::FLOW_PAD,
    };

    /// How long the flow outlives its last packet, as its state says. `established` says which
    /// table it stands in.
    #[inline(always)]
    pub const fn lifetime_ns(&self, established: bool) -> u64 {
        if self.state & state::RESET != 0 {
            RESET_NS
        } else if !established {
            HALF_OPEN_NS
        } else if self.state & (state::FIN | state::PEER_FIN) == state::FIN | state::PEER_FIN {
            CLOSED_NS
        } else if self.state & (state::FIN | state::PEER_FIN) != 0 {
            CLOSING_NS
        } else {
            IDLE_NS
        }
    }

    /// Whether its tuple may be given to another connection. `now` is CLOCK_MONOTONIC ns.
    #[inline(always)]
    pub const fn is_expired(&self, established: bool, now: u64) -> bool {
        now.saturating_sub(self.last_seen) > self.lifetime_ns(established)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Ipv4Bytes;

    #[test]
    fn fin_and_rst_shorten_a_flow_s_life() {
        let mut flow = Flow::<Ipv4Bytes>::EMPTY;
        assert_eq!(flow.lifetime_ns(true), IDLE_NS);
        assert_eq!(flow.lifetime_ns(false), HALF_OPEN_NS);
        flow.state = state::PEER_FIN;
        assert_eq!(flow.lifetime_ns(true), CLOSING_NS);
        flow.state |= state::FIN;
        assert_eq!(flow.lifetime_ns(true), CLOSED_NS);
        flow.state |= state::RESET;
        assert_eq!(flow.lifetime_ns(true), RESET_NS);
        assert!(!flow.is_expired(true, RESET_NS));
        assert!(flow.is_expired(true, RESET_NS + 1));
    }
}
