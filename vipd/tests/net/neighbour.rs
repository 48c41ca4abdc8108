//! ```text
//!   director ns           router ns            far ns
//!   eth0 198.18.1.50 ---- 198.18.1.1
//!                         198.18.2.1 --------- 198.18.2.9
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::watch;
use vipd::model::NextHop;
use vipd::neighbour::{Network, Unreachable, spawn};
use vipd_common::addr::MacAddr;

use crate::lab::{Netns, veth};

const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 1, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 2, 9));
const OWN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x50]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

struct Topology {
    director: Netns,
    router: Netns,
    _far: Netns,
}

fn topology() -> Topology {
    let (director, router, far) = (Netns::new("dir"), Netns::new("rtr"), Netns::new("far"));
    veth(
        (&director, "eth0", "198.18.1.50/24", &OWN_MAC.to_string()),
        (&router, "near", "198.18.1.1/24", &ROUTER_MAC.to_string()),
    );
    veth(
        (&router, "away", "198.18.2.1/24", "02:00:00:00:02:01"),
        (&far, "eth0", "198.18.2.9/24", "02:00:00:00:02:09"),
    );
    Topology { director, router, _far: far }
}

/// Waits until `check` holds of what is published.
pub async fn until<T>(
    network: &mut watch::Receiver<Network>,
    what: &str,
    check: impl Fn(&Network) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            if let Some(found) = check(&network.borrow_and_update()) {
                return found;
            }
            network.changed().await.expect("the thread goes on");
        }
    };
    match tokio::time::timeout(Duration::from_secs(10), wait).await {
        Ok(found) => found,
        Err(_) => panic!("timed out waiting for {what}"),
    }
}

pub fn hop(node: IpAddr) -> impl Fn(&Network) -> Option<NextHop> {
    move |network| network.next_hops.get(&node)?.as_ref().ok().cloned()
}

pub fn problem(node: IpAddr) -> impl Fn(&Network) -> Option<Unreachable> {
    move |network| network.next_hops.get(&node)?.as_ref().err().cloned()
}

#[test]
fn a_node_on_the_link_is_resolved_without_any_traffic() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([ROUTER]);
        let hop = until(&mut network, "the next hop", hop(ROUTER)).await;
        let eth0 = network.borrow().link("eth0").expect("eth0").clone();
        assert_eq!(
            hop,
            NextHop {
                ifindex: eth0.ifindex,
                own_mac: OWN_MAC,
                mac: ROUTER_MAC,
                vlan: 0,
                router: None,
                source: [198, 18, 1, 50].into(),
                on_link: vec![([198, 18, 1, 0].into(), 24)],
            }
        );
    });
}

#[test]
fn a_node_behind_a_router_has_the_routers_mac_and_follows_the_route() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([FAR]);
        let why = until(&mut network, "no route", problem(FAR)).await;
        assert_eq!(why, Unreachable::NoRoute);
        lab.director.ip("route add 198.18.2.0/24 via 198.18.1.1");
        let by_router = until(&mut network, "the next hop", hop(FAR)).await;
        assert_eq!((by_router.mac, by_router.router), (ROUTER_MAC, Some(ROUTER)));

        // The same router by another address, with a static entry.
        lab.director.ip("neigh add 198.18.1.2 lladdr 02:00:00:00:01:02 dev eth0 nud permanent");
        lab.director.ip("route replace 198.18.2.0/24 via 198.18.1.2");
        until(&mut network, "the other router", |network| {
            hop(FAR)(network).filter(|hop| hop.mac == MacAddr([2, 0, 0, 0, 1, 2]))
        })
        .await;
        lab.director.ip("route del 198.18.2.0/24");
        assert_eq!(until(&mut network, "no route", problem(FAR)).await, Unreachable::NoRoute);
    });
}

#[test]
fn a_changed_mac_is_followed_at_once_when_it_is_announced() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([ROUTER]);
        until(&mut network, "the next hop", hop(ROUTER)).await;
        let before = std::time::Instant::now();
        lab.director.ip("neigh replace 198.18.1.1 lladdr 02:00:00:00:01:99 dev eth0");
        until(&mut network, "the new MAC", |network| {
            hop(ROUTER)(network).filter(|hop| hop.mac == MacAddr([2, 0, 0, 0, 1, 0x99]))
        })
        .await;
        let took = before.elapsed();
        assert!(took < Duration::from_millis(1_000), "took {took:?}, so it was the periodic read");
    });
}

#[test]
fn a_silent_node_keeps_its_last_mac_and_is_named() {
    let lab = topology();
    lab.director.block_on(|| async {
        // One probe at a time, so that the test does not take long.
        for (key, value) in [
            ("retrans_time_ms", "50"),
            ("base_reachable_time_ms", "100"),
            ("delay_first_probe_time", "0"),
        ] {
            let path = format!("/proc/sys/net/ipv4/neigh/eth0/{key}");
            std::fs::write(&path, value).expect(&path);
        }
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([ROUTER]);
        let before = until(&mut network, "the next hop", hop(ROUTER)).await;
        lab.router.ip("addr del 198.18.1.1/24 dev near");
        until(&mut network, "silence", |network| network.silent.contains(&ROUTER).then_some(()))
            .await;
        assert_eq!(hop(ROUTER)(&network.borrow()).map(|hop| hop.mac), Some(before.mac));
        lab.router.ip("addr add 198.18.1.1/24 dev near");
        until(&mut network, "its return", |n| (!n.silent.contains(&ROUTER)).then_some(())).await;
    });
}

#[test]
fn a_node_that_never_answered_is_unresolved_until_it_does() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        let node: IpAddr = [198, 18, 1, 7].into();
        neighbours.track([node]);
        let why = until(&mut network, "no answer", problem(node)).await;
        assert_eq!(why, Unreachable::Unresolved { next_hop: node, interface: "eth0".to_owned() });
        assert_eq!(why.to_string(), "no answer to ARP for 198.18.1.7 on eth0");
        lab.router.ip("addr add 198.18.1.7/24 dev near");
        let hop = until(&mut network, "the next hop", hop(node)).await;
        assert_eq!(hop.mac, ROUTER_MAC);
    });
}

#[test]
fn this_host_is_not_a_node_and_a_dead_link_is_named() {
    let lab = topology();
    lab.director.block_on(|| async {
        let own: IpAddr = [198, 18, 1, 50].into();
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([own, ROUTER]);
        assert_eq!(until(&mut network, "local", problem(own)).await, Unreachable::Local);
        until(&mut network, "the next hop", hop(ROUTER)).await;
        lab.router.ip("link set near down");
        let why = until(&mut network, "link down", problem(ROUTER)).await;
        assert_eq!(why, Unreachable::LinkDown("eth0".to_owned()));
        assert!(!network.borrow().link("eth0").expect("eth0").running);
        lab.router.ip("link set near up");
        until(&mut network, "the link again", hop(ROUTER)).await;
    });
}

#[test]
fn nodes_no_longer_tracked_are_forgotten_and_the_thread_ends_with_its_handle() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([ROUTER, FAR]);
        until(&mut network, "both", |n| (n.next_hops.len() == 2).then_some(())).await;
        neighbours.track([ROUTER]);
        until(&mut network, "one", |n| (n.next_hops.len() == 1).then_some(())).await;
        drop(neighbours);
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            while network.changed().await.is_ok() {}
        });
        ended.await.expect("the thread ends");
    });
}

#[test]
fn a_storm_of_changes_overruns_nothing() {
    let lab = topology();
    lab.director.block_on(|| async {
        let (neighbours, mut network) = spawn().expect("spawn");
        neighbours.track([ROUTER]);
        until(&mut network, "the next hop", hop(ROUTER)).await;
        let batch: String = (0..4_000)
            .map(|n| {
                format!(
                    "neigh replace 198.18.1.{} lladdr 02:00:00:01:{:02x}:{:02x} dev eth0\n",
                    60 + n % 100,
                    n / 256,
                    n % 256
                )
            })
            .chain(["neigh replace 198.18.1.1 lladdr 02:00:00:00:01:77 dev eth0\n".to_owned()])
            .collect();
        let path = format!("/run/{}", crate::lab::unique("batch"));
        std::fs::write(&path, batch).expect("batch");
        lab.director.ip(&format!("-batch {path}"));
        let _ = std::fs::remove_file(&path);
        until(&mut network, "the MAC after the storm", |network| {
            hop(ROUTER)(network).filter(|hop| hop.mac == MacAddr([2, 0, 0, 0, 1, 0x77]))
        })
        .await;
    });
}
