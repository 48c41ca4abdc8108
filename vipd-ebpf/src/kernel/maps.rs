//! The maps, declared once, and [`Tables`] on them.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::programs::XdpContext;
use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes, MacAddr};
use vipd_common::buckets::{Bucket, Entry};
use vipd_common::maps::{
    Active, Address, AddressEntry, Backend, Confirmed, Counter, DEFAULT_FLOWS, DEFAULT_HALF_OPEN,
    DEFAULT_PENDING, EVENTS_BYTES, Flow, FlowKey, Group, IPV6_PROGRAM, InterfaceEntry, KernelEvent,
    MAIN_PROGRAM, MAX_GROUPS, MAX_INTERFACES, MAX_LINES, MAX_PROGRAMS, MAX_SLOTS, Pending,
    REFUSED_INTERVAL_NS, REPLAY_END, REPLAY_FRAMES, REPLAY_NEXT, RIVAL_INTERVAL_NS, ReplayFrame,
    ServiceEntry, ServiceKey,
};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::Ip;
use vipd_ebpf::tables::{Draft, FlowTable, Tables, TablesOf};

#[map]
static VIPS: Vips<Ipv4Bytes> = Array::with_max_entries(AddressEntry::<Ipv4Bytes>::BUCKETS, 0);
#[map]
static VIPS6: Vips<Ipv6Bytes> = Array::with_max_entries(AddressEntry::<Ipv6Bytes>::BUCKETS, 0);
#[map]
static SERVICES: Services<Ipv4Bytes> =
    Array::with_max_entries(ServiceEntry::<Ipv4Bytes>::BUCKETS, 0);
#[map]
static SERVICES6: Services<Ipv6Bytes> =
    Array::with_max_entries(ServiceEntry::<Ipv6Bytes>::BUCKETS, 0);
#[map]
static ACTIVE: Array<u64> = Array::with_max_entries(MAX_LINES, BPF_F_MMAPABLE);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_SLOTS, 0);
#[map]
static CONFIRMED: Array<Confirmed> = Array::with_max_entries(MAX_LINES, 0);
#[map]
static FLOWS: Flows<Ipv4Bytes> = LruHashMap::with_max_entries(DEFAULT_FLOWS, 0);
#[map]
static FLOWS6: Flows<Ipv6Bytes> = LruHashMap::with_max_entries(DEFAULT_FLOWS, 0);
#[map]
static HALF_OPEN: Flows<Ipv4Bytes> = LruHashMap::with_max_entries(DEFAULT_HALF_OPEN, 0);
#[map]
static HALF_OPEN6: Flows<Ipv6Bytes> = LruHashMap::with_max_entries(DEFAULT_HALF_OPEN, 0);
#[map]
static PENDING: Syns<Ipv4Bytes> = LruHashMap::with_max_entries(DEFAULT_PENDING, 0);
#[map]
static PENDING6: Syns<Ipv6Bytes> = LruHashMap::with_max_entries(DEFAULT_PENDING, 0);
#[map]
static INTERFACES: Array<Bucket<InterfaceEntry>> =
    Array::with_max_entries(InterfaceEntry::BUCKETS, 0);
#[map]
static PORTS: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES, 0);
#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);
#[map]
static FIRST: Array<u32> = Array::with_max_entries(MAX_LINES, 0);
#[map]
static RIVAL_AT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static REFUSED_AT: Array<u64> = Array::with_max_entries(MAX_LINES, 0);
#[map]
static GROUPS: Array<Group> = Array::with_max_entries(MAX_GROUPS, 0);
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[map]
static REPLAY: Array<ReplayFrame> = Array::with_max_entries(REPLAY_FRAMES, BPF_F_MMAPABLE);
#[map]
static REPLAY_AT: Array<u64> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// For this program alone: nothing in it outlives a packet.
#[map]
static ROOM: PerCpuArray<Draft<Ipv4Bytes>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ROOM6: PerCpuArray<Draft<Ipv6Bytes>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(MAX_PROGRAMS, 0);

type Vips<A> = Array<Bucket<AddressEntry<A>>>;
type Services<A> = Array<Bucket<ServiceEntry<A>>>;
type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>>;
type Syns<A> = LruHashMap<FlowKey<A>, Pending>;

/// The kernel's maps.
pub struct Maps;

/// Goes on in the IPv6 program; returns only if there is none.
#[inline(always)]
pub fn run_ipv6_program(ctx: &XdpContext) {
    // SAFETY: the other program has the same type; nothing here waits to be dropped.
    unsafe { PROGRAMS.tail_call(ctx, IPV6_PROGRAM) }
}

/// Goes on in the program that is attached; returns only if it isn't there.
#[inline(always)]
pub fn run_main_program(ctx: &XdpContext) {
    // SAFETY: as above.
    unsafe { PROGRAMS.tail_call(ctx, MAIN_PROGRAM) }
}

/// The next frame to inject, if there is one.
#[inline(always)]
pub fn next_replay() -> Option<&'static ReplayFrame> {
    let next = REPLAY_AT.get_ptr_mut(REPLAY_NEXT)?;
    let end = REPLAY_AT.get_ptr(REPLAY_END)?;
    // SAFETY: aligned words of live array elements. The daemon's only injecting thread waits while
    // this runs, and runs are one after the other.
    let at = unsafe {
        let at = *next;
        if at >= *end {
            return None;
        }
        *next = at + 1;
        at
    };
    REPLAY.get(at as u32 % REPLAY_FRAMES)
}

/// Adds a frame of `bytes` to a verdict's counter.
#[inline(always)]
pub fn count(verdict: Verdict, bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict as u32) {
        // SAFETY: this CPU's own slot, and XDP programs are not re-entered on a CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes;
        }
    }
}

/// Sends the frame out of another interface; a missing entry drops it.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    PORTS.redirect(ifindex, u64::from(XDP_ABORTED)).unwrap_or_else(|action| action)
}

/// A value in its map.
///
/// Both halves of a connection may be changed on two CPUs at once. Each field is one aligned
/// store, and none decides more than how long the entry lives, so the last writer may win.
pub struct Ref<V>(NonNull<V>);

impl<V> Deref for Ref<V> {
    type Target = V;

    #[inline(always)]
    fn deref(&self) -> &V {
        // SAFETY: the kernel keeps map values alive until the program ends (RCU).
        unsafe { self.0.as_ref() }
    }
}

impl<V> DerefMut for Ref<V> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut V {
        // SAFETY: as above; see the type for concurrent writers.
        unsafe { self.0.as_mut() }
    }
}

/// The maps that each family has for itself.
pub trait Family: Ip {
    fn vips() -> &'static Vips<Self>;
    fn services() -> &'static Services<Self>;
    fn flows(which: FlowTable) -> &'static Flows<Self>;
    fn syns() -> &'static Syns<Self>;
    fn room() -> &'static PerCpuArray<Draft<Self>>;
}

impl Family for Ipv4Bytes {
    #[inline(always)]
    fn vips() -> &'static Vips<Self> {
        &VIPS
    }

    #[inline(always)]
    fn services() -> &'static Services<Self> {
        &SERVICES
    }

    #[inline(always)]
    fn flows(which: FlowTable) -> &'static Flows<Self> {
        match which {
            FlowTable::Established => &FLOWS,
            FlowTable::HalfOpen => &HALF_OPEN,
        }
    }

    #[inline(always)]
    fn syns() -> &'static Syns<Self> {
        &PENDING
    }

    #[inline(always)]
    fn room() -> &'static PerCpuArray<Draft<Self>> {
        &ROOM
    }
}

impl Family for Ipv6Bytes {
    #[inline(always)]
    fn vips() -> &'static Vips<Self> {
        &VIPS6
    }

    #[inline(always)]
    fn services() -> &'static Services<Self> {
        &SERVICES6
    }

    #[inline(always)]
    fn flows(which: FlowTable) -> &'static Flows<Self> {
        match which {
            FlowTable::Established => &FLOWS6,
            FlowTable::HalfOpen => &HALF_OPEN6,
        }
    }

    #[inline(always)]
    fn syns() -> &'static Syns<Self> {
        &PENDING6
    }

    #[inline(always)]
    fn room() -> &'static PerCpuArray<Draft<Self>> {
        &ROOM6
    }
}

/// The value of a key. The daemon replaces entries while we read: one of an earlier moment is as
/// good as a packet earlier, and each entry is written in one piece.
#[inline(always)]
fn get<E: Entry>(table: &Array<Bucket<E>>, key: &E::Key) -> Option<E::Value> {
    table.get(E::bucket(key))?.get(key)
}

impl Tables for Maps {
    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<MacAddr> {
        get(&INTERFACES, &ifindex).map(|interface| interface.mac)
    }

    #[inline(always)]
    fn active(&self, service: u32) -> Active {
        match ACTIVE.get_ptr(service) {
            // SAFETY: an aligned 64-bit load of a live array element. Volatile: read once, so that
            // slot, state and generation are of the same cutover.
            Some(active) => Active(unsafe { active.read_volatile() }),
            None => Active(0),
        }
    }

    #[inline(always)]
    fn backend(&self, slot: u16) -> Option<&Backend> {
        BACKENDS.get(u32::from(slot)).filter(|backend| backend.mode != 0)
    }

    #[inline(always)]
    fn group(&self, index: u16) -> Option<&Group> {
        GROUPS.get(u32::from(index))
    }

    #[inline(always)]
    fn lease(&self) -> u64 {
        match LEASE.get_ptr(0) {
            // SAFETY: an aligned 64-bit load of a live array element, which the daemon stores whole.
            Some(lease) => unsafe { lease.read_volatile() },
            None => 0,
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn note_packet(&self, service: u32, generation: u32, ifindex: u32) {
        let Some(first) = FIRST.get_ptr_mut(service) else { return };
        // SAFETY: an aligned 32-bit word of a live array element. Two CPUs may both see the old
        // one and report twice; the daemon keeps the earlier.
        unsafe {
            if *first == generation {
                return;
            }
            *first = generation;
        }
        report(KernelEvent {
            // SAFETY: no arguments.
            time_ns: unsafe { bpf_ktime_get_ns() },
            kind: KernelEvent::FIRST_PACKET,
            service,
            generation,
            ifindex,
            addr: [0; 16],
            mac: MacAddr::ZERO,
            zero: [0; 2],
        });
    }

    #[inline(always)]
    fn note_refusal(&self, service: u32, generation: u32, ifindex: u32) {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        let Some(last) = REFUSED_AT.get_ptr_mut(service) else { return };
        // SAFETY: an aligned 64-bit word of a live array element; a race reports twice.
        unsafe {
            if now.wrapping_sub(*last) < REFUSED_INTERVAL_NS {
                return;
            }
            *last = now;
        }
        report(KernelEvent {
            time_ns: now,
            kind: KernelEvent::REFUSED,
            service,
            generation,
            ifindex,
            addr: [0; 16],
            mac: MacAddr::ZERO,
            zero: [0; 2],
        });
    }

    #[inline(always)]
    fn note_rival(&self, addr: [u8; 16], mac: MacAddr, ifindex: u32) {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        let Some(last) = RIVAL_AT.get_ptr_mut(0) else { return };
        // SAFETY: an aligned 64-bit word of a live array element; a race reports twice.
        unsafe {
            if now.wrapping_sub(*last) < RIVAL_INTERVAL_NS {
                return;
            }
            *last = now;
        }
        report(KernelEvent {
            time_ns: now,
            kind: KernelEvent::RIVAL,
            service: 0,
            generation: 0,
            ifindex,
            addr,
            mac,
            zero: [0; 2],
        });
    }
}

impl<A: Family> TablesOf<A> for Maps {
    type FlowRef<'a> = Ref<Flow<A>>;
    type Room<'a> = Ref<Draft<A>>;
    type PendingRef<'a> = Ref<Pending>;

    #[inline(always)]
    fn address(&self, addr: A) -> Option<Address> {
        get(A::vips(), &addr)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<A>) -> Option<u32> {
        get(A::services(), key)
    }

    #[inline(always)]
    fn room(&self) -> Option<Ref<Draft<A>>> {
        // This CPU's own, and XDP programs are not re-entered on a CPU.
        A::room().get_ptr_mut(0).and_then(NonNull::new).map(Ref)
    }

    #[inline(always)]
    fn flow(&self, which: FlowTable, key: &FlowKey<A>) -> Option<Ref<Flow<A>>> {
        A::flows(which).get_ptr_mut(key).and_then(NonNull::new).map(Ref)
    }

    #[inline(always)]
    fn put_flow(&self, which: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        A::flows(which).insert(key, flow, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn add_flow(&self, which: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        A::flows(which).insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, which: FlowTable, key: &FlowKey<A>) {
        // Not there is what was wanted.
        let _ = A::flows(which).remove(key);
    }

    #[inline(always)]
    fn pending(&self, key: &FlowKey<A>) -> Option<Ref<Pending>> {
        A::syns().get_ptr_mut(key).and_then(NonNull::new).map(Ref)
    }

    #[inline(always)]
    fn put_pending(&self, key: &FlowKey<A>, pending: &Pending) {
        // Where the kernel refuses it, the client repeats its SYN as it would without us.
        let _ = A::syns().insert(key, pending, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn remove_pending(&self, key: &FlowKey<A>) {
        let _ = A::syns().remove(key);
    }
}

/// A full ring loses the event: the daemon is not reading, and traffic must not wait for it.
#[inline(always)]
fn report(event: KernelEvent) {
    if let Some(mut entry) = EVENTS.reserve::<KernelEvent>(0) {
        entry.write(event);
        entry.submit(0);
    }
}
