//! Who may announce what, decided beside a peer that may have it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use vipd::announce::{Port, Schedule};
use vipd::driver::possession::{Possession, Probed, Situation};
use vipd::model::NextHop;
use vipd::neighbour::Network;
use vipd::netdev::links;
use vipd::plan::Actual;
use vipd_common::addr::MacAddr;
use vipd_common::maps::Address;

use crate::lab::{Netns, ipv6, veth};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0xb, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0xb, 0x66]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0xb, 0x77]);

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.11.50/24", &OWN.to_string()),
        (&peer, "eth0", "198.18.11.66/24", &PEER.to_string()),
    );
    ipv6([(&own, "eth0", "fd98:18::b:50/64"), (&peer, "eth0", "fd98:18::b:66/64")]);
    (own, peer)
}

fn vips() -> [IpAddr; 2] {
    ["198.18.11.250", "fd98:18::b:250"].map(|vip| vip.parse().expect(vip))
}

/// Gives the peer the VIP.
fn take(peer: &Netns, vip: IpAddr) {
    let (prefix, flag) = if vip.is_ipv4() { (24, "") } else { (64, "nodad") };
    peer.ip(&format!("addr add {vip}/{prefix} dev eth0 {flag}"));
}

/// Everything around a [`Possession`].
struct World {
    possession: Possession,
    probed: mpsc::Receiver<Probed>,
    wanted: BTreeSet<IpAddr>,
    shared: BTreeSet<IpAddr>,
    ports: Vec<Port>,
    network: Network,
    actual: Actual,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let schedule = Schedule { count: 1, interval: Duration::ZERO, refresh: None };
        let (possession, probed) = Possession::new(&Actual::default(), schedule).expect("socket");
        let mut network = Network::default();
        network.links.extend(links().expect("links").into_iter().map(|it| (it.ifindex, it)));
        let eth0 = network.link("eth0").expect("eth0").ifindex;
        Self {
            possession,
            probed,
            wanted: BTreeSet::new(),
            shared: BTreeSet::new(),
            ports: vec![Port { ifindex: eth0, mac: OWN }],
            network,
            actual: Actual::default(),
            now: Instant::now(),
        }
    }

    fn update(&mut self) {
        let situation = Situation {
            wanted: &self.wanted,
            shared: &self.shared,
            ports: &self.ports,
            network: &self.network,
            actual: &self.actual,
        };
        self.possession.update(&situation, self.now);
    }

    /// Waits for the probe that is on its way, and updates.
    async fn probe(&mut self) {
        let probed = timeout(Duration::from_secs(5), self.probed.recv());
        let probed = probed.await.expect("a probe in time").expect("a probe");
        self.possession.probed(probed, self.now);
        self.update();
    }

    /// Nothing is on its way.
    async fn asks_nobody(&mut self) {
        let probed = timeout(Duration::from_millis(800), self.probed.recv()).await;
        assert!(probed.is_err(), "{probed:?}");
    }

    fn holds(&self, vip: IpAddr) -> bool {
        self.possession.held().contains(&vip)
    }

    fn says(&self, words: &str) -> bool {
        self.possession.problems().iter().any(|problem| problem.contains(words))
    }

    /// The peer runs Redis.
    fn knows_the_peer(&mut self) {
        let hop = NextHop {
            ifindex: self.ports[0].ifindex,
            own_mac: OWN,
            mac: PEER,
            vlan: 0,
            router: None,
            source: [198, 18, 11, 50].into(),
            on_link: vec![],
        };
        self.network.next_hops.insert([198, 18, 11, 66].into(), Ok(hop));
    }

    /// The maps answer for it, in this mode.
    fn answers(&mut self, vip: IpAddr, mode: u16) {
        self.actual.addresses.insert(vip, Address::new(mode | Address::ANNOUNCE));
    }
}

#[test]
fn a_shared_vip_is_asked_for_beforehand_and_not_at_the_failover() {
    let (own, _peer) = pair();
    own.block_on(|| async {
        for vip in vips() {
            let mut world = World::new();
            world.shared.insert(vip);
            world.update();
            world.probe().await;
            assert!(world.holds(vip));
            world.wanted.insert(vip);
            world.update();
            world.wanted.clear();
            world.update();
            assert!(world.holds(vip), "it is ours when our turn comes again");
            world.asks_nobody().await;
        }
    });
}

#[test]
fn a_vip_that_is_not_shared_is_asked_for_each_time() {
    let (own, _peer) = pair();
    own.block_on(|| async {
        let vip = vips()[0];
        let mut world = World::new();
        for _ in 0..2 {
            world.wanted.insert(vip);
            world.update();
            assert!(!world.holds(vip));
            world.probe().await;
            assert!(world.holds(vip));
            world.wanted.clear();
            world.update();
        }
    });
}

#[test]
fn that_a_redis_host_has_a_shared_vip_is_no_obstacle() {
    let (own, peer) = pair();
    own.block_on(|| async {
        for vip in vips() {
            take(&peer, vip);
            let mut world = World::new();
            world.shared.insert(vip);
            world.update();
            world.probe().await;
            assert!(!world.holds(vip), "who that is was not known yet");
            assert!(!world.says("in use"), "and it is not our turn");
            world.knows_the_peer();
            world.update();
            assert!(world.holds(vip), "without asking again");
            world.asks_nobody().await;
        }
    });
}

#[test]
fn that_a_stranger_has_a_vip_is_an_obstacle_and_so_is_a_redis_host_where_it_is_not_shared() {
    let (own, peer) = pair();
    let [shared, nat] = vips();
    take(&peer, shared);
    take(&peer, nat);
    own.block_on(|| async {
        let mut world = World::new();
        world.shared.insert(shared);
        world.update();
        world.probe().await;
        world.wanted.insert(shared);
        world.update();
        assert!(!world.holds(shared));
        assert!(world.says(&format!("{shared} is in use by {PEER}")));
        // Asked again once its time has come.
        world.now += Duration::from_secs(4);
        world.update();
        world.probe().await;
        assert!(!world.holds(shared));

        let mut world = World::new();
        world.wanted.insert(nat);
        world.knows_the_peer();
        world.update();
        world.probe().await;
        assert!(!world.holds(nat));
        assert!(world.says(&format!("{nat} is in use by {PEER}")));
    });
}

/// Whether the peer has heard an announcement of ours.
fn believes_us(peer: &Netns, vip: IpAddr) -> bool {
    std::thread::sleep(Duration::from_millis(50));
    peer.says(&format!("neigh show {vip}")).contains("0b:50")
}

/// The peer believes somebody else.
fn mislead(peer: &Netns, vip: IpAddr) {
    peer.run(|| {
        std::fs::write("/proc/sys/net/ipv4/neigh/eth0/locktime", "0").expect("sysctl");
    });
    peer.ip(&format!("neigh replace {vip} lladdr {STRANGER} dev eth0 nud stale"));
}

#[test]
fn a_rival_is_answered_but_not_a_redis_host_whose_turn_it_may_be() {
    let (own, peer) = pair();
    own.block_on(|| async {
        for vip in vips() {
            for (mode, rival, answered) in [
                (Address::HOST, PEER, false),
                (Address::HOST, STRANGER, true),
                (Address::NAT, PEER, true),
            ] {
                let mut world = World::new();
                world.knows_the_peer();
                world.wanted.insert(vip);
                if mode == Address::HOST {
                    world.shared.insert(vip);
                }
                world.answers(vip, mode);
                mislead(&peer, vip);
                world.update();
                assert!(believes_us(&peer, vip));
                mislead(&peer, vip);
                let port = world.ports[0];
                world.possession.rival(vip, rival, port, &world.actual, world.now);
                let case = format!("{vip} in mode {mode}, rival {rival}");
                assert_eq!(believes_us(&peer, vip), answered, "{case}");
                assert!(world.says(&format!("{rival} has claimed the VIP {vip}, 1 times")));
                assert_eq!(world.says("the Redis host"), !answered, "{case}");
            }
        }
    });
}

#[test]
fn an_interface_that_comes_back_is_announced_on_anew() {
    let (own, peer) = pair();
    own.block_on(|| async {
        for vip in vips() {
            let mut world = World::new();
            world.wanted.insert(vip);
            world.answers(vip, Address::NAT);
            let announces = |world: &mut World| {
                mislead(&peer, vip);
                world.update();
                believes_us(&peer, vip)
            };
            assert!(announces(&mut world), "the first time");
            assert!(!announces(&mut world), "nothing has changed");

            let ports = std::mem::take(&mut world.ports);
            assert!(!announces(&mut world), "renamed, or without the program");
            world.ports = ports;
            assert!(announces(&mut world), "and back");

            let eth0 = world.ports[0].ifindex;
            world.network.links.get_mut(&eth0).expect("eth0").running = false;
            assert!(!announces(&mut world), "down");
            world.network.links.get_mut(&eth0).expect("eth0").running = true;
            assert!(announces(&mut world), "and up");

            world.network.links.get_mut(&eth0).expect("eth0").carrier_changes += 2;
            assert!(announces(&mut world), "down and up before anybody looked");
        }
    });
}

#[test]
fn the_carrier_tells_a_link_that_flapped() {
    let (own, _peer) = pair();
    let changes = || own.run(|| vipd::netdev::link("eth0").expect("eth0").carrier_changes);
    let before = changes();
    own.ip("link set eth0 down");
    own.ip("link set eth0 up");
    assert!(changes() > before);
}

#[test]
fn solicitations_for_a_vip_arrive_while_it_is_answered() {
    let (own, _peer) = pair();
    let joined = || own.says("-6 maddr show dev eth0").contains("ff02::1:ff0b:250");
    own.block_on(|| async {
        let vip = vips()[1];
        let mut world = World::new();
        world.wanted.insert(vip);
        world.answers(vip, Address::DSR);
        world.update();
        assert!(joined());
        world.actual.addresses.clear();
        world.update();
        assert!(!joined());
        // In mode `host` it is an address of `lo`, for which the kernel doesn't do it either.
        world.answers(vip, Address::HOST);
        world.update();
        assert!(joined());
    });
}
