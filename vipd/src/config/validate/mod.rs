//! What well-formed values can't be used together. Pure: nothing here looks at the host.

mod vips;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use vipd_common::maps::MAX_INTERFACES;

use super::{Acceleration, Announce, Config, Daemon, Endpoint, Login, Mode, Vip};

/// Most Sentinels followed, the configured ones and those they name together.
pub const MAX_SENTINELS: usize = 32;

/// Bounds of `max_connections` and `max_half_open`: the tables are allocated beforehand, at some
/// 200 bytes an entry and two entries a connection.
const CONNECTIONS: RangeInclusive<u32> = 64..=16_777_216;
/// Bounds of `lease_ms`: below, a busy machine would lose its VIPs for no reason; above, two hosts
/// could answer for long.
const LEASE_MS: RangeInclusive<u32> = 500..=60_000;
/// Bounds of `[announce]`.
const ANNOUNCE_COUNT: RangeInclusive<u32> = 1..=100;
const ANNOUNCE_INTERVAL_MS: RangeInclusive<u32> = 10..=60_000;
const ANNOUNCE_REFRESH_S: RangeInclusive<u32> = 0..=86_400;
/// Bounds of `[failover]`.
const PARK_MS: RangeInclusive<u32> = 100..=60_000;
const REPLAY_SYNS_S: RangeInclusive<u32> = 0..=120;
const FAST_FAIL_GRACE_MS: RangeInclusive<u32> = 10..=5_000;
const FAST_FAIL_INTERVAL_S: RangeInclusive<u32> = 10..=86_400;
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
        announce(&self.announce, &mut problems);
        acceleration(&self.failover, &mut problems);
        login("[redis]", &self.redis.login, &mut problems);
        same_host(&self.redis.same_host, &mut problems);
        vips::judge(&self.vips, &mut problems);
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
    socket("[daemon] control_socket", &daemon.control_socket, problems);
    if let Some(path) = &daemon.notify_socket {
        let place = "[daemon] notify_socket";
        socket(place, path, problems);
        if *path == daemon.control_socket {
            problems.push(place, "is the control socket's path: it must be one of its own");
        }
    }
    if daemon.source_ports.first < FIRST_SOURCE_PORT {
        problems.push(
            "[daemon] source_ports",
            format!("starts below {FIRST_SOURCE_PORT}, in the range of privileged sockets"),
        );
    }
    within("[daemon] max_connections", daemon.max_connections, CONNECTIONS, problems);
    within("[daemon] max_half_open", daemon.max_half_open, CONNECTIONS, problems);
    within("[daemon] lease_ms", daemon.lease_ms, LEASE_MS, problems);
}

fn announce(announce: &Announce, problems: &mut Problems) {
    within("[announce] count", announce.count, ANNOUNCE_COUNT, problems);
    within("[announce] interval_ms", announce.interval_ms, ANNOUNCE_INTERVAL_MS, problems);
    within("[announce] refresh_s", announce.refresh_s, ANNOUNCE_REFRESH_S, problems);
}

fn acceleration(failover: &Acceleration, problems: &mut Problems) {
    within("[failover] park_ms", failover.park_ms, PARK_MS, problems);
    within("[failover] replay_syns_s", failover.replay_syns_s, REPLAY_SYNS_S, problems);
    within("[failover] max_pending_syns", failover.max_pending_syns, CONNECTIONS, problems);
    let (grace, interval) = (failover.fast_fail_grace_ms, failover.fast_fail_interval_s);
    within("[failover] fast_fail_grace_ms", grace, FAST_FAIL_GRACE_MS, problems);
    within("[failover] fast_fail_interval_s", interval, FAST_FAIL_INTERVAL_S, problems);
}

fn same_host(pairs: &[[IpAddr; 2]], problems: &mut Problems) {
    let place = "[redis] same_host";
    let mut seen = HashSet::new();
    for [one, other] in pairs {
        if one.is_ipv4() == other.is_ipv4() {
            problems.push(place, format!("{one} and {other} are not one of each family"));
        }
        for address in [one, other] {
            if !seen.insert(address) {
                problems.push(place, format!("{address} is there twice"));
            }
        }
    }
}

fn within(place: &str, value: u32, range: RangeInclusive<u32>, problems: &mut Problems) {
    if !range.contains(&value) {
        problems.push(place, format!("{value} is not from {} to {}", range.start(), range.end()));
    }
}

fn socket(place: &str, path: &Path, problems: &mut Problems) {
    absolute(place, path, problems);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        problems
            .push(place, format!("longer than the {MAX_SOCKET_PATH} bytes a socket's path has"));
    }
}

fn absolute(place: &str, path: &Path, problems: &mut Problems) {
    if !path.is_absolute() {
        problems.push(place, format!("{} is not an absolute path", path.display()));
    }
}

fn sentinels(endpoints: &[Endpoint], vips: &[Vip], problems: &mut Problems) {
    let place = "[sentinel] endpoints";
    // A real server asks nobody.
    let needed = vips.is_empty() || vips.iter().any(|vip| vip.mode != Mode::Real);
    if endpoints.is_empty() && needed {
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
        if let Some(ip) = endpoint.ip()
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
