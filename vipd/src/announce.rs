//! ARP that the daemon itself sends: is a VIP free, and telling the link who has it now.
//!
//! Answering requests for a VIP is the XDP program's work; this is the rest of RFC 5227.
//!
//! # Timers
//!
//! RFC 5227 section 1.1 waits 0–1 s, sends three probes 1–2 s apart and waits 2 s more: up to 7 s
//! in all, made for links of unknown latency and thousands of hosts that boot at once. A VIP moves
//! between servers on one switch, where an answer takes well under a millisecond, and a start that
//! takes 7 s is 7 s without service. So: [`PROBES`] probes, [`PROBE_INTERVAL`] after each, no
//! random wait: 600 ms. What a probe misses (a host that was down) is seen later: the XDP program
//! reports any foreign claim, and the daemon defends ([`Announcer::defend`]).
//!
//! Announcements are repeated ([`REPEATS`]), in both forms (request and reply), because one lost
//! frame, or a stack that ignores one of the forms, would leave a client with a stale cache.
//! Section 2.4 (c) is what defending follows: the address is kept, since everything depends on it,
//! and announced at most once in [`DEFEND_INTERVAL`] (the RFC's is 10 s, for hosts that give up).

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tracing::{debug, warn};
use vipd_common::addr::MacAddr;
use vipd_common::wire::Header;
use vipd_common::wire::arp::{ArpPacket, ETHERNET_IPV4, REPLY, REQUEST};
use vipd_common::wire::eth::{ARP, EthHeader};

/// Probes sent before an address counts as free.
pub const PROBES: u32 = 3;
/// Wait for an answer after each.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// When announcements are repeated, from the first one on.
pub const REPEATS: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// At most one defence of a VIP on an interface in this time.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(1);

/// An ARP frame without the padding that the driver adds.
const FRAME: usize = EthHeader::LEN + ArpPacket::LEN;
/// Frames read while one probe waits; a storm of ARP ends it early.
const MAX_FRAMES: usize = 10_000;

/// An interface to send from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Port {
    /// Interface index.
    pub ifindex: u32,
    /// Its link-layer address.
    pub mac: MacAddr,
}

/// What probing found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occupancy {
    /// Nobody answered.
    Free,
    /// Somebody uses the address, or is probing for it at the same moment and goes first.
    InUse {
        /// Who.
        mac: MacAddr,
    },
}

/// Asks the link whether anybody uses `vip` (RFC 5227 section 2.1.1). Takes
/// [`PROBES`] x [`PROBE_INTERVAL`] if nobody does, and returns at once if somebody does. Needs a
/// tokio runtime and CAP_NET_RAW.
///
/// What this host's own XDP program answers isn't heard: it answers others' frames only.
pub async fn probe(port: Port, vip: IpAddr) -> io::Result<Occupancy> {
    probe_beside(port, &[port.mac], vip).await
}

/// [`probe`] by a host with several interfaces, whose link-layer addresses are `own`: where two of
/// them are on one link, they hear each other.
pub async fn probe_beside(port: Port, own: &[MacAddr], vip: IpAddr) -> io::Result<Occupancy> {
    let vip = by_arp(vip)?;
    // SAFETY: a Socket's descriptor stays open and the same for as long as the AsyncFd owns it.
    let socket = unsafe { AsyncFd::register_with_interest(listen(port)?, Interest::READABLE) }?;
    let frame = frame(port.mac, ArpPacket::probe(port.mac, vip.octets()));
    for _ in 0..PROBES {
        send(socket.get_ref(), port, &frame)?;
        let heard = tokio::time::timeout(PROBE_INTERVAL, rival(&socket, port, own, vip)).await;
        if let Ok(mac) = heard {
            return Ok(Occupancy::InUse { mac: mac? });
        }
    }
    Ok(Occupancy::Free)
}

/// Sends gratuitous ARP. Dropping it stops all repeats.
#[derive(Debug)]
pub struct Announcer {
    socket: Arc<Socket>,
    repeats: HashMap<(u32, IpAddr), JoinHandle<()>>,
    defended: HashMap<(u32, IpAddr), Instant>,
}

impl Announcer {
    /// Opens its socket, in the calling thread's network namespace.
    pub fn new() -> io::Result<Self> {
        // Protocol 0: it only sends.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        Ok(Self { socket: Arc::new(socket), repeats: HashMap::new(), defended: HashMap::new() })
    }

    /// Tells the link that `vip` is at `port.mac`: at once, in both forms, and again after each of
    /// [`REPEATS`]. Announcing the same address again starts anew. Needs a tokio runtime.
    pub fn announce(&mut self, port: Port, vip: IpAddr) -> io::Result<()> {
        self.stop(port.ifindex, vip);
        // A failed first one does not end the repeats: the interface may be coming up.
        let first = announce_once(&self.socket, port, vip);
        let socket = Arc::clone(&self.socket);
        let task = tokio::spawn(async move {
            let start = tokio::time::Instant::now();
            for delay in REPEATS {
                tokio::time::sleep_until(start + delay).await;
                if let Err(error) = announce_once(&socket, port, vip) {
                    debug!(%vip, ifindex = port.ifindex, %error, "cannot repeat an announcement");
                }
            }
        });
        self.repeats.insert((port.ifindex, vip), task);
        first
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

    /// Answers somebody else's claim of `vip` with one announcement in both forms; whether it was
    /// sent. At most one in [`DEFEND_INTERVAL`] for each VIP and interface.
    pub fn defend(&mut self, port: Port, vip: IpAddr, now: Instant) -> io::Result<bool> {
        let key = (port.ifindex, vip);
        let recently = self
            .defended
            .get(&key)
            .is_some_and(|last| now.saturating_duration_since(*last) < DEFEND_INTERVAL);
        if recently {
            return Ok(false);
        }
        self.defended.insert(key, now);
        announce_once(&self.socket, port, vip).map(|()| true)
    }

    fn stop(&mut self, ifindex: u32, vip: IpAddr) {
        if let Some(task) = self.repeats.remove(&(ifindex, vip)) {
            task.abort();
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        for task in self.repeats.values() {
            task.abort();
        }
    }
}

/// ARP knows IPv4 only.
fn by_arp(vip: IpAddr) -> io::Result<Ipv4Addr> {
    match vip {
        IpAddr::V4(vip) => Ok(vip),
        IpAddr::V6(_) => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// Both forms, request first.
fn announce_once(socket: &Socket, port: Port, vip: IpAddr) -> io::Result<()> {
    let vip = by_arp(vip)?;
    for operation in [REQUEST, REPLY] {
        let packet = ArpPacket::announcement(operation, port.mac, vip.octets());
        send(socket, port, &frame(port.mac, packet))?;
    }
    Ok(())
}

/// The link-layer address of whoever uses, or probes for, `vip`.
async fn rival(
    socket: &AsyncFd<Socket>,
    port: Port,
    own: &[MacAddr],
    vip: Ipv4Addr,
) -> io::Result<MacAddr> {
    let mut buffer = [MaybeUninit::uninit(); 128];
    for _ in 0..MAX_FRAMES {
        let mut guard = socket.readable().await?;
        match guard.try_io(|socket| socket.get_ref().recv(&mut buffer)) {
            Ok(Ok(length)) => {
                // SAFETY: recv initialised the first `length` bytes of the buffer.
                let bytes = unsafe { buffer[..length.min(buffer.len())].assume_init_ref() };
                if let Some(mac) = claimant(bytes, own, vip) {
                    return Ok(mac);
                }
            }
            // ENETDOWN: the interface went down under the socket.
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    warn!(%vip, ifindex = port.ifindex, "an ARP storm; the probe is not reliable");
    std::future::pending().await
}

/// Who uses `vip`, as this frame says (RFC 5227 section 2.1.1): its sender address is the VIP, or
/// it is somebody else's probe for it. Our own frames don't count.
///
/// Of two that probe at once the RFC lets neither have the address, and relies on chance for the
/// next time. Here the one with the lower link-layer address goes on: two directors that start
/// together would otherwise refuse each other for ever, at the same pace.
fn claimant(bytes: &[u8], own: &[MacAddr], vip: Ipv4Addr) -> Option<MacAddr> {
    let packet = arp(bytes)?;
    let uses = packet.sender_ip == vip.octets();
    let probes = packet.operation == REQUEST
        && packet.sender_ip == [0; 4]
        && packet.target_ip == vip.octets();
    let precedes = own.iter().all(|own| packet.sender_mac < *own);
    (!own.contains(&packet.sender_mac) && (uses || (probes && precedes)))
        .then_some(packet.sender_mac)
}

/// The ARP packet in an Ethernet frame, if it is one for IPv4.
fn arp(bytes: &[u8]) -> Option<ArpPacket> {
    let bytes = bytes.get(..FRAME)?;
    let (eth, body) = bytes.split_at(EthHeader::LEN);
    if eth[12..14] != ARP {
        return None;
    }
    // SAFETY: `body` is ArpPacket::LEN bytes long, and a `Header` has alignment 1 and is valid for
    // any bytes.
    let packet = unsafe { body.as_ptr().cast::<ArpPacket>().read() };
    (packet.format == ETHERNET_IPV4).then_some(packet)
}

/// A broadcast Ethernet frame around `packet`.
fn frame(source: MacAddr, packet: ArpPacket) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let eth = EthHeader { dst: MacAddr::BROADCAST, src: source, ethertype: ARP };
    // SAFETY: a `Header` has alignment 1 and no padding, and the frame has room for both.
    unsafe {
        frame.as_mut_ptr().cast::<EthHeader>().write(eth);
        frame.as_mut_ptr().add(EthHeader::LEN).cast::<ArpPacket>().write(packet);
    }
    frame
}

/// A socket that hears the ARP of one interface, not what this host sends.
fn listen(port: Port) -> io::Result<Socket> {
    // Protocol 0 until it is bound, or it would hear other interfaces in between.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, whose address and size are given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result != 0 {
        // Before Linux 4.20: our own frames are told apart by their sender.
        debug!(error = %io::Error::last_os_error(), "PACKET_IGNORE_OUTGOING");
    }
    socket.bind(&link_address(port.ifindex, MacAddr::ZERO))?;
    Ok(socket)
}

fn send(socket: &Socket, port: Port, frame: &[u8; FRAME]) -> io::Result<()> {
    socket.send_to(frame, &link_address(port.ifindex, MacAddr::BROADCAST)).map(|_| ())
}

/// `sockaddr_ll` for ARP on an interface.
fn link_address(ifindex: u32, mac: MacAddr) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is an address structure that fits; the storage is zeroed, which is a
    // valid sockaddr_ll.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = u16::from_ne_bytes(ARP);
    link.sll_ifindex = ifindex as libc::c_int;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&mac.0);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll of that length.
    unsafe { SockAddr::new(storage, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 50]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);
    const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 250);

    #[test]
    fn who_sends_from_the_address_uses_it() {
        for operation in [REQUEST, REPLY] {
            let packet = ArpPacket::announcement(operation, OTHER, VIP.octets());
            assert_eq!(claimant(&frame(OTHER, packet), &[OWN], VIP), Some(OTHER));
        }
    }

    #[test]
    fn of_two_that_probe_at_once_the_lower_address_goes_on() {
        let probe = |mac| frame(mac, ArpPacket::probe(mac, VIP.octets()));
        assert_eq!(claimant(&probe(OTHER), &[OWN], VIP), None);
        assert_eq!(claimant(&probe(OWN), &[OTHER], VIP), Some(OWN));
    }

    #[test]
    fn a_question_is_no_conflict() {
        let mut packet = ArpPacket::probe(OWN, VIP.octets());
        packet.sender_ip = [198, 18, 0, 10];
        assert_eq!(claimant(&frame(OWN, packet), &[OTHER], VIP), None);
    }

    #[test]
    fn own_frames_other_addresses_and_other_protocols_are_no_conflict() {
        let own = frame(OWN, ArpPacket::probe(OWN, VIP.octets()));
        assert_eq!(claimant(&own, &[OWN], VIP), None);
        let elsewhere = ArpPacket::announcement(REPLY, OTHER, [198, 18, 0, 1]);
        assert_eq!(claimant(&frame(OTHER, elsewhere), &[OWN], VIP), None);
        let mut ipv6 = frame(OTHER, ArpPacket::announcement(REPLY, OTHER, VIP.octets()));
        ipv6[12] = 0x86;
        assert_eq!(claimant(&ipv6, &[OWN], VIP), None);
    }

    #[test]
    fn a_short_frame_is_no_arp() {
        let bytes = frame(OTHER, ArpPacket::probe(OTHER, VIP.octets()));
        for length in 0..bytes.len() {
            assert_eq!(arp(&bytes[..length]), None, "length {length}");
        }
        assert!(arp(&bytes).is_some());
    }
}
