//! Resets: the honest answer to a segment whose connection can't go on.

use vipd_common::verdict::Verdict;
use vipd_common::wire::Header as _;
use vipd_common::wire::ip::{Ip, IpHeader as _};
use vipd_common::wire::ipv4::PROTO_TCP;
use vipd_common::wire::tcp::TcpHeader;

use crate::frame::{Frame, ResizeFailed};
use crate::link;
use crate::program::ForUs;
use crate::service::IpTcp;

/// What became of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The frame is now the reset, addressed to the sender.
    Reset,
    /// It was a reset itself: never answered.
    Silence,
}

/// Resets the sender of a segment whose lengths were checked with verdict `answered`, or, if the
/// segment is a reset itself, drops it with verdict `silent`.
#[inline(always)]
pub fn refuse<A: Ip>(
    frame: &mut impl Frame,
    packet: &ForUs<A>,
    answered: Verdict,
    silent: Verdict,
) -> Verdict {
    match answer(frame, packet) {
        Ok(Answer::Reset) => answered,
        Ok(Answer::Silence) => silent,
        Err(_) => Verdict::ResizeFailed,
    }
}

/// Turns the segment into the reset that answers it.
#[inline(never)]
fn answer<A: Ip>(frame: &mut impl Frame, packet: &ForUs<A>) -> Result<Answer, ResizeFailed> {
    let l3 = packet.arrival.l3();
    let Some(headers) = frame.at::<IpTcp<A>>(l3) else { return Err(ResizeFailed) };
    let IpTcp { ip, tcp } = headers;
    let payload = ip.payload_len().wrapping_sub(tcp.header_len());
    let Some(reset) = tcp.reset(payload, ip.src(), ip.dst()) else { return Ok(Answer::Silence) };
    *tcp = reset;
    *ip = ip.answer(PROTO_TCP, TcpHeader::LEN as u16);
    link::turn_around(frame, packet.arrival.dst);
    frame.resize(l3 + IpTcp::<A>::LEN)?;
    Ok(Answer::Reset)
}
