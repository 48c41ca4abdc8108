//! The segment that a client would send next.

use vipd_common::maps::{Flow, FlowKey, MAX_SYN, ReplayFrame};
use vipd_common::wire::Header as _;
use vipd_common::wire::eth;
use vipd_common::wire::ip::{Ip, IpHeader};
use vipd_common::wire::ipv4::PROTO_TCP;
use vipd_common::wire::tcp::TcpHeader;

/// A bare ACK of the client whose half of a connection this is, as it would come in: the segment
/// that the program answers with a reset if the connection is stale. `ack` is what the client has
/// received, as far as anybody here knows.
pub(super) fn next_ack<A: Ip>(key: &FlowKey<A>, flow: &Flow<A>, ack: u32) -> ReplayFrame {
    let from = (key.src, key.src_port);
    let tcp = TcpHeader::acknowledgment(from, (key.dst, key.dst_port), flow.next_seq, ack);
    let ip = A::Header::between(key.src, key.dst, PROTO_TCP, TcpHeader::LEN as u16);
    let mut frame = ReplayFrame::EMPTY;
    append(&mut frame, &flow.client_gateway.0);
    append(&mut frame, &flow.client_mac.0);
    if flow.client_vlan != 0 {
        append(&mut frame, &eth::VLAN);
        append(&mut frame, &flow.client_vlan.to_be_bytes());
    }
    append(&mut frame, &A::Header::ETHERTYPE);
    append(&mut frame, ip.as_bytes());
    append(&mut frame, tcp.as_bytes());
    frame
}

/// All that is ever appended fits ([`MAX_SYN`]).
fn append(frame: &mut ReplayFrame, bytes: &[u8]) {
    let at = frame.len as usize;
    let end = (at + bytes.len()).min(MAX_SYN);
    frame.frame[at..end].copy_from_slice(&bytes[..end - at]);
    frame.len = end as u32;
}
