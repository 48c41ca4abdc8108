use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use vipd::announce::{
    Announcer, Occupancy, PROBE_INTERVAL, PROBES, Port, Schedule, SolicitedNode, Tenure, probe,
};
use vipd::clock::Monotonic;
use vipd_common::addr::MacAddr;

use crate::lab::{Netns, ipv6, veth, wait_for};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 3, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 3, 0x66]);
/// ARP and IPv6.
const ETHERTYPES: [u16; 2] = [0x0806, 0x86dd];
/// Three quick ones and no more.
const THREE: Schedule = Schedule { count: 3, interval: Duration::from_millis(100), refresh: None };

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.3.50/24", &OWN.to_string()),
        (&peer, "eth0", "198.18.3.66/24", &PEER.to_string()),
    );
    ipv6([(&own, "eth0", "fd98:18::3:50/64"), (&peer, "eth0", "fd98:18::3:66/64")]);
    (own, peer)
}

fn vips() -> [IpAddr; 2] {
    ["198.18.3.250", "fd98:18::3:250"].map(|vip| vip.parse().expect(vip))
}

fn port() -> Port {
    Port { ifindex: nix::net::if_::if_nametoindex("eth0").expect("eth0"), mac: OWN }
}

/// Gives the peer the VIP.
fn take(peer: &Netns, vip: IpAddr) {
    let (prefix, flag) = if vip.is_ipv4() { (24, "") } else { (64, "nodad") };
    peer.ip(&format!("addr add {vip}/{prefix} dev eth0 {flag}"));
}

/// Every announcement of a VIP that arrives in the namespace, from the moment this returns.
fn hear(netns: &Netns) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    for ethertype in ETHERTYPES {
        let send = send.clone();
        netns.run(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::PACKET,
                socket2::Type::RAW,
                Some(socket2::Protocol::from(i32::from(ethertype.to_be()))),
            )
            .expect("AF_PACKET needs CAP_NET_RAW");
            socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
            std::thread::spawn(move || {
                let mut socket = socket;
                let mut buffer = [0; 128];
                while let Ok(length) = std::io::Read::read(&mut socket, &mut buffer) {
                    let frame = &buffer[..length];
                    // ARP from the own end, or an advertisement from it to all nodes.
                    let from_own = frame[6..12] == OWN.0;
                    let announces = ethertype == ETHERTYPES[0]
                        || frame[..6] == [0x33, 0x33, 0, 0, 0, 1] && frame[54] == 136;
                    if from_own && announces && send.send(frame.to_vec()).is_err() {
                        return;
                    }
                }
            });
        });
    }
    receive
}

/// How many announcements were heard so far; for ARP each has two forms.
fn count(heard: &mpsc::Receiver<Vec<u8>>, vip: IpAddr) -> usize {
    // The peer's stack may be late by a little.
    std::thread::sleep(Duration::from_millis(100));
    heard.try_iter().count() / if vip.is_ipv4() { 2 } else { 1 }
}

#[test]
fn a_free_address_is_free_after_all_probes() {
    let (own, _peer) = pair();
    for vip in vips() {
        let start = Instant::now();
        let found = own.block_on(|| async { probe(port(), vip).await.expect("probe") });
        assert_eq!(found, Occupancy::Free, "{vip}");
        assert!(start.elapsed() >= PROBE_INTERVAL * PROBES);
    }
}

#[test]
fn a_rival_is_found_at_once_and_named() {
    let (own, peer) = pair();
    for vip in vips() {
        take(&peer, vip);
        let (found, took) = own.block_on(|| async {
            let start = Instant::now();
            (probe(port(), vip).await.expect("probe"), start.elapsed())
        });
        assert_eq!(found, Occupancy::InUse { mac: PEER }, "{vip}");
        assert!(took < PROBE_INTERVAL, "{vip}: took {took:?}");
    }
}

#[test]
fn a_rival_is_found_without_ipv6_of_our_own_too() {
    let (own, peer) = pair();
    let vip = vips()[1];
    take(&peer, vip);
    own.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1")).expect("sysctl");
    let found = own.block_on(|| async { probe(port(), vip).await.expect("probe") });
    assert_eq!(found, Occupancy::InUse { mac: PEER });
}

#[test]
fn other_traffic_does_not_drown_the_answer() {
    let (own, peer) = pair();
    let (stop, stopped) = mpsc::channel::<()>();
    let flood = peer.run(|| {
        let socket = UdpSocket::bind("[fd98:18::3:66]:0").expect("bind");
        std::thread::spawn(move || {
            let mut sent = 0_u32;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                sent += u32::from(socket.send_to(&[0; 64], "[fd98:18::3:50]:9").is_ok());
            }
            sent
        })
    });
    let vip = vips()[1];
    let found = own.block_on(|| async { probe(port(), vip).await.expect("probe") });
    assert_eq!(found, Occupancy::Free);
    take(&peer, vip);
    let found = own.block_on(|| async { probe(port(), vip).await.expect("probe") });
    assert_eq!(found, Occupancy::InUse { mac: PEER });
    drop(stop);
    assert!(flood.join().expect("flood") > 1_000);
}

#[test]
fn an_interface_that_is_gone_is_an_error() {
    let (own, _peer) = pair();
    own.block_on(|| async {
        let gone = Port { ifindex: 4_000, mac: OWN };
        for vip in vips() {
            probe(gone, vip).await.expect_err("no such interface");
        }
    });
}

#[test]
fn a_takeover_is_announced_by_arp_in_both_forms_and_repeated() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    own.block_on(|| async {
        let mut announcer = Announcer::new(THREE).expect("socket");
        announcer.announce(port(), vips()[0], Tenure::Own).expect("announce");
        tokio::time::sleep(Duration::from_millis(400)).await;
    });
    std::thread::sleep(Duration::from_millis(100));
    let frames: Vec<_> = heard.try_iter().collect();
    assert_eq!(frames.len(), 6, "{frames:02x?}");
    for (index, bytes) in frames.iter().enumerate() {
        let operation = if index % 2 == 0 { 1 } else { 2 };
        let target = if operation == 2 { [0xff; 6] } else { [0; 6] };
        let mut expected = Vec::new();
        expected.extend([0xff; 6]);
        expected.extend(OWN.0);
        expected.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
        expected.extend(OWN.0);
        expected.extend([198, 18, 3, 250]);
        expected.extend(target);
        expected.extend([198, 18, 3, 250]);
        assert_eq!(bytes[..42], expected, "frame {index}");
    }
}

#[test]
fn a_takeover_changes_what_a_client_believes() {
    let (own, peer) = pair();
    for vip in vips() {
        for state in ["reachable", "stale"] {
            peer.ip(&format!("neigh replace {vip} lladdr 02:00:00:00:03:99 dev eth0 nud {state}"));
            // IPv4 keeps an entry for a second, whatever is said of it.
            peer.run(|| std::fs::write("/proc/sys/net/ipv4/neigh/eth0/locktime", "0"))
                .expect("sysctl");
            own.block_on(|| async {
                let mut announcer = Announcer::new(THREE).expect("socket");
                announcer.announce(port(), vip, Tenure::Own).expect("announce");
            });
            wait_for("the client to believe it", || {
                peer.says(&format!("neigh show {vip}")).contains("03:50").then_some(())
            });
        }
    }
}

#[test]
fn a_withdrawn_address_is_not_announced_again() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    for vip in vips() {
        own.block_on(|| async {
            let mut announcer = Announcer::new(THREE).expect("socket");
            announcer.announce(port(), vip, Tenure::Own).expect("announce");
            announcer.withdraw(vip);
            tokio::time::sleep(Duration::from_millis(300)).await;
        });
        assert_eq!(count(&heard, vip), 1, "{vip}: only what was sent before the withdrawal");
    }
}

#[test]
fn while_it_is_held_it_is_announced_every_now_and_then() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    let refresh = Some(Duration::from_millis(300));
    let schedule = Schedule { count: 1, refresh, ..THREE };
    for vip in vips() {
        own.block_on(|| async {
            let mut announcer = Announcer::new(schedule).expect("socket");
            announcer.announce(port(), vip, Tenure::Own).expect("announce");
            tokio::time::sleep(Duration::from_millis(1_000)).await;
        });
        assert_eq!(count(&heard, vip), 4, "{vip}");
    }
}

#[test]
fn nothing_is_said_of_a_shared_vip_after_its_lease() {
    let (own, peer) = pair();
    for vip in vips() {
        let heard = hear(&peer);
        own.block_on(|| async move {
            let mut announcer = Announcer::new(THREE).expect("socket");
            let now = Monotonic::now();
            announcer.lease(now);
            announcer.announce(port(), vip, Tenure::Leased).expect("announce");
            let defended = announcer.defend(port(), vip, Tenure::Leased, Instant::now());
            assert!(!defended.expect("defend"));
            // Renewed between the second and the third.
            tokio::time::sleep(Duration::from_millis(150)).await;
            announcer.lease(now + Duration::from_secs(3));
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(count(&heard, vip), 1, "{vip}");

            announcer.lease(now);
            announcer.announce(port(), vip, Tenure::Own).expect("announce");
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert_eq!(count(&heard, vip), 3, "{vip}: its own is its own");
        });
    }
}

#[test]
fn a_defence_is_sent_at_most_once_a_second() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    for vip in vips() {
        own.block_on(|| async {
            let mut announcer = Announcer::new(THREE).expect("socket");
            let start = Instant::now();
            let mut defend = |after_ms| {
                let now = start + Duration::from_millis(after_ms);
                announcer.defend(port(), vip, Tenure::Own, now).expect("defend")
            };
            let sent = [0, 1, 999, 1_000, 1_500].map(&mut defend);
            assert_eq!(sent, [true, false, false, true, false]);
        });
        assert_eq!(count(&heard, vip), 2, "{vip}");
    }
}

/// The groups of the interface, as the kernel lists them.
fn groups(own: &Netns) -> Vec<String> {
    let shown = own.says("-6 maddr show dev eth0");
    let groups = shown.lines().filter_map(|line| line.trim().strip_prefix("inet6 "));
    let solicited = groups.filter(|group| group.starts_with("ff02::1:ff"));
    solicited.filter_map(|it| it.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_groups_of_the_vips_are_joined_and_left() {
    let (own, _peer) = pair();
    let before = groups(&own);
    own.run(|| {
        let ifindex = port().ifindex;
        let mut solicited = SolicitedNode::default();
        let vip = |low: u16| -> IpAddr { Ipv6Addr::new(0xfd98, 0x18, 0, 0, 0, 0, 9, low).into() };
        // The third shares its group with the first; IPv4 has none.
        let same: IpAddr = Ipv6Addr::new(0xfd98, 0x18, 0, 1, 0, 0, 9, 1).into();
        let wanted = [vip(1), vip(2), same, vips()[0]].map(|vip| (ifindex, vip));
        assert!(solicited.follow(wanted).is_empty());
        let mut joined = groups(&own);
        joined.retain(|group| !before.contains(group));
        joined.sort();
        assert_eq!(joined, ["ff02::1:ff09:1", "ff02::1:ff09:2"]);
        // One of the two that share it goes.
        assert!(solicited.follow([(ifindex, same)]).is_empty());
        assert!(groups(&own).contains(&"ff02::1:ff09:1".to_owned()));
        assert!(!groups(&own).contains(&"ff02::1:ff09:2".to_owned()));
        // More than one socket has room for.
        let many = (1..=600).map(|low| (ifindex, vip(low)));
        assert!(solicited.follow(many).is_empty());
        assert_eq!(groups(&own).len(), before.len() + 600);
        let failed = solicited.follow([(4_000, vip(1))]);
        assert_eq!(failed.len(), 1);
        assert!(failed[0].to_string().contains("ff02::1:ff09:1"), "{}", failed[0]);
        assert_eq!(groups(&own), before);
    });
}
