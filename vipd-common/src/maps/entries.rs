//! What stands in the tables of buckets.

use super::{Address, Interface, MAX_INTERFACES, MAX_SERVICES, MAX_VIPS, ServiceKey};
use crate::addr::{Ipv4Bytes, MacAddr};
use crate::buckets::{Entry, SPARE, mix};

/// A VIP in [`VIPS`]. One aligned 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressEntry {
    addr: Ipv4Bytes,
    address: Address,
}

impl Entry for AddressEntry {
    type Key = Ipv4Bytes;
    type Value = Address;
    const BUCKETS: u32 = MAX_VIPS * SPARE;
    const EMPTY: Self = Self { addr: [0; 4], address: Address::new(0) };

    #[inline(always)]
    fn new(addr: Ipv4Bytes, address: Address) -> Self {
        Self { addr, address }
    }

    #[inline(always)]
    fn key(&self) -> Ipv4Bytes {
        self.addr
    }

    #[inline(always)]
    fn value(&self) -> Address {
        self.address
    }

    #[inline(always)]
    fn hash(addr: &Ipv4Bytes) -> u32 {
        mix(u32::from_ne_bytes(*addr))
    }
}

/// A service in [`SERVICES`]. One aligned 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    addr: Ipv4Bytes,
    port: [u8; 2],
    index: u16,
}

impl Entry for ServiceEntry {
    type Key = ServiceKey;
    type Value = u32;
    const BUCKETS: u32 = MAX_SERVICES * SPARE;
    const EMPTY: Self = Self { addr: [0; 4], port: [0; 2], index: 0 };

    /// `index` is below [`MAX_SERVICES`].
    #[inline(always)]
    fn new(key: ServiceKey, index: u32) -> Self {
        Self { addr: key.addr, port: key.port, index: index as u16 }
    }

    #[inline(always)]
    fn key(&self) -> ServiceKey {
        ServiceKey::new(self.addr, self.port)
    }

    #[inline(always)]
    fn value(&self) -> u32 {
        self.index as u32
    }

    #[inline(always)]
    fn hash(key: &ServiceKey) -> u32 {
        mix(u32::from_ne_bytes(key.addr)) ^ mix(u16::from_ne_bytes(key.port) as u32)
    }
}

/// An interface in [`INTERFACES`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceEntry {
    ifindex: u32,
    interface: Interface,
}

impl Entry for InterfaceEntry {
    type Key = u32;
    type Value = Interface;
    const BUCKETS: u32 = MAX_INTERFACES * SPARE;
    const EMPTY: Self =
        Self { ifindex: 0, interface: Interface { mac: MacAddr::ZERO, zero: [0; 2] } };

    #[inline(always)]
    fn new(ifindex: u32, interface: Interface) -> Self {
        Self { ifindex, interface }
    }

    #[inline(always)]
    fn key(&self) -> u32 {
        self.ifindex
    }

    #[inline(always)]
    fn value(&self) -> Interface {
        self.interface
    }

    #[inline(always)]
    fn hash(ifindex: &u32) -> u32 {
        mix(*ifindex)
    }
}
