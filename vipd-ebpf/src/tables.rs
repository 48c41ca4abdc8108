//! What the program asks of its maps.

use core::ops::DerefMut;

use vipd_common::addr::MacAddr;
use vipd_common::maps::{
    Active, Address, Backend, Flow, FlowKey, Group, Pending, ServiceKey, ServiceState,
};
use vipd_common::wire::ip::Ip;

/// Which flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTable {
    /// `FLOWS`: the handshake is complete.
    Established,
    /// `HALF_OPEN`: it is not.
    HalfOpen,
}

/// The maps that serve both families, as the program sees them.
pub trait Tables {
    /// Link-layer address of an attached interface.
    fn interface(&self, ifindex: u32) -> Option<MacAddr>;

    /// What was decided for the service: one 64-bit read.
    fn active(&self, service: u32) -> Active;

    /// The same as it holds at this moment: a service is [parked](ServiceState::Parked) only while
    /// somebody alive can end that.
    #[inline(always)]
    fn standing(&self, service: u32) -> Active {
        let active = self.active(service);
        if active.state() != ServiceState::Parked {
            return active;
        }
        active.at(self.now(), self.lease())
    }

    /// The backend in this slot, if there is one.
    fn backend(&self, slot: u16) -> Option<&Backend>;

    /// The group with this index.
    fn group(&self, index: u16) -> Option<&Group>;

    /// CLOCK_MONOTONIC ns until which addresses in mode `host` may be announced, and services are
    /// held parked.
    fn lease(&self) -> u64;

    /// CLOCK_MONOTONIC in ns, to a few milliseconds.
    fn now(&self) -> u64;

    /// A number an outsider can't guess well.
    fn random(&self) -> u32;

    /// A packet goes to the backend of this generation; reported to the daemon if it is the
    /// generation's first.
    fn note_packet(&self, service: u32, generation: u32, ifindex: u32);

    /// The backend of this generation reset a connection or refused one; reported to the daemon at
    /// a bounded rate.
    fn note_refusal(&self, service: u32, generation: u32, ifindex: u32);

    /// Somebody else claims a VIP (IPv4 mapped); reported to the daemon at a bounded rate.
    fn note_rival(&self, addr: [u8; 16], mac: MacAddr, ifindex: u32);
}

/// A connection in the making. It is not made on the kernel's stack, which has no room for three
/// IPv6 tuples more.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draft<A: Ip> {
    /// One half, then the other.
    pub flow: Flow<A>,
    /// The key of the backend's half: what its replies will arrive with.
    pub reply: FlowKey<A>,
    /// For the moment of removing whoever had that key: the key of his other half.
    pub other: FlowKey<A>,
    /// The SYN that asks for it.
    pub pending: Pending,
}

impl<A: Ip> Draft<A> {
    /// Nothing.
    pub const EMPTY: Self = Self {
        flow: Flow::EMPTY,
        reply: Flow::<A>::EMPTY.leaves,
        other: Flow::<A>::EMPTY.leaves,
        pending: Pending::EMPTY,
    };
}

/// The maps of one family, and those that serve both.
pub trait TablesOf<A: Ip>: Tables {
    /// A flow that stands in a table and can be changed in place.
    type FlowRef<'a>: DerefMut<Target = Flow<A>>
    where
        Self: 'a;

    /// Room for a draft.
    type Room<'a>: DerefMut<Target = Draft<A>>
    where
        Self: 'a;

    /// An unanswered SYN that stands in its table and can be changed in place.
    type PendingRef<'a>: DerefMut<Target = Pending>
    where
        Self: 'a;

    /// What to do with frames for this address.
    fn address(&self, addr: A) -> Option<Address>;

    /// Index of the service on this VIP and port.
    fn service(&self, key: &ServiceKey<A>) -> Option<u32>;

    /// That room. What is in it is undefined, and there is only one.
    fn room(&self) -> Option<Self::Room<'_>>;

    /// The flow with this key.
    fn flow(&self, table: FlowTable, key: &FlowKey<A>) -> Option<Self::FlowRef<'_>>;

    /// Adds or replaces a flow; false if the kernel refused.
    fn put_flow(&self, table: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) -> bool;

    /// Adds a flow unless its key is taken; false if it is. The arbiter between CPUs.
    fn add_flow(&self, table: FlowTable, key: &FlowKey<A>, flow: &Flow<A>) -> bool;

    /// Removes a flow if it is there.
    fn remove_flow(&self, table: FlowTable, key: &FlowKey<A>);

    /// The unanswered SYN of this client.
    fn pending(&self, key: &FlowKey<A>) -> Option<Self::PendingRef<'_>>;

    /// Adds or replaces one. A table that is full drops the oldest.
    fn put_pending(&self, key: &FlowKey<A>, pending: &Pending);

    /// Removes one if it is there.
    fn remove_pending(&self, key: &FlowKey<A>);
}
