//! What the configuration fixes, and what CONFIRMED remembers of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use vipd_common::maps::{Confirmed, ServiceState, name_hash};

use super::Actual;
use crate::config::{Config, Mode, PortRange, ServiceRole, Source};
use crate::failover::{Adopted, Desired, Target};
use crate::model::{Epoch, MasterId, mapped_ip, unmapped_ip};

/// The configured VIPs and services, with names resolved to indexes.
#[derive(Clone, PartialEq, Debug)]
pub struct Topology {
    /// In the order of the configuration. No two have the same address.
    pub vips: Vec<Vip>,
    /// For NAT from an address of this host.
    pub source_ports: PortRange,
    /// Addresses of both families that are one node.
    pub same_host: Vec<[IpAddr; 2]>,
    /// [`name_hash`] of each master name, by `MasterId`.
    pub masters: Vec<u64>,
}

/// One VIP.
#[derive(Clone, PartialEq, Debug)]
pub struct Vip {
    /// The virtual address.
    pub addr: IpAddr,
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
    /// At which of its nodes.
    pub role: ServiceRole,
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
                        role: service.role,
                        backend_port: service.backend_port,
                    })
                })
                .collect(),
        });
        Self {
            vips: vips.collect(),
            source_ports: config.daemon.source_ports,
            same_host: config.redis.same_host.clone(),
            masters: names.iter().map(|name| name_hash(name)).collect(),
        }
    }

    /// Every service with its VIP, in the order of the configuration.
    pub fn services(&self) -> impl Iterator<Item = (&Vip, &Service)> {
        self.vips.iter().flat_map(|vip| vip.services.iter().map(move |service| (vip, service)))
    }

    /// The address of the node with address `ip` in the family of `like`; `None` if that is not
    /// known.
    pub fn in_family_of(&self, like: IpAddr, ip: IpAddr) -> Option<IpAddr> {
        if ip.is_ipv4() == like.is_ipv4() { Some(ip) } else { self.other_address(ip) }
    }

    /// The node's address in the other family, if that is known.
    pub fn other_address(&self, ip: IpAddr) -> Option<IpAddr> {
        let pair = self.same_host.iter().find(|pair| pair.contains(&ip))?;
        pair.iter().copied().find(|other| *other != ip)
    }

    /// Whether any service is spread over replicas.
    pub fn has_readers(&self) -> bool {
        self.services().any(|(_, service)| service.role == ServiceRole::Replica)
    }

    /// The service that has this index now: who a kernel event or a `SetActive` is about.
    pub fn service_at(&self, actual: &Actual, index: u32) -> Option<(&Vip, &Service)> {
        self.services()
            .find(|(vip, service)| actual.services.get(&vip.key(service)) == Some(&index))
    }

    /// What was confirmed before a restart, by `MasterId`, for
    /// [`Failover::new`](crate::failover::Failover::new): the highest epoch among the services of
    /// each master (a daemon that dies in the middle of a commit leaves them apart). `leased` is
    /// whether the lease of mode `host` still runs.
    pub fn adopted(&self, actual: &Actual, leased: bool) -> Vec<Option<Adopted>> {
        let mut adopted: Vec<Option<Adopted>> = vec![None; self.masters.len()];
        for (vip, service) in self.services() {
            let Some(&index) = actual.services.get(&vip.key(service)) else { continue };
            let confirmed = actual.confirmed(index);
            // Confirmed for another name, before the configuration was changed.
            if self.masters.get(service.master.0) != Some(&confirmed.master) {
                continue;
            }
            let Some((target, provisional)) = confirmed_target(&confirmed) else { continue };
            let Some(entry) = adopted.get_mut(service.master.0) else { continue };
            let announced = leased || vip.mode != Mode::Host;
            // Unless a flip was cut short: then it is to be finished.
            let served = provisional.unwrap_or(target.addr).ip();
            let leads_there = actual.backend(index).is_some_and(|backend| {
                let ip = unmapped_ip(backend.addr);
                ip == served || self.other_address(ip) == Some(served)
            });
            let parked =
                leased && leads_there && actual.active(index).state() == ServiceState::Parked;
            match entry {
                None => {
                    let heard = None;
                    *entry = Some(Adopted { target, provisional, parked, announced, heard });
                }
                Some(known) => {
                    known.announced &= announced;
                    known.parked |= parked;
                    if known.target.epoch < target.epoch {
                        (known.target, known.provisional) = (target, provisional);
                    } else if known.target == target {
                        known.provisional = known.provisional.or(provisional);
                    }
                }
            }
        }
        adopted
    }
}

impl Vip {
    /// A service's key in SERVICES: the address and port that clients use.
    pub fn key(&self, service: &Service) -> SocketAddr {
        SocketAddr::new(self.addr, service.port)
    }
}

/// How CONFIRMED stores what is served for the master whose name has this hash.
pub(super) fn confirmed(master: u64, desired: &Desired) -> Option<Confirmed> {
    let target = desired.target?;
    let provisional = desired.provisional;
    Some(Confirmed {
        epoch: target.epoch.0,
        addr: mapped_ip(target.addr.ip()),
        master,
        port: u32::from(target.addr.port()),
        valid: 1,
        provisional_addr: provisional.map_or([0; 16], |node| mapped_ip(node.ip())),
        provisional_port: provisional.map_or(0, |node| u32::from(node.port())),
        ..Confirmed::default()
    })
}

/// The reverse of [`confirmed`]: the target, and what is served instead; none where nothing is
/// stored.
pub(super) fn confirmed_target(confirmed: &Confirmed) -> Option<(Target, Option<SocketAddr>)> {
    if confirmed.valid != 1 {
        return None;
    }
    let socket = |addr, port| {
        Some(SocketAddr::new(unmapped_ip(addr), u16::try_from(port).ok().filter(|it| *it > 0)?))
    };
    let addr = socket(confirmed.addr, confirmed.port)?;
    let provisional = socket(confirmed.provisional_addr, confirmed.provisional_port);
    Some((Target { addr, epoch: Epoch(confirmed.epoch) }, provisional))
}
