//! What the maps hold, and the only ways to change it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use vipd_common::maps::{Active, Address, Backend, Confirmed, Group, Interface, ServiceState};

/// One write to one map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// INTERFACES, and PORTS beside it.
    PutInterface {
        /// Its index.
        ifindex: u32,
        /// What is written.
        interface: Interface,
    },
    /// INTERFACES and PORTS.
    RemoveInterface {
        /// Its index.
        ifindex: u32,
    },
    /// VIPS.
    PutAddress {
        /// The VIP, or an address of this host that NAT uses.
        addr: IpAddr,
        /// What is written.
        address: Address,
    },
    /// VIPS.
    RemoveAddress {
        /// Which one.
        addr: IpAddr,
    },
    /// SERVICES.
    PutService {
        /// VIP and port.
        key: SocketAddr,
        /// Index into ACTIVE and CONFIRMED.
        index: u32,
    },
    /// SERVICES.
    RemoveService {
        /// VIP and port.
        key: SocketAddr,
    },
    /// GROUPS.
    PutGroup {
        /// Its index.
        group: u32,
        /// What is written; [`Group::EMPTY`] erases.
        members: Group,
    },
    /// BACKENDS. Never one that ACTIVE names.
    WriteSlot {
        /// Which slot.
        slot: u16,
        /// What is written.
        backend: Backend,
    },
    /// ACTIVE.
    SetActive {
        /// The service's index.
        service: u32,
        /// What is written.
        active: Active,
    },
    /// CONFIRMED.
    SetConfirmed {
        /// The service's index.
        service: u32,
        /// What is written; the default erases.
        confirmed: Confirmed,
    },
}

/// A mirror of the maps: read back from them once, then kept by [`Actual::apply`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Actual {
    /// INTERFACES.
    pub interfaces: BTreeMap<u32, Interface>,
    /// VIPS.
    pub addresses: BTreeMap<IpAddr, Address>,
    /// SERVICES.
    pub services: BTreeMap<SocketAddr, u32>,
    /// GROUPS, without the empty ones.
    pub groups: BTreeMap<u32, Group>,
    /// BACKENDS, without the empty ones.
    pub slots: BTreeMap<u16, Backend>,
    /// ACTIVE. What isn't there is an array's initial value, [`Active::default`].
    pub active: BTreeMap<u32, Active>,
    /// CONFIRMED, likewise.
    pub confirmed: BTreeMap<u32, Confirmed>,
    /// The slot after the last one written: new ones are taken round-robin from here, so that one
    /// that was just retired (flows may still use it) is reused last. 0 after a restart is fine:
    /// empty slots are preferred.
    pub next_slot: u16,
}

impl Actual {
    /// Repeats in the mirror what was done to the maps.
    pub fn apply(&mut self, step: &Step) {
        match *step {
            Step::PutInterface { ifindex, interface } => {
                self.interfaces.insert(ifindex, interface);
            }
            Step::RemoveInterface { ifindex } => {
                self.interfaces.remove(&ifindex);
            }
            Step::PutAddress { addr, address } => {
                self.addresses.insert(addr, address);
            }
            Step::RemoveAddress { addr } => {
                self.addresses.remove(&addr);
            }
            Step::PutService { key, index } => {
                self.services.insert(key, index);
            }
            Step::RemoveService { key } => {
                self.services.remove(&key);
            }
            Step::PutGroup { group, members } => {
                if members == Group::EMPTY {
                    self.groups.remove(&group);
                } else {
                    self.groups.insert(group, members);
                }
            }
            Step::WriteSlot { slot, backend } => {
                self.slots.insert(slot, backend);
                self.next_slot = slot.wrapping_add(1);
            }
            Step::SetActive { service, active } => {
                self.active.insert(service, active);
            }
            Step::SetConfirmed { service, confirmed } => {
                self.confirmed.insert(service, confirmed);
            }
        }
    }

    /// ACTIVE of a service.
    pub fn active(&self, service: u32) -> Active {
        self.active.get(&service).copied().unwrap_or_default()
    }

    /// CONFIRMED of a service.
    pub fn confirmed(&self, service: u32) -> Confirmed {
        self.confirmed.get(&service).copied().unwrap_or_default()
    }

    /// The backend that a service points at, or pointed at last while it is down. None if it
    /// never had one.
    pub fn backend(&self, service: u32) -> Option<&Backend> {
        let active = self.active(service);
        if !names_a_slot(active) {
            return None;
        }
        self.slots.get(&active.slot())
    }
}

/// An initial value doesn't; a service that is down does, because its next generation depends on
/// which node it pointed at last.
pub(super) fn names_a_slot(active: Active) -> bool {
    match active.state() {
        ServiceState::Up | ServiceState::Parked => true,
        ServiceState::Group => false,
        ServiceState::Down => active.generation() != 0,
    }
}
