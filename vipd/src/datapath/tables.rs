//! Typed access to the maps that the daemon reads and writes.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use aya::maps::xdp::{DevMapHash, XdpMapError};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::sys::SyscallError;
use aya::{Ebpf, Pod};
use vipd_common::addr::{Ipv4Bytes, Ipv6Bytes};
use vipd_common::buckets::{Buckets, Entry as _};
use vipd_common::maps::{
    self, Active, Address, AddressEntry, Backend, Confirmed, Counter, Group, Interface,
    InterfaceEntry, MAX_LINES, ServiceEntry, ServiceKey,
};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::Ip;

use super::DatapathError;
use super::words::Words;
use crate::clock::Monotonic;
use crate::plan::{Actual, Step};

/// The maps by name, with their key and value types.
pub(super) struct Tables {
    v4: Family<Ipv4Bytes>,
    v6: Family<Ipv6Bytes>,
    active: Words,
    lease: Words,
    groups: Array<MapData, Group>,
    backends: Array<MapData, Backend>,
    confirmed: Array<MapData, Confirmed>,
    interfaces: Buckets<MapData, InterfaceEntry>,
    ports: DevMapHash<MapData>,
    counters: PerCpuArray<MapData, Counter>,
}

impl Tables {
    /// Takes them out of a loaded object.
    pub(super) fn of_object(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Self::new(|name| {
            ebpf.take_map(name)
                .ok_or_else(|| DatapathError::Object(format!("it has no map {name}")))
        })
    }

    /// Opens the pins in `directory`.
    pub(super) fn of_pins(directory: &Path) -> Result<Self, DatapathError> {
        Self::new(|name| {
            MapData::from_pin(directory.join(name))
                .and_then(Map::from_map_data)
                .map_err(|error| DatapathError::map(format!("open the pinned map {name}"), error))
        })
    }

    fn new(
        mut take: impl FnMut(&'static str) -> Result<Map, DatapathError>,
    ) -> Result<Self, DatapathError> {
        let active = Words::new(take(maps::ACTIVE)?, maps::ACTIVE, MAX_LINES)?;
        let lease = Words::new(take(maps::LEASE)?, maps::LEASE, 1)?;
        let mut typed = |name| take(name).map(|map| (name, map));
        Ok(Self {
            v4: Family::new(&mut typed, maps::VIPS, maps::SERVICES)?,
            v6: Family::new(&mut typed, maps::VIPS6, maps::SERVICES6)?,
            active,
            lease,
            groups: convert(typed(maps::GROUPS)?)?,
            backends: convert(typed(maps::BACKENDS)?)?,
            confirmed: convert(typed(maps::CONFIRMED)?)?,
            interfaces: Buckets::new(convert(typed(maps::INTERFACES)?)?),
            ports: convert(typed(maps::PORTS)?)?,
            counters: convert(typed(maps::COUNTERS)?)?,
        })
    }

    /// One step of a plan.
    pub(super) fn apply(&mut self, step: &Step) -> Result<(), DatapathError> {
        match *step {
            Step::PutInterface { ifindex, interface } => self.put_interface(ifindex, interface),
            Step::RemoveInterface { ifindex } => self.remove_interface(ifindex),
            Step::PutAddress { addr, address } => match addr {
                IpAddr::V4(addr) => self.v4.put_address(addr.octets(), address),
                IpAddr::V6(addr) => self.v6.put_address(addr.octets(), address),
            },
            Step::RemoveAddress { addr } => match addr {
                IpAddr::V4(addr) => self.v4.remove_address(addr.octets()),
                IpAddr::V6(addr) => self.v6.remove_address(addr.octets()),
            },
            Step::PutService { key, index } => match key.ip() {
                IpAddr::V4(addr) => self.v4.put_service(addr.octets(), key.port(), index),
                IpAddr::V6(addr) => self.v6.put_service(addr.octets(), key.port(), index),
            },
            Step::RemoveService { key } => match key.ip() {
                IpAddr::V4(addr) => self.v4.remove_service(addr.octets(), key.port()),
                IpAddr::V6(addr) => self.v6.remove_service(addr.octets(), key.port()),
            },
            Step::PutGroup { group, members } => {
                set(&mut self.groups, maps::GROUPS, group, members)
            }
            Step::WriteSlot { slot, backend } => {
                set(&mut self.backends, maps::BACKENDS, slot.into(), backend)
            }
            Step::SetActive { service, active } => self.active.store(service, active.0),
            Step::SetConfirmed { service, confirmed } => {
                set(&mut self.confirmed, maps::CONFIRMED, service, confirmed)
            }
        }
    }

    /// Lets addresses in mode `host` be announced until then.
    pub(super) fn renew_lease(&self, until: Monotonic) -> Result<(), DatapathError> {
        self.lease.store(0, until.0)
    }

    /// What [`Self::renew_lease`] stored last; zero is never.
    pub(super) fn lease(&self) -> Monotonic {
        Monotonic(self.lease.iter().map(|(_, until)| until).next().unwrap_or(0))
    }

    /// PORTS first: the program redirects only to what it knows in INTERFACES.
    fn put_interface(&mut self, ifindex: u32, interface: Interface) -> Result<(), DatapathError> {
        self.ports.insert(ifindex, ifindex, None, 0).map_err(|error| {
            let what = format!("write interface {ifindex} to {}", maps::PORTS);
            match error {
                XdpMapError::MapError(error) => DatapathError::map(what, error),
                error => DatapathError::Pin { what, source: std::io::Error::other(error) },
            }
        })?;
        self.interfaces.insert(ifindex, interface).map_err(|error| {
            DatapathError::map(format!("write interface {ifindex} to {}", maps::INTERFACES), error)
        })
    }

    fn remove_interface(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        removed(self.interfaces.remove(&ifindex), || {
            format!("remove interface {ifindex} from {}", maps::INTERFACES)
        })?;
        // The kernel removes a port by itself when the interface is deleted.
        removed(self.ports.remove(ifindex), || {
            format!("remove interface {ifindex} from {}", maps::PORTS)
        })
    }

    /// What the maps hold.
    pub(super) fn read(&self) -> Result<Actual, DatapathError> {
        let mut actual = Actual::default();
        let interfaces = self.interfaces.entries();
        for entry in interfaces.map_err(|e| unreadable(maps::INTERFACES, e))? {
            let (ifindex, interface) = (entry.key(), entry.value());
            // An interface that was deleted and made anew has lost its port, and so counts as
            // absent: writing it again repairs both.
            match self.ports.get(ifindex, 0) {
                Ok(port) if port.if_index == ifindex => {
                    actual.interfaces.insert(ifindex, interface);
                }
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(unreadable(maps::PORTS, error)),
            }
        }
        self.v4.read(&mut actual)?;
        self.v6.read(&mut actual)?;
        for (slot, backend) in (0..).zip(self.backends.iter()) {
            let backend = backend.map_err(|e| unreadable(maps::BACKENDS, e))?;
            if backend != Backend::EMPTY {
                actual.slots.insert(slot, backend);
            }
        }
        for (service, word) in self.active.iter().filter(|(_, word)| *word != 0) {
            actual.active.insert(service, Active(word));
        }
        for (index, group) in (0..).zip(self.groups.iter()) {
            let group = group.map_err(|e| unreadable(maps::GROUPS, e))?;
            if group != Group::EMPTY {
                actual.groups.insert(index, group);
            }
        }
        for (service, confirmed) in (0..).zip(self.confirmed.iter()) {
            let confirmed = confirmed.map_err(|e| unreadable(maps::CONFIRMED, e))?;
            if confirmed != Confirmed::default() {
                actual.confirmed.insert(service, confirmed);
            }
        }
        Ok(actual)
    }

    /// Every counter, summed over the CPUs.
    pub(super) fn counters(&self) -> Result<Vec<(Verdict, Counter)>, DatapathError> {
        Verdict::ALL
            .iter()
            .map(|verdict| {
                let per_cpu = self
                    .counters
                    .get(&(*verdict as u32), 0)
                    .map_err(|e| unreadable(maps::COUNTERS, e))?;
                let sum = per_cpu.iter().fold(Counter::default(), |sum, cpu| Counter {
                    packets: sum.packets.wrapping_add(cpu.packets),
                    bytes: sum.bytes.wrapping_add(cpu.bytes),
                });
                Ok((*verdict, sum))
            })
            .collect()
    }
}

/// The maps that each family has for itself.
struct Family<A: Ip> {
    addresses: Buckets<MapData, AddressEntry<A>>,
    services: Buckets<MapData, ServiceEntry<A>>,
    /// Names of the two.
    names: [&'static str; 2],
}

impl<A: Ip> Family<A>
where
    IpAddr: From<A>,
{
    fn new(
        mut typed: impl FnMut(&'static str) -> Result<(&'static str, Map), DatapathError>,
        vips: &'static str,
        services: &'static str,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            addresses: Buckets::new(convert(typed(vips)?)?),
            services: Buckets::new(convert(typed(services)?)?),
            names: [vips, services],
        })
    }

    fn put_address(&mut self, addr: A, address: Address) -> Result<(), DatapathError> {
        let result = self.addresses.insert(addr, address);
        result.map_err(|e| {
            DatapathError::map(format!("write {} to {}", IpAddr::from(addr), self.names[0]), e)
        })
    }

    fn remove_address(&mut self, addr: A) -> Result<(), DatapathError> {
        let what = || format!("remove {} from {}", IpAddr::from(addr), self.names[0]);
        removed(self.addresses.remove(&addr), what)
    }

    fn put_service(&mut self, addr: A, port: u16, index: u32) -> Result<(), DatapathError> {
        let result = self.services.insert(ServiceKey::new(addr, port.to_be_bytes()), index);
        result.map_err(|e| {
            let key = SocketAddr::new(IpAddr::from(addr), port);
            DatapathError::map(format!("write {key} to {}", self.names[1]), e)
        })
    }

    fn remove_service(&mut self, addr: A, port: u16) -> Result<(), DatapathError> {
        let key = SocketAddr::new(IpAddr::from(addr), port);
        let what = || format!("remove {key} from {}", self.names[1]);
        removed(self.services.remove(&ServiceKey::new(addr, port.to_be_bytes())), what)
    }

    fn read(&self, actual: &mut Actual) -> Result<(), DatapathError> {
        for entry in self.addresses.entries().map_err(|e| unreadable(self.names[0], e))? {
            actual.addresses.insert(entry.key().into(), entry.value());
        }
        for entry in self.services.entries().map_err(|e| unreadable(self.names[1], e))? {
            let key = entry.key();
            let port = u16::from_be_bytes(key.port);
            actual.services.insert(SocketAddr::new(key.addr.into(), port), entry.value());
        }
        Ok(())
    }
}

fn convert<T>((name, map): (&'static str, Map)) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(map)
        .map_err(|error| DatapathError::Object(format!("its map {name} is not usable: {error}")))
}

fn set<V: Pod>(
    map: &mut Array<MapData, V>,
    name: &str,
    index: u32,
    value: V,
) -> Result<(), DatapathError> {
    map.set(index, value, 0)
        .map_err(|error| DatapathError::map(format!("write entry {index} of {name}"), error))
}

/// Removing what is not there is no error: the wish is fulfilled.
fn removed(result: Result<(), MapError>, what: impl Fn() -> String) -> Result<(), DatapathError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(error) => Err(DatapathError::map(what(), error)),
    }
}

fn unreadable(map: &str, error: MapError) -> DatapathError {
    DatapathError::map(format!("read {map}"), error)
}
