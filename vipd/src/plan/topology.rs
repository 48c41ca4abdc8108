//! What the configuration fixes, and what CONFIRMED remembers of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use vipd_common::addr::mapped;
use vipd_common::maps::{Confirmed, name_hash};

use super::Actual;
use crate::config::{Config, Mode, PortRange, Source};
use crate::failover::Target;
use crate::model::{Epoch, MasterId};

/// The configured VIPs and services, with names resolved to indexes.
#[derive(Clone, PartialEq, Debug)]
pub struct Topology {
    /// In the order of the configuration. No two have the same address.
    pub vips: Vec<Vip>,
    /// For NAT from an address of this host.
    pub source_ports: PortRange,
    /// [`name_hash`] of each master name, by `MasterId`.
    pub masters: Vec<u64>,
}

/// One VIP.
#[derive(Clone, PartialEq, Debug)]
pub struct Vip {
    /// The virtual address.
    pub addr: Ipv4Addr,
    /// How its traffic is carried.
    pub mode: Mode,
    /// NAT's source address.
    pub source: Source,
    /// What it carries. No two have the same port.
    pub services: Vec<Service>,
}

/// One port on a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// TCP port on the VIP.
    pub port: u16,
    /// Whom it points at.
    pub master: MasterId,
    /// Port on the node instead of the one Sentinel reports.
    pub backend_port: Option<u16>,
}

impl Topology {
    /// From a validated configuration.
    pub fn new(config: &Config) -> Self {
        let names = config.masters();
        let ids: BTreeMap<&str, MasterId> =
            names.iter().enumerate().map(|(id, name)| (*name, MasterId(id))).collect();
        let vips = config.vips.iter().map(|vip| Vip {
            addr: vip.address,
            mode: vip.mode,
            source: vip.source,
            services: vip
                .services
                .iter()
                .filter_map(|service| {
                    Some(Service {
                        port: service.port,
                        // `masters` lists the name of every service.
                        master: *ids.get(service.master.as_str())?,
                        backend_port: service.backend_port,
                    })
                })
                .collect(),
        });
        Self {
            vips: vips.collect(),
            source_ports: config.daemon.source_ports,
            masters: names.iter().map(|name| name_hash(name)).collect(),
        }
    }

    /// Every service with its VIP, in the order of the configuration.
    pub fn services(&self) -> impl Iterator<Item = (&Vip, &Service)> {
        self.vips.iter().flat_map(|vip| vip.services.iter().map(move |service| (vip, service)))
    }

    /// The service that has this index now: who a kernel event or a `SetActive` is about.
    pub fn service_at(&self, actual: &Actual, index: u32) -> Option<(&Vip, &Service)> {
        self.services()
            .find(|(vip, service)| actual.services.get(&vip.key(service)) == Some(&index))
    }

    /// What was confirmed before a restart, by `MasterId`, for
    /// [`Failover::new`](crate::failover::Failover::new): the highest epoch among the services of
    /// each master (a daemon that dies in the middle of a commit leaves them apart).
    pub fn adopted(&self, actual: &Actual) -> Vec<Option<Target>> {
        let mut adopted: Vec<Option<Target>> = vec![None; self.masters.len()];
        for (vip, service) in self.services() {
            let Some(&index) = actual.services.get(&vip.key(service)) else { continue };
            let confirmed = actual.confirmed(index);
            // Confirmed for another name, before the configuration was changed.
            if self.masters.get(service.master.0) != Some(&confirmed.master) {
                continue;
            }
            let Some(found) = confirmed_target(&confirmed) else { continue };
            let Some(entry) = adopted.get_mut(service.master.0) else { continue };
            if entry.is_none_or(|known| known.epoch < found.epoch) {
                *entry = Some(found);
            }
        }
        adopted
    }
}

impl Vip {
    /// A service's key in SERVICES.
    pub fn key(&self, service: &Service) -> SocketAddr {
        self.socket(service).into()
    }

    /// Address and port, for people.
    pub fn socket(&self, service: &Service) -> SocketAddrV4 {
        SocketAddrV4::new(self.addr, service.port)
    }
}

/// How CONFIRMED stores a target of the master whose name has this hash.
pub(super) fn confirmed(master: u64, target: Target) -> Confirmed {
    Confirmed {
        epoch: target.epoch.0,
        addr: match target.addr {
            SocketAddr::V4(addr) => mapped(addr.ip().octets()),
            SocketAddr::V6(addr) => addr.ip().octets(),
        },
        master,
        port: u32::from(target.addr.port()),
        valid: 1,
    }
}

/// The reverse of [`confirmed`]; none where nothing is stored.
pub(super) fn confirmed_target(confirmed: &Confirmed) -> Option<Target> {
    if confirmed.valid != 1 {
        return None;
    }
    let addr = Ipv6Addr::from(confirmed.addr).to_canonical();
    let port = u16::try_from(confirmed.port).ok()?;
    Some(Target { addr: SocketAddr::new(addr, port), epoch: Epoch(confirmed.epoch) })
}
