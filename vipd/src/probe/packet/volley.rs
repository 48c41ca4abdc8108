//! One layer of packets under way.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use vipd_common::addr::MacAddr;

use super::pace::{End, Lateness, Pace, be_punctual, wait_until};
use super::socket::{Buffer, Note, PacketSocket, reason_of};
use crate::clock::Monotonic;
use crate::probe::live::Live;
use crate::probe::report::Schedule;

/// What the packets of a layer are: the only thing in which layers differ.
pub trait Probe: Send + Sync + 'static {
    /// Packet number `number`.
    fn packet(&self, number: u64) -> Vec<u8>;
    /// What an arriving packet says, from its transport header on (a whole frame on a packet socket);
    /// `None` if it is not about this layer.
    fn read(&self, bytes: &[u8]) -> Option<Answer>;
    /// The number of a packet that was sent, by its beginning.
    fn number_of(&self, transport: &[u8]) -> Option<u64>;
}

/// What somebody says to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// To which; none where the protocol doesn't tell, or nobody asked.
    pub number: Option<u64>,
    /// It is what was hoped for.
    pub good: bool,
    /// In a word.
    pub what: &'static str,
    /// By whom.
    pub node: Option<MacAddr>,
}

/// An [`Answer`] and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// When it arrived.
    pub at: Monotonic,
    /// What.
    pub answer: Answer,
}

/// A packet that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// When it was to be sent.
    pub due: Monotonic,
    /// When it was.
    pub at: Monotonic,
    /// Why it was not, if the kernel refused.
    pub refused: Option<&'static str>,
}

/// Everything that one layer sent and heard.
#[derive(Debug)]
pub struct VolleyRecord {
    /// In order; a packet's number is its place, of those that were not left out.
    pub sent: Vec<Sent>,
    /// In the order in which it was read.
    pub heard: Vec<Heard>,
    /// How the schedule was kept.
    pub schedule: Schedule,
    /// Between two packets.
    pub interval: Duration,
    /// Packets that arrived and that this host had no room for: answers, most likely.
    pub dropped: u64,
}

/// A layer that is being probed.
pub struct Volley {
    sender: JoinHandle<(Vec<Sent>, Option<Lateness>)>,
    receiver: JoinHandle<Result<Listened>>,
    interval: Duration,
}

/// What the receiver found.
struct Listened {
    heard: Vec<Heard>,
    /// When the kernel sent which packet.
    stamps: Vec<(u64, Monotonic)>,
    dropped: u64,
}

/// Packets that a run may have in one layer: some 200 MB.
pub const MAX_PACKETS: u64 = 5_000_000;
/// What is heard beyond this is no answer to them.
const MAX_HEARD: usize = 2 * MAX_PACKETS as usize;
/// Ethernet frames have 60 bytes at least, and these packets have more than half of it.
const MAX_PADDING: usize = 16;
/// Between two looks at whether it is over.
const GLANCE: Duration = Duration::from_millis(20);
/// Packets that are read in one go before the error queue has its turn.
const BATCH: usize = 64;

impl Volley {
    /// Sends packets of `kind` by `pace` (none with `None`) until `end`, and listens for `timeout`
    /// longer.
    pub fn start(
        socket: PacketSocket,
        kind: impl Probe,
        pace: Option<Pace>,
        end: &Arc<End>,
        timeout: Duration,
        live: &Arc<Live>,
    ) -> Result<Self> {
        let (socket, kind) = (Arc::new(socket), Arc::new(kind));
        let receiver = {
            let (socket, kind) = (Arc::clone(&socket), Arc::clone(&kind));
            let (end, live) = (Arc::clone(end), Arc::clone(live));
            spawn("receive", move || receive(&socket, &*kind, &end, timeout, &live))?
        };
        let (end, live) = (Arc::clone(end), Arc::clone(live));
        let sender = spawn("send", move || match pace {
            Some(pace) => send(&socket, &*kind, pace, &end, &live),
            None => (vec![], None),
        })?;
        Ok(Self { sender, receiver, interval: pace.map_or(Duration::ZERO, |it| it.interval()) })
    }

    /// What came of it, once it is over. Blocks for so long.
    pub fn join(self) -> Result<VolleyRecord> {
        let died = |_| anyhow!("a thread of the probe panicked");
        let (sent, lateness) = self.sender.join().map_err(died)?;
        let listened = self.receiver.join().map_err(died)??;
        Ok(VolleyRecord::of(sent, lateness, listened, self.interval))
    }
}

impl VolleyRecord {
    fn of(
        mut sent: Vec<Sent>,
        lateness: Option<Lateness>,
        listened: Listened,
        interval: Duration,
    ) -> Self {
        for (number, at) in listened.stamps {
            let place = usize::try_from(number).unwrap_or(usize::MAX);
            if let Some(sent) = sent.get_mut(place) {
                sent.at = at;
            }
        }
        // By the kernel's time: between the look at the clock and the sending others may have run.
        let late = sent.iter().map(|it| it.at.since(it.due));
        let schedule = lateness.map(|it| it.schedule(late)).unwrap_or_default();
        Self { sent, heard: listened.heard, schedule, interval, dropped: listened.dropped }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let builder = thread::Builder::new().name(format!("probe-{name}"));
    builder.spawn(work).context("cannot start a thread")
}

fn send(
    socket: &PacketSocket,
    kind: &impl Probe,
    pace: Pace,
    end: &End,
    live: &Live,
) -> (Vec<Sent>, Option<Lateness>) {
    be_punctual();
    let mut sent = Vec::new();
    let mut lateness = Lateness::new(pace);
    for number in 0..MAX_PACKETS {
        let due = pace.due(number);
        if !wait_until(due, end) {
            break;
        }
        let now = Monotonic::now();
        if !lateness.admits(due, now) {
            continue;
        }
        // Numbers are places in `sent`, so what is left out has none.
        let refused = socket.send(&kind.packet(sent.len() as u64)).err();
        let refused = refused.map(|error| reason_of(&error));
        sent.push(Sent { due, at: now, refused });
        live.sent();
        if refused.is_some() {
            live.bad();
        }
    }
    (sent, Some(lateness))
}

fn receive(
    socket: &PacketSocket,
    kind: &impl Probe,
    end: &End,
    timeout: Duration,
    live: &Live,
) -> Result<Listened> {
    be_punctual();
    let mut buffer = Buffer::new();
    let (mut heard, mut stamps) = (Vec::new(), Vec::new());
    while Monotonic::now() < end.at() + timeout {
        socket.wait(GLANCE).context("cannot wait for packets")?;
        for _ in 0..BATCH {
            let received = tolerate(socket.receive(&mut buffer)).context("cannot receive")?;
            let Some(received) = received else { break };
            let Some(answer) = kind.read(received.bytes) else { continue };
            if answer.good {
                live.good(received.at);
            } else if answer.number.is_some() {
                live.bad();
            }
            if heard.len() < MAX_HEARD {
                heard.push(Heard { at: received.at, answer });
            }
        }
        for _ in 0..BATCH {
            let note = tolerate(socket.note(&mut buffer)).context("cannot read errors")?;
            match note {
                None => break,
                Some(Note::Sent { at, frame }) => {
                    let number = number_at_the_end(kind, frame);
                    stamps.extend(number.map(|number| (number, at)));
                }
                Some(Note::Undeliverable { at, quoted, why }) => {
                    live.bad();
                    let number = kind.number_of(quoted);
                    let answer = Answer { number, good: false, what: why, node: None };
                    if number.is_some() && heard.len() < MAX_HEARD {
                        heard.push(Heard { at, answer });
                    }
                }
            }
        }
    }
    Ok(Listened { heard, stamps, dropped: socket.dropped()? })
}

/// An interface that is down for a moment is a part of what is measured.
fn tolerate<T>(result: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
        result => result,
    }
}

/// Of a packet behind whatever headers the link has, and before whatever a driver has added.
fn number_at_the_end(kind: &impl Probe, frame: &[u8]) -> Option<u64> {
    let length = kind.packet(0).len();
    let ends = (0..=MAX_PADDING).map(|padding| frame.len().checked_sub(padding));
    ends.flatten().find_map(|end| kind.number_of(&frame[end.checked_sub(length)?..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_packet_is_as_late_as_the_kernel_sent_it() {
        let pace = Pace::new(Monotonic(0), 1000);
        let sent = |number: u64| {
            let due = Monotonic(number * MS);
            Sent { due, at: due + Duration::from_micros(1), refused: None }
        };
        // The sender looked at the clock, and then another thread ran for 7 ms.
        let stamps = vec![(0, Monotonic(2000)), (1, Monotonic(8 * MS)), (9, Monotonic(9 * MS))];
        let listened = Listened { heard: vec![], stamps, dropped: 0 };
        let sent = (0..3).map(sent).collect();
        let record = VolleyRecord::of(sent, Some(Lateness::new(pace)), listened, pace.interval());
        assert_eq!((record.schedule.sent, record.schedule.late_max_ns), (3, 7 * MS));
        let at: Vec<_> = record.sent.iter().map(|it| it.at.0).collect();
        assert_eq!(
            at,
            [2000, 8 * MS, 2 * MS + 1000],
            "what has no stamp was sent when it was sent"
        );
    }
}
