//! What stands in the tables of buckets.

use super::{Address, Interface, MAX_INTERFACES, MAX_SERVICES, MAX_VIPS, ServiceKey};
use crate::addr::MacAddr;
use crate::buckets::{Entry, SPARE, mix};
use crate::wire::ip::Ip;

/// A VIP in [`VIPS`] or [`VIPS6`]. For IPv4 one aligned 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressEntry<A: Ip> {
    addr: A,
    address: Address,
    zero: A::KeyPad,
}

impl<A: Ip> Entry for AddressEntry<A> {
    type Key = A;
    type Value = Address;
    const BUCKETS: u32 = MAX_VIPS * SPARE;
    const EMPTY: Self = Self { addr: A::UNSPECIFIED, address: Address::new(0), zero: A::KEY_PAD };

    #[inline(always)]
    fn new(addr: A, address: Address) -> Self {
        Self { addr, address, zero: A::KEY_PAD }
    }

    #[inline(always)]
    fn key(&self) -> A {
        self.addr
    }

    #[inline(always)]
    fn value(&self) -> Address {
        self.address
    }

    #[inline(always)]
    fn hash(addr: &A) -> u32 {
        addr.spread()
    }
}

/// A service in [`SERVICES`] or [`SERVICES6`]. For IPv4 one aligned 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceEntry<A: Ip> {
    addr: A,
    port: [u8; 2],
    index: u16,
    zero: A::KeyPad,
}

impl<A: Ip> Entry for ServiceEntry<A> {
    type Key = ServiceKey<A>;
    type Value = u32;
    const BUCKETS: u32 = MAX_SERVICES * SPARE;
    const EMPTY: Self = Self { addr: A::UNSPECIFIED, port: [0; 2], index: 0, zero: A::KEY_PAD };

    /// `index` is below [`super::MAX_LINES`].
    #[inline(always)]
    fn new(key: ServiceKey<A>, index: u32) -> Self {
        Self { addr: key.addr, port: key.port, index: index as u16, zero: A::KEY_PAD }
    }

    #[inline(always)]
    fn key(&self) -> ServiceKey<A> {
        ServiceKey::new(self.addr, self.port)
    }

    #[inline(always)]
    fn value(&self) -> u32 {
        self.index as u32
    }

    #[inline(always)]
    fn hash(key: &ServiceKey<A>) -> u32 {
        key.addr.spread() ^ mix(u16::from_ne_bytes(key.port) as u32)
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
