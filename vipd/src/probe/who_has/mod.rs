//! Who has the VIP on the link: ARP and neighbour discovery, asked and overheard.

mod asker;
mod record;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use vipd_common::addr::MacAddr;

use super::packet::{Answer, PacketSocket, Probe, VolleyRecord};
use super::report::{OwnerChange, Owners};
use super::shots::Window;
use crate::announce::{Port, link};
use crate::clock::Monotonic;
use crate::netdev::{self, HostAddress};

pub use asker::Asker;
pub use record::{Interval, Kind, Overlap, Record, Sighting};

/// The link that an address is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The interface.
    pub name: String,
    /// Its index and link-layer address.
    pub port: Port,
    /// This host's address there.
    pub own: IpAddr,
    /// The other address is on the link itself, not behind a router.
    pub on_link: bool,
}

/// Why there is no link to ask on.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The routing table has nothing.
    #[error("there is no route to {to}: {reason}")]
    NoRoute {
        /// The address.
        to: IpAddr,
        /// The kernel's reason.
        reason: std::io::Error,
    },
    /// The interfaces can't be read, or there is none of that name.
    #[error(transparent)]
    Netdev(#[from] netdev::NetdevError),
    /// Loopback, a tunnel.
    #[error("interface {0} has no link-layer addresses, so nobody can be asked there")]
    NotEthernet(String),
    /// No interface has the address that packets are sent from.
    #[error("{own} is on no interface of this host, or on none that {name:?} names")]
    Nowhere {
        /// This host's address.
        own: IpAddr,
        /// The interface that was asked for.
        name: Option<String>,
    },
}

impl Link {
    /// Where packets to `to` leave, or the interface `name`.
    pub fn towards(to: IpAddr, name: Option<&str>) -> Result<Self, LinkError> {
        let no_route = |reason| LinkError::NoRoute { to, reason };
        let own = source_towards(to).map_err(no_route)?;
        let addresses = netdev::host_addresses()?;
        let link = match name {
            Some(name) => netdev::link(name)?,
            None => {
                let holds = |it: &&HostAddress| it.address == own;
                let holder = addresses.iter().find(holds).map(|it| it.ifindex);
                let link = netdev::links()?.into_iter().find(|it| Some(it.ifindex) == holder);
                link.ok_or(LinkError::Nowhere { own, name: None })?
            }
        };
        let mut here = addresses.iter().filter(|it| it.ifindex == link.ifindex);
        let on_link = here.clone().any(|it| is_within(to, it));
        let own = here
            .clone()
            .find(|it| is_within(to, it))
            .or_else(|| here.find(|it| it.address == own))
            .map(|it| it.address)
            .ok_or_else(|| LinkError::Nowhere { own, name: name.map(str::to_owned) })?;
        let Some(mac) = link.mac else { return Err(LinkError::NotEthernet(link.name)) };
        Ok(Self { name: link.name, port: Port { ifindex: link.ifindex, mac }, own, on_link })
    }
}

/// Asks everybody on the link who has an address.
#[derive(Debug)]
pub struct WhoHas {
    asker: Asker,
}

impl WhoHas {
    /// With a socket to ask by.
    pub fn new(vip: IpAddr, link: &Link) -> std::io::Result<(PacketSocket, Self)> {
        let socket = PacketSocket::of_frames(link::listen(link.port, vip)?)?;
        Ok((socket, Self { asker: Asker::new(link.port.mac, vip, link.own, None) }))
    }
}

impl Probe for WhoHas {
    fn packet(&self, _number: u64) -> Vec<u8> {
        self.asker.ask_everybody()
    }

    fn read(&self, bytes: &[u8]) -> Option<Answer> {
        let (mac, kind) = self.asker.read(bytes)?;
        let (good, what) = match kind {
            Kind::Answer | Kind::DirectAnswer => (true, "answer"),
            Kind::Announcement => (false, ANNOUNCEMENT),
            Kind::Question => (false, "question"),
        };
        Some(Answer { number: None, good, what, node: Some(mac) })
    }

    fn number_of(&self, _transport: &[u8]) -> Option<u64> {
        None
    }
}

const ANNOUNCEMENT: &str = "announcement";
/// Changes and announcements that are told of.
const MAX_CHANGES: usize = 200;

/// Who had the VIP, by what a run heard.
pub fn owners(record: &VolleyRecord, window: &Window) -> Owners {
    let told = |at, mac: MacAddr| OwnerChange { at_ns: window.at(at), mac: mac.to_string() };
    let mut owners = Owners::default();
    let mut last = None;
    let mut sightings = Vec::new();
    for heard in &record.heard {
        let Some(mac) = heard.answer.node else { continue };
        if heard.answer.good {
            sightings.push(Sighting { at: heard.at, mac, kind: Kind::Answer });
            if last != Some(mac) && owners.changes.len() < MAX_CHANGES {
                owners.changes.push(told(heard.at, mac));
            }
            last = Some(mac);
        } else if heard.answer.what == ANNOUNCEMENT && owners.announcements.len() < MAX_CHANGES {
            owners.announcements.push(told(heard.at, mac));
        }
    }
    let asked: Vec<_> = record.sent.iter().map(|it| it.at).collect();
    if asked.is_empty() {
        // Who only listens hears answers to others' questions, now and then.
        return owners;
    }
    let (count, longest) = answered_by_two(&asked, &sightings);
    let record = Record { asked, sightings };
    let overlap = record.overlap().map_or(longest, |overlap| overlap.time.max(longest));
    (owners.answered_by_both, owners.both_ns) = (count, overlap.as_nanos() as u64);
    owners
}

/// Questions that more than one host answered before the next, and the longest time between the first
/// host's answer and another's.
fn answered_by_two(asked: &[Monotonic], answers: &[Sighting]) -> (u64, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    let mut first: Option<(usize, Sighting)> = None;
    let mut counted = None;
    for answer in answers {
        let question = asked.partition_point(|&asked| asked <= answer.at);
        match first {
            Some((of, first)) if of == question => {
                if first.mac != answer.mac {
                    count += u64::from(counted.replace(question) != Some(question));
                    longest = longest.max(answer.at.since(first.at));
                }
            }
            _ => first = Some((question, *answer)),
        }
    }
    (count, longest)
}

/// The address that this host sends from; nothing is sent.
fn source_towards(to: IpAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Any port will do: a UDP socket only looks the route up.
    socket.connect(SocketAddr::new(to, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn is_within(address: IpAddr, network: &HostAddress) -> bool {
    let bits = |it: IpAddr| match it {
        IpAddr::V4(it) => (u128::from(it.to_bits()) << 96, 32),
        IpAddr::V6(it) => (it.to_bits(), 128),
    };
    let ((one, width), (other, other_width)) = (bits(address), bits(network.address));
    // An address alone is no link.
    let is_network = network.prefix > 0 && network.prefix < width;
    width == other_width && is_network && (one ^ other) >> (128 - u32::from(network.prefix)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn an_address_is_within_the_networks_of_its_family_only() {
        let network =
            |text: &str, prefix| HostAddress { address: text.parse().unwrap(), prefix, ifindex: 1 };
        let v4: IpAddr = "198.18.0.250".parse().unwrap();
        let v6: IpAddr = "fd98:18::250".parse().unwrap();
        for (address, network, inside) in [
            (v4, network("198.18.0.10", 24), true),
            (v4, network("198.18.1.10", 24), false),
            (v4, network("198.18.0.250", 32), false),
            (v4, network("fd98:18::10", 64), false),
            (v6, network("fd98:18::10", 64), true),
            (v6, network("fd98:19::10", 64), false),
        ] {
            assert_eq!(is_within(address, &network), inside, "{address} {network:?}");
        }
    }

    #[test]
    fn a_question_with_two_answers_counts_once() {
        let asked = [10, 20, 30].map(Monotonic);
        let answers = [(11, A), (12, B), (13, B), (21, B), (31, B), (32, A), (33, B)];
        let answers =
            answers.map(|(at, mac)| Sighting { at: Monotonic(at), mac, kind: Kind::Answer });
        assert_eq!(answered_by_two(&asked, &answers), (2, Duration::from_nanos(2)));
        assert_eq!(answered_by_two(&asked, &answers[..1]), (0, Duration::ZERO));
    }
}
