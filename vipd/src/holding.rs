//! VIPs as addresses of this host, modes `host` and `real`: what the plan wants held and released is
//! done here, and the kernel parameters that go with it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tracing::{error, info, warn};
use vipd_common::maps::Address;

use crate::host_address::HostAddresses;
use crate::netdev::HostAddress;
use crate::sysctl::Sysctls;

/// The addresses that vipd put on this host, and what it changed for them.
pub struct Holding {
    addresses: HostAddresses,
    sysctls: Sysctls,
    /// VIPs that this host could not be given, and why.
    refused: BTreeMap<IpAddr, String>,
    /// The same, of those that are being tried again.
    told: BTreeMap<IpAddr, String>,
    /// Parameters that could not be set, by interface.
    unset: BTreeMap<u32, String>,
}

impl Holding {
    /// Takes over what an earlier vipd with this control socket has changed.
    ///
    /// # Errors
    ///
    /// No netlink socket.
    pub fn open(control_socket: &Path) -> Result<Self> {
        Ok(Self {
            addresses: HostAddresses::open().context("cannot open a netlink socket")?,
            sysctls: Sysctls::open(record(control_socket)),
            refused: BTreeMap::new(),
            told: BTreeMap::new(),
            unset: BTreeMap::new(),
        })
    }

    /// Gives this host a VIP; whether it has it now.
    pub fn hold(&mut self, held: &HostAddress) -> bool {
        match self.addresses.add(held.ifindex, held.address) {
            Ok(added) => {
                if added {
                    info!(vip = %held.address, "held");
                }
                self.refused.remove(&held.address);
                self.told.remove(&held.address);
                true
            }
            Err(why) => {
                let why = format!("{:#}", anyhow::Error::from(why));
                // Each reason once, however often it is tried.
                if self.told.insert(held.address, why.clone()).as_ref() != Some(&why) {
                    error!("{why}");
                }
                self.refused.insert(held.address, why);
                false
            }
        }
    }

    /// Takes a VIP from this host.
    pub fn release(&mut self, held: &HostAddress) {
        match self.addresses.remove(held.ifindex, held.address, held.prefix) {
            Ok(removed) => {
                if removed {
                    info!(vip = %held.address, "released");
                }
            }
            Err(why) => error!("{:#}", anyhow::Error::from(why)),
        }
    }

    /// Keeps the kernel from naming a held IPv4 VIP in its own ARP requests on these interfaces.
    pub fn quiet(&mut self, interfaces: &[u32]) {
        self.unset.retain(|ifindex, _| interfaces.contains(ifindex));
        for &ifindex in interfaces {
            match self.sysctls.quiet_arp(ifindex) {
                Ok(_) => {
                    self.unset.remove(&ifindex);
                }
                Err(why) => {
                    let why = format!("{:#}", anyhow::Error::from(why));
                    if self.unset.insert(ifindex, why.clone()).as_ref() != Some(&why) {
                        warn!("{why}");
                    }
                }
            }
        }
    }

    /// Puts every kernel parameter back.
    pub fn restore(&mut self) {
        if let Err(why) = self.sysctls.restore_all() {
            error!("{:#}", anyhow::Error::from(why));
        }
    }

    /// VIPs that this host can't have now.
    pub fn is_refused(&self, vip: IpAddr) -> bool {
        self.refused.contains_key(&vip)
    }

    /// The refusals are forgotten: it is tried again.
    pub fn try_again(&mut self) {
        self.refused.clear();
    }

    /// For status: what isn't as it should be.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.refused.values().chain(self.unset.values()).cloned()
    }

    /// For status: what was changed.
    pub fn changed(&self) -> impl Iterator<Item = String> {
        self.sysctls.changed().map(ToString::to_string)
    }
}

/// Where the parameters' values before are kept, for whoever cleans up after a crash.
fn record(control_socket: &Path) -> PathBuf {
    let mut path = control_socket.as_os_str().to_owned();
    path.push(".sysctls");
    path.into()
}

/// Whether the maps say that this address is put on this host at times, or always.
pub fn is_held(address: &Address) -> bool {
    address.has(Address::HOST | Address::REAL)
}
