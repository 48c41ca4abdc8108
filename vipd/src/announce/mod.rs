//! What the daemon itself says on the link: is a VIP free, and telling everybody who has it now.
//! By ARP for IPv4 ([`arp`]), by neighbour discovery for IPv6 ([`ndp`]).
//!
//! Answering who asks for a VIP is the XDP program's work; this is the rest of RFC 5227, and of RFC
//! 4861 section 7.2.6 and RFC 4862 section 5.4.
//!
//! # Timers
//!
//! RFC 5227 section 1.1 waits 0–1 s, sends three probes 1–2 s apart and waits 2 s more: up to 7 s
//! in all, made for links of unknown latency and thousands of hosts that boot at once (RFC 4862
//! section 5.4 is content with one probe and a second). A VIP moves between servers on one switch,
//! where an answer takes well under a millisecond, and a start that takes 7 s is 7 s without
//! service. So: [`PROBES`] probes, [`PROBE_INTERVAL`] after each, no random wait: 600 ms. What a
//! probe misses (a host that was down) is seen later: the XDP program reports any foreign claim,
//! and the daemon defends ([`Announcer::defend`]).
//!
//! Announcements are repeated ([`Schedule`]), ARP's in both forms (request and reply), because one
//! lost frame, or a stack that ignores one of the forms, would leave a client with a stale cache.
//! RFC 5227 section 2.4 (c) is what defending follows: the address is kept, since everything depends
//! on it, and announced at most once in [`DEFEND_INTERVAL`] (the RFC's is 10 s, for hosts that give
//! up).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::task::JoinHandle;
use tracing::debug;
use vipd_common::addr::MacAddr;

use crate::clock::Monotonic;

mod arp;
pub(crate) mod link;
mod ndp;
mod probe;
mod schedule;
mod solicited;

pub use probe::{Occupancy, PROBE_INTERVAL, PROBES, probe, probe_beside};
pub use schedule::Schedule;
pub use solicited::{NotJoined, SolicitedNode};

/// At most one defence of a VIP on an interface in this time.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(1);

/// An interface to send from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Port {
    /// Interface index.
    pub ifindex: u32,
    /// Its link-layer address.
    pub mac: MacAddr,
}

/// What a frame says of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claim {
    /// This host has it.
    Uses(MacAddr),
    /// This host asks whether somebody has it, to take it if nobody does.
    Probes(MacAddr),
}

/// Sends announcements. Dropping it stops all repeats.
#[derive(Debug)]
pub struct Announcer {
    socket: Arc<Socket>,
    schedule: Schedule,
    repeats: HashMap<(u32, IpAddr), JoinHandle<()>>,
    defended: HashMap<(u32, IpAddr), Instant>,
    lease: Arc<AtomicU64>,
}

/// Whether an announcement depends on the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tenure {
    /// The VIP is this host's until it is withdrawn.
    Own,
    /// Nothing is said of it after the lease ([`Announcer::lease`]) has run out: a daemon that was
    /// frozen wakes up with its timers due, and somebody else may have taken the VIP over.
    Leased,
}

impl Announcer {
    /// Opens its socket, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// CAP_NET_RAW is missing.
    pub fn new(schedule: Schedule) -> io::Result<Self> {
        Ok(Self {
            socket: Arc::new(link::sender()?),
            schedule,
            repeats: HashMap::new(),
            defended: HashMap::new(),
            lease: Arc::new(AtomicU64::new(u64::MAX)),
        })
    }

    /// When to repeat, for what is announced from now on.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }

    /// VIPs with [`Tenure::Leased`] may be announced until then. Before the first call there is no
    /// limit.
    pub fn lease(&self, until: Monotonic) {
        self.lease.store(until.0, Ordering::Relaxed);
    }

    /// Tells the link that `vip` is at `port.mac`: at once, and again as [`Schedule`] says.
    /// Announcing the same address again starts anew. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// The first one could not be sent; the repeats will be tried all the same.
    pub fn announce(&mut self, port: Port, vip: IpAddr, tenure: Tenure) -> io::Result<()> {
        let speaker = self.speaker(port, vip, tenure);
        // A failed first one does not end the repeats: the interface may be coming up.
        let first = speaker.speak().map(drop);
        self.repeat(speaker, self.schedule);
        first
    }

    /// Goes on to tell the link from time to time what it knows: an earlier daemon has announced
    /// it.
    pub fn resume(&mut self, port: Port, vip: IpAddr, tenure: Tenure) {
        self.repeat(self.speaker(port, vip, tenure), Schedule { count: 1, ..self.schedule });
    }

    fn repeat(&mut self, speaker: Speaker, schedule: Schedule) {
        let (port, vip) = (speaker.port, speaker.vip);
        self.stop(port.ifindex, vip);
        let task = tokio::spawn(async move {
            let start = tokio::time::Instant::now();
            for after in schedule.repeats() {
                // Some hundred years from now there is nobody to tell.
                let Some(at) = start.checked_add(after) else { return };
                tokio::time::sleep_until(at).await;
                if let Err(error) = speaker.speak() {
                    debug!(%vip, ifindex = port.ifindex, %error, "cannot repeat an announcement");
                }
            }
        });
        self.repeats.insert((port.ifindex, vip), task);
    }

    /// Ends the repeats for `vip` on every interface: this node no longer has it.
    pub fn withdraw(&mut self, vip: IpAddr) {
        self.repeats.retain(|(_, address), task| {
            if *address == vip {
                task.abort();
            }
            *address != vip
        });
        self.defended.retain(|(_, address), _| *address != vip);
    }

    /// Ends the repeats for `vip` on one interface.
    pub fn stop(&mut self, ifindex: u32, vip: IpAddr) {
        if let Some(task) = self.repeats.remove(&(ifindex, vip)) {
            task.abort();
        }
    }

    /// Answers somebody else's claim of `vip` with one announcement; whether it was sent. At most
    /// one in [`DEFEND_INTERVAL`] for each VIP and interface, and none of a VIP whose lease has run
    /// out.
    ///
    /// # Errors
    ///
    /// It could not be sent.
    pub fn defend(
        &mut self,
        port: Port,
        vip: IpAddr,
        tenure: Tenure,
        now: Instant,
    ) -> io::Result<bool> {
        let key = (port.ifindex, vip);
        let recently = self
            .defended
            .get(&key)
            .is_some_and(|last| now.saturating_duration_since(*last) < DEFEND_INTERVAL);
        if recently {
            return Ok(false);
        }
        let sent = self.speaker(port, vip, tenure).speak()?;
        if sent {
            self.defended.insert(key, now);
        }
        Ok(sent)
    }

    fn speaker(&self, port: Port, vip: IpAddr, tenure: Tenure) -> Speaker {
        let lease = (tenure == Tenure::Leased).then(|| Arc::clone(&self.lease));
        Speaker { socket: Arc::clone(&self.socket), port, vip, lease }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        for task in self.repeats.values() {
            task.abort();
        }
    }
}

/// One VIP on one interface.
struct Speaker {
    socket: Arc<Socket>,
    port: Port,
    vip: IpAddr,
    lease: Option<Arc<AtomicU64>>,
}

impl Speaker {
    /// Says it once; whether it may be said.
    fn speak(&self) -> io::Result<bool> {
        let ran_out = |lease: &Arc<AtomicU64>| Monotonic::now().0 >= lease.load(Ordering::Relaxed);
        if self.lease.as_ref().is_some_and(ran_out) {
            return Ok(false);
        }
        let frames = match self.vip {
            IpAddr::V4(vip) => arp::announcements(self.port.mac, vip),
            IpAddr::V6(vip) => vec![ndp::announcement(self.port.mac, vip)],
        };
        for frame in frames {
            link::send(&self.socket, self.port.ifindex, &frame)?;
        }
        Ok(true)
    }
}
