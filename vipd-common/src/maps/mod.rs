//! Every map the XDP program and the daemon share: name, key, value and size.
//!
//! Addresses and ports are big-endian byte arrays, copied to and from the wire unconverted; counts,
//! indexes and times are native integers (kernel and daemon run on the same machine). No value has
//! padding, an `Option` or a `bool`: sizes are asserted below. What the program keeps on its stack
//! is laid out so that every field, and every pair of neighbours that the compiler may store as
//! one, is aligned: the verifier allows misaligned access to packets, but not to the stack.
//!
//! Only the daemon's `datapath` module writes them from user space.

mod confirmed;
mod entries;
mod event;
mod flow;
mod pending;

use crate::addr::{Ipv4Bytes, Ipv6Bytes, MacAddr};
use crate::wire::ip::Ip;

pub use confirmed::{Confirmed, name_hash};
pub use entries::{AddressEntry, InterfaceEntry, ServiceEntry};
pub use event::KernelEvent;
pub use flow::{
    CLOSED_NS, CLOSING_NS, Flow, FlowKey, HALF_OPEN_NS, IDLE_NS, RESET_NS, direction, state,
};
pub use pending::{MAX_SYN, Pending, REPLAY_END, REPLAY_FRAMES, REPLAY_NEXT, ReplayFrame};

/// Version of everything in this module. It is the last component of the pin directory
/// (`<pin_dir>/v<LAYOUT>`), so a map of another layout is never reused. Raise it with any change.
pub const LAYOUT: u32 = 3;

/// `VIPS`: buckets, [`Ipv4Bytes`] -> [`Address`]. What the program does with frames for an address.
pub const VIPS: &str = "VIPS";
/// `VIPS6`: the same for [`Ipv6Bytes`].
pub const VIPS6: &str = "VIPS6";
/// `SERVICES`: buckets, [`ServiceKey`] -> service index (`u32`).
pub const SERVICES: &str = "SERVICES";
/// `SERVICES6`: the same for IPv6; the indexes are of one and the same [`ACTIVE`].
pub const SERVICES6: &str = "SERVICES6";
/// `ACTIVE`: array, line -> [`Active`]. The only thing a cutover writes. `BPF_F_MMAPABLE`:
/// the daemon stores into the kernel's memory itself, so that a cutover is one atomic store and
/// not a copy whose width is the kernel's choice.
pub const ACTIVE: &str = "ACTIVE";
/// `BACKENDS`: array, slot -> [`Backend`].
pub const BACKENDS: &str = "BACKENDS";
/// `CONFIRMED`: array, service index -> [`Confirmed`]. The daemon's memory across a restart.
pub const CONFIRMED: &str = "CONFIRMED";
/// `FLOWS`: shared LRU hash, [`FlowKey`] -> [`Flow`]. Connections whose handshake is complete.
pub const FLOWS: &str = "FLOWS";
/// `HALF_OPEN`: like [`FLOWS`], for connections whose handshake is not complete. A SYN flood fills
/// this table and leaves the other alone.
pub const HALF_OPEN: &str = "HALF_OPEN";
/// `FLOWS6`: like [`FLOWS`], for IPv6.
pub const FLOWS6: &str = "FLOWS6";
/// `HALF_OPEN6`: like [`HALF_OPEN`], for IPv6.
pub const HALF_OPEN6: &str = "HALF_OPEN6";
/// `PENDING`: LRU hash, client's [`FlowKey`] -> [`Pending`]. SYNs to a service in mode `nat` or `dsr`
/// that nobody has answered yet.
pub const PENDING: &str = "PENDING";
/// `PENDING6`: like [`PENDING`], for IPv6.
pub const PENDING6: &str = "PENDING6";
/// `REPLAY`: array, position -> [`ReplayFrame`]: what the program `vipd_replay` injects. Mapped into
/// the daemon, as is [`REPLAY_AT`]; both belong to one daemon and are not pinned.
pub const REPLAY: &str = "REPLAY";
/// `REPLAY_AT`: array of two words (`u64`), at [`REPLAY_NEXT`] and [`REPLAY_END`].
pub const REPLAY_AT: &str = "REPLAY_AT";
/// `INTERFACES`: buckets, interface index (`u32`) -> [`Interface`].
pub const INTERFACES: &str = "INTERFACES";
/// `PORTS`: devmap hash, interface index -> the same, for frames that leave by another interface.
pub const PORTS: &str = "PORTS";
/// `COUNTERS`: per-CPU array, [`crate::verdict::Verdict`] -> [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// `FIRST`: array, service index -> generation (`u32`) whose first packet was reported.
pub const FIRST: &str = "FIRST";
/// `RIVAL_AT`: array of one, CLOCK_MONOTONIC ns (`u64`) of the last rival event.
pub const RIVAL_AT: &str = "RIVAL_AT";
/// `REFUSED_AT`: array, service index -> CLOCK_MONOTONIC ns (`u64`) of the service's last refusal
/// event.
pub const REFUSED_AT: &str = "REFUSED_AT";
/// `GROUPS`: array, group index -> [`Group`].
pub const GROUPS: &str = "GROUPS";
/// `LEASE`: array of one, CLOCK_MONOTONIC ns (`u64`) until which [`Address::HOST`] addresses may be
/// announced, and services are held [parked](ServiceState::Parked). `BPF_F_MMAPABLE`: renewing it is
/// one atomic store, like a cutover.
pub const LEASE: &str = "LEASE";
/// `PROGRAMS`: program array. At [`IPV6_PROGRAM`] is the program that the first one hands IPv6 over
/// to, at [`MAIN_PROGRAM`] the first one, for those that inject frames into it.
pub const PROGRAMS: &str = "PROGRAMS";
/// `EVENTS`: ring buffer of [`KernelEvent`].
pub const EVENTS: &str = "EVENTS";

/// Every map by name, in no particular order: what is pinned, and what a restart expects.
pub const ALL: [&str; 23] = [
    VIPS, VIPS6, SERVICES, SERVICES6, ACTIVE, BACKENDS, CONFIRMED, FLOWS, FLOWS6, HALF_OPEN,
    HALF_OPEN6, PENDING, PENDING6, INTERFACES, PORTS, COUNTERS, FIRST, RIVAL_AT, REFUSED_AT,
    GROUPS, LEASE, PROGRAMS, EVENTS,
];

/// Entries in [`VIPS`], and in [`VIPS6`].
pub const MAX_VIPS: u32 = 1024;
/// Entries in [`SERVICES`], and in [`SERVICES6`].
pub const MAX_SERVICES: u32 = 1024;
/// Entries in [`ACTIVE`], [`CONFIRMED`] and [`FIRST`]: a line for each service, for each address in
/// mode `host` and for each member of a group.
pub const MAX_LINES: u32 = 4096;
/// Entries in [`GROUPS`].
pub const MAX_GROUPS: u32 = 256;
/// Entries in [`BACKENDS`].
pub const MAX_SLOTS: u32 = 8192;
/// Entries in [`INTERFACES`] and [`PORTS`].
pub const MAX_INTERFACES: u32 = 64;
/// Entries in [`FLOWS`], and in [`FLOWS6`], unless configured: two a connection.
pub const DEFAULT_FLOWS: u32 = 131_072;
/// Entries in [`HALF_OPEN`], and in [`HALF_OPEN6`], unless configured: two a connection.
pub const DEFAULT_HALF_OPEN: u32 = 32_768;
/// Entries in [`PENDING`], and in [`PENDING6`], unless configured.
pub const DEFAULT_PENDING: u32 = 32_768;
/// Entries in [`PROGRAMS`].
pub const MAX_PROGRAMS: u32 = 2;
/// Where the IPv6 program is in [`PROGRAMS`].
pub const IPV6_PROGRAM: u32 = 0;
/// Where the program that is attached is in [`PROGRAMS`].
pub const MAIN_PROGRAM: u32 = 1;
/// Bytes of [`EVENTS`].
pub const EVENTS_BYTES: u32 = 65_536;

/// At most one rival event in this time.
pub const RIVAL_INTERVAL_NS: u64 = SECOND_NS;
/// At most one refusal event a service in this time.
pub const REFUSED_INTERVAL_NS: u64 = 5_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Value of [`VIPS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Address {
    /// Or of the `Address::…` bits.
    pub flags: u16,
    /// For [`Self::HOST`]: the index in [`ACTIVE`] that decides for the whole address.
    pub service: u16,
}

impl Address {
    /// A virtual address in mode `nat`.
    pub const NAT: u16 = 1;
    /// A virtual address in mode `dsr`.
    pub const DSR: u16 = 1 << 1;
    /// Answer ARP or neighbour solicitations for it. Never set without [`Self::NAT`],
    /// [`Self::DSR`] or [`Self::HOST`]; for the last it holds as long as [`LEASE`] does.
    pub const ANNOUNCE: u16 = 1 << 2;
    /// Answer ICMP echo: at least one of its services is up.
    pub const ECHO: u16 = 1 << 3;
    /// An address of this host that NAT uses as a source: backends reply to it. What is not a
    /// reply to a flow passes to the host's stack.
    pub const SOURCE: u16 = 1 << 4;
    /// A virtual address in mode `host`: this host's own while it runs the master, and else
    /// another's.
    pub const HOST: u16 = 1 << 5;
    /// A virtual address in mode `real`: this host is a real server behind a director, and holds
    /// the address without a word.
    pub const REAL: u16 = 1 << 6;
    /// Any virtual mode.
    pub const VIRTUAL: u16 = Self::NAT | Self::DSR | Self::HOST | Self::REAL;

    /// An address with these flags that no single service decides for.
    #[inline(always)]
    pub const fn new(flags: u16) -> Self {
        Self { flags, service: 0 }
    }

    /// Whether any of `flags` is set.
    #[inline(always)]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }
}

/// Key of [`SERVICES`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct ServiceKey<A: Ip> {
    /// The VIP.
    pub addr: A,
    /// The TCP port on it, big-endian.
    pub port: [u8; 2],
    zero: [u8; 2],
    rest: A::KeyPad,
    align: [A::Word; 0],
}

impl<A: Ip> ServiceKey<A> {
    /// The key of a port on a VIP.
    #[inline(always)]
    pub const fn new(addr: A, port: [u8; 2]) -> Self {
        Self { addr, port, zero: [0; 2], rest: A::KEY_PAD, align: [] }
    }
}

/// What a service does with packets now.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServiceState {
    /// No master is known: dropped.
    #[default]
    Down = 0,
    /// Forwarded to the slot.
    Up = 1,
    /// Between two masters: held back from the old one, dropped without an error. Only while
    /// [`LEASE`] runs: see [`Active::at`].
    Parked = 2,
    /// Spread over the members of a [`Group`], whose index stands where the slot would.
    Group = 3,
}

/// Value of [`ACTIVE`]: one aligned 64-bit word, so that no reader ever sees half of a cutover.
///
/// `generation << 32 | state << 16 | slot`. The generation changes with the master's identity;
/// the slot also when only its next hop did. Zero, an array's initial value, is `Down`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Active(pub u64);

impl Active {
    /// Packs the three.
    #[inline(always)]
    pub const fn new(state: ServiceState, slot: u16, generation: u32) -> Self {
        Self((generation as u64) << 32 | (state as u64) << 16 | slot as u64)
    }

    /// Index into [`BACKENDS`], or, in state `Group`, into [`GROUPS`]; meaningless while `Down`.
    #[inline(always)]
    pub const fn slot(self) -> u16 {
        self.0 as u16
    }

    /// Unknown states read as `Down`: nothing is forwarded on a misunderstanding.
    #[inline(always)]
    pub const fn state(self) -> ServiceState {
        match (self.0 >> 16) as u8 {
            1 => ServiceState::Up,
            2 => ServiceState::Parked,
            3 => ServiceState::Group,
            _ => ServiceState::Down,
        }
    }

    /// Counts the masters this service had.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What it means at `now`: whoever parked a service must be alive to end that, so it is parked
    /// only while [`LEASE`] runs, and from then on up as it was before.
    #[inline(always)]
    pub const fn at(self, now: u64, lease: u64) -> Self {
        if matches!(self.state(), ServiceState::Parked) && now >= lease {
            return Self::new(ServiceState::Up, self.slot(), self.generation());
        }
        self
    }
}

/// How packets of a service reach its backend.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardMode {
    /// Full NAT.
    Nat = 1,
    /// Link-layer addresses only.
    Dsr = 2,
    /// For [`Address::HOST`]: the node is this host.
    Local = 3,
    /// For [`Address::HOST`]: the node is another host, which holds the address. Strays go there.
    Stray = 4,
}

/// Value of [`GROUPS`]: lines of [`ACTIVE`] that a service spreads its new connections over.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// How many of `members` count.
    pub count: u32,
    /// Indexes into [`ACTIVE`].
    pub members: [u16; Self::MAX],
}

impl Group {
    /// Members at most.
    pub const MAX: usize = 30;
    /// An array's initial value: nobody.
    pub const EMPTY: Self = Self { count: 0, members: [0; Self::MAX] };

    /// The member at `at`, counted round and round.
    #[inline(always)]
    pub fn member(&self, at: u32) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        self.members.get((at % self.count) as usize).map(|line| *line as u32)
    }
}

/// Value of [`BACKENDS`]: everything needed to send a packet to one Redis node for one service.
///
/// A slot that [`ACTIVE`] names is never edited.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Backend {
    /// The node's address, IPv4 as [`crate::addr::mapped`].
    pub addr: [u8; 16],
    /// NAT's source address, IPv4 mapped: the VIP itself or an address of this host.
    pub source: [u8; 16],
    /// The node's TCP port, big-endian.
    pub port: [u8; 2],
    /// Link-layer address of the next hop: the node, or a router.
    pub next_hop: MacAddr,
    /// Link-layer address of the interface that leads there.
    pub own_mac: MacAddr,
    /// 802.1Q VLAN id on that interface; 0 is untagged.
    pub vlan: u16,
    /// First source port, native order.
    pub first_port: u16,
    /// Last source port, inclusive.
    pub last_port: u16,
    /// Interface index that leads to the next hop.
    pub ifindex: u32,
    /// A [`ForwardMode`]; 0 is an empty slot.
    pub mode: u32,
}

impl Backend {
    /// An array's initial value: no backend.
    pub const EMPTY: Self = Self {
        addr: [0; 16],
        source: [0; 16],
        port: [0; 2],
        next_hop: MacAddr::ZERO,
        own_mac: MacAddr::ZERO,
        vlan: 0,
        first_port: 0,
        last_port: 0,
        ifindex: 0,
        mode: 0,
    };
}

/// Value of [`INTERFACES`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// Its link-layer address: what ARP is answered with.
    pub mac: MacAddr,
    /// Always zero.
    pub zero: [u8; 2],
}

/// Value of [`COUNTERS`], per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Bytes of those frames as they arrived, link-layer header included.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<Address>() == 4);
    assert!(size_of::<ServiceKey<Ipv4Bytes>>() == 8);
    assert!(size_of::<ServiceKey<Ipv6Bytes>>() == 24);
    assert!(size_of::<Active>() == 8);
    assert!(size_of::<Backend>() == 60);
    assert!(size_of::<Confirmed>() == 64);
    assert!(size_of::<Pending>() == 160);
    assert!(size_of::<ReplayFrame>() == 136);
    assert!(size_of::<FlowKey<Ipv4Bytes>>() == 12);
    assert!(size_of::<FlowKey<Ipv6Bytes>>() == 40);
    assert!(size_of::<Flow<Ipv4Bytes>>() == 64);
    assert!(size_of::<Flow<Ipv6Bytes>>() == 88);
    assert!(size_of::<Interface>() == 8);
    assert!(size_of::<AddressEntry<Ipv4Bytes>>() == 8);
    assert!(size_of::<AddressEntry<Ipv6Bytes>>() == 24);
    assert!(size_of::<ServiceEntry<Ipv4Bytes>>() == 8);
    assert!(size_of::<ServiceEntry<Ipv6Bytes>>() == 24);
    assert!(size_of::<InterfaceEntry>() == 12);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Group>() == 64);
    assert!(size_of::<KernelEvent>() == 48);
};

#[cfg(feature = "user")]
mod pod {
    /// SAFETY (all): `repr(C)` of integers and byte arrays, every pattern valid, no padding (the
    /// sizes asserted above are the sums of the fields).
    macro_rules! pod {
        ($($name:ident),*) => { $(
            // SAFETY: see above.
            unsafe impl aya::Pod for super::$name {}
        )* };
    }
    pod!(
        Address,
        Active,
        Backend,
        Confirmed,
        Interface,
        InterfaceEntry,
        Counter,
        Group,
        KernelEvent,
        Pending,
        ReplayFrame
    );

    /// SAFETY (all): as above, for either family.
    macro_rules! pod_of {
        ($($name:ident),*) => { $(
            // SAFETY: see above.
            unsafe impl<A: crate::wire::ip::Ip> aya::Pod for super::$name<A> {}
        )* };
    }
    pod_of!(ServiceKey, FlowKey, Flow, AddressEntry, ServiceEntry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_keeps_its_three_parts_apart() {
        let active = Active::new(ServiceState::Up, 0xffff, u32::MAX);
        assert_eq!(
            (active.slot(), active.state(), active.generation()),
            (0xffff, ServiceState::Up, u32::MAX)
        );
        let parked = Active::new(ServiceState::Parked, 1, 2);
        assert_eq!(
            (parked.slot(), parked.state(), parked.generation()),
            (1, ServiceState::Parked, 2)
        );
    }

    #[test]
    fn a_service_is_parked_only_while_the_lease_runs() {
        let parked = Active::new(ServiceState::Parked, 4, 9);
        assert_eq!(parked.at(99, 100), parked);
        assert_eq!(parked.at(100, 100), Active::new(ServiceState::Up, 4, 9));
        for state in [ServiceState::Down, ServiceState::Up, ServiceState::Group] {
            let other = Active::new(state, 4, 9);
            assert_eq!((other.at(99, 100), other.at(100, 100)), (other, other));
        }
    }

    #[test]
    fn an_array_s_initial_zero_is_down_and_an_unknown_state_too() {
        assert_eq!(Active(0).state(), ServiceState::Down);
        assert_eq!(Active(0x7f_0000).state(), ServiceState::Down);
    }
}
