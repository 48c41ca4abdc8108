//! The probe's own packets in a file, for tcpdump and Wireshark: as they are on the link, with the
//! kernel's times.

use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};

use super::pace::End;
use super::socket::{Buffer, PacketSocket};
use crate::announce::link;
use crate::clock::Monotonic;

/// Tells the probe's own packets from those of clients, whose payload is nobody's business.
#[derive(Clone, Debug)]
pub struct Ours {
    /// What is probed.
    pub vip: IpAddr,
    /// The service's port and those that SYNs come from.
    pub syn: Option<(u16, RangeInclusive<u16>)>,
    /// Echoes that carry this mark; see [`super::Icmp`].
    pub icmp: Option<u64>,
    /// ARP, neighbour discovery.
    pub who_has: bool,
}

/// A capture on its way.
pub struct Capture {
    end: Arc<End>,
    thread: JoinHandle<Result<Captured>>,
}

/// What a capture has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Captured {
    /// Packets in the file.
    pub written: u64,
    /// Packets that are not, since this host was too slow; some of them may have been others'.
    pub dropped: u64,
}

const GLANCE: Duration = Duration::from_millis(50);
/// Packets in one file; some 3 GB.
const MAX_PACKETS: u64 = 30_000_000;
/// Neighbour solicitation and advertisement.
const NEIGHBOUR_DISCOVERY: RangeInclusive<u8> = 135..=136;
const ECHO_V4: [u8; 2] = [0, 8];
const ECHO_V6: [u8; 2] = [128, 129];

impl Capture {
    /// Writes what passes interface `ifindex` to `file`.
    pub fn start(ifindex: u32, ours: Ours, file: File) -> Result<Self> {
        let socket = link::capture(ifindex, ours.vip).and_then(PacketSocket::of_frames);
        let socket = socket.context("cannot capture packets")?;
        let header = PcapHeader {
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(BufWriter::new(file), header)?;
        let end = Arc::new(End::new(Monotonic(u64::MAX)));
        let thread = {
            let end = Arc::clone(&end);
            let work = move || write(&socket, &ours, writer, &end);
            thread::Builder::new().name("probe-pcap".to_owned()).spawn(work)?
        };
        Ok(Self { end, thread })
    }

    /// Ends it.
    pub fn stop(self) -> Result<Captured> {
        self.end.at_latest(Monotonic::now() + GLANCE);
        self.thread.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

fn write(
    socket: &PacketSocket,
    ours: &Ours,
    mut writer: PcapWriter<BufWriter<File>>,
    end: &End,
) -> Result<Captured> {
    let mut buffer = Buffer::new();
    let mut written = 0;
    while Monotonic::now() < end.at() && written < MAX_PACKETS {
        socket.wait(GLANCE)?;
        while let Some(frame) = socket.receive(&mut buffer)? {
            if !ours.has(frame.bytes) {
                continue;
            }
            let length = u32::try_from(frame.bytes.len())?;
            let packet = PcapPacket::new(frame.wall_clock, length, frame.bytes);
            writer.write_packet(&packet).context("cannot write to the packet file")?;
            written += 1;
            if Monotonic::now() >= end.at() {
                break;
            }
        }
    }
    let file = writer.into_writer().into_inner().map_err(std::io::IntoInnerError::into_error);
    file.context("cannot write to the packet file")?;
    Ok(Captured { written, dropped: socket.dropped()? })
}

impl Ours {
    /// Whether a frame is one of the probe's, or an answer to one.
    pub fn has(&self, frame: &[u8]) -> bool {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return false };
        let is_vip =
            |source: IpAddr, destination: IpAddr| [source, destination].contains(&self.vip);
        let concerns_vip = match &packet.net {
            Some(NetSlice::Arp(arp)) => {
                let vip = match self.vip {
                    IpAddr::V4(vip) => vip.octets(),
                    IpAddr::V6(_) => return false,
                };
                return self.who_has
                    && [arp.sender_protocol_addr(), arp.target_protocol_addr()]
                        .contains(&&vip[..]);
            }
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                is_vip(ip.source_addr().into(), ip.destination_addr().into())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                is_vip(ip.source_addr().into(), ip.destination_addr().into())
            }
            None => return false,
        };
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let between = |port: u16, other: u16| {
                    self.syn
                        .as_ref()
                        .is_some_and(|(service, ports)| *service == port && ports.contains(&other))
                };
                let (from, to) = (tcp.source_port(), tcp.destination_port());
                concerns_vip && tcp.payload().is_empty() && (between(from, to) || between(to, from))
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                concerns_vip && ECHO_V4.contains(&icmp.type_u8()) && self.is_marked(icmp.slice())
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let (kind, IpAddr::V6(vip)) = (icmp.type_u8(), self.vip) else { return false };
                let about_vip = icmp.slice().get(8..24) == Some(&vip.octets()[..]);
                (self.who_has && NEIGHBOUR_DISCOVERY.contains(&kind) && about_vip)
                    || (concerns_vip && ECHO_V6.contains(&kind) && self.is_marked(icmp.slice()))
            }
            _ => false,
        }
    }

    fn is_marked(&self, echo: &[u8]) -> bool {
        let mark = self.icmp.map(u64::to_be_bytes);
        mark.is_some_and(|mark| echo.get(super::icmp::MARK) == Some(&mark[..]))
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const VIP: [u8; 4] = [198, 18, 0, 250];
    const CLIENT: [u8; 4] = [198, 18, 0, 10];

    fn ours() -> Ours {
        Ours { vip: VIP.into(), syn: Some((6379, 20_000..=29_999)), icmp: Some(7), who_has: true }
    }

    fn tcp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, VIP, 64);
        let mut frame = vec![];
        builder.tcp(from, to, 1, 2).write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn only_the_probes_own_packets_are_written() {
        let echo = |mark: u64| {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(VIP, CLIENT, 64);
            let (mut frame, payload) = (vec![], [mark.to_be_bytes(), [0; 8]].concat());
            builder.icmpv4_echo_reply(1, 2).write(&mut frame, &payload).unwrap();
            frame
        };
        for (what, frame, is_ours) in [
            ("a SYN", tcp(20_000, 6379, &[]), true),
            ("an answer", tcp(6379, 29_999, &[]), true),
            ("a client's", tcp(40_000, 6379, &[]), false),
            ("a client's password", tcp(20_000, 6379, b"AUTH hunter2"), false),
            ("another service's", tcp(20_000, 22, &[]), false),
            ("an echo", echo(7), true),
            ("somebody else's echo", echo(8), false),
            ("nothing", vec![], false),
        ] {
            assert_eq!(ours().has(&frame), is_ours, "{what}");
        }
        let nothing = Ours { syn: None, icmp: None, who_has: false, ..ours() };
        assert!(!nothing.has(&tcp(20_000, 6379, &[])));
    }
}
