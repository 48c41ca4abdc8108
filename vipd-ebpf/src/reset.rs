//! Resets: the honest answer to a segment whose connection can't go on.

use vipd_common::wire::Header;
use vipd_common::wire::ipv4::{Ipv4Header, PROTO_TCP};

use crate::frame::{Frame, ResizeFailed};
use crate::link::{self, Arrival};
use crate::service::Ipv4Tcp;

/// Don't fragment, offset zero.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// What Linux starts with.
const TTL: u8 = 64;

/// What became of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The frame is now the reset, addressed to the sender.
    Reset,
    /// It was a reset itself: never answered.
    Silence,
}

/// Turns the segment at `arrival.l3()`, whose lengths were checked, into the reset that answers it.
///
/// # Errors
///
/// [`ResizeFailed`] if the frame could not be cut to size.
#[inline(never)]
pub fn answer(frame: &mut impl Frame, arrival: &Arrival) -> Result<Answer, ResizeFailed> {
    let Some(headers) = frame.at::<Ipv4Tcp>(arrival.l3()) else { return Err(ResizeFailed) };
    let (ip, tcp) = (headers.ip, headers.tcp);
    let payload = ip.total_len().wrapping_sub(Ipv4Header::LEN as u16 + tcp.header_len());
    let Some(reset) = tcp.reset(payload, ip.src, ip.dst) else { return Ok(Answer::Silence) };
    headers.tcp = reset;
    headers.ip = Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_len: (Ipv4Tcp::LEN as u16).to_be_bytes(),
        id: [0; 2],
        fragment: DONT_FRAGMENT,
        ttl: TTL,
        protocol: PROTO_TCP,
        checksum: [0; 2],
        src: ip.dst,
        dst: ip.src,
    };
    headers.ip.fill_checksum();
    link::turn_around(frame, arrival.dst);
    frame.truncate(arrival.l3() + Ipv4Tcp::LEN)?;
    Ok(Answer::Reset)
}
