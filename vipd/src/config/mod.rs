//! The configuration: one TOML file, or the flags that say the same.
//!
//! Every key has a documented default; an unknown key is an error that names it and its line.

mod endpoint;
mod file;
mod flags;
mod secret;
#[cfg(test)]
mod tests;
mod validate;
mod vip;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

pub use endpoint::{Endpoint, EndpointError};
pub use file::Error;
pub use flags::VipFlag;
pub use secret::{Secret, SecretError, SecretReason};
pub use validate::{MAX_SENTINELS, Problem};
pub use vip::{Mode, Service, ServiceRole, Source, Vip};

/// Where `run`, `check`, `status` and `detach` look when they are told nothing else.
pub const DEFAULT_CONFIG: &str = "/etc/vipd/vipd.toml";
/// See [`Daemon::pin_dir`].
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/vipd";
/// See [`Daemon::control_socket`].
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/vipd/vipd.sock";
/// Where `notify` also tries when it can't read the configuration; see [`Daemon::notify_socket`].
pub const DEFAULT_NOTIFY_SOCKET: &str = "/run/vipd/notify.sock";

/// Everything `vipd run` needs to know. Immutable once validated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The daemon itself.
    #[serde(default)]
    pub daemon: Daemon,
    /// Where the Sentinels are, and how to log in.
    #[serde(default)]
    pub sentinel: Sentinel,
    /// How a VIP that was taken over is announced.
    #[serde(default)]
    pub announce: Announce,
    /// How long a failover may hold its clients back, and what it does for them.
    #[serde(default)]
    pub failover: Acceleration,
    /// How to log in to the Redis nodes.
    #[serde(default)]
    pub redis: Redis,
    /// The virtual addresses.
    #[serde(rename = "vip", default)]
    pub vips: Vec<Vip>,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// Interfaces the program is attached to; a VIP is answered on all of them.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// How the program is attached. Default `auto`.
    #[serde(default)]
    pub xdp_mode: XdpMode,
    /// Directory in bpffs; one per vipd. Default `/sys/fs/bpf/vipd`.
    #[serde(default = "default_pin_dir")]
    pub pin_dir: PathBuf,
    /// Default `/run/vipd/vipd.sock`, mode 0600.
    #[serde(default = "default_control_socket")]
    pub control_socket: PathBuf,
    /// When a new master is followed. Default `early`.
    #[serde(default)]
    pub cutover: Cutover,
    /// Whether a master whose process is provably gone is replaced at once. Default `off`.
    #[serde(default)]
    pub fast_fail: FastFail,
    /// Default `hold`.
    #[serde(default)]
    pub on_sentinel_loss: OnSentinelLoss,
    /// Mode `host`: what to do while fewer than a majority of the Sentinels answer. Default
    /// `withdraw`: the others will have moved on.
    #[serde(default = "default_on_minority")]
    pub on_minority: OnSentinelLoss,
    /// Mode `host`: the kernel stops answering for the VIPs this long after vipd died or froze, and
    /// vipd withdraws them this long after it lost the majority. Default 3000, from 500 to 60000.
    #[serde(default = "default_lease_ms")]
    pub lease_ms: u32,
    /// A second socket, which everybody may write to and which takes nothing but the hints of
    /// `vipd notify`: for Sentinels that don't run as root. None by default.
    pub notify_socket: Option<PathBuf>,
    /// What SIGTERM leaves behind. Default `detach`.
    #[serde(default)]
    pub on_stop: OnStop,
    /// Source ports for NAT from an address of this host, inclusive. Must not overlap
    /// `net.ipv4.ip_local_port_range`. Default 61000-65535.
    #[serde(default)]
    pub source_ports: PortRange,
    /// Connections the flow table holds. Default 65536.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Half-open connections held beside them. Default 16384.
    #[serde(default = "default_max_half_open")]
    pub max_half_open: u32,
}

/// `[daemon] xdp_mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Driver mode, or generic with a warning where the driver refuses.
    #[default]
    Auto,
    /// Driver mode or an error.
    Native,
    /// The kernel's generic hook, on any interface; slower.
    Generic,
}

/// `[daemon] cutover`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cutover {
    /// From the selection of a replica on the old master is fenced, and the moment that replica is
    /// master it is served; the Sentinels confirm it later.
    #[default]
    Early,
    /// Nothing is done before a Sentinel names the new master with its epoch.
    Confirmed,
}

/// `[daemon] fast_fail`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FastFail {
    /// Only the Sentinels find out that a master is gone.
    #[default]
    Off,
    /// A master's host that refuses connections, for [`Acceleration::fast_fail_grace_ms`], has lost
    /// its Redis: a Sentinel is asked for a failover at once.
    Refused,
}

/// `[daemon] on_sentinel_loss` and `on_minority`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnSentinelLoss {
    /// Keep serving the last confirmed master.
    #[default]
    Hold,
    /// Stop announcing until a majority is back.
    Withdraw,
}

/// `[daemon] on_stop`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// Remove the program and the maps: the VIP is gone.
    #[default]
    Detach,
    /// Leave them forwarding, for the next vipd to adopt.
    Keep,
}

/// An inclusive range of TCP ports, written `"61000-65535"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 61_000, last: 65_535 }
    }
}

/// `[sentinel]`
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(from = "SentinelTable")]
pub struct Sentinel {
    /// `HOST:PORT` of each Sentinel; a majority of these must answer before the VIP is announced.
    pub endpoints: Vec<Endpoint>,
    /// How to log in to them: the same keys as `[redis]`, in the same table as `endpoints`.
    pub login: Login,
}

/// [`Sentinel`] as it is written; serde's `flatten` would let unknown keys pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentinelTable {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<Tls>,
}

impl From<SentinelTable> for Sentinel {
    fn from(table: SentinelTable) -> Self {
        let SentinelTable { endpoints, username, password_file, tls } = table;
        Self { endpoints, login: Login { username, password_file, tls } }
    }
}

/// `[announce]`: gratuitous ARP and unsolicited neighbour advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Announce {
    /// How often after taking a VIP over; the first time at once. Default 5, from 1 to 100.
    pub count: u32,
    /// How far apart. Default 200, from 10 to 60000.
    pub interval_ms: u32,
    /// How often while it is held. Default 60; 0 is never.
    pub refresh_s: u32,
}

impl Default for Announce {
    fn default() -> Self {
        Self { count: 5, interval_ms: 200, refresh_s: 60 }
    }
}

/// `[failover]`: how long a failover may hold its clients back, and what it does for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acceleration {
    /// The longest that a service is parked on the word of one Sentinel. Default 2000, from 100 to
    /// 60000.
    pub park_ms: u32,
    /// Whether clients of the old master are sent resets after a flip. Default true.
    pub free_clients: bool,
    /// Unanswered SYNs that are not older are sent to the new master after a flip. Default 15, up to
    /// 120; 0 is none.
    pub replay_syns_s: u32,
    /// Unanswered SYNs that are remembered, of each family. Default 32768.
    pub max_pending_syns: u32,
    /// How long a master's host must refuse connections until its Redis counts as gone. Default 30,
    /// from 10 to 5000.
    pub fast_fail_grace_ms: u32,
    /// After any failover of a master that vipd has seen, and after a restart of vipd that took over
    /// what an earlier one had confirmed, it asks for none for so long. Default 60, from 10 to 86400.
    pub fast_fail_interval_s: u32,
}

impl Default for Acceleration {
    fn default() -> Self {
        Self {
            park_ms: 2_000,
            free_clients: true,
            replay_syns_s: 15,
            max_pending_syns: 32_768,
            fast_fail_grace_ms: 30,
            fast_fail_interval_s: 60,
        }
    }
}

impl Acceleration {
    /// [`Self::park_ms`].
    pub fn park(&self) -> Duration {
        Duration::from_millis(self.park_ms.into())
    }

    /// [`Self::replay_syns_s`].
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.replay_syns_s.into())
    }

    /// [`Self::fast_fail_grace_ms`].
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.fast_fail_grace_ms.into())
    }

    /// [`Self::fast_fail_interval_s`].
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.fast_fail_interval_s.into())
    }
}

/// `[redis]`
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(from = "RedisTable")]
pub struct Redis {
    /// How to log in to the nodes: in the same table as `same_host`.
    pub login: Login,
    /// Addresses of both families that belong to one node each, for mode `nat`: a VIP of one
    /// family reaches a node that Sentinel names by the other.
    pub same_host: Vec<[IpAddr; 2]>,
}

/// [`Redis`] as it is written; serde's `flatten` would let unknown keys pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedisTable {
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<Tls>,
    #[serde(default)]
    same_host: Vec<[IpAddr; 2]>,
}

impl From<RedisTable> for Redis {
    fn from(table: RedisTable) -> Self {
        let RedisTable { username, password_file, tls, same_host } = table;
        Self { login: Login { username, password_file, tls }, same_host }
    }
}

/// Credentials and TLS; the same keys for Sentinels and Redis nodes.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// ACL user; without it, `default`.
    pub username: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Speak TLS.
    pub tls: Option<Tls>,
}

/// `tls = { ca, cert, key, server_name }`
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate authorities to trust.
    pub ca: PathBuf,
    /// PEM file of the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of the client's key.
    pub key: Option<PathBuf>,
    /// Name the server's certificate must be for; by default the host connected to.
    pub server_name: Option<String>,
}

fn default_pin_dir() -> PathBuf {
    DEFAULT_PIN_DIR.into()
}

fn default_control_socket() -> PathBuf {
    DEFAULT_CONTROL_SOCKET.into()
}

fn default_on_minority() -> OnSentinelLoss {
    OnSentinelLoss::Withdraw
}

fn default_lease_ms() -> u32 {
    3_000
}

fn default_max_connections() -> u32 {
    65_536
}

fn default_max_half_open() -> u32 {
    16_384
}

impl Config {
    /// The distinct master names, in order of first appearance; [`crate::model::MasterId`] is an
    /// index into it.
    pub fn masters(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for service in self.vips.iter().flat_map(|vip| &vip.services) {
            if !names.contains(&service.master.as_str()) {
                names.push(service.master.as_str());
            }
        }
        names
    }
}

impl Daemon {
    /// [`Self::lease_ms`].
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }
}

impl Login {
    /// Reads the password file, now; `None` without one.
    pub fn password(&self) -> Result<Option<Secret>, SecretError> {
        self.password_file.as_deref().map(Secret::read).transpose()
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            xdp_mode: XdpMode::default(),
            pin_dir: default_pin_dir(),
            control_socket: default_control_socket(),
            cutover: Cutover::default(),
            fast_fail: FastFail::default(),
            on_sentinel_loss: OnSentinelLoss::default(),
            on_minority: default_on_minority(),
            lease_ms: default_lease_ms(),
            notify_socket: None,
            on_stop: OnStop::default(),
            source_ports: PortRange::default(),
            max_connections: default_max_connections(),
            max_half_open: default_max_half_open(),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        match range {
            Some(range) if range.first > 0 && range.first <= range.last => Ok(range),
            _ => Err(format!("{text:?} is not a range of ports such as \"61000-65535\"")),
        }
    }
}

macro_rules! deserialize_from_str {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

deserialize_from_str!(PortRange, Source, Mode);
