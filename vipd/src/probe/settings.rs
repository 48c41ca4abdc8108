//! What is to be probed, checked as far as that goes without sending anything.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::config::Endpoint;

/// The port of a target that is given without one.
const DEFAULT_PORT: u16 = 6379;

/// `ADDR[:PORT]` or `HOST[:PORT]`; an IPv6 address with a port is in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetFlag(pub Endpoint);

/// `FIRST-LAST`: TCP ports, at least [`FEWEST_PORTS`] of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePorts(pub RangeInclusive<u16>);

/// A port that is used again too soon meets what is left of its last connection.
const FEWEST_PORTS: u16 = 1000;

impl FromStr for TargetFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address: Option<IpAddr> = bracketed.unwrap_or(text).parse().ok();
        if let Some(address) = address {
            return Ok(Self(Endpoint { host: address.to_string(), port: DEFAULT_PORT }));
        }
        let with_port =
            if text.contains(':') { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") };
        with_port.parse().map(Self).map_err(|error: crate::config::EndpointError| error.to_string())
    }
}

impl FromStr for SourcePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text.split_once('-').and_then(|(first, last)| {
            let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some(first..=last)
        });
        let ports =
            ports.ok_or_else(|| format!("{text:?} is not FIRST-LAST, such as 20000-29999"))?;
        if ports.end() - ports.start() < FEWEST_PORTS - 1 {
            return Err(format!("{text:?}: at least {FEWEST_PORTS} ports are needed"));
        }
        Ok(Self(ports))
    }
}

impl fmt::Display for TargetFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
