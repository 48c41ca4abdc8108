//! A tap on an interface: it writes down every packet of some kind with the kernel's time, and drops
//! those that it was told to drop.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use vipd::clock::Monotonic;

use super::bpf::{self, Shared};
use super::program;
use crate::namespace::Namespace;

/// Packets of one kind that are written down; more pass unseen, and [`Tap::entries`] says so.
pub const ENTRIES: usize = 1 << 18;
/// Gaps that a rule may have.
pub const GAPS: usize = 4;

/// Which packets: those whose bytes are such.
#[derive(Clone, Debug)]
pub struct Rule {
    fields: Vec<Field>,
    key: u16,
}

/// Bytes that a packet must have.
#[derive(Clone, Debug)]
pub struct Field {
    /// Where, from the Ethernet header on.
    pub offset: u16,
    /// Which; 1, 2 or 4.
    pub bytes: Vec<u8>,
}

/// A packet that came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When.
    pub at: Monotonic,
    /// What tells it from others of its kind; see [`Rule`].
    pub key: u32,
    /// It was not dropped.
    pub passed: bool,
}

/// What a rule's part of the program and this process share.
#[repr(C)]
struct Ledger {
    count: AtomicU64,
    every: AtomicU64,
    gaps: [[AtomicU64; 2]; GAPS],
    _unused: [AtomicU64; 6],
    entries: [Written; ENTRIES],
}

#[repr(C)]
struct Written {
    at: AtomicU64,
    key: AtomicU32,
    /// 0 until the rest is there.
    verdict: AtomicU32,
}

/// Offsets in [`Ledger`].
pub(super) struct Layout;

impl Layout {
    pub const COUNT: i16 = 0;
    pub const EVERY: i16 = 8;
    pub const GAPS: i16 = 16;
    pub const ENTRIES: i16 = 128;
    pub const ENTRY: usize = 16;
}

const _: () = assert!(
    std::mem::offset_of!(Ledger, count) == Layout::COUNT as usize
        && std::mem::offset_of!(Ledger, every) == Layout::EVERY as usize
        && std::mem::offset_of!(Ledger, gaps) == Layout::GAPS as usize
        && std::mem::offset_of!(Ledger, entries) == Layout::ENTRIES as usize
        && size_of::<Written>() == Layout::ENTRY
);

const PASSED: u32 = 2;

/// Its rules at work, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    ledgers: Vec<Shared<Ledger>>,
    _link: OwnedFd,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} packets", self.count)
    }
}

impl Tap {
    /// Looks at what arrives by `interface`. The first rule that fits counts.
    pub fn attach(namespace: &Namespace, interface: &str, rules: &[Rule]) -> Result<Self> {
        let ledgers = rules
            .iter()
            // SAFETY: a ledger is made of atomic integers, for which any bytes will do.
            .map(|_| unsafe { Shared::zeroed() })
            .collect::<Result<Vec<Shared<Ledger>>>>()?;
        let of = |(rule, ledger): (&Rule, &Shared<Ledger>)| (rule.clone(), ledger.descriptor());
        let code = program::assemble(&rules.iter().zip(&ledgers).map(of).collect::<Vec<_>>());
        let program = bpf::load(&code)?;
        let link = namespace.run(|| bpf::attach(&program, if_nametoindex(interface)?))??;
        Ok(Self { ledgers, _link: link })
    }

    /// Drops what comes from each first moment on, until each second one. At most [`GAPS`]; those of
    /// before are forgotten.
    pub fn drop_between(&self, rule: usize, gaps: &[(Monotonic, Monotonic)]) -> Result<()> {
        ensure!(gaps.len() <= GAPS, "{} gaps are more than {GAPS}", gaps.len());
        for number in 0..GAPS {
            let (from, to) = gaps.get(number).copied().unwrap_or_default();
            let [first, last] = &self.ledgers[rule].gaps[number];
            // Never half of it: a gap that ends before it begins is none.
            last.store(0, Ordering::SeqCst);
            first.store(from.0, Ordering::SeqCst);
            last.store(to.0, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Drops every `count`-th from the beginning.
    pub fn drop_every(&self, rule: usize, count: u64) {
        self.ledgers[rule].every.store(count, Ordering::SeqCst);
    }

    /// How many came by.
    pub fn count(&self, rule: usize) -> u64 {
        self.ledgers[rule].count.load(Ordering::SeqCst)
    }

    /// All that came by, in order.
    ///
    /// # Errors
    ///
    /// There were more than it can write down.
    pub fn entries(&self, rule: usize) -> Result<Vec<Entry>> {
        let ledger = &self.ledgers[rule];
        let count = usize::try_from(self.count(rule))?;
        ensure!(count <= ENTRIES, "{count} packets are more than {ENTRIES}");
        let read = |it: &Written| {
            // The program writes this last.
            let verdict = it.verdict.load(Ordering::SeqCst);
            ensure!(verdict != 0, "a packet is being written down right now");
            let (at, key) = (it.at.load(Ordering::SeqCst), it.key.load(Ordering::SeqCst));
            Ok(Entry { at: Monotonic(at), key, passed: verdict == PASSED })
        };
        let mut entries =
            ledger.entries[..count].iter().map(read).collect::<Result<Vec<Entry>>>()?;
        // Two CPUs may have been at it.
        entries.sort_by_key(|it| it.at);
        Ok(entries)
    }
}

impl Rule {
    /// Packets with these bytes; what tells one from another is 4 bytes at `key`.
    pub fn new(fields: &[(u16, &[u8])], key: u16) -> Self {
        let field = |&(offset, bytes): &(u16, &[u8])| Field { offset, bytes: bytes.to_vec() };
        Self { fields: fields.iter().map(field).collect(), key }
    }

    /// The bytes.
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Where the key is.
    pub(super) fn key(&self) -> u16 {
        self.key
    }

    /// Bytes that a packet must have at least.
    pub(super) fn length(&self) -> u16 {
        let ends = self.fields.iter().map(|it| it.offset + it.bytes.len() as u16);
        ends.max().unwrap_or(0).max(self.key + 4)
    }
}

/// The kinds of packets that the probe is about.
impl Rule {
    /// SYNs to `port`, by sequence number.
    pub fn syn(is_v4: bool, port: u16) -> Self {
        let tcp = transport(is_v4);
        Self::tcp(is_v4, (tcp + 2, port), SYN, tcp + 4)
    }

    /// SYN-ACKs from `port`, by the sequence number that is acknowledged.
    pub fn syn_ack(is_v4: bool, port: u16) -> Self {
        let tcp = transport(is_v4);
        Self::tcp(is_v4, (tcp, port), SYN | ACK, tcp + 8)
    }

    /// Resets from `port` that answer a SYN, by the sequence number that is acknowledged.
    pub fn reset(is_v4: bool, port: u16) -> Self {
        let tcp = transport(is_v4);
        Self::tcp(is_v4, (tcp, port), RST | ACK, tcp + 8)
    }

    /// Echo requests, by what the probe numbers them by.
    pub fn echo_request(is_v4: bool) -> Self {
        Self::echo(is_v4, if is_v4 { 8 } else { 128 })
    }

    /// Echo replies, by what the probe numbers them by.
    pub fn echo_reply(is_v4: bool) -> Self {
        Self::echo(is_v4, if is_v4 { 0 } else { 129 })
    }

    /// ARP requests for an address, by the last four bytes of the sender's link-layer address.
    pub fn arp_request(wanted: std::net::Ipv4Addr) -> Self {
        Self::new(&[(12, &[8, 6]), (20, &[0, 1]), (38, &wanted.octets())], 24)
    }

    /// ARP of either kind that says to have an address, by the last four bytes of the link-layer
    /// address that has it; either what answers somebody else, or what is for everybody.
    pub fn arp_claim(address: std::net::Ipv4Addr, to: std::net::Ipv4Addr) -> Self {
        let fields: [(u16, &[u8]); 3] =
            [(12, &[8, 6]), (28, &address.octets()), (38, &to.octets())];
        Self::new(&fields, 24)
    }

    /// Neighbour solicitations for an address, of which the last four bytes have to do; by the last
    /// four bytes of the sender's link-layer address.
    pub fn solicitation(wanted: std::net::Ipv6Addr) -> Self {
        let [.., a, b, c, d] = wanted.octets();
        Self::new(&[(12, &[0x86, 0xdd]), (20, &[58]), (54, &[135]), (74, &[a, b, c, d])], 8)
    }

    /// Neighbour advertisements for an address, of which the last four bytes have to do; by the last
    /// four bytes of the sender's link-layer address. `flags` are all that the advertisement has.
    pub fn advertisement(of: std::net::Ipv6Addr, flags: u8) -> Self {
        let [.., a, b, c, d] = of.octets();
        let fields: [(u16, &[u8]); 5] =
            [(12, &[0x86, 0xdd]), (20, &[58]), (54, &[136]), (58, &[flags]), (74, &[a, b, c, d])];
        Self::new(&fields, 8)
    }

    fn tcp(is_v4: bool, (place, port): (u16, u16), flags: u8, key: u16) -> Self {
        let (ethertype, protocol) = if is_v4 { (IPV4, 23) } else { (IPV6, 20) };
        let fields: [(u16, &[u8]); 4] = [
            (12, &ethertype),
            (protocol, &[6]),
            (place, &port.to_be_bytes()),
            (transport(is_v4) + 13, &[flags]),
        ];
        Self::new(&fields, key)
    }

    fn echo(is_v4: bool, kind: u8) -> Self {
        let icmp = transport(is_v4);
        let (ethertype, protocol, number) =
            if is_v4 { (IPV4, (23, 1), icmp + 20) } else { (IPV6, (20, 58), icmp + 20) };
        let fields: [(u16, &[u8]); 3] =
            [(12, &ethertype), (protocol.0, &[protocol.1]), (icmp, &[kind])];
        Self::new(&fields, number)
    }
}

const IPV4: [u8; 2] = [8, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Where the transport header begins, without options before it.
fn transport(is_v4: bool) -> u16 {
    if is_v4 { 34 } else { 54 }
}
