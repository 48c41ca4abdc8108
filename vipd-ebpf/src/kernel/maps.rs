//! The maps, declared once, and [`Tables`] on them.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, LruHashMap, PerCpuArray, RingBuf};
use vipd_common::addr::{Ipv4Bytes, MacAddr};
use vipd_common::buckets::{Bucket, Entry};
use vipd_common::maps::{
    Active, Address, AddressEntry, Backend, Confirmed, Counter, DEFAULT_FLOWS, DEFAULT_HALF_OPEN,
    EVENTS_BYTES, Flow, FlowKey, Group, InterfaceEntry, KernelEvent, MAX_GROUPS, MAX_INTERFACES,
    MAX_LINES, MAX_SLOTS, RIVAL_INTERVAL_NS, ServiceEntry, ServiceKey,
};
use vipd_common::verdict::Verdict;
use vipd_ebpf::tables::{FlowTable, Tables};

#[map]
static VIPS: Array<Bucket<AddressEntry>> = Array::with_max_entries(AddressEntry::BUCKETS, 0);
#[map]
static SERVICES: Array<Bucket<ServiceEntry>> = Array::with_max_entries(ServiceEntry::BUCKETS, 0);
#[map]
static ACTIVE: Array<u64> = Array::with_max_entries(MAX_LINES, BPF_F_MMAPABLE);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_SLOTS, 0);
#[map]
static CONFIRMED: Array<Confirmed> = Array::with_max_entries(MAX_LINES, 0);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(DEFAULT_FLOWS, 0);
#[map]
static HALF_OPEN: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(DEFAULT_HALF_OPEN, 0);
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
static GROUPS: Array<Group> = Array::with_max_entries(MAX_GROUPS, 0);
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// The kernel's maps.
pub struct Maps;

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

/// A flow in its table.
///
/// Both halves of a connection may be changed on two CPUs at once. Each field is one aligned
/// store, and none decides more than how long the entry lives, so the last writer may win.
pub struct FlowRef(NonNull<Flow>);

impl Deref for FlowRef {
    type Target = Flow;

    #[inline(always)]
    fn deref(&self) -> &Flow {
        // SAFETY: the kernel keeps map values alive until the program ends (RCU).
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for FlowRef {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Flow {
        // SAFETY: as above; see the type for concurrent writers.
        unsafe { self.0.as_mut() }
    }
}

#[inline(always)]
fn table(which: FlowTable) -> &'static LruHashMap<FlowKey, Flow> {
    match which {
        FlowTable::Established => &FLOWS,
        FlowTable::HalfOpen => &HALF_OPEN,
    }
}

/// The value of a key. The daemon replaces entries while we read: one of an earlier moment is as
/// good as a packet earlier, and each entry is written in one piece.
#[inline(always)]
fn get<E: Entry>(table: &Array<Bucket<E>>, key: &E::Key) -> Option<E::Value> {
    table.get(E::bucket(key))?.get(key)
}

impl Tables for Maps {
    type FlowRef<'a> = FlowRef;

    #[inline(always)]
    fn address(&self, addr: Ipv4Bytes) -> Option<Address> {
        get(&VIPS, &addr)
    }

    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<MacAddr> {
        get(&INTERFACES, &ifindex).map(|interface| interface.mac)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        get(&SERVICES, key)
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
    fn flow(&self, which: FlowTable, key: &FlowKey) -> Option<FlowRef> {
        table(which).get_ptr_mut(key).and_then(NonNull::new).map(FlowRef)
    }

    #[inline(always)]
    fn put_flow(&self, which: FlowTable, key: &FlowKey, flow: &Flow) -> bool {
        table(which).insert(key, flow, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn add_flow(&self, which: FlowTable, key: &FlowKey, flow: &Flow) -> bool {
        table(which).insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, which: FlowTable, key: &FlowKey) {
        // Not there is what was wanted.
        let _ = table(which).remove(key);
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

/// A full ring loses the event: the daemon is not reading, and traffic must not wait for it.
#[inline(always)]
fn report(event: KernelEvent) {
    if let Some(mut entry) = EVENTS.reserve::<KernelEvent>(0) {
        entry.write(event);
        entry.submit(0);
    }
}
