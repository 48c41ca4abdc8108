//! `vipd status` without a daemon: what is pinned, and forwards on.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use vipd_common::maps::{Address, ServiceState as Kernel};

use crate::config::{Mode, ServiceRole};
use crate::datapath::{self, Inspection};
use crate::model::unmapped_ip;
use crate::netdev;
use crate::status::{Counter, Interface, Member, Service, ServiceState, Status};

/// The status of what is pinned below `pin_dir`, or `None` if nothing is.
///
/// # Errors
///
/// bpffs or a map can't be read.
pub fn status(pin_dir: &Path) -> Result<Option<Status>> {
    Ok(datapath::inspect_pins(pin_dir)?.map(|found| describe(&found, pin_dir)))
}

fn describe(found: &Inspection, pin_dir: &Path) -> Status {
    let pins = pin_dir.display();
    let layouts = found.layouts.join(", ");
    let links =
        found.interfaces.iter().map(|it| format!("XDP link on {}, pinned in {pins}", it.name));
    let maps = format!("{} maps, pinned in {pins} (layout {layouts})", found.maps.len());
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: None,
        interfaces: found
            .interfaces
            .iter()
            .map(|it| Interface {
                name: it.name.clone(),
                xdp_mode: it.xdp_mode.map_or("unknown", |mode| mode.name()).to_owned(),
                program_id: it.program_id,
            })
            .collect(),
        services: services(found),
        failovers: Vec::new(),
        counters: found
            .counters
            .iter()
            .map(|(verdict, it)| {
                let counter = Counter { packets: it.packets, bytes: it.bytes };
                (verdict.name().to_owned(), counter)
            })
            .collect(),
        sentinels: Vec::new(),
        nodes: Vec::new(),
        problems: vec!["vipd is not running: no failover will be followed".to_owned()],
        host: links.chain([maps]).collect(),
    }
}

fn services(found: &Inspection) -> Vec<Service> {
    let Some(actual) = &found.actual else { return Vec::new() };
    // What can't be read is not held.
    let own = netdev::host_addresses().unwrap_or_default();
    let described = actual.services.iter().map(|(key, &index)| {
        let active = actual.active(index);
        let confirmed = actual.confirmed(index);
        let address = actual.addresses.get(&key.ip());
        let backend = actual.backend(index);
        let is_group = active.state() == Kernel::Group;
        // Nobody renews the lease any more: when it ends, so does the park.
        let is_parked = active.state() == Kernel::Parked && found.leased;
        let up = is_group || matches!(active.state(), Kernel::Up | Kernel::Parked);
        let flags = address.copied().unwrap_or_default();
        let mode = [(Address::DSR, Mode::Dsr), (Address::HOST, Mode::Host)];
        let mode = mode.into_iter().find(|(flag, _)| flags.has(*flag));
        let is_host = flags.has(Address::HOST);
        Service {
            vip: key.ip(),
            port: key.port(),
            mode: mode.map_or(Mode::Nat, |(_, mode)| mode).name().to_owned(),
            // The name is only in the daemon's configuration.
            master: String::new(),
            role: if is_group { ServiceRole::Replica } else { ServiceRole::Master }
                .name()
                .to_owned(),
            members: actual
                .members(index)
                .filter(|it| it.is_up)
                .map(|it| Member { addr: it.node, serving: it.is_listed })
                .collect(),
            state: match up {
                _ if is_parked => ServiceState::Parked,
                true => ServiceState::Pinned,
                false => ServiceState::Down,
            },
            backend: backend
                .filter(|_| up)
                .map(|it| SocketAddr::new(unmapped_ip(it.addr), u16::from_be_bytes(it.port))),
            epoch: (confirmed.valid != 0).then_some(confirmed.epoch),
            generation: active.generation(),
            announcing: flags.has(Address::ANNOUNCE) && (!is_host || found.leased),
            owner: is_host && own.iter().any(|it| it.address == key.ip()),
        }
    });
    described.collect()
}
