use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use vipd::announce::{Announcer, Occupancy, PROBE_INTERVAL, PROBES, Port, REPEATS, probe};
use vipd_common::addr::MacAddr;

use crate::lab::{Netns, veth};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 250);
const VIP: IpAddr = IpAddr::V4(ADDRESS);
const OWN: MacAddr = MacAddr([2, 0, 0, 0, 3, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 3, 0x66]);

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.3.50/24", &OWN.to_string()),
        (&peer, "eth0", "198.18.3.66/24", &PEER.to_string()),
    );
    (own, peer)
}

fn port() -> Port {
    Port { ifindex: nix::net::if_::if_nametoindex("eth0").expect("eth0"), mac: OWN }
}

#[test]
fn a_free_address_is_free_after_all_probes() {
    let (own, _peer) = pair();
    let start = Instant::now();
    let found = own.block_on(|| async { probe(port(), VIP).await.expect("probe") });
    assert_eq!(found, Occupancy::Free);
    assert!(start.elapsed() >= PROBE_INTERVAL * PROBES);
}

#[test]
fn a_rival_is_found_at_once_and_named() {
    let (own, peer) = pair();
    peer.ip("addr add 198.18.3.250/24 dev eth0");
    let (found, took) = own.block_on(|| async {
        let start = Instant::now();
        (probe(port(), VIP).await.expect("probe"), start.elapsed())
    });
    assert_eq!(found, Occupancy::InUse { mac: PEER });
    assert!(took < PROBE_INTERVAL, "took {took:?}");
}

#[test]
fn an_interface_that_is_gone_is_an_error() {
    let (own, _peer) = pair();
    own.block_on(|| async {
        let gone = Port { ifindex: 4_000, mac: OWN };
        probe(gone, VIP).await.expect_err("no such interface");
    });
}

/// Every ARP frame that arrives in the namespace, from the moment this returns.
fn hear(netns: &Netns) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    netns.run(|| {
        let socket = socket2::Socket::new(
            socket2::Domain::PACKET,
            socket2::Type::RAW,
            Some(socket2::Protocol::from(i32::from(0x0806_u16.to_be()))),
        )
        .expect("AF_PACKET needs CAP_NET_RAW");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
        std::thread::spawn(move || {
            let mut socket = socket;
            let mut buffer = [0; 128];
            while let Ok(length) = std::io::Read::read(&mut socket, &mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
    });
    receive
}

#[test]
fn a_takeover_is_announced_in_both_forms_and_repeated() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    own.block_on(|| async {
        let mut announcer = Announcer::new().expect("socket");
        let start = Instant::now();
        announcer.announce(port(), VIP).expect("announce");
        tokio::time::sleep_until((start + REPEATS[1] + Duration::from_millis(200)).into()).await;
    });
    let frames: Vec<_> = heard.try_iter().collect();
    // At once and two repeats, two forms each.
    assert_eq!(frames.len(), 6, "{frames:02x?}");
    for (index, bytes) in frames.iter().enumerate() {
        let operation = if index % 2 == 0 { 1 } else { 2 };
        let target = if operation == 2 { [0xff; 6] } else { [0; 6] };
        let mut expected = Vec::new();
        expected.extend([0xff; 6]);
        expected.extend(OWN.0);
        expected.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
        expected.extend(OWN.0);
        expected.extend(ADDRESS.octets());
        expected.extend(target);
        expected.extend(ADDRESS.octets());
        assert_eq!(bytes[..42], expected, "frame {index}");
    }
}

#[test]
fn a_withdrawn_address_is_not_announced_again() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    own.block_on(|| async {
        let mut announcer = Announcer::new().expect("socket");
        announcer.announce(port(), VIP).expect("announce");
        announcer.withdraw(VIP);
        tokio::time::sleep(REPEATS[1] + Duration::from_millis(100)).await;
    });
    assert_eq!(heard.try_iter().count(), 2, "only what was sent before the withdrawal");
}

#[test]
fn a_defence_is_sent_at_most_once_a_second() {
    let (own, peer) = pair();
    let heard = hear(&peer);
    own.block_on(|| async {
        let mut announcer = Announcer::new().expect("socket");
        let start = Instant::now();
        let mut defend = |after_ms| {
            announcer.defend(port(), VIP, start + Duration::from_millis(after_ms)).expect("defend")
        };
        assert_eq!([0, 1, 999, 1_000, 1_500].map(&mut defend), [true, false, false, true, false]);
    });
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(heard.try_iter().count(), 4);
}
