//! What well-formed values can't be used together. Pure: nothing here looks at the host.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use vipd_common::maps::{MAX_INTERFACES, MAX_SERVICES, MAX_VIPS};

use super::{Config, Daemon, Endpoint, Login, Mode, Service, Source, Vip};

/// Most Sentinels followed, the configured ones and those they name together.
pub const MAX_SENTINELS: usize = 32;

/// Bounds of `max_connections` and `max_half_open`: the tables are allocated beforehand, at some
/// 200 bytes an entry and two entries a connection.
const CONNECTIONS: std::ops::RangeInclusive<u32> = 64..=16_777_216;
/// IFNAMSIZ without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;
/// `sun_path` without the terminating zero.
const MAX_SOCKET_PATH: usize = 107;
/// Source ports below are reserved for privileged sockets.
const FIRST_SOURCE_PORT: u16 = 1024;

/// One thing that is wrong with the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where: a table and a key, such as `[daemon] interfaces`.
    pub place: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl Config {
    /// Everything that can be known to be wrong without looking at the host; empty when the
    /// configuration can be used.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        daemon(&self.daemon, &mut problems);
        sentinels(&self.sentinel.endpoints, &self.vips, &mut problems);
        login("[sentinel]", &self.sentinel.login, &mut problems);
        login("[redis]", &self.redis, &mut problems);
        vips(&self.vips, &mut problems);
        problems.0
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn push(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { place: place.into(), message: message.into() });
    }
}

fn daemon(daemon: &Daemon, problems: &mut Problems) {
    let place = "[daemon] interfaces";
    if daemon.interfaces.is_empty() {
        problems
            .push(place, "name the interface that clients reach the VIP on, such as [\"eth1\"]");
    }
    if daemon.interfaces.len() > MAX_INTERFACES as usize {
        problems.push(place, format!("more than {MAX_INTERFACES} interfaces"));
    }
    let mut seen = HashSet::new();
    for name in &daemon.interfaces {
        // The kernel's own rule: dev_valid_name().
        let valid = !name.is_empty()
            && name.len() <= MAX_INTERFACE_NAME
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if !valid {
            problems.push(place, format!("{name:?} can't be the name of an interface"));
        } else if !seen.insert(name) {
            problems.push(place, format!("{name:?} is there twice"));
        }
    }
    absolute("[daemon] pin_dir", &daemon.pin_dir, problems);
    let place = "[daemon] control_socket";
    absolute(place, &daemon.control_socket, problems);
    if daemon.control_socket.as_os_str().len() > MAX_SOCKET_PATH {
        problems
            .push(place, format!("longer than the {MAX_SOCKET_PATH} bytes a socket's path has"));
    }
    if daemon.source_ports.first < FIRST_SOURCE_PORT {
        problems.push(
            "[daemon] source_ports",
            format!("starts below {FIRST_SOURCE_PORT}, in the range of privileged sockets"),
        );
    }
    for (key, value) in
        [("max_connections", daemon.max_connections), ("max_half_open", daemon.max_half_open)]
    {
        if !CONNECTIONS.contains(&value) {
            problems.push(
                format!("[daemon] {key}"),
                format!("{value} is not from {} to {}", CONNECTIONS.start(), CONNECTIONS.end()),
            );
        }
    }
}

fn absolute(place: &str, path: &Path, problems: &mut Problems) {
    if !path.is_absolute() {
        problems.push(place, format!("{} is not an absolute path", path.display()));
    }
}

fn sentinels(endpoints: &[Endpoint], vips: &[Vip], problems: &mut Problems) {
    let place = "[sentinel] endpoints";
    if endpoints.is_empty() {
        problems.push(
            place,
            "name every Sentinel, such as [\"198.18.0.101:26379\", …]: a majority of them must \
             agree before a VIP is announced",
        );
    }
    if endpoints.len() > MAX_SENTINELS {
        problems.push(place, format!("more than {MAX_SENTINELS} Sentinels"));
    }
    let mut seen = HashSet::new();
    for endpoint in endpoints {
        if !seen.insert(endpoint) {
            problems.push(place, format!("{endpoint} is there twice, and would be counted twice"));
        }
        if let Some(IpAddr::V4(ip)) = endpoint.ip()
            && vips.iter().any(|vip| vip.address == ip)
        {
            problems.push(
                place,
                format!("{endpoint} is on a VIP: give the Sentinel's own address, which stays put"),
            );
        }
    }
}

fn login(table: &str, login: &Login, problems: &mut Problems) {
    let place = format!("{table} username");
    match &login.username {
        Some(username) if username.is_empty() => {
            problems.push(place, "is empty: remove it, or name the ACL user");
        }
        Some(_) if login.password_file.is_none() => problems
            .push(place, "there is no password for it: name the file it is in as `password_file`"),
        Some(_) | None => {}
    }
    let Some(tls) = &login.tls else {
        return;
    };
    let place = format!("{table} tls");
    match (&tls.cert, &tls.key) {
        (Some(_), None) => problems.push(place, "`cert` without `key`: the private key is missing"),
        (None, Some(_)) => problems.push(place, "`key` without `cert`: the certificate is missing"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

fn vips(vips: &[Vip], problems: &mut Problems) {
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
        if let Source::Address(source) = vip.source {
            if vip.mode == Mode::Dsr {
                problems.push(
                    &place,
                    "`source` has no meaning with mode \"dsr\", which leaves the client's address \
                     as it is: remove it",
                );
            }
            if let Some(why) = not_a_host(source) {
                problems.push(&place, format!("`source` {source} can't be used: {why}"));
            }
        }
        services(&place, vip, problems);
    }
}

fn services(vip_place: &str, vip: &Vip, problems: &mut Problems) {
    if vip.services.is_empty() {
        problems
            .push(vip_place, "carries no service: add `[[vip.service]]` with `port` and `master`");
    }
    let mut seen = HashSet::new();
    for Service { port, master, backend_port } in &vip.services {
        let place = format!("{vip_place}, service {port}");
        if *port == 0 {
            problems.push(&place, "port 0 can't be connected to");
        }
        if !seen.insert(port) {
            problems.push(&place, "is there twice: one port leads to one master");
        }
        // Sentinel's configuration file has it as one word.
        if master.is_empty() || master.contains(|c: char| c.is_whitespace() || c.is_control()) {
            problems.push(&place, format!("{master:?} can't be the name of a Sentinel master"));
        }
        match backend_port {
            Some(0) => problems.push(&place, "backend_port 0 can't be connected to"),
            Some(_) if vip.mode == Mode::Dsr => problems.push(
                &place,
                "mode \"dsr\" can't translate ports: remove `backend_port` and give the service \
                 the port that Redis listens on, or use mode \"nat\"",
            ),
            Some(_) | None => {}
        }
    }
}

/// Why no host can have this address; `None` if one can.
fn not_a_host(address: Ipv4Addr) -> Option<&'static str> {
    match address {
        _ if address.octets()[0] == 0 => Some("0.0.0.0/8 is no host's address"),
        _ if address.is_loopback() => Some("it is a loopback address"),
        _ if address.is_multicast() => Some("it is a multicast address"),
        _ if address.is_broadcast() => Some("it is the broadcast address"),
        _ => None,
    }
}
