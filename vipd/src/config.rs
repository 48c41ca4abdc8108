//! The configuration: one TOML file, or the flags that say the same.
//!
//! Every key has a documented default; an unknown key is an error that names it and its line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

/// Everything `vipd run` needs to know. Immutable once validated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The daemon itself.
    pub daemon: Daemon,
    /// Where the Sentinels are, and how to log in.
    pub sentinel: Sentinel,
    /// How to log in to the Redis nodes.
    #[serde(default)]
    pub redis: Login,
    /// The virtual addresses.
    #[serde(rename = "vip")]
    pub vips: Vec<Vip>,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// Interfaces the program is attached to; a VIP is answered on all of them.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSentinelLoss {
    /// Keep serving the last confirmed master.
    #[default]
    Hold,
    /// Stop announcing until a majority is back.
    Withdraw,
}

/// `[daemon] on_stop`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentinel {
    /// `HOST:PORT` of each Sentinel; a majority of these must answer before the VIP is announced.
    pub endpoints: Vec<String>,
    /// How to log in to them.
    #[serde(flatten)]
    pub login: Login,
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
    pub address: Ipv4Addr,
    /// How its traffic is carried. Default `nat`.
    #[serde(default)]
    pub mode: Mode,
    /// NAT's source address: `auto` (the VIP where it is on-link towards the backend, else the
    /// host's own address there) or an address. Default `auto`.
    #[serde(default)]
    pub source: Source,
    /// What it carries.
    #[serde(rename = "service")]
    pub services: Vec<Service>,
}

/// `[[vip]] mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    "/sys/fs/bpf/vipd".into()
}

fn default_control_socket() -> PathBuf {
    "/run/vipd/vipd.sock".into()
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

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        match range {
            Some(range) if range.first > 0 && range.first <= range.last => Ok(range),
            _ => Err(serde::de::Error::custom(format!(
                "{text:?} is not a range of ports such as \"61000-65535\""
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            Err(_) => Err(serde::de::Error::custom(format!(
                "{text:?} is neither \"auto\" nor an IPv4 address"
            ))),
        }
    }
}
