//! Frames, built by a library that shares nothing with the code under test.

use std::net::Ipv4Addr;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use vipd_common::addr::MacAddr;

pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 250);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
pub const DIRECTOR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 50);
pub const R1: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 101);
pub const R2: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 102);

pub const CLIENT_2: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 11);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
pub const DIRECTOR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x50]);
pub const R1_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub const R2_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
pub const STRANGER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0xee, 0xee]);

pub const SERVICE_PORT: u16 = 6379;
pub const CLIENT_PORT: u16 = 40_000;
pub const BACKEND_PORT: u16 = 8000;

/// A TCP segment and everything around it; change what a case is about, then [`Tcp::frame`].
#[derive(Clone, Debug)]
pub struct Tcp {
    pub from: (MacAddr, Ipv4Addr, u16),
    pub to: (MacAddr, Ipv4Addr, u16),
    pub vlan: Option<u16>,
    pub ttl: u8,
    pub flags: &'static str,
    pub seq: u32,
    pub ack: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Tcp {
    /// From the client to the VIP's service. `flags` are letters of "SAFRP".
    pub fn to_vip(flags: &'static str) -> Self {
        Self {
            from: (CLIENT_MAC, CLIENT, CLIENT_PORT),
            to: (DIRECTOR_MAC, VIP, SERVICE_PORT),
            vlan: None,
            ttl: 64,
            flags,
            seq: 1000,
            ack: if flags.contains('A') { 5000 } else { 0 },
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// From the master, to the source address and port that NAT chose.
    pub fn from_r1(flags: &'static str, port: u16) -> Self {
        Self {
            from: (R1_MAC, R1, BACKEND_PORT),
            to: (DIRECTOR_MAC, DIRECTOR, port),
            ..Self::to_vip(flags)
        }
        .seq(5000, 1001)
    }

    /// What NAT makes of a segment from the client: sent from `port` to the master.
    pub fn at_r1(&self, port: u16) -> Self {
        let ttl = self.ttl - 1;
        self.moved((DIRECTOR_MAC, DIRECTOR, port), (R1_MAC, R1, BACKEND_PORT), ttl)
    }

    /// What NAT makes of a segment from the master.
    pub fn at_client(&self) -> Self {
        let ttl = self.ttl - 1;
        self.moved((DIRECTOR_MAC, VIP, SERVICE_PORT), (CLIENT_MAC, CLIENT, CLIENT_PORT), ttl)
    }

    pub fn client(mut self, addr: Ipv4Addr, port: u16) -> Self {
        (self.from.1, self.from.2) = (addr, port);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn seq(mut self, seq: u32, ack: u32) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn vlan(mut self, vlan: Option<u16>) -> Self {
        self.vlan = vlan;
        self
    }

    /// The same segment elsewhere: what forwarding should have made of it.
    pub fn moved(
        &self,
        from: (MacAddr, Ipv4Addr, u16),
        to: (MacAddr, Ipv4Addr, u16),
        ttl: u8,
    ) -> Self {
        Self { from, to, ttl, ..self.clone() }
    }

    pub fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.from.0.0, self.to.0.0);
        let (src, dst) = (self.from.1.octets(), self.to.1.octets());
        let ip = match self.vlan {
            None => ethernet.ipv4(src, dst, self.ttl),
            Some(id) => ethernet.single_vlan(id.try_into().unwrap()).ipv4(src, dst, self.ttl),
        };
        let mut tcp = ip.tcp(self.from.2, self.to.2, self.seq, 64_000);
        for flag in self.flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(self.ack),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                'P' => tcp.psh(),
                other => panic!("no TCP flag {other}"),
            };
        }
        let mut frame = Vec::new();
        tcp.options_raw(&self.options).unwrap().write(&mut frame, &self.payload).unwrap();
        frame
    }

    /// The first `length` bytes of its datagram: what an ICMP error quotes.
    pub fn quote(&self, length: usize) -> Vec<u8> {
        self.frame()[14..14 + length].to_vec()
    }
}

/// An ICMP message; `rest` are bytes 4 to 7.
pub fn icmp(
    from: (MacAddr, Ipv4Addr),
    to: (MacAddr, Ipv4Addr),
    ttl: u8,
    (kind, code, rest): (u8, u8, [u8; 4]),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0.0, to.0.0)
        .ipv4(from.1.octets(), to.1.octets(), ttl)
        .icmpv4_raw(kind, code, rest)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// The reset that should answer `segment`, as RFC 9293 section 3.10.7.1 has it.
pub fn reset_of(segment: &Tcp) -> Vec<u8> {
    let length = segment.payload.len() as u32
        + u32::from(segment.flags.contains('S'))
        + u32::from(segment.flags.contains('F'));
    let acked = segment.flags.contains('A');
    let mut reset = Tcp {
        from: segment.to,
        to: segment.from,
        vlan: segment.vlan,
        ttl: 64,
        flags: if acked { "R" } else { "RA" },
        seq: if acked { segment.ack } else { 0 },
        ack: if acked { 0 } else { segment.seq.wrapping_add(length) },
        options: Vec::new(),
        payload: Vec::new(),
    }
    .frame();
    // The one field that the builder doesn't let us choose: a reset has no window.
    let l4 = if segment.vlan.is_some() { 38 } else { 34 };
    set_word(&mut reset, l4 + 14, 0);
    fix_tcp_checksum(&mut reset, l4);
    reset
}

/// An ARP packet. `dst` is the frame's destination.
pub fn arp(
    operation: ArpOperation,
    dst: MacAddr,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0.0,
        &sender.1.octets(),
        &target.0.0,
        &target.1.octets(),
    )
    .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(sender.0.0, dst.0).arp(packet).write(&mut frame).unwrap();
    frame
}

/// The 16-bit word at `at`, changed.
pub fn set_word(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Recomputes the checksum of the IPv4 header at `l3`.
pub fn fix_ip_checksum(frame: &mut [u8], l3: usize) {
    let length = usize::from(frame[l3] & 0x0f) * 4;
    set_word(frame, l3 + 10, 0);
    let sum = ones_complement(&frame[l3..l3 + length], 0);
    set_word(frame, l3 + 10, !sum);
}

/// Recomputes the checksum of the TCP segment at `l4`, after a 20-byte IPv4 header.
pub fn fix_tcp_checksum(frame: &mut [u8], l4: usize) {
    let l3 = l4 - 20;
    let total = usize::from(u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]));
    set_word(frame, l4 + 16, 0);
    let pseudo = ones_complement(&frame[l3 + 12..l3 + 20], 0);
    let segment = total - 20;
    let sum = ones_complement(&frame[l4..l4 + segment], u32::from(pseudo) + 6 + segment as u32);
    set_word(frame, l4 + 16, !sum);
}

/// Recomputes the checksum of the ICMP message at `l4`, after a 20-byte IPv4 header.
pub fn fix_icmp_checksum(frame: &mut [u8], l4: usize) {
    let total = usize::from(u16::from_be_bytes([frame[l4 - 18], frame[l4 - 17]]));
    set_word(frame, l4 + 2, 0);
    let sum = ones_complement(&frame[l4..l4 + total - 20], 0);
    set_word(frame, l4 + 2, !sum);
}

/// The sum of RFC 1071, not inverted.
pub fn ones_complement(data: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for pair in data.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
