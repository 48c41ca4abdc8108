//! What this host itself must have for the VIPs: IPv6 where one is an IPv6 address, and in the modes
//! that hold the VIP here a Redis that would serve it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::report::Finding;
use crate::config::{Config, Mode, Vip};
use crate::netdev::HostAddress;

/// The loopback interface, which holds the VIPs of mode `real`.
const LOOPBACK: &str = "lo";
/// State of a listening socket in /proc/net/tcp (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Facts {
    /// Interfaces without IPv6.
    pub(super) without_ipv6: BTreeSet<String>,
    /// Where this host listens for TCP, in this network namespace. `None` where that can't be read.
    pub(super) listeners: Option<BTreeSet<SocketAddr>>,
}

impl Facts {
    pub(super) fn gather(interfaces: &[String]) -> Self {
        let names = interfaces.iter().map(String::as_str).chain([LOOPBACK]);
        Self {
            without_ipv6: names.filter(|name| !has_ipv6(name)).map(str::to_owned).collect(),
            listeners: listeners(),
        }
    }
}

/// What the judgement takes besides.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    /// By `MasterId`: the nodes that a Sentinel names.
    pub(super) named: &'a [Vec<SocketAddr>],
    /// Every address of this host.
    pub(super) addresses: &'a [HostAddress],
}

/// Judges this host.
pub(super) fn judge(facts: &Facts, context: &Context<'_>) -> Vec<Finding> {
    let vips = &context.config.vips;
    let mut findings: Vec<Finding> =
        vips.iter().filter_map(|vip| ipv6(facts, context.config, vip)).collect();
    for vip in vips.iter().filter(|vip| vip.mode == Mode::Host) {
        findings.extend(local_node(context, vip));
    }
    for vip in vips.iter().filter(|vip| vip.mode == Mode::Host) {
        findings.extend(vip.services.iter().filter_map(|it| listens(facts, vip, it.port)));
    }
    findings
}

/// An IPv6 VIP where IPv6 is switched off: in the holding modes it can't be held, in the others
/// nobody's solicitations arrive and no node is resolved.
fn ipv6(facts: &Facts, config: &Config, vip: &Vip) -> Option<Finding> {
    if vip.address.is_ipv4() {
        return None;
    }
    let loopback = [LOOPBACK.to_owned()];
    let needed = match vip.mode {
        Mode::Real => &loopback[..],
        Mode::Nat | Mode::Dsr | Mode::Host => &config.daemon.interfaces,
    };
    let without: Vec<&str> =
        needed.iter().filter(|it| facts.without_ipv6.contains(*it)).map(String::as_str).collect();
    if without.is_empty() {
        return None;
    }
    let text = format!("needs IPv6, which is disabled on {}", without.join(", "));
    let sysctls: Vec<_> = without
        .iter()
        .map(|name| format!("`sysctl net.ipv6.conf.{}.disable_ipv6=0`", name.replace('.', "/")))
        .collect();
    Some(Finding::fail(format!("VIP {}", vip.address), text).advise(sysctls.join(", ")))
}

/// In mode `host` this must be one of the Redis hosts, or the VIP will never come here.
fn local_node(context: &Context<'_>, vip: &Vip) -> Option<Finding> {
    // All its services follow the same master.
    let name = vip.services.first()?.master.as_str();
    let master = context.config.masters().into_iter().position(|it| it == name)?;
    let nodes = context.named.get(master).filter(|nodes| !nodes.is_empty())?;
    let subject = format!("VIP {}", vip.address);
    let own = |node: &&SocketAddr| context.addresses.iter().any(|it| it.address == node.ip());
    if let Some(node) = nodes.iter().find(own) {
        return Some(Finding::ok(
            subject,
            format!("would be held here while {node} is the master"),
        ));
    }
    let list: Vec<_> = nodes.iter().map(SocketAddr::to_string).collect();
    let text = format!(
        "mode \"host\", but none of the nodes of {name} runs on this host: {}",
        list.join(", ")
    );
    Some(Finding::fail(subject, text).advise(
        "run vipd on the Redis hosts; for a host in front of them there are \"nat\" and \"dsr\"",
    ))
}

/// Redis must listen on the VIP, or on every address, before the VIP comes.
fn listens(facts: &Facts, vip: &Vip, port: u16) -> Option<Finding> {
    let subject = format!("VIP {}", vip.address);
    let listeners: Vec<IpAddr> =
        facts.listeners.as_ref()?.iter().filter(|it| it.port() == port).map(|it| it.ip()).collect();
    let serves = |address: &IpAddr| {
        // A socket on :: may take IPv4 as well; Redis binds one for each family.
        *address == vip.address || address.is_unspecified()
    };
    let every = |address: &&IpAddr| {
        serves(address) && (address.is_ipv4() == vip.address.is_ipv4() || address.is_ipv6())
    };
    if listeners.is_empty() {
        return Some(
            Finding::warn(subject, format!("nothing listens on port {port} of this host"))
                .advise("is Redis down, or in a network namespace of its own?"),
        );
    }
    if let Some(address) = listeners.iter().find(every) {
        let on = SocketAddr::new(*address, port);
        return Some(Finding::ok(subject, format!("served by what listens on {on}")));
    }
    let list: Vec<_> = listeners.iter().map(IpAddr::to_string).collect();
    let text = format!(
        "whatever listens on port {port} does so on {} only: connections to the VIP would be \
         refused",
        list.join(", ")
    );
    let advice = "write `bind * -::*` in redis.conf, or name the VIP in `bind` beside its own \
                  address (with net.ipv4.ip_nonlocal_bind = 1)";
    Some(Finding::fail(subject, text).advise(advice))
}

/// The interface has IPv6 and it is not switched off. One that is gone is told elsewhere.
fn has_ipv6(interface: &str) -> bool {
    let all = std::path::Path::new("/proc/sys/net/ipv6/conf");
    match fs::read_to_string(all.join(interface).join("disable_ipv6")) {
        Ok(value) => value.trim() == "0",
        Err(_) => all.exists(),
    }
}

/// The listening TCP sockets of the calling thread's network namespace; neither table is read in
/// memory as a whole, a busy host has a line for each connection.
fn listeners() -> Option<BTreeSet<SocketAddr>> {
    let table = |name: &str| {
        let file = fs::File::open(format!("/proc/thread-self/net/{name}")).ok()?;
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        Some(lines.filter_map(|line| parse_listener(&line)).collect::<Vec<_>>())
    };
    let v4 = table("tcp")?;
    // Without IPv6 in the kernel there is no such file.
    Some(v4.into_iter().chain(table("tcp6").unwrap_or_default()).collect())
}

/// `0: 0100007F:1F40 00000000:0000 0A …` (Documentation/networking/proc_net_tcp.rst): the address
/// as 32-bit words of this machine, the port as a number.
fn parse_listener(line: &str) -> Option<SocketAddr> {
    let mut columns = line.split_whitespace().skip(1);
    let (address, port) = columns.next()?.split_once(':')?;
    if columns.nth(1)? != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, bytes) in octets.chunks_exact_mut(4).enumerate() {
                bytes.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::report::Severity::{self, Fail, Ok as Good, Warn};
    use super::*;

    fn config(vip: &str, mode: &str) -> Config {
        let service = match mode {
            "real" => "",
            _ => "[[vip.service]]\nport = 8000\nmaster = \"mymaster\"",
        };
        let text = format!(
            r#"
            [daemon]
            interfaces = ["eth0", "eth1.7"]
            [sentinel]
            endpoints = ["198.18.0.101:26379"]
            [[vip]]
            address = "{vip}"
            mode = "{mode}"
            {service}
            "#
        );
        Config::parse(&text, Path::new("vipd.toml")).expect("a configuration")
    }

    fn node() -> SocketAddr {
        "198.18.0.101:8000".parse().expect("a node")
    }

    fn own(address: &str) -> HostAddress {
        HostAddress { address: address.parse().expect("an address"), prefix: 24, ifindex: 2 }
    }

    fn found(vip: &str, mode: &str, addresses: &[HostAddress], facts: &Facts) -> Vec<Finding> {
        let config = config(vip, mode);
        judge(facts, &Context { config: &config, named: &[vec![node()]], addresses })
    }

    fn worst(findings: &[Finding]) -> Option<Severity> {
        findings.iter().map(|it| it.severity).max()
    }

    fn listening(on: &[&str]) -> Facts {
        let listeners = on.iter().map(|it| it.parse().expect("a socket address")).collect();
        Facts { listeners: Some(listeners), ..Facts::default() }
    }

    #[test]
    fn in_mode_host_this_is_one_of_the_redis_hosts() {
        let facts = Facts::default();
        let here = found("198.18.0.250", "host", &[own("198.18.0.101")], &facts);
        assert_eq!(worst(&here), Some(Good), "{here:?}");
        let elsewhere = found("198.18.0.250", "host", &[own("198.18.0.50")], &facts);
        assert_eq!(worst(&elsewhere), Some(Fail));
        assert!(elsewhere[0].text.contains("none of the nodes of mymaster"), "{elsewhere:?}");
        for mode in ["nat", "dsr", "real"] {
            assert_eq!(found("198.18.0.250", mode, &[own("198.18.0.50")], &facts), []);
        }
    }

    #[test]
    fn redis_listens_on_the_vip_or_on_every_address() {
        for (vip, listeners, severity, text) in [
            ("198.18.0.250", &["0.0.0.0:8000"][..], Good, "listens on 0.0.0.0:8000"),
            ("198.18.0.250", &["127.0.0.1:8000", "198.18.0.250:8000"], Good, "198.18.0.250:8000"),
            ("198.18.0.250", &["[::]:8000"], Good, "listens on [::]:8000"),
            ("fd98:18::250", &["[::]:8000"], Good, "listens on [::]:8000"),
            ("fd98:18::250", &["0.0.0.0:8000"], Fail, "on 0.0.0.0 only"),
            ("198.18.0.250", &["198.18.0.101:8000", "127.0.0.1:8000"], Fail, "198.18.0.101 only"),
            ("198.18.0.250", &["0.0.0.0:6379"], Warn, "nothing listens on port 8000"),
        ] {
            let facts = listening(listeners);
            let found = found(vip, "host", &[own("198.18.0.101")], &facts);
            assert_eq!(worst(&found), Some(severity), "{listeners:?}: {found:?}");
            assert!(found.iter().any(|it| it.text.contains(text)), "{text}: {found:?}");
        }
    }

    #[test]
    fn an_ipv6_vip_needs_ipv6_where_it_will_be() {
        let without = |names: &[&str]| Facts {
            without_ipv6: names.iter().map(|it| (*it).to_owned()).collect(),
            ..Facts::default()
        };
        for (mode, vip, names, fails) in [
            ("nat", "fd98:18::250", &["eth0"][..], true),
            ("dsr", "fd98:18::250", &["eth1.7"], true),
            ("host", "fd98:18::250", &["eth0", "eth1.7"], true),
            ("host", "fd98:18::250", &["lo"], false),
            ("real", "fd98:18::250", &["lo"], true),
            ("real", "fd98:18::250", &["eth0"], false),
            ("nat", "198.18.0.250", &["eth0", "eth1.7", "lo"], false),
        ] {
            let found = found(vip, mode, &[own("198.18.0.101")], &without(names));
            assert_eq!(worst(&found) == Some(Fail), fails, "{mode} {vip} {names:?}: {found:?}");
        }
        let found = found("fd98:18::250", "dsr", &[], &without(&["eth1.7"]));
        let advice = found[0].advice.as_deref();
        assert_eq!(advice, Some("`sysctl net.ipv6.conf.eth1/7.disable_ipv6=0`"));
    }

    #[test]
    fn a_listening_socket_is_read_from_its_line() {
        let words = |bytes: &[u8]| -> String {
            let words = bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().expect("4")));
            words.map(|word| format!("{word:08X}")).collect()
        };
        let line = |address: &str, state: &str| {
            format!("   0: {address}:1F40 00000000:0000 {state} 00000000:00000000 00:00000000")
        };
        let v4 = words(&[198, 18, 0, 250]);
        assert_eq!(parse_listener(&line(&v4, "0A")), "198.18.0.250:8000".parse().ok());
        assert_eq!(parse_listener(&line(&v4, "01")), None, "established");
        let v6: Ipv6Addr = "fd98:18::250".parse().expect("an address");
        let parsed = parse_listener(&line(&words(&v6.octets()), "0A"));
        assert_eq!(parsed, "[fd98:18::250]:8000".parse().ok());
        for bad in ["", "  sl  local_address rem_address   st tx_queue", "0: 01:1F40 0:0 0A"] {
            assert_eq!(parse_listener(bad), None, "{bad:?}");
        }
    }
}
