//! VIPs as addresses of this host: mode `host` (only the node whose Redis is the master holds it)
//! and mode `real` (a real server of a dsr director holds it silently).
//!
//! Such an address serves what arrives for it and changes nothing else:
//!
//! * it is a single address (/32, /128) without a route for its prefix;
//! * the host's own connections never go out from it. IPv4: its scope is `host`, which is too narrow
//!   for any destination that is not this host (`inet_select_addr`). IPv6: its preferred lifetime is
//!   0, so it is deprecated, and RFC 6724 section 5 rule 3 avoids it; on a host that has no other
//!   address of that scope, it would be chosen all the same;
//! * IPv6 uses it at once: duplicate address detection (a second or more) is off. Sentinel decides
//!   whose it is.
//!
//! An IPv6 address that is to be *silent* (mode `real`) belongs on [`LOOPBACK`]: on an Ethernet
//! interface the kernel sends its neighbour solicitations from it, and whoever hears one takes this
//! host for the VIP's. There is no `arp_announce` for IPv6.
//!
//! This is on the way of a failover: one netlink request, answered within the `send` call.

use std::fmt;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};

use crate::netdev::netlink::Netlink;
use crate::netdev::{bits, family};

/// Interface index of `lo`, the same in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// `INFINITY_LIFE_TIME` of linux/if_addr.h's users.
const FOREVER: u32 = u32::MAX;

/// Why an address could not be put on, or taken off, an interface.
#[derive(Debug, thiserror::Error)]
pub enum HostAddressError {
    /// `disable_ipv6` is set, or the kernel has no IPv6.
    #[error(
        "cannot put {address} on {interface}: IPv6 is disabled there; enable it with \
         `sysctl net.ipv6.conf.{interface}.disable_ipv6=0`"
    )]
    Ipv6Disabled {
        /// The VIP.
        address: IpAddr,
        /// Where to.
        interface: Interface,
    },
    /// The interface is gone.
    #[error("cannot put {address} on {interface}: there is no such interface")]
    NoInterface {
        /// The VIP.
        address: IpAddr,
        /// Where to.
        interface: Interface,
    },
    /// Any other refusal.
    #[error("cannot {what} {address} {preposition} {interface}{hint}")]
    Kernel {
        /// `put`, `take`.
        what: &'static str,
        /// `on`, `off`.
        preposition: &'static str,
        /// The VIP.
        address: IpAddr,
        /// Which.
        interface: Interface,
        /// What is missing, where that is known.
        hint: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// An interface in a message: its name, or its index where it has none any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface(pub u32);

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0_u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname may write.
        let found = unsafe { libc::if_indextoname(self.0, name.as_mut_ptr().cast()) };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        match std::str::from_utf8(name) {
            Ok(name) if !found.is_null() => f.write_str(name),
            _ => write!(f, "interface {}", self.0),
        }
    }
}

/// Puts VIPs on interfaces and takes them off, in the network namespace of the thread that opened
/// it.
pub struct HostAddresses {
    netlink: Netlink,
}

impl HostAddresses {
    /// Opens its netlink socket.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::route()? })
    }

    /// Makes `address` one of this host's, on the interface `ifindex`, up or down; whether it was
    /// not there before. One that is there already, in whatever form, is left as it is.
    ///
    /// # Errors
    ///
    /// IPv6 is disabled there, the interface is gone, CAP_NET_ADMIN is missing.
    pub fn add(&mut self, ifindex: u32, address: IpAddr) -> Result<bool, HostAddressError> {
        let mut message = message(ifindex, address, bits(address));
        let mut flags = AddressFlags::Noprefixroute;
        match address {
            IpAddr::V4(_) => message.header.scope = AddressScope::Host,
            IpAddr::V6(_) => {
                flags |= AddressFlags::Nodad;
                let mut lifetime = CacheInfo::default();
                (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, FOREVER);
                message.attributes.push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        let request = RouteNetlinkMessage::NewAddress(message);
        let Err(source) = self.netlink.set(request, NLM_F_CREATE | NLM_F_EXCL) else {
            return Ok(true);
        };
        let interface = Interface(ifindex);
        match source.raw_os_error() {
            Some(libc::EEXIST) => Ok(false),
            // addrconf_add_dev; without IPv6 in the kernel there is no handler at all.
            Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if address.is_ipv6() => {
                Err(HostAddressError::Ipv6Disabled { address, interface })
            }
            Some(libc::ENODEV) => Err(HostAddressError::NoInterface { address, interface }),
            _ => Err(refused("put", "on", address, interface, source)),
        }
    }

    /// Takes `address`/`prefix` off the interface `ifindex`; whether it was there. The prefix is
    /// part of it: somebody may have put it there with another than [`Self::add`] would.
    ///
    /// # Errors
    ///
    /// CAP_NET_ADMIN is missing. An interface that is gone has taken its addresses along.
    pub fn remove(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<bool, HostAddressError> {
        let request = RouteNetlinkMessage::DelAddress(message(ifindex, address, prefix));
        let Err(source) = self.netlink.set(request, 0) else { return Ok(true) };
        match source.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO) => Ok(false),
            _ => Err(refused("take", "off", address, Interface(ifindex), source)),
        }
    }
}

fn message(ifindex: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = ifindex;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

fn refused(
    what: &'static str,
    preposition: &'static str,
    address: IpAddr,
    interface: Interface,
    source: io::Error,
) -> HostAddressError {
    let hint = match source.raw_os_error() {
        Some(libc::EPERM) => "; it takes CAP_NET_ADMIN",
        _ => "",
    };
    HostAddressError::Kernel { what, preposition, address, interface, hint, source }
}
