//! The maps in memory.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::vec::Vec;

use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes, MacAddr};
use vipd_common::maps::{
    Active, Address, Backend, Flow, FlowKey, Group, KernelEvent, Pending, REFUSED_INTERVAL_NS,
    RIVAL_INTERVAL_NS, ServiceKey,
};
use vipd_common::wire::ip::Ip;

use crate::tables::{Draft, FlowTable, Tables, TablesOf};

type Table<K, V> = RefCell<HashMap<K, Rc<Cell<V>>>>;
type Flows<A> = Table<FlowKey<A>, Flow<A>>;
type Syns<A> = Table<FlowKey<A>, Pending>;

/// Everything the program reads and writes beside its frame. What the daemon writes is public; a
/// flow table refuses new entries beyond `flow_capacity` instead of dropping old ones.
pub struct World {
    /// The maps of IPv4.
    pub v4: Family<Ipv4Bytes>,
    /// The maps of IPv6.
    pub v6: Family<Ipv6Bytes>,
    /// `INTERFACES`.
    pub interfaces: HashMap<u32, MacAddr>,
    /// `ACTIVE`.
    pub active: HashMap<u32, Active>,
    /// `BACKENDS`.
    pub backends: HashMap<u16, Backend>,
    /// `GROUPS`.
    pub groups: HashMap<u16, Group>,
    /// `LEASE`.
    pub lease: u64,
    /// CLOCK_MONOTONIC, ns.
    pub now: u64,
    /// Entries that each flow table holds at most.
    pub flow_capacity: usize,
    chance: Cell<u64>,
    first: RefCell<HashMap<u32, u32>>,
    rival_at: Cell<u64>,
    refused_at: RefCell<HashMap<u32, u64>>,
    events: RefCell<Vec<KernelEvent>>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            v4: Family::default(),
            v6: Family::default(),
            interfaces: HashMap::new(),
            active: HashMap::new(),
            backends: HashMap::new(),
            groups: HashMap::new(),
            lease: 0,
            // Well after boot: nothing in the tables is from before it.
            now: 1 << 50,
            flow_capacity: usize::MAX,
            chance: Cell::new(0x9e37_79b9_7f4a_7c15),
            first: RefCell::default(),
            rival_at: Cell::new(0),
            refused_at: RefCell::default(),
            events: RefCell::default(),
        }
    }
}

/// The maps that each family has for itself.
pub struct Family<A: Ip> {
    /// `VIPS`.
    pub addresses: HashMap<A, Address>,
    /// `SERVICES`.
    pub services: HashMap<ServiceKey<A>, u32>,
    established: Flows<A>,
    half_open: Flows<A>,
    pending: Syns<A>,
}

impl<A: Ip> Default for Family<A> {
    fn default() -> Self {
        Self {
            addresses: HashMap::new(),
            services: HashMap::new(),
            established: Flows::default(),
            half_open: Flows::default(),
            pending: Syns::default(),
        }
    }
}

impl<A: Ip> Family<A> {
    /// The entries of a flow table, in no particular order.
    pub fn flows(&self, table: FlowTable) -> Vec<(FlowKey<A>, Flow<A>)> {
        self.table(table).borrow().iter().map(|(key, flow)| (*key, flow.get())).collect()
    }

    /// The SYNs that nobody has answered, in no particular order.
    pub fn pending(&self) -> Vec<(FlowKey<A>, Pending)> {
        self.pending.borrow().iter().map(|(key, pending)| (*key, pending.get())).collect()
    }

    fn table(&self, table: FlowTable) -> &Flows<A> {
        match table {
            FlowTable::Established => &self.established,
            FlowTable::HalfOpen => &self.half_open,
        }
    }
}

impl World {
    /// The events reported since the last call.
    pub fn take_events(&self) -> Vec<KernelEvent> {
        self.events.take()
    }
}

/// A [`World`] has both.
pub trait HasFamily<A: Ip> {
    /// Its maps.
    fn family(&self) -> &Family<A>;
}

impl HasFamily<Ipv4Bytes> for World {
    fn family(&self) -> &Family<Ipv4Bytes> {
        &self.v4
    }
}

impl HasFamily<Ipv6Bytes> for World {
    fn family(&self) -> &Family<Ipv6Bytes> {
        &self.v6
    }
}

/// A value in its table, or, as in the kernel, what was one when it was looked up: it may be removed
/// meanwhile. Several may be alive at once, so this one works on a copy and puts that back.
pub struct Ref<V: Copy> {
    entry: Rc<Cell<V>>,
    value: V,
}

impl<V: Copy> Ref<V> {
    fn of<K: Eq + Hash>(table: &Table<K, V>, key: &K) -> Option<Self> {
        let entry = table.borrow().get(key).cloned()?;
        Some(Self { value: entry.get(), entry })
    }
}

impl<V: Copy> Deref for Ref<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<V: Copy> DerefMut for Ref<V> {
    fn deref_mut(&mut self) -> &mut V {
        &mut self.value
    }
}

impl<V: Copy> Drop for Ref<V> {
    fn drop(&mut self) {
        self.entry.set(self.value);
    }
}

impl Tables for World {
    fn interface(&self, ifindex: u32) -> Option<MacAddr> {
        self.interfaces.get(&ifindex).copied()
    }

    fn active(&self, service: u32) -> Active {
        self.active.get(&service).copied().unwrap_or_default()
    }

    fn backend(&self, slot: u16) -> Option<&Backend> {
        self.backends.get(&slot).filter(|backend| backend.mode != 0)
    }

    fn group(&self, index: u16) -> Option<&Group> {
        self.groups.get(&index)
    }

    fn lease(&self) -> u64 {
        self.lease
    }

    fn now(&self) -> u64 {
        self.now
    }

    /// Xorshift: the same in every run.
    fn random(&self) -> u32 {
        let mut state = self.chance.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.chance.set(state);
        (state >> 32) as u32
    }

    fn note_packet(&self, service: u32, generation: u32, ifindex: u32) {
        if self.first.borrow_mut().insert(service, generation) == Some(generation) {
            return;
        }
        self.events.borrow_mut().push(KernelEvent {
            time_ns: self.now,
            kind: KernelEvent::FIRST_PACKET,
            service,
            generation,
            ifindex,
            addr: [0; 16],
            mac: MacAddr::ZERO,
            zero: [0; 2],
        });
    }

    fn note_refusal(&self, service: u32, generation: u32, ifindex: u32) {
        let mut refused_at = self.refused_at.borrow_mut();
        let last = refused_at.entry(service).or_default();
        if self.now.wrapping_sub(*last) < REFUSED_INTERVAL_NS {
            return;
        }
        *last = self.now;
        self.events.borrow_mut().push(KernelEvent {
            time_ns: self.now,
            kind: KernelEvent::REFUSED,
            service,
            generation,
            ifindex,
            addr: [0; 16],
            mac: MacAddr::ZERO,
            zero: [0; 2],
        });
    }

    fn note_rival(&self, addr: [u8; 16], mac: MacAddr, ifindex: u32) {
        if self.now.wrapping_sub(self.rival_at.get()) < RIVAL_INTERVAL_NS {
            return;
        }
        self.rival_at.set(self.now);
        self.events.borrow_mut().push(KernelEvent {
            time_ns: self.now,
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

impl<A: Ip> TablesOf<A> for World
where
    Self: HasFamily<A>,
{
    type FlowRef<'a> = Ref<Flow<A>>;
    type Room<'a> = Box<Draft<A>>;
    type PendingRef<'a> = Ref<Pending>;

    fn address(&self, addr: A) -> Option<Address> {
        self.family().addresses.get(&addr).copied()
    }

    fn service(&self, key: &ServiceKey<A>) -> Option<u32> {
        self.family().services.get(key).copied()
    }

    fn room(&self) -> Option<Box<Draft<A>>> {
        Some(Box::new(Draft::EMPTY))
    }

    fn flow(&self, table: FlowTable, key: &FlowKey<A>) -> Option<Ref<Flow<A>>> {
        Ref::of(self.family().table(table), key)
    }

    fn put_flow(&self, table: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let mut table = self.family().table(table).borrow_mut();
        if table.len() >= self.flow_capacity && !table.contains_key(key) {
            return false;
        }
        table.insert(*key, Rc::new(Cell::new(*flow)));
        true
    }

    fn add_flow(&self, table: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        !self.family().table(table).borrow().contains_key(key) && self.put_flow(table, key, flow)
    }

    fn remove_flow(&self, table: FlowTable, key: &FlowKey<A>) {
        self.family().table(table).borrow_mut().remove(key);
    }

    fn pending(&self, key: &FlowKey<A>) -> Option<Ref<Pending>> {
        Ref::of(&self.family().pending, key)
    }

    fn put_pending(&self, key: &FlowKey<A>, pending: &Pending) {
        let mut table = self.family().pending.borrow_mut();
        if table.len() < self.flow_capacity || table.contains_key(key) {
            table.insert(*key, Rc::new(Cell::new(*pending)));
        }
    }

    fn remove_pending(&self, key: &FlowKey<A>) {
        self.family().pending.borrow_mut().remove(key);
    }
}
