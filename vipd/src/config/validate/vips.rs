//! `[[vip]]` and `[[vip.service]]`.

use std::collections::HashSet;
use std::net::IpAddr;

use vipd_common::maps::{MAX_SERVICES, MAX_VIPS};

use super::Problems;
use crate::config::{Mode, Service, ServiceRole, Source, Vip};

/// Finds what is wrong with the VIPs.
pub(super) fn judge(vips: &[Vip], problems: &mut Problems) {
    if vips.is_empty() {
        problems.push("[[vip]]", "there is none: add `[[vip]]` with an `address`");
    }
    if vips.len() > MAX_VIPS as usize {
        problems.push("[[vip]]", format!("more than {MAX_VIPS} of them"));
    }
    if vips.iter().map(|vip| vip.services.len()).sum::<usize>() > MAX_SERVICES as usize {
        problems.push("[[vip.service]]", format!("more than {MAX_SERVICES} of them"));
    }
    let mut seen = HashSet::new();
    for vip in vips {
        let place = format!("[[vip]] {}", vip.address);
        if let Some(why) = not_a_host(vip.address) {
            problems.push(&place, format!("can't be a VIP: {why}"));
        }
        if !seen.insert(vip.address) {
            problems.push(&place, "is there twice: put its services under one `[[vip]]`");
        }
        source(&place, vip, problems);
        services(&place, vip, problems);
    }
}

fn source(place: &str, vip: &Vip, problems: &mut Problems) {
    let Source::Address(source) = vip.source else { return };
    if vip.mode != Mode::Nat {
        problems.push(
            place,
            format!(
                "`source` has no meaning with mode {:?}, which leaves the client's address as it \
                 is: remove it",
                vip.mode.name()
            ),
        );
    }
    if let Some(why) = not_a_host(source) {
        problems.push(place, format!("`source` {source} can't be used: {why}"));
    } else if source.is_ipv4() != vip.address.is_ipv4() {
        problems.push(place, format!("`source` {source} is of the other address family"));
    }
}

fn services(vip_place: &str, vip: &Vip, problems: &mut Problems) {
    if vip.mode == Mode::Real {
        if !vip.services.is_empty() {
            problems.push(
                vip_place,
                "mode \"real\" takes whatever the director sends: remove its `[[vip.service]]`",
            );
        }
        return;
    }
    if vip.services.is_empty() {
        problems
            .push(vip_place, "carries no service: add `[[vip.service]]` with `port` and `master`");
    }
    let mut seen = HashSet::new();
    for service in &vip.services {
        let place = format!("{vip_place}, service {}", service.port);
        if service.port == 0 {
            problems.push(&place, "port 0 can't be connected to");
        }
        if !seen.insert(service.port) {
            problems.push(&place, "is there twice: one port leads to one master");
        }
        service_itself(&place, vip.mode, service, problems);
    }
    let first = vip.services.first().map(|service| &service.master);
    if vip.mode == Mode::Host && vip.services.iter().any(|it| Some(&it.master) != first) {
        problems.push(
            vip_place,
            "its services follow different masters, but in mode \"host\" the whole address is on \
             one host: give each master a VIP of its own, or use mode \"nat\" or \"dsr\"",
        );
    }
}

fn service_itself(place: &str, mode: Mode, service: &Service, problems: &mut Problems) {
    let Service { master, role, backend_port, .. } = service;
    // Sentinel's configuration file has it as one word.
    if master.is_empty() || master.contains(|c: char| c.is_whitespace() || c.is_control()) {
        problems.push(place, format!("{master:?} can't be the name of a Sentinel master"));
    }
    match backend_port {
        Some(0) => problems.push(place, "backend_port 0 can't be connected to"),
        Some(_) if !mode.translates_ports() => problems.push(
            place,
            format!(
                "mode {:?} can't translate ports: remove `backend_port` and give the service the \
                 port that Redis listens on, or use mode \"nat\"",
                mode.name()
            ),
        ),
        Some(_) | None => {}
    }
    if *role == ServiceRole::Replica && mode != Mode::Nat {
        problems.push(
            place,
            format!(
                "role \"replica\" needs mode \"nat\", which remembers where each connection went; \
                 mode {:?} doesn't",
                mode.name()
            ),
        );
    }
}

/// Why no host can have this address; `None` if one can.
fn not_a_host(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("0.0.0.0/8 is no host's address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("it is the broadcast address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(":: is no host's address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("it is an IPv4 address in IPv6's clothes: write it as IPv4")
        }
        // fe80::/10: the same address is on every link.
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80 => {
            Some("it is a link-local address, which means another host on every link")
        }
        _ if address.is_loopback() => Some("it is a loopback address"),
        _ if address.is_multicast() => Some("it is a multicast address"),
        _ => None,
    }
}
