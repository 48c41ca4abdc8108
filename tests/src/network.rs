//! The lab's network: hosts, cables and the switch.

use std::net::IpAddr;

use anyhow::Result;

use crate::address::Segment;
use crate::daemon::Mode;
use crate::host::Host;
use crate::namespace::Namespace;
use crate::options::{Mover, Nics, Options, Placement};
use crate::xdp_pass::PassPrograms;

/// Redis nodes, and Sentinels.
pub const NODES: usize = 3;

/// All hosts of a lab.
pub struct Network {
    /// Where the clients are.
    pub client: Host,
    /// Where the recorders of ARP are: what they ask and hear is not to reach the clients' caches.
    pub observer: Host,
    /// Where whatever moves the VIP is, unless it is on the Redis hosts.
    pub director: Option<Host>,
    /// The Redis hosts.
    pub redis: Vec<Host>,
    /// Those of the Sentinels, which may be the same.
    pub sentinels: Vec<Host>,
    /// Where the director answers.
    pub interfaces: Vec<String>,
    /// On the switch's ends of the cables by which XDP sends.
    pub pass: PassPrograms,
}

impl Network {
    /// Builds it in namespaces whose names begin with the lab's.
    pub fn build(name: &str, options: &Options) -> Result<Self> {
        let switch = Namespace::create(&format!("{name}-switch"))?;
        for segment in [Segment::Front, Segment::Back] {
            let bridge = segment.bridge();
            switch.ip_batch(&format!(
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {bridge} up\n"
            ))?;
        }
        let redis_segment = match options.nics {
            Nics::One => Segment::Front,
            Nics::Two => Segment::Back,
        };
        let plug = |host: String, number: usize, segment| {
            Host::plug(name, &host, u8::try_from(number)?, &switch, segment, options.family)
        };
        let redis = (1..=NODES)
            .map(|number| plug(format!("redis{number}"), 100 + number, redis_segment))
            .collect::<Result<Vec<_>>>()?;
        let sentinels = match options.sentinels {
            Placement::WithRedis => redis.clone(),
            Placement::Apart => (1..=NODES)
                .map(|number| plug(format!("sentinel{number}"), 110 + number, redis_segment))
                .collect::<Result<_>>()?,
        };
        let client = plug("client".to_owned(), 10, Segment::Front)?;
        let observer = plug("observer".to_owned(), 20, Segment::Front)?;
        let mut interfaces = vec!["eth0".to_owned()];
        let mut ports = Vec::new();
        let mut director = None;
        if options.mode == Mode::Host {
            if options.mover == Mover::Vipd {
                ports.extend(redis.iter().map(|host| host.port().to_owned()));
            }
        } else {
            let host = plug("director".to_owned(), 50, Segment::Front)?;
            if options.mover == Mover::Vipd {
                ports.push(host.port().to_owned());
            }
            if options.nics == Nics::Two {
                host.plug_second(50, Segment::Back)?;
                interfaces.push("eth1".to_owned());
                ports.push(host.second_port());
            }
            director = Some(host);
        }
        if options.mode == Mode::Dsr && !options.agents {
            let hold = |host| hold_the_vips_silently(host, &options.family.vips());
            redis.iter().try_for_each(hold)?;
        }
        let pass = PassPrograms::attach(&switch, &ports)?;
        Ok(Self { client, observer, director, redis, sentinels, interfaces, pass })
    }
}

/// A real server of `dsr`: it accepts what is for the VIPs, and never answers ARP for them. For
/// IPv6 that takes no setting: Linux solicits and advertises on the interface of an address only.
fn hold_the_vips_silently(host: &Host, vips: &[IpAddr]) -> Result<()> {
    host.namespace.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    host.namespace.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    for vip in vips {
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        host.namespace.ip_batch(&format!("addr add {vip}/{prefix} dev lo\n"))?;
    }
    Ok(())
}
