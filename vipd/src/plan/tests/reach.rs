//! How a node is reached, and what is done where it can't be.

use super::*;
use crate::failover::Adopted;

#[test]
fn a_mac_that_is_unknown_for_the_moment_keeps_the_same_node() {
    let mut lab = Lab::serving();
    lab.forget_hop(101);
    assert_eq!(lab.apply(), []);
    assert_eq!(lab.why(), [Unreachable::NextHopUnknown]);
}

#[test]
fn a_new_master_that_cannot_be_reached_takes_the_service_down() {
    let mut lab = Lab::serving();
    lab.forget_hop(102);
    lab.serve(target(102, 2));
    assert_eq!(lab.apply(), [put_vip(Address::NAT), activate(down(0, 1)), confirm(target(102, 2))]);
    let (service, node) = ("198.18.0.250:6379".parse().unwrap(), node(102));
    let why = Unreachable::NextHopUnknown;
    assert_eq!(lab.problems, [Problem::Unreachable { service, node, master: true, why }]);

    lab.next_hops.insert(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 102)), hop(102));
    assert_eq!(lab.apply(), [activate(up(1, 2)), put_vip(SHOWN_NAT)]);
}

#[test]
fn off_link_the_host_s_own_address_is_the_source() {
    let mut lab = Lab::new();
    for host in 101..=103 {
        lab.hop(host).on_link = vec![([198, 19, 0, 0].into(), 16)];
    }
    lab.serve(target(101, 1));
    lab.apply();
    let expected = Backend {
        source: mapped([198, 18, 0, 50]),
        first_port: 61_000,
        last_port: 65_535,
        ..backend(101)
    };
    assert_eq!(lab.actual.slots[&0], expected);
    assert_eq!(lab.actual.addresses[&HOST].flags, Address::SOURCE);

    // A route that changes to the VIP's link leaves nobody with the host's address.
    for host in 101..=103 {
        *lab.hop(host) = hop(host);
    }
    let steps = lab.apply();
    assert_eq!(steps.last(), Some(&Step::RemoveAddress { addr: HOST }));
    // Replies to connections from the host's address no longer arrive: they are stale.
    let generations: Vec<u32> = lab.actual.active.values().map(|it| it.generation()).collect();
    assert_eq!(generations, [2]);
}

#[test]
fn a_source_that_is_still_used_stays_while_the_mac_is_unknown() {
    let mut lab = Lab::new();
    lab.topology.vips[0].source = Source::Address(HOST);
    lab.nodes[0].truncate(1);
    lab.serve(target(101, 1));
    lab.apply();
    lab.forget_hop(101);
    assert_eq!(lab.apply(), []);
    assert_eq!(lab.actual.addresses[&HOST].flags, Address::SOURCE);
}

#[test]
fn a_vip_that_is_a_source_too_stays_a_vip() {
    let mut lab = Lab::serving();
    assert_eq!(lab.actual.addresses.len(), 1);
    lab.topology.vips[0].source = Source::Address(VIP);
    assert_eq!(lab.apply(), []);
}

#[test]
fn a_configured_backend_port_replaces_the_node_s() {
    let mut lab = Lab::new();
    lab.topology.vips[0].services[0].backend_port = Some(7000);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.actual.slots[&0].port, 7000_u16.to_be_bytes());
    // What is remembered is whom Sentinel named.
    assert_eq!(
        lab.topology.adopted(&lab.actual, false),
        [Some(Adopted {
            target: target(101, 1),
            provisional: None,
            parked: false,
            announced: true,
            heard: None,
        })]
    );
}

#[test]
fn dsr_rewrites_macs_only() {
    let mut lab = Lab::new();
    lab.topology.vips[0].mode = Mode::Dsr;
    lab.topology.vips[0].services[0].port = 8000;
    lab.serve(target(101, 1));
    lab.apply();
    let expected = Backend {
        source: [0; 16],
        first_port: 0,
        last_port: 0,
        mode: ForwardMode::Dsr as u32,
        ..backend(101)
    };
    assert_eq!(lab.actual.slots[&0], expected);
    let shown = Address::DSR | Address::ANNOUNCE | Address::ECHO;
    assert_eq!(lab.actual.addresses[&VIP].flags, shown);
    assert_eq!(lab.actual.addresses.len(), 1);
}

#[test]
fn dsr_to_another_port_is_a_problem() {
    let mut lab = Lab::new();
    lab.topology.vips[0].mode = Mode::Dsr;
    lab.nodes[0].truncate(1);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.why(), [Unreachable::Port { listens: 8000 }]);
    assert_eq!(lab.actual.active(0), Active::default());
    assert!(lab.actual.slots.is_empty());
}

#[test]
fn dsr_through_a_router_is_a_problem() {
    let mut lab = Lab::new();
    lab.topology.vips[0].mode = Mode::Dsr;
    lab.topology.vips[0].services[0].port = 8000;
    lab.nodes[0].truncate(1);
    let router = [198, 18, 0, 1].into();
    lab.hop(101).router = Some(router);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.why(), [Unreachable::ThroughRouter { router }]);
}

#[test]
fn a_route_by_a_foreign_interface_is_a_problem_and_takes_the_service_down() {
    let mut lab = Lab::serving();
    lab.hop(101).ifindex = 9;
    lab.apply();
    assert_eq!(lab.why(), [Unreachable::NotAttached { ifindex: 9 }]);
    assert_eq!(lab.actual.active(0), down(0, 1));
    assert_eq!(lab.actual.addresses[&VIP].flags, Address::NAT);
}

#[test]
fn an_ipv6_node_is_a_problem() {
    let mut lab = Lab::new();
    let node: SocketAddr = "[fd98:18::101]:8000".parse().unwrap();
    lab.nodes[0].clear();
    lab.serve(Target { addr: node, epoch: Epoch(1) });
    lab.apply();
    assert_eq!(lab.why(), [Unreachable::OtherFamily]);
    assert_eq!(lab.topology.adopted(&lab.actual, false)[0].map(|it| it.target.addr), Some(node));
}
