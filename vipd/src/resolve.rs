//! Host names that Sentinels announce (`resolve-hostnames`, `announce-hostnames`) to addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use crate::connect::{Error, Phase};

/// Longest wait for the system's resolver.
const LOOKUP: Duration = Duration::from_secs(2);
/// A name is looked up again after this long.
const FRESH: Duration = Duration::from_secs(5);
/// Names remembered; beyond that the longest unused one goes.
const MAX_NAMES: usize = 1024;

/// Looks names up, and remembers them, so that a failover does not wait for DNS. Cheap to clone;
/// clones share the memory.
///
/// While the resolver fails, the last address of a name stays in use: a dead DNS server must not
/// stop a failover, and an address that is wrong by now does not answer ROLE as master.
#[derive(Clone, Default, Debug)]
pub struct Resolver {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    ip: IpAddr,
    looked_up: Instant,
    used: Instant,
}

impl Resolver {
    /// The address of `host`, if it is one or was looked up before. Never waits.
    pub fn known(&self, host: &str, port: u16) -> Option<SocketAddr> {
        if let Ok(ip) = host.parse() {
            return Some(SocketAddr::new(ip, port));
        }
        let mut known = self.lock();
        let entry = known.get_mut(host)?;
        entry.used = Instant::now();
        Some(SocketAddr::new(entry.ip, port))
    }

    /// The address of `host`, IPv4 if it has one. A name that was not looked up in the last five
    /// seconds is looked up, for at most two seconds.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, Error> {
        let known = self.known(host, port);
        let is_fresh = match self.lock().get(host) {
            Some(entry) => entry.looked_up.elapsed() < FRESH,
            // An address, or a name that isn't known yet.
            None => true,
        };
        match known {
            Some(addr) if is_fresh => Ok(addr),
            Some(old) => Ok(self.look_up(host).await.map_or(old, |ip| SocketAddr::new(ip, port))),
            None => self.look_up(host).await.map(|ip| SocketAddr::new(ip, port)),
        }
    }

    /// The name that was last resolved to `ip`, if any: what a certificate may be for.
    pub fn name_of(&self, ip: IpAddr) -> Option<String> {
        let known = self.lock();
        let of_ip = known.iter().filter(|(_, entry)| entry.ip == ip);
        of_ip.max_by_key(|(_, entry)| entry.looked_up).map(|(name, _)| name.clone())
    }

    async fn look_up(&self, host: &str) -> Result<IpAddr, Error> {
        let addresses: Vec<IpAddr> = timeout(LOOKUP, lookup_host((host, 0)))
            .await
            .map_err(|_| Error::Timeout { during: Phase::Resolve, after: LOOKUP })?
            .map_err(|error| Error::Resolve(format!("{host}: {error}")))?
            .map(|addr| addr.ip())
            .collect();
        let ip = preferred(&addresses)
            .ok_or_else(|| Error::Resolve(format!("{host} has no address")))?;
        let now = Instant::now();
        let mut known = self.lock();
        if known.len() >= MAX_NAMES
            && !known.contains_key(host)
            && let Some(oldest) =
                known.iter().min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone())
        {
            known.remove(&oldest);
        }
        known.insert(host.to_owned(), Known { ip, looked_up: now, used: now });
        Ok(ip)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first IPv4 address, else the first.
fn preferred(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().find(|ip| ip.is_ipv4()).or_else(|| addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_preferred() {
        let v4: IpAddr = "198.18.0.101".parse().unwrap();
        let v6: IpAddr = "fd98:18::101".parse().unwrap();
        for (addresses, preference) in
            [(&[v6, v4][..], Some(v4)), (&[v4, v6], Some(v4)), (&[v6], Some(v6)), (&[], None)]
        {
            assert_eq!(preferred(addresses), preference);
        }
    }

    #[tokio::test]
    async fn addresses_need_no_lookup_and_names_are_remembered() {
        let resolver = Resolver::default();
        for (host, addr) in [
            ("198.18.0.101", "198.18.0.101:8000"),
            ("fd98:18::101", "[fd98:18::101]:8000"),
            ("localhost", "127.0.0.1:8000"),
        ] {
            assert_eq!(resolver.resolve(host, 8000).await, Ok(addr.parse().unwrap()));
        }
        assert_eq!(resolver.lock().len(), 1);
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(resolver.known("localhost", 1), Some(SocketAddr::new(loopback, 1)));
        assert_eq!(resolver.known("elsewhere", 1), None);
        assert_eq!(resolver.name_of(loopback).as_deref(), Some("localhost"));
        assert_eq!(resolver.name_of("198.18.0.101".parse().unwrap()), None);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error_that_names_it() {
        let error = Resolver::default().resolve("nowhere.invalid", 1).await.unwrap_err();
        assert!(error.to_string().contains("nowhere.invalid"), "{error}");
    }
}
