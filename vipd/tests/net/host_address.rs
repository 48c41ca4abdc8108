use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use vipd::host_address::{HostAddressError, HostAddresses, LOOPBACK};
use vipd::netdev::{HostAddress, host_addresses};

use crate::lab::{Netns, ipv6, veth, wait_for};

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.6.50/24", "02:00:00:00:06:50"),
        (&peer, "eth0", "198.18.6.66/24", "02:00:00:00:06:66"),
    );
    ipv6([(&own, "eth0", "fd98:18::6:50/64"), (&peer, "eth0", "fd98:18::6:66/64")]);
    (own, peer)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn vips() -> [IpAddr; 2] {
    [ip("198.18.6.250"), ip("fd98:18::6:250")]
}

fn eth0() -> u32 {
    nix::net::if_::if_nametoindex("eth0").expect("eth0")
}

fn held(address: IpAddr) -> Option<HostAddress> {
    host_addresses().expect("addresses").into_iter().find(|it| it.address == address)
}

fn single(address: IpAddr) -> HostAddress {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    HostAddress { address, prefix, ifindex: eth0() }
}

/// The address that a connection from here to `to` would come from.
fn source(to: &str) -> IpAddr {
    let socket = UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
    let socket = socket.expect("socket");
    socket.connect((ip(to), 9)).expect("a route");
    socket.local_addr().expect("address").ip()
}

/// Says something on a connection from `client` to `at` in `server`; what arrives there.
fn talk(server: &Netns, client: &Netns, at: IpAddr) -> String {
    let listener = server.run(|| TcpListener::bind(SocketAddr::new(at, 0)).expect("bind"));
    let to = listener.local_addr().expect("address");
    client.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("connect");
        stream.write_all(b"PING").expect("write");
    });
    let mut heard = String::new();
    listener.accept().expect("accept").0.read_to_string(&mut heard).expect("read");
    heard
}

#[test]
fn it_serves_what_arrives_and_the_host_speaks_from_its_own_address() {
    let (own, peer) = pair();
    let mut addresses = own.run(HostAddresses::open).expect("socket");
    own.run(|| {
        for vip in vips() {
            assert!(addresses.add(eth0(), vip).expect("add"));
            assert_eq!(held(vip), Some(single(vip)));
        }
    });
    for vip in vips() {
        assert_eq!(talk(&own, &peer, vip), "PING", "{vip}");
    }
    let own_addresses = || {
        assert_eq!(source("198.18.6.66"), ip("198.18.6.50"));
        assert_eq!(source("fd98:18::6:66"), ip("fd98:18::6:50"));
    };
    own.run(own_addresses);
    // Its own address goes and comes back, and so stands behind the VIP: as after a new DHCP lease.
    own.ip("addr del 198.18.6.50/24 dev eth0");
    own.ip("addr add 198.18.6.50/24 dev eth0");
    own.ip("addr del fd98:18::6:50/64 dev eth0");
    own.ip("addr add fd98:18::6:50/64 dev eth0 nodad");
    own.run(own_addresses);
    own.ip("route add 203.0.113.0/24 via 198.18.6.66");
    assert_eq!(own.run(|| source("203.0.113.1")), ip("198.18.6.50"));
}

#[test]
fn it_brings_no_route_and_ipv6_asks_nobody() {
    let (own, _peer) = pair();
    let routes = || own.says("route show") + &own.says("-6 route show");
    let before = routes();
    own.run(|| {
        let mut addresses = HostAddresses::open().expect("socket");
        for vip in vips() {
            addresses.add(eth0(), vip).expect("add");
        }
    });
    assert_eq!(routes(), before);
    let shown = own.says("addr show dev eth0");
    let line = shown.lines().find(|line| line.contains("fd98:18::6:250")).expect("the VIP");
    assert!(line.contains("nodad") && line.contains("deprecated"), "{line}");
    assert!(!line.contains("tentative"), "{line}");
    assert!(shown.contains("198.18.6.250/32 scope host"), "{shown}");
}

#[test]
fn what_is_there_stays_and_what_is_gone_is_no_error() {
    let (own, _peer) = pair();
    own.run(|| {
        let mut addresses = HostAddresses::open().expect("socket");
        for vip in vips() {
            let prefix = single(vip).prefix;
            assert!(addresses.add(eth0(), vip).expect("add"));
            assert!(!addresses.add(eth0(), vip).expect("add again"));
            // An administrator's hand.
            own.ip(&format!("addr del {vip}/{prefix} dev eth0"));
            assert!(!addresses.remove(eth0(), vip, prefix).expect("remove what is gone"));
            assert!(addresses.add(eth0(), vip).expect("add what was taken away"));
            assert!(addresses.remove(eth0(), vip, prefix).expect("remove"));
            assert_eq!(held(vip), None);
        }
        assert!(!addresses.remove(4_000, vips()[0], 32).expect("the interface is gone"));
        assert!(!addresses.remove(4_000, vips()[1], 128).expect("the interface is gone"));
    });
}

#[test]
fn an_address_with_another_prefix_is_taken_off_with_it() {
    let (own, _peer) = pair();
    own.ip("addr add fd98:18::6:250/64 dev eth0 nodad");
    own.ip("addr add 198.18.6.250/24 dev eth0");
    own.run(|| {
        let mut addresses = HostAddresses::open().expect("socket");
        assert!(!addresses.add(eth0(), vips()[1]).expect("IPv6 knows it by the address alone"));
        for vip in vips() {
            let found = held(vip).expect("it is there");
            assert!(addresses.remove(eth0(), vip, found.prefix).expect("remove"));
            assert_eq!(held(vip), None);
        }
    });
}

#[test]
fn an_interface_that_goes_down_keeps_ipv4_loses_ipv6_and_gets_it_again() {
    let (own, peer) = pair();
    let [v4, v6] = vips();
    let mut addresses = own.run(HostAddresses::open).expect("socket");
    own.ip("link set eth0 down");
    own.run(|| assert!(addresses.add(eth0(), v4).expect("on an interface that is down")));
    own.ip("link set eth0 up");
    assert_eq!(talk(&own, &peer, v4), "PING");
    own.run(|| assert!(addresses.add(eth0(), v6).expect("add")));
    own.ip("link set eth0 down");
    // addrconf_ifdown removes every IPv6 address but the permanent ones that it is told to keep.
    own.run(|| assert_eq!((held(v4), held(v6)), (Some(single(v4)), None)));
    own.ip("link set eth0 up");
    own.ip("addr add fd98:18::6:50/64 dev eth0 nodad");
    own.run(|| assert!(addresses.add(eth0(), v6).expect("add again")));
    // The interface's own link-local address comes back in its time.
    wait_for("IPv6 on both ends", || {
        own.says("-6 addr show dev eth0 scope link -tentative").contains("fe80").then_some(())
    });
    assert_eq!(talk(&own, &peer, v6), "PING");
}

#[test]
fn why_it_cannot_be_is_told_with_the_remedy() {
    let (own, _peer) = pair();
    let [v4, v6] = vips();
    own.run(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1").expect("sysctl");
        let mut addresses = HostAddresses::open().expect("socket");
        let error = addresses.add(eth0(), v6).expect_err("IPv6 is disabled");
        assert!(matches!(error, HostAddressError::Ipv6Disabled { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("sysctl net.ipv6.conf.eth0.disable_ipv6=0"), "{text}");
        for vip in [v4, v6] {
            let error = addresses.add(4_000, vip).expect_err("no such interface");
            assert!(matches!(error, HostAddressError::NoInterface { .. }), "{error:?}");
            assert!(error.to_string().contains("interface 4000"), "{error}");
        }
    });
}

/// Whether the peer learns the VIP's place from what the holder sends: the holder answers from the
/// VIP, and must resolve the peer to do so.
fn gives_itself_away(own: &Netns, peer: &Netns, vip: IpAddr, peer_address: &str) -> bool {
    peer.ip("neigh flush all");
    own.ip("neigh flush all");
    // Known, so that an unsolicited word of it would be believed.
    peer.ip(&format!("neigh replace {vip} lladdr 02:00:00:00:06:99 dev eth0 nud stale"));
    own.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(vip, 0)).expect("bind");
        socket.send_to(b"x", (ip(peer_address), 9)).expect("send");
    });
    wait_for("the peer to be resolved", || {
        let entry = own.says(&format!("neigh show {peer_address}"));
        entry.contains("06:66").then_some(())
    });
    peer.says(&format!("neigh show {vip}")).contains("06:50")
}

#[test]
fn on_the_loopback_interface_an_ipv6_address_never_speaks_for_itself() {
    let (own, peer) = pair();
    let vip = vips()[1];
    own.run(|| {
        let mut addresses = HostAddresses::open().expect("socket");
        addresses.add(eth0(), vip).expect("add");
        assert!(gives_itself_away(&own, &peer, vip, "fd98:18::6:66"), "why it must not be there");
        addresses.remove(eth0(), vip, 128).expect("remove");
        addresses.add(LOOPBACK, vip).expect("add");
        assert!(!gives_itself_away(&own, &peer, vip, "fd98:18::6:66"));
    });
}

#[test]
fn with_arp_announce_an_ipv4_address_never_speaks_for_itself() {
    let (own, peer) = pair();
    let vip = vips()[0];
    let directory = std::env::temp_dir().join(crate::lab::unique("record"));
    let mut sysctls = own.run(|| vipd::sysctl::Sysctls::open(&directory));
    own.run(|| {
        HostAddresses::open().expect("socket").add(eth0(), vip).expect("add");
        assert!(gives_itself_away(&own, &peer, vip, "198.18.6.66"), "why it is needed");
        sysctls.quiet_arp(eth0()).expect("quiet");
        assert!(!gives_itself_away(&own, &peer, vip, "198.18.6.66"));
        sysctls.restore_all().expect("restore");
    });
}
