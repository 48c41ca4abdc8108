//! A blocking netlink request socket: one request at a time, every wait and every loop bounded.
//!
//! rtnetlink answers within the `send` call itself, so blocking costs microseconds; callers that
//! serve traffic keep it off their event loop all the same (see [`crate::neighbour`]).

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// The kernel answers at once; longer than this, something is wrong.
const TIMEOUT_MS: i64 = 2_000;
/// The kernel's dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Datagrams of one answer. A dump of 10,000 neighbours takes some 40.
const MAX_DATAGRAMS: usize = 4_096;
/// A dump during which the table changed is asked for again, at most this often.
const DUMP_TRIES: usize = 3;
/// `NLM_F_DUMP_INTR`: the table changed while it was read, the dump may miss entries.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a NETLINK_ROUTE socket.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// Opens a socket of a netlink `protocol`.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(TIMEOUT_MS))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Asks for one object; the answer, or the kernel's errno.
    pub(crate) fn get<T: Message>(&mut self, message: T) -> io::Result<T> {
        let (answers, _) = self.exchange(message, NLM_F_REQUEST)?;
        answers.into_iter().next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Changes something; waits for the acknowledgment.
    pub(crate) fn set<T: Message>(&mut self, message: T, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).map(|_| ())
    }

    /// Asks for a whole table, again if it changed meanwhile.
    pub(crate) fn dump<T: Message + Clone>(&mut self, message: T) -> io::Result<Vec<T>> {
        let mut last = Vec::new();
        for _ in 0..DUMP_TRIES {
            let (answers, interrupted) =
                self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            last = answers;
            if !interrupted {
                break;
            }
        }
        // A table that never holds still: the next periodic read will see what this one missed.
        Ok(last)
    }

    /// Sends a request and collects what belongs to it, until its end or `MAX_DATAGRAMS`.
    fn exchange<T: Message>(&mut self, message: T, flags: u16) -> io::Result<(Vec<T>, bool)> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let many = flags & (NLM_F_DUMP | NLM_F_ACK) != 0;
        let mut answers = Vec::new();
        let mut interrupted = false;
        for _ in 0..MAX_DATAGRAMS {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Some((bytes, next)) = split(rest) {
                rest = next;
                let message = NetlinkMessage::<T>::deserialize(bytes)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if message.header.sequence_number != self.sequence {
                    continue; // the end of an earlier request that timed out
                }
                interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        answers.push(inner);
                        if !many {
                            return Ok((answers, interrupted));
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok((answers, interrupted)),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok((answers, interrupted));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                    }
                    _ => {}
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink answer without an end"))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self.socket` lives.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// What both families of messages (rtnetlink, generic) can do.
pub(crate) trait Message: NetlinkSerializable + NetlinkDeserializable + Debug {}
impl<T: NetlinkSerializable + NetlinkDeserializable + Debug> Message for T {}

/// The first netlink message of a datagram, and the rest of it; `None` at its end or where a
/// length can't be.
pub(crate) fn split(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
    if length < 16 || length > datagram.len() {
        return None;
    }
    let padded = length.next_multiple_of(4).min(datagram.len());
    Some((&datagram[..length], &datagram[padded..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_at_aligned_lengths_and_never_past_its_end() {
        let mut datagram = vec![0_u8; 20 + 16];
        datagram[..4].copy_from_slice(&17_u32.to_ne_bytes());
        datagram[20..24].copy_from_slice(&16_u32.to_ne_bytes());
        let (first, rest) = split(&datagram).expect("one message");
        assert_eq!((first.len(), rest.len()), (17, 16));
        let (second, rest) = split(rest).expect("another");
        assert_eq!((second.len(), rest.len()), (16, 0));
        assert_eq!(split(rest), None);
        for length in [0_u32, 15, 37, u32::MAX] {
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(split(&datagram), None, "length {length}");
        }
        for end in 0..16 {
            assert_eq!(split(&datagram[..end]), None);
        }
    }
}
