//! `[[vip]]`: the virtual addresses and what they carry.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// `[[vip]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// The virtual address.
    #[serde(deserialize_with = "vip_address")]
    pub address: IpAddr,
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
    /// vipd runs on every Redis host; the one whose Redis is master holds the VIP.
    Host,
    /// This host is a real server of a `dsr` director: it holds the VIP and never answers for it.
    Real,
}

/// `[[vip]] source`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Source {
    /// Chosen per backend.
    #[default]
    Auto,
    /// This one, always.
    Address(IpAddr),
}

/// `[[vip.service]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// TCP port on the VIP.
    pub port: u16,
    /// Sentinel's name of the master.
    pub master: String,
    /// Which of its nodes. Default `master`.
    #[serde(default)]
    pub role: ServiceRole,
    /// Port on the Redis node, if it isn't the one Sentinel reports (`nat` only).
    pub backend_port: Option<u16>,
}

/// `[[vip.service]] role`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceRole {
    /// The master.
    #[default]
    Master,
    /// New connections are spread over the healthy replicas; the master serves while there is none.
    Replica,
}

impl ServiceRole {
    /// The word in the configuration and in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Replica => "replica",
        }
    }
}

impl Mode {
    /// The word in the configuration and in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Host => "host",
            Self::Real => "real",
        }
    }

    /// Whether the VIP is, at times or always, an address of this host.
    pub const fn holds_the_address(self) -> bool {
        match self {
            Self::Nat | Self::Dsr => false,
            Self::Host | Self::Real => true,
        }
    }

    /// Whether the port on the VIP may be another than the one Redis listens on.
    pub const fn translates_ports(self) -> bool {
        match self {
            Self::Nat => true,
            Self::Dsr | Self::Host | Self::Real => false,
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let modes = [Self::Nat, Self::Dsr, Self::Host, Self::Real];
        modes.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            format!(
                "{text:?} is not a mode; there are \"nat\" and \"dsr\" for a director in front of \
                 the Redis hosts, \"host\" for the Redis hosts themselves, and \"real\" for Redis \
                 hosts behind a \"dsr\" director"
            )
        })
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            Err(_) => Err(format!("{text:?} is neither \"auto\" nor an IP address")),
        }
    }
}

/// Parses the address of a VIP, from the file or from a flag.
pub(super) fn parse_vip_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

fn vip_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    parse_vip_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
