//! What the program asks of its maps.

use core::ops::DerefMut;

use vipd_common::addr::{Ipv4Bytes, MacAddr};
use vipd_common::maps::{Active, Address, Backend, Flow, FlowKey, Group, ServiceKey};

/// Which flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTable {
    /// `FLOWS`: the handshake is complete.
    Established,
    /// `HALF_OPEN`: it is not.
    HalfOpen,
}

/// The maps, as the program sees them.
pub trait Tables {
    /// A flow that stands in a table and can be changed in place.
    type FlowRef<'a>: DerefMut<Target = Flow>
    where
        Self: 'a;

    /// What to do with frames for this address.
    fn address(&self, addr: Ipv4Bytes) -> Option<Address>;

    /// Link-layer address of an attached interface.
    fn interface(&self, ifindex: u32) -> Option<MacAddr>;

    /// Index of the service on this VIP and port.
    fn service(&self, key: &ServiceKey) -> Option<u32>;

    /// Where the service's packets go now: one 64-bit read.
    fn active(&self, service: u32) -> Active;

    /// The backend in this slot, if there is one.
    fn backend(&self, slot: u16) -> Option<&Backend>;

    /// The group with this index.
    fn group(&self, index: u16) -> Option<&Group>;

    /// CLOCK_MONOTONIC ns until which addresses in mode `host` may be announced.
    fn lease(&self) -> u64;

    /// The flow with this key.
    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<Self::FlowRef<'_>>;

    /// Adds or replaces a flow; false if the kernel refused.
    fn put_flow(&self, table: FlowTable, key: &FlowKey, flow: &Flow) -> bool;

    /// Adds a flow unless its key is taken; false if it is. The arbiter between CPUs.
    fn add_flow(&self, table: FlowTable, key: &FlowKey, flow: &Flow) -> bool;

    /// Removes a flow if it is there.
    fn remove_flow(&self, table: FlowTable, key: &FlowKey);

    /// CLOCK_MONOTONIC in ns, to a few milliseconds.
    fn now(&self) -> u64;

    /// A number an outsider can't guess well.
    fn random(&self) -> u32;

    /// A packet goes to the backend of this generation; reported to the daemon if it is the
    /// generation's first.
    fn note_packet(&self, service: u32, generation: u32, ifindex: u32);

    /// Somebody else claims a VIP (IPv4 mapped); reported to the daemon at a bounded rate.
    fn note_rival(&self, addr: [u8; 16], mac: MacAddr, ifindex: u32);
}
