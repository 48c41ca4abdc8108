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

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

pub use endpoint::{Endpoint, EndpointError};
pub use file::Error;
pub use flags::VipFlag;
pub use secret::{Secret, SecretError, SecretReason};
pub use validate::{MAX_SENTINELS, Problem};

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
    /// How to log in to the Redis nodes.
    #[serde(default)]
    pub redis: Login,
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
    /// Default `hold`.
    #[serde(default)]
    pub on_sentinel_loss: OnSentinelLoss,
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

/// `[daemon] on_sentinel_loss`
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

/// `[[vip]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// The virtual address.
    #[serde(deserialize_with = "vip_address")]
    pub address: Ipv4Addr,
    /// How its traffic is carried. Default `nat`.
    #[serde(default)]
    pub mode: Mode,
    /// NAT's source address: `auto` (the VIP where it is on-link towards the backend, else the
    /// host's own address there) or an address. Default `auto`.
    #[serde(default)]
    pub source: Source,
    /// What it carries.
    #[serde(rename = "service", default)]
    pub services: Vec<Service>,
}

/// `[[vip]] mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Full NAT with port translation.
    #[default]
    Nat,
    /// Link-layer addresses only; the reply goes straight to the client.
    Dsr,
}

/// `[[vip]] source`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Source {
    /// Chosen per backend.
    #[default]
    Auto,
    /// This one, always.
    Address(Ipv4Addr),
}

/// `[[vip.service]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// TCP port on the VIP.
    pub port: u16,
    /// Sentinel's name of the master.
    pub master: String,
    /// Port on the Redis node, if it isn't the one Sentinel reports (`nat` only).
    pub backend_port: Option<u16>,
}

fn default_pin_dir() -> PathBuf {
    DEFAULT_PIN_DIR.into()
}

fn default_control_socket() -> PathBuf {
    DEFAULT_CONTROL_SOCKET.into()
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
            on_sentinel_loss: OnSentinelLoss::default(),
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

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            Err(_) => Err(format!("{text:?} is neither \"auto\" nor an IPv4 address")),
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nat" => Ok(Self::Nat),
            "dsr" => Ok(Self::Dsr),
            "host" => {
                Err("mode \"host\" comes with a later version of vipd; this one has \"nat\" \
                           and \"dsr\", which run on a director in front of the Redis hosts"
                    .into())
            }
            _ => Err(format!("{text:?} is not a mode; there are \"nat\" and \"dsr\"")),
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

/// Parses the address of a VIP, from the file or from a flag.
fn parse_vip_address(text: &str) -> Result<Ipv4Addr, String> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(IpAddr::V6(address)) => Err(format!(
            "{address}: IPv6 VIPs come with a later version of vipd; this one has IPv4"
        )),
        Err(_) => Err(format!("{text:?} is not an IPv4 address")),
    }
}

fn vip_address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Ipv4Addr, D::Error> {
    parse_vip_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
