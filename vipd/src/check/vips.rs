//! The VIPs: whose they are now, and the source ports of NAT.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, timeout_at};
use vipd_common::addr::MacAddr;

use super::report::Finding;
use crate::announce::{self, Occupancy, Port};
use crate::config::{Mode, PortRange, Vip};
use crate::host_address::LOOPBACK;
use crate::netdev::{self, HostAddress, is_link_local};

/// Probes on their way at once.
const PROBES_AT_ONCE: usize = 256;
/// What was not asked by then is not known.
const PROBING: Duration = Duration::from_secs(10);

/// One question to the link.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Probe {
    pub(super) vip: IpAddr,
    pub(super) interface: String,
    /// Or why the link could not be asked.
    pub(super) outcome: Result<Occupancy, String>,
}

/// What is known about one VIP.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) vip: &'a Vip,
    /// Every address of this host.
    pub(super) host: &'a [HostAddress],
    /// Interface names by index.
    pub(super) name: &'a dyn Fn(u32) -> String,
    /// Indexes of the configured interfaces.
    pub(super) configured: &'a BTreeSet<u32>,
    /// This configuration's vipd answers for it already.
    pub(super) announced: bool,
    /// About any VIP.
    pub(super) probes: &'a [Probe],
    /// The node with this link-layer address, if it is known.
    pub(super) node: &'a dyn Fn(MacAddr) -> Option<String>,
}

/// Asks the link for each VIP on each port.
pub(super) async fn probe(vips: &[IpAddr], ports: &[(String, Port)]) -> Vec<Probe> {
    let deadline = Instant::now() + PROBING;
    let questions: Vec<_> =
        vips.iter().flat_map(|vip| ports.iter().map(move |port| (*vip, port))).collect();
    let ask = |(vip, (interface, port)): (IpAddr, &(String, Port))| {
        let (interface, port) = (interface.clone(), *port);
        async move {
            let outcome = match timeout_at(deadline, announce::probe(port, vip)).await {
                Ok(Ok(occupancy)) => Ok(occupancy),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_late) => Err(format!("not asked within {} s", PROBING.as_secs())),
            };
            Probe { vip, interface, outcome }
        }
    };
    stream::iter(questions).map(ask).buffered(PROBES_AT_ONCE).collect().await
}

/// Judges one VIP.
pub(super) fn judge(situation: &Situation<'_>) -> Vec<Finding> {
    let address = situation.vip.address;
    let subject = format!("VIP {address}");
    if let Some(own) = situation.host.iter().find(|own| own.address == address) {
        let mut findings = vec![own_address(&subject, situation, own)];
        if situation.vip.mode == Mode::Host {
            findings.extend(not_on_link(&subject, situation));
        }
        return findings;
    }
    let mut findings: Vec<Finding> = occupancy(&subject, situation);
    findings.extend(not_on_link(&subject, situation));
    findings
}

/// It is on this host already: as it should be, or not.
fn own_address(subject: &str, situation: &Situation<'_>, own: &HostAddress) -> Finding {
    let name = (situation.name)(own.ifindex);
    let HostAddress { address, prefix, .. } = own;
    let remove = format!("`ip address del {address}/{prefix} dev {name}`");
    match situation.vip.mode {
        Mode::Nat | Mode::Dsr => {
            Finding::fail(subject, format!("is an address of this host, on {name}"))
                .advise(format!("{remove}, or another VIP"))
        }
        // The kernel's own neighbour solicitations come from it, and name this host as its place.
        Mode::Host | Mode::Real if address.is_ipv6() && own.ifindex != LOOPBACK => Finding::warn(
            subject,
            format!("is on {name}, where the kernel speaks from it, and not on lo"),
        )
        .advise("`vipd run` moves it to lo"),
        Mode::Host | Mode::Real => Finding::ok(subject, format!("is held by this host, on {name}")),
    }
}

fn occupancy(subject: &str, situation: &Situation<'_>) -> Vec<Finding> {
    if situation.announced {
        return vec![Finding::ok(subject, "is announced by this vipd already")];
    }
    let vip = situation.vip.address;
    let probes: Vec<&Probe> = situation.probes.iter().filter(|probe| probe.vip == vip).collect();
    let mut findings: Vec<Finding> = probes
        .iter()
        .filter_map(|probe| match &probe.outcome {
            Ok(Occupancy::Free) => None,
            Ok(Occupancy::InUse { mac }) => in_use(subject, situation, probe, *mac),
            Err(why) => Some(Finding::fail(
                subject,
                format!("cannot ask the link on {} who has it: {why}", probe.interface),
            )),
        })
        .collect();
    if findings.is_empty() && !probes.is_empty() {
        let on: Vec<_> = probes.iter().map(|probe| probe.interface.as_str()).collect();
        findings.push(unanswered(subject, situation.vip, &on.join(", ")));
    }
    findings
}

/// Nobody answers for it.
fn unanswered(subject: &str, vip: &Vip, on: &str) -> Finding {
    let question = if vip.address.is_ipv4() { "ARP" } else { "neighbour discovery" };
    match vip.mode {
        Mode::Nat | Mode::Dsr | Mode::Host => {
            Finding::ok(subject, format!("free on {on}: nobody answers {question}"))
        }
        Mode::Real => {
            Finding::warn(subject, format!("no director: nobody answers {question} for it on {on}"))
                .advise("start vipd with mode \"dsr\" on the director, or is it behind a router?")
        }
    }
}

/// `None` where that is as it should be, and somebody else's finding.
fn in_use(
    subject: &str,
    situation: &Situation<'_>,
    probe: &Probe,
    mac: MacAddr,
) -> Option<Finding> {
    let node = (situation.node)(mac);
    let whose = node.as_ref().map(|node| format!(", the Redis host {node}")).unwrap_or_default();
    let text = format!("is in use on {} by {mac}{whose}", probe.interface);
    Some(match (situation.vip.mode, node) {
        (Mode::Host, Some(_)) => {
            Finding::ok(subject, format!("is on {} at {mac}{whose}", probe.interface))
        }
        (Mode::Real, None) => Finding::ok(
            subject,
            format!("is answered for on {} by {mac}, the director", probe.interface),
        ),
        (Mode::Dsr | Mode::Real, Some(_)) => Finding::fail(subject, text).advise(
            "that host may hold the VIP, but must not answer for it: run vipd with mode \"real\" \
             there; or, in IPv4, arp_ignore = 1 and arp_announce = 2, and the VIP as a /32 on lo",
        ),
        (Mode::Nat, _) | (Mode::Dsr | Mode::Host, None) => Finding::fail(subject, text).advise(
            "take it off that host, or choose another VIP; `vipd run` waits until it is free",
        ),
    })
}

/// A client on the link asks the link for it only if it lies in the link's network.
fn not_on_link(subject: &str, situation: &Situation<'_>) -> Option<Finding> {
    let vip = situation.vip.address;
    // In mode `real` that is the director's business.
    if situation.vip.mode == Mode::Real {
        return None;
    }
    let on: Vec<&HostAddress> = situation
        .host
        .iter()
        .filter(|host| situation.configured.contains(&host.ifindex))
        .filter(|host| host.address.is_ipv4() == vip.is_ipv4() && !is_link_local(host.address))
        .filter(|host| host.address != vip)
        .collect();
    if on.iter().any(|host| netdev::contains(host.address, host.prefix, vip)) {
        return None;
    }
    let networks: Vec<_> = on.iter().map(|it| format!("{}/{}", it.address, it.prefix)).collect();
    let networks = if networks.is_empty() { "none".to_owned() } else { networks.join(", ") };
    Some(Finding::warn(subject, format!("is in no network of the interfaces ({networks})")).advise(
        "choose an address of the clients' network, unless a router there has a route to it",
    ))
}

/// The kernel's choice of ports for this host's own connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LocalPorts {
    /// `net.ipv4.ip_local_port_range`.
    range: Option<PortRange>,
    /// `net.ipv4.ip_local_reserved_ports`, which it leaves out.
    reserved: Vec<PortRange>,
}

impl LocalPorts {
    pub(super) fn gather() -> Self {
        let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        Self {
            range: read("ip_local_port_range").ok().as_deref().and_then(parse_range),
            reserved: read("ip_local_reserved_ports").map_or_else(
                |_| Vec::new(),
                |text| text.trim().split(',').filter_map(parse_reserved).collect(),
            ),
        }
    }

    /// A port that both this host's sockets and NAT may choose.
    fn shared(&self, nat: PortRange) -> Option<u16> {
        let own = self.range?;
        let reserved =
            |port| self.reserved.iter().any(|range| (range.first..=range.last).contains(&port));
        (own.first.max(nat.first)..=own.last.min(nat.last)).find(|port| !reserved(*port))
    }
}

/// Judges NAT's source addresses other than the VIPs themselves, and the ports used with them.
pub(super) fn judge_sources(
    sources: &BTreeSet<IpAddr>,
    host: &[HostAddress],
    nat: PortRange,
    local: &LocalPorts,
) -> Vec<Finding> {
    let subject = "NAT source";
    let foreign = sources.iter().filter(|source| host.iter().all(|own| own.address != **source));
    let mut findings: Vec<Finding> = foreign
        .map(|source| {
            Finding::warn(subject, format!("{source} is no address of this host"))
                .advise("nobody answers ARP for it: remove `source`, or route it here")
        })
        .collect();
    let PortRange { first, last } = nat;
    let list: Vec<_> = sources.iter().map(IpAddr::to_string).collect();
    match (list.is_empty(), local.shared(nat)) {
        // From the VIP itself, which no socket of this host has.
        (true, _) => {}
        (false, None) => findings.push(Finding::ok(
            subject,
            format!("{}, ports {first}-{last}, which no socket here uses", list.join(", ")),
        )),
        (false, Some(port)) => findings.push(
            Finding::fail(
                subject,
                format!(
                    "{} is this host's own, and source_ports {first}-{last} overlap \
                     net.ipv4.ip_local_port_range (both have {port}): connections of this host \
                     and of clients would be mixed up",
                    list.join(", ")
                ),
            )
            .advise(
                "set source_ports to others, or lower the end of ip_local_port_range, or add them \
                 to net.ipv4.ip_local_reserved_ports",
            ),
        ),
    }
    findings
}

/// Two numbers, with a tab between them.
fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(PortRange { first: first.parse().ok()?, last: last.trim().parse().ok()? })
}

/// `8080` or `9000-9100`
fn parse_reserved(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(PortRange { first: first.parse().ok()?, last: last.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::super::report::Severity::{self, Fail, Ok as Good, Warn};
    use super::*;
    use crate::config::Source;
    use std::net::Ipv4Addr;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 250));
    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 50));
    const RIVAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);

    fn vip(mode: Mode) -> Vip {
        Vip { address: VIP, mode, source: Source::Auto, services: Vec::new() }
    }

    fn own(address: IpAddr, prefix: u8) -> HostAddress {
        HostAddress { address, prefix, ifindex: 2 }
    }

    fn asked(outcome: Result<Occupancy, String>) -> Probe {
        Probe { vip: VIP, interface: "eth0".to_owned(), outcome }
    }

    fn worst(findings: &[Finding]) -> Option<Severity> {
        findings.iter().map(|it| it.severity).max()
    }

    #[test]
    fn each_situation_of_a_vip_has_its_line() {
        let lan = own(HOST, 24);
        let elsewhere = own([10, 0, 0, 1].into(), 24);
        let free = || asked(Ok(Occupancy::Free));
        let taken = || asked(Ok(Occupancy::InUse { mac: RIVAL }));
        for (mode, host, announced, probe, severity, text) in [
            (Mode::Nat, lan, false, free(), Good, "free on eth0"),
            (Mode::Nat, lan, true, taken(), Good, "announced by this vipd"),
            (Mode::Nat, lan, false, taken(), Fail, "in use on eth0 by 02:00:00:00:00:42"),
            (Mode::Dsr, lan, false, taken(), Fail, "the Redis host 198.18.0.101"),
            (Mode::Nat, lan, false, asked(Err("denied".to_owned())), Fail, "denied"),
            (Mode::Nat, own(VIP, 32), false, free(), Fail, "an address of this host, on eth0"),
            (Mode::Nat, elsewhere, false, free(), Warn, "in no network of the interfaces"),
        ] {
            let found = judge(&Situation {
                vip: &vip(mode),
                host: &[host],
                name: &|_| "eth0".to_owned(),
                configured: &BTreeSet::from([2]),
                announced,
                probes: &[probe],
                node: &|_| (mode == Mode::Dsr).then(|| "198.18.0.101".to_owned()),
            });
            assert_eq!(worst(&found), Some(severity), "{text}: {found:?}");
            assert!(found.iter().any(|it| it.text.contains(text)), "{text}: {found:?}");
        }
    }

    #[test]
    fn each_situation_of_a_vip_that_hosts_hold_has_its_line() {
        let vip6: IpAddr = "fd98:18::250".parse().expect("an address");
        let on = |address, ifindex| HostAddress { address, prefix: 64, ifindex };
        let lan = [own(HOST, 24), on("fd98:18::50".parse().expect("an address"), 2)];
        let with = |address, ifindex| [lan[0], lan[1], on(address, ifindex)].to_vec();
        let free = Ok(Occupancy::Free);
        let taken = Ok(Occupancy::InUse { mac: RIVAL });
        for (mode, address, host, answer, by_node, severity, text) in [
            (Mode::Host, vip6, lan.to_vec(), &free, false, Good, "nobody answers neighbour"),
            (Mode::Host, VIP, lan.to_vec(), &taken, true, Good, "is on eth0 at 02:00"),
            (Mode::Host, VIP, lan.to_vec(), &taken, false, Fail, "is in use on eth0 by"),
            (Mode::Host, vip6, with(vip6, 1), &free, false, Good, "is held by this host, on lo"),
            (Mode::Host, vip6, with(vip6, 2), &free, false, Warn, "the kernel speaks from it"),
            (Mode::Host, VIP, with(VIP, 2), &free, false, Good, "is held by this host, on eth0"),
            (Mode::Host, VIP, vec![own(VIP, 32)], &free, false, Warn, "in no network"),
            (Mode::Host, vip6, vec![lan[0]], &free, false, Warn, "in no network of the"),
            (Mode::Real, VIP, lan.to_vec(), &taken, false, Good, "by 02:00:00:00:00:42, the dir"),
            (Mode::Real, VIP, lan.to_vec(), &taken, true, Fail, "the Redis host 198.18.0.101"),
            (Mode::Real, vip6, vec![], &free, false, Warn, "no director"),
            (Mode::Real, vip6, with(vip6, 1), &free, false, Good, "is held by this host, on lo"),
            (Mode::Real, vip6, with(vip6, 2), &free, false, Warn, "the kernel speaks from it"),
            (Mode::Real, VIP, with(VIP, 2), &free, false, Good, "is held by this host, on eth0"),
            (Mode::Nat, vip6, with(vip6, 2), &free, false, Fail, "is an address of this host"),
        ] {
            let found = judge(&Situation {
                vip: &Vip { address, ..vip(mode) },
                host: &host,
                name: &|ifindex| if ifindex == 1 { "lo" } else { "eth0" }.to_owned(),
                configured: &BTreeSet::from([2]),
                announced: false,
                probes: &[Probe { vip: address, ..asked(answer.clone()) }],
                node: &|_| by_node.then(|| "198.18.0.101".to_owned()),
            });
            assert_eq!(worst(&found), Some(severity), "{mode:?}, {text}: {found:?}");
            assert!(found.iter().any(|it| it.text.contains(text)), "{text}: {found:?}");
        }
    }

    #[test]
    fn source_ports_matter_only_with_an_address_of_this_host() {
        let local = LocalPorts { range: parse_range("32768\t60999\n"), reserved: Vec::new() };
        let reserved = LocalPorts {
            reserved: ["50000-60999"].into_iter().filter_map(parse_reserved).collect(),
            ..local.clone()
        };
        let range = |first| PortRange { first, last: 65_535 };
        for (sources, nat, local, severity) in [
            (vec![], range(50_000), &local, None),
            (vec![HOST], range(61_000), &local, Some(Good)),
            (vec![HOST], range(60_999), &local, Some(Fail)),
            (vec![HOST], range(50_000), &reserved, Some(Good)),
            (vec![HOST], range(49_999), &reserved, Some(Fail)),
            (vec![[10, 0, 0, 9].into()], range(61_000), &local, Some(Warn)),
        ] {
            let found = judge_sources(&BTreeSet::from_iter(sources), &[own(HOST, 24)], nat, local);
            assert_eq!(worst(&found), severity, "{nat:?}: {found:?}");
        }
    }
}
