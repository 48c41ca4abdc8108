//! Stand-in for `crate::plan::{Step, Actual}`, which the branch `core` defines with exactly these
//! shapes. When both are merged: delete this file and `use crate::plan::{Actual, Step};` in
//! datapath/{mod,tables,pins}.rs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use vipd_common::maps::{Active, Address, Backend, Confirmed, Interface, ServiceKey};

/// One write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "documented in plan.rs, which replaces this")]
pub enum Step {
    PutInterface { ifindex: u32, interface: Interface },
    RemoveInterface { ifindex: u32 },
    PutAddress { addr: Ipv4Addr, address: Address },
    RemoveAddress { addr: Ipv4Addr },
    PutService { key: ServiceKey, index: u32 },
    RemoveService { key: ServiceKey },
    WriteSlot { slot: u16, backend: Backend },
    SetActive { service: u32, active: Active },
    SetConfirmed { service: u32, confirmed: Confirmed },
}

/// What the maps hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "documented in plan.rs, which replaces this")]
pub struct Actual {
    pub interfaces: BTreeMap<u32, Interface>,
    pub addresses: BTreeMap<Ipv4Addr, Address>,
    pub services: BTreeMap<ServiceKey, u32>,
    pub slots: BTreeMap<u16, Backend>,
    pub active: BTreeMap<u32, Active>,
    pub confirmed: BTreeMap<u32, Confirmed>,
}
