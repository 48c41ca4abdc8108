//! The lab's plan of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vipd_common::addr::MacAddr;

/// Number of the VIP on its network.
const VIP: u8 = 250;

/// Which bridge of the switch a cable goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// 198.18.0.0/24 and fd98:18::/64: clients and the VIP, and everything else where the director
    /// has one NIC.
    Front,
    /// 198.19.0.0/24: the Redis hosts, where the director has two NICs.
    Back,
}

/// Address families in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4 only.
    V4,
    /// The VIP, Redis and the Sentinels are on IPv6.
    V6,
    /// A VIP of each; Sentinel knows Redis by its IPv4 address.
    Both,
}

impl Family {
    /// Its name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Both => "both",
        }
    }

    /// Whether hosts have IPv6 addresses.
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }

    /// The VIPs, the one that the Redis nodes share their family with first.
    pub fn vips(self) -> Vec<IpAddr> {
        let v4 = IpAddr::V4(Segment::Front.address(VIP));
        let v6 = IpAddr::V6(v6_address(VIP));
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Both => vec![v4, v6],
        }
    }
}

impl Segment {
    /// The bridge's name in the switch's namespace.
    pub fn bridge(self) -> &'static str {
        match self {
            Self::Front => "br0",
            Self::Back => "br1",
        }
    }

    /// The address of host number `host`.
    pub fn address(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Front => Ipv4Addr::new(198, 18, 0, host),
            Self::Back => Ipv4Addr::new(198, 19, 0, host),
        }
    }

    /// The link-layer address of host number `host`, told by its address.
    pub fn mac(self, host: u8) -> MacAddr {
        let [_, segment, _, host] = self.address(host).octets();
        MacAddr([2, 0, 0, segment, 0, host])
    }
}

/// The IPv6 address of host number `host`, with the number's decimal digits: `fd98:18::101`.
pub fn v6_address(host: u8) -> Ipv6Addr {
    let digits = [100, 10, 1].map(|power| u16::from(host / power % 10));
    let number = digits.into_iter().fold(0, |number, digit| number << 4 | digit);
    Ipv6Addr::new(0xfd98, 0x18, 0, 0, 0, 0, 0, number)
}

/// Whether both are the same port of one host, perhaps in two families.
pub fn same_node(one: SocketAddr, other: SocketAddr) -> bool {
    let v6 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v6_address(v4.octets()[3]),
        IpAddr::V6(v6) => v6,
    };
    one.port() == other.port() && v6(one.ip()) == v6(other.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_same_number_everywhere() {
        assert_eq!(Segment::Front.address(101).to_string(), "198.18.0.101");
        assert_eq!(v6_address(101).to_string(), "fd98:18::101");
        assert_eq!(v6_address(10).to_string(), "fd98:18::10");
        assert_eq!(Segment::Back.mac(101).to_string(), "02:00:00:13:00:65");
    }
}
