//! `HOST:PORT`, as it is written in the configuration and on the command line.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// A host name or IP address, and a TCP port. An IPv6 address is written in brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// Host name (ASCII lower case) or IP address, without brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

/// Why a text is not an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not HOST:PORT: {reason}")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

impl Endpoint {
    /// The host as an IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fail = |reason| EndpointError { text: text.to_owned(), reason };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once("]:").ok_or_else(|| {
                    fail("an IPv6 address is written [ADDRESS]:PORT, such as [fd98:18::101]:26379")
                })?;
                host.parse::<Ipv6Addr>()
                    .map_err(|_| fail("what is in the brackets is not an IPv6 address"))?;
                (host, port)
            }
            None => {
                let (host, port) = text
                    .rsplit_once(':')
                    .ok_or_else(|| fail("the port is missing (Sentinel's is usually 26379)"))?;
                if host.contains(':') {
                    return Err(fail("write an IPv6 address in brackets, such as [::1]:26379"));
                }
                (host, port)
            }
        };
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(fail("the port is not a number from 1 to 65535")),
            Ok(port) => port,
        };
        // Digits and dots that are no address are a typing error, not a host name.
        let looks_like_ip = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if host.is_empty() {
            Err(fail("the host is missing"))
        } else if host.len() > 253 || (!host.contains(':') && !is_host_name(host)) {
            Err(fail("the host is neither a host name nor an IP address"))
        } else if looks_like_ip && host.parse::<IpAddr>().is_err() {
            Err(fail("the host is not an IPv4 address"))
        } else {
            Ok(Self { host: host.to_ascii_lowercase(), port })
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Letters, digits, `-`, `.` and `_` (which names of containers have): RFC 1123 and a little more.
fn is_host_name(host: &str) -> bool {
    host.split('.').filter(|label| !label.is_empty()).count() > 0
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_told_apart() {
        for (text, host, port) in [
            ("198.18.0.101:26379", "198.18.0.101", 26_379),
            ("sentinel-1.example:1", "sentinel-1.example", 1),
            ("Redis_A:65535", "redis_a", 65_535),
            ("[fd98:18::101]:26379", "fd98:18::101", 26_379),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
            assert_eq!(endpoint.to_string(), text.to_ascii_lowercase());
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, reason) in [
            ("", "port is missing"),
            ("198.18.0.101", "port is missing"),
            (":26379", "host is missing"),
            ("host:", "not a number from 1 to 65535"),
            ("host:0", "not a number from 1 to 65535"),
            ("host:65536", "not a number from 1 to 65535"),
            ("host:-1", "not a number from 1 to 65535"),
            ("fd98:18::101:26379", "in brackets"),
            ("[fd98:18::101]", "[ADDRESS]:PORT"),
            ("[host]:26379", "not an IPv6 address"),
            ("198.18.0.1011:26379", "not an IPv4 address"),
            ("redis://host:26379", "in brackets"),
            ("ho st:26379", "neither a host name"),
            ("user@host:26379", "neither a host name"),
            ("...:26379", "neither a host name"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
