//! The maps in memory.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::vec::Vec;

use vipd_common::addr::{Ipv4Bytes, MacAddr};
use vipd_common::maps::{
    Active, Address, Backend, Flow, FlowKey, Group, KernelEvent, RIVAL_INTERVAL_NS, ServiceKey,
};

use crate::tables::{FlowTable, Tables};

type Flows = RefCell<HashMap<FlowKey, Rc<Cell<Flow>>>>;

/// Everything the program reads and writes beside its frame. What the daemon writes is public; a
/// flow table refuses new entries beyond `flow_capacity` instead of dropping old ones.
pub struct World {
    /// `VIPS`.
    pub addresses: HashMap<Ipv4Bytes, Address>,
    /// `INTERFACES`.
    pub interfaces: HashMap<u32, MacAddr>,
    /// `SERVICES`.
    pub services: HashMap<ServiceKey, u32>,
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
    established: Flows,
    half_open: Flows,
    chance: Cell<u64>,
    first: RefCell<HashMap<u32, u32>>,
    rival_at: Cell<u64>,
    events: RefCell<Vec<KernelEvent>>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            addresses: HashMap::new(),
            interfaces: HashMap::new(),
            services: HashMap::new(),
            active: HashMap::new(),
            backends: HashMap::new(),
            groups: HashMap::new(),
            lease: 0,
            // Well after boot: nothing in the tables is from before it.
            now: 1 << 50,
            flow_capacity: usize::MAX,
            established: Flows::default(),
            half_open: Flows::default(),
            chance: Cell::new(0x9e37_79b9_7f4a_7c15),
            first: RefCell::default(),
            rival_at: Cell::new(0),
            events: RefCell::default(),
        }
    }
}

impl World {
    /// The entries of a flow table, in no particular order.
    pub fn flows(&self, table: FlowTable) -> Vec<(FlowKey, Flow)> {
        self.table(table).borrow().iter().map(|(key, flow)| (*key, flow.get())).collect()
    }

    /// The events reported since the last call.
    pub fn take_events(&self) -> Vec<KernelEvent> {
        self.events.take()
    }

    fn table(&self, table: FlowTable) -> &Flows {
        match table {
            FlowTable::Established => &self.established,
            FlowTable::HalfOpen => &self.half_open,
        }
    }
}

/// A flow in its table, or, as in the kernel, what was one when it was looked up: it may be removed
/// meanwhile. Several may be alive at once, so this one works on a copy and puts that back.
pub struct FlowRef {
    entry: Rc<Cell<Flow>>,
    flow: Flow,
}

impl Deref for FlowRef {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.flow
    }
}

impl DerefMut for FlowRef {
    fn deref_mut(&mut self) -> &mut Flow {
        &mut self.flow
    }
}

impl Drop for FlowRef {
    fn drop(&mut self) {
        self.entry.set(self.flow);
    }
}

impl Tables for World {
    type FlowRef<'a> = FlowRef;

    fn address(&self, addr: Ipv4Bytes) -> Option<Address> {
        self.addresses.get(&addr).copied()
    }

    fn interface(&self, ifindex: u32) -> Option<MacAddr> {
        self.interfaces.get(&ifindex).copied()
    }

    fn service(&self, key: &ServiceKey) -> Option<u32> {
        self.services.get(key).copied()
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

    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<FlowRef> {
        let entry = self.table(table).borrow().get(key).cloned()?;
        Some(FlowRef { flow: entry.get(), entry })
    }

    fn put_flow(&self, table: FlowTable, key: &FlowKey, flow: &Flow) -> bool {
        let mut table = self.table(table).borrow_mut();
        if table.len() >= self.flow_capacity && !table.contains_key(key) {
            return false;
        }
        table.insert(*key, Rc::new(Cell::new(*flow)));
        true
    }

    fn add_flow(&self, table: FlowTable, key: &FlowKey, flow: &Flow) -> bool {
        !self.table(table).borrow().contains_key(key) && self.put_flow(table, key, flow)
    }

    fn remove_flow(&self, table: FlowTable, key: &FlowKey) {
        self.table(table).borrow_mut().remove(key);
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
