//! `vipd check`: what would work, what would not, and why.
//!
//! Each part of the host and of the deployment has a module with what is *gathered* about it
//! (bounded in time, changing nothing) and a pure function that *judges* it. What the Sentinels
//! and the nodes say together is judged by the daemon's own core, in [`rehearsal`].
//!
//! ```text
//! config ──▶ Facts::gather ──▶ judge ──▶ Report
//!              kernel, pins, interfaces, vips, host, sentinels, nodes
//! ```

mod fast_fail;
mod host;
mod interfaces;
mod kernel;
mod nodes;
mod peer;
mod pins;
mod rehearsal;
mod report;
mod sentinels;
#[cfg(test)]
mod tests;
mod vips;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vipd_common::maps::{self, Address};

use self::interfaces::Interface;
use self::vips::{LocalPorts, Probe};
use crate::announce::Port;
use crate::config::Config;
use crate::netdev::{self, HostAddress};
use crate::plan::{Actual, OwnAddresses};
use crate::resolve::Resolver;
use crate::sentinel::Inspection;

pub use self::report::{Finding, Report, Severity};

/// Looks at everything `config` names. Takes some seconds where somebody does not answer, half a
/// minute at most.
pub async fn check(config: &Config) -> Report {
    judge(config, &Facts::gather(config).await)
}

/// Everything that was found.
struct Facts {
    kernel: kernel::Facts,
    pins: pins::Facts,
    interfaces: Vec<Interface>,
    /// Every address of this host.
    addresses: Vec<HostAddress>,
    /// Every interface's name, by index.
    names: BTreeMap<u32, String>,
    host: host::Facts,
    fast_fail: fast_fail::Facts,
    local_ports: LocalPorts,
    probes: Vec<Probe>,
    sentinels: Result<Vec<Inspection>, String>,
    nodes: nodes::Facts,
}

impl Facts {
    async fn gather(config: &Config) -> Self {
        let kernel = kernel::Facts::gather();
        let pins = pins::Facts::gather(config).await;
        let names = config.daemon.interfaces.iter();
        let interfaces: Vec<Interface> =
            names.map(|name| Interface::gather(name, pins.link(name))).collect();
        // What can't be read here can't be read for an interface either, which says so.
        let addresses = netdev::host_addresses().unwrap_or_default();
        let links = netdev::links().unwrap_or_default();

        let ports = ports(&interfaces);
        let to_probe: Vec<IpAddr> = config
            .vips
            .iter()
            .map(|vip| vip.address)
            .filter(|vip| !is_announced(*vip, &pins, &interfaces))
            .filter(|vip| addresses.iter().all(|own| own.address != *vip))
            .collect();
        let resolver = Resolver::default();
        let (probes, sentinels) =
            tokio::join!(vips::probe(&to_probe, &ports), sentinels::ask(config, &resolver));

        let asked = sentinels.as_deref().unwrap_or_default();
        let outlook = rehearsal::elect(config, actual(&pins), asked, &BTreeMap::new());
        let nodes = nodes::named(config.masters().len(), asked, &outlook.candidates);
        let nodes = nodes::ask(config, &resolver, &nodes.into_iter().flatten().collect()).await;
        Self {
            kernel,
            pins,
            interfaces,
            addresses,
            names: links.into_iter().map(|link| (link.ifindex, link.name)).collect(),
            host: host::Facts::gather(&config.daemon.interfaces),
            fast_fail: fast_fail::Facts::gather(),
            local_ports: LocalPorts::gather(),
            probes,
            sentinels,
            nodes,
        }
    }
}

/// Judges what was found.
fn judge(config: &Config, facts: &Facts) -> Report {
    let name = |ifindex: u32| {
        facts.names.get(&ifindex).cloned().unwrap_or_else(|| format!("interface {ifindex}"))
    };
    let asked = facts.sentinels.as_deref().unwrap_or_default();
    let outlook = rehearsal::elect(config, actual(&facts.pins), asked, &facts.nodes.roles());
    let named = nodes::named(config.masters().len(), asked, &outlook.candidates);
    let attached = ports(&facts.interfaces)
        .into_iter()
        .map(|(_, port)| (port.ifindex, maps::Interface { mac: port.mac, zero: [0; 2] }))
        .collect();
    let reachable = facts.nodes.reachable();
    let own = own_addresses(config, facts);
    let preview =
        rehearsal::preview(config, &outlook.candidates, &named, &reachable, &attached, &own);

    let mut findings = kernel::judge(&facts.kernel, facts.pins.place);
    findings.extend(pins::judge(&facts.pins));
    findings.extend(interfaces::judge(
        &facts.interfaces,
        config.daemon.xdp_mode,
        facts.pins.pinned.is_ok(),
    ));
    let configured: BTreeSet<u32> = attached.keys().copied().collect();
    for vip in &config.vips {
        findings.extend(vips::judge(&vips::Situation {
            vip,
            host: &facts.addresses,
            name: &name,
            configured: &configured,
            announced: is_announced(vip.address, &facts.pins, &facts.interfaces),
            probes: &facts.probes,
            node: &|mac| facts.nodes.at(mac).map(|node| node.to_string()),
        }));
    }
    let context = host::Context { config, named: &named, addresses: &facts.addresses };
    findings.extend(host::judge(&facts.host, &context));
    findings.extend(vips::judge_sources(
        &preview.sources,
        &facts.addresses,
        config.daemon.source_ports,
        &facts.local_ports,
    ));
    findings.extend(sentinels::judge(config, &facts.sentinels, &outlook));
    findings.extend(fast_fail::judge(config, &facts.fast_fail, asked));
    findings.extend(nodes::judge(
        &facts.nodes,
        &nodes::Context {
            config,
            named: &named,
            candidates: &outlook.candidates,
            problems: &preview.problems,
            interface: &name,
        },
    ));
    Report { findings, running: facts.pins.running() }
}

/// What the pinned maps hold.
fn actual(pins: &pins::Facts) -> Option<&Actual> {
    pins.inspection()?.actual.as_ref()
}

/// This configuration's vipd, or what it left behind, answers for `vip` on each interface.
fn is_announced(vip: IpAddr, pins: &pins::Facts, interfaces: &[Interface]) -> bool {
    let answered = actual(pins)
        .and_then(|actual| actual.addresses.get(&vip))
        .is_some_and(|address| address.has(Address::ANNOUNCE));
    answered && interfaces.iter().all(|interface| interface.own_program().is_some())
}

/// This host's addresses, as the plan wants to know them.
fn own_addresses(config: &Config, facts: &Facts) -> OwnAddresses {
    let index = |name: &str| facts.names.iter().find(|(_, known)| *known == name).map(|(i, _)| *i);
    OwnAddresses {
        addresses: facts.addresses.clone(),
        interfaces: config.daemon.interfaces.iter().filter_map(|name| index(name)).collect(),
    }
}

/// The configured interfaces that exist.
fn ports(interfaces: &[Interface]) -> Vec<(String, Port)> {
    interfaces
        .iter()
        .filter_map(|interface| {
            let link = &interface.facts.as_ref().ok()?.link;
            Some((interface.name.clone(), Port { ifindex: link.ifindex, mac: link.mac? }))
        })
        .collect()
}

/// An error with its sources, in one line.
fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
