//! ```text
//!   director ns             router ns              far ns
//!   eth0 fd98:18::1:50 ---- fe80::1, fd98:18::1:1
//!                           fd98:18::2:1 --------- fd98:18::2:9
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use vipd::model::NextHop;
use vipd::neighbour::{Unreachable, spawn};
use vipd_common::addr::MacAddr;

use crate::lab::{Netns, ipv6, veth};
use crate::neighbour::{hop, problem, until};

const OWN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 0x50]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn near() -> IpAddr {
    ip("fd98:18::1:1")
}

fn far() -> IpAddr {
    ip("fd98:18::2:9")
}

struct Topology {
    director: Netns,
    router: Netns,
    _far: Netns,
}

fn topology() -> Topology {
    let (director, router, far) = (Netns::new("dir"), Netns::new("rtr"), Netns::new("far"));
    veth(
        (&director, "eth0", "198.18.9.50/24", &OWN_MAC.to_string()),
        (&router, "near", "", &ROUTER_MAC.to_string()),
    );
    veth((&router, "away", "", "02:00:00:00:0a:01"), (&far, "eth0", "", "02:00:00:00:0a:09"));
    ipv6([(&director, "eth0", "fd98:18::1:50/112"), (&router, "near", "fd98:18::1:1/112")]);
    ipv6([(&router, "away", "fd98:18::2:1/112"), (&far, "eth0", "fd98:18::2:9/112")]);
    router.ip("addr add fe80::1/64 dev near nodad");
    Topology { director, router, _far: far }
}

#[test]
fn a_node_on_the_link_is_resolved_without_any_traffic() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([near()]);
        let hop = until(&mut network, "the next hop", hop(near())).await;
        assert_eq!(
            hop,
            NextHop {
                ifindex: network.borrow().link("eth0").expect("eth0").ifindex,
                own_mac: OWN_MAC,
                mac: ROUTER_MAC,
                vlan: 0,
                router: None,
                source: ip("fd98:18::1:50"),
                on_link: vec![(ip("fd98:18::1:0"), 112)],
            }
        );
    });
}

#[test]
fn a_router_is_known_by_its_link_local_address_for_either_family() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        let far_by_ipv4 = ip("198.18.10.9");
        neighbours.track([far(), far_by_ipv4]);
        let why = until(&mut network, "no route", problem(far())).await;
        assert_eq!(why, Unreachable::NoRoute);
        lab.director.ip("-6 route add fd98:18::2:0/112 via fe80::1 dev eth0");
        let by_router = until(&mut network, "the next hop", hop(far())).await;
        assert_eq!((by_router.mac, by_router.router), (ROUTER_MAC, Some(ip("fe80::1"))));
        assert_eq!(by_router.source, ip("fd98:18::1:50"));

        // RFC 5549: IPv4 by a router with an IPv6 address.
        lab.director.ip("route add 198.18.10.0/24 via inet6 fe80::1 dev eth0");
        let by_router = until(&mut network, "the next hop", hop(far_by_ipv4)).await;
        assert_eq!((by_router.mac, by_router.router), (ROUTER_MAC, Some(ip("fe80::1"))));
        assert_eq!(by_router.source, ip("198.18.9.50"));

        // Another router, with a static entry.
        lab.director.ip("neigh add fe80::2 lladdr 02:00:00:00:09:02 dev eth0 nud permanent");
        lab.director.ip("-6 route replace fd98:18::2:0/112 via fe80::2 dev eth0");
        until(&mut network, "the other router", |network| {
            hop(far())(network).filter(|hop| hop.mac == MacAddr([2, 0, 0, 0, 9, 2]))
        })
        .await;
        for kind in ["unreachable", "blackhole", "prohibit"] {
            lab.director.ip(&format!("-6 route replace {kind} fd98:18::2:9/128"));
            assert_eq!(until(&mut network, kind, problem(far())).await, Unreachable::NoRoute);
            lab.director.ip("-6 route del fd98:18::2:9/128");
            until(&mut network, "the route", hop(far())).await;
        }
    });
}

#[test]
fn a_changed_mac_is_followed_at_once_and_a_silent_node_keeps_it() {
    let lab = topology();
    lab.director.block_on(|| async {
        for (key, value) in [
            ("retrans_time_ms", "50"),
            ("base_reachable_time_ms", "100"),
            ("delay_first_probe_time", "0"),
        ] {
            let path = format!("/proc/sys/net/ipv6/neigh/eth0/{key}");
            std::fs::write(&path, value).expect(&path);
        }
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([near()]);
        until(&mut network, "the next hop", hop(near())).await;
        let before = Instant::now();
        lab.director
            .ip("neigh replace fd98:18::1:1 lladdr 02:00:00:00:09:99 dev eth0 nud reachable");
        let changed = MacAddr([2, 0, 0, 0, 9, 0x99]);
        until(&mut network, "the new MAC", |network| {
            hop(near())(network).filter(|hop| hop.mac == changed)
        })
        .await;
        let took = before.elapsed();
        assert!(took < Duration::from_millis(1_000), "took {took:?}, so it was the periodic read");
        // Nobody has that one: it fails, and the kernel asks everybody.
        until(&mut network, "the true MAC", |network| {
            hop(near())(network).filter(|hop| hop.mac == ROUTER_MAC)
        })
        .await;
        lab.router.ip("addr del fd98:18::1:1/112 dev near");
        until(&mut network, "silence", |network| network.silent.contains(&near()).then_some(()))
            .await;
        let kept = hop(near())(&network.borrow()).expect("a next hop");
        assert_eq!(kept.mac, ROUTER_MAC);
        lab.router.ip("addr add fd98:18::1:1/112 dev near nodad");
        until(&mut network, "an answer", |network| network.silent.is_empty().then_some(())).await;
    });
}

#[test]
fn what_has_no_next_hop_says_why() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        let (own, nobody) = (ip("fd98:18::1:50"), ip("fd98:18::1:7"));
        let link_local = ip("fe80::1");
        neighbours.track([own, nobody, link_local, near()]);
        assert_eq!(until(&mut network, "local", problem(own)).await, Unreachable::Local);
        let why = until(&mut network, "link-local", problem(link_local)).await;
        assert_eq!(why, Unreachable::LinkLocal);
        let why = until(&mut network, "no answer", problem(nobody)).await;
        assert_eq!(why.to_string(), "no answer to neighbour discovery for fd98:18::1:7 on eth0");
        lab.router.ip("addr add fd98:18::1:7/112 dev near nodad");
        assert_eq!(until(&mut network, "an answer", hop(nobody)).await.mac, ROUTER_MAC);
        until(&mut network, "the next hop", hop(near())).await;
        lab.router.ip("link set near down");
        let why = until(&mut network, "link down", problem(near())).await;
        assert_eq!(why, Unreachable::LinkDown("eth0".to_owned()));
    });
}

#[test]
fn an_address_that_comes_or_goes_is_seen_at_once() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (_neighbours, mut network) = spawn().expect("spawn");
        for (vip, prefix) in [("fd98:18::250", 128), ("198.18.9.250", 32)] {
            let has = |network: &vipd::neighbour::Network| {
                network.addresses.iter().any(|it| (it.address, it.prefix) == (ip(vip), prefix))
            };
            let before = Instant::now();
            lab.director.ip(&format!("addr add {vip}/{prefix} dev eth0"));
            until(&mut network, "the address", |network| has(network).then_some(())).await;
            lab.director.ip(&format!("addr del {vip}/{prefix} dev eth0"));
            until(&mut network, "no address", |network| (!has(network)).then_some(())).await;
            let took = before.elapsed();
            assert!(took < Duration::from_secs(3), "took {took:?}: it was the periodic read");
        }
    });
}
