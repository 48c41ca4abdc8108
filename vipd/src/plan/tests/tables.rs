//! Indexes, slots, and what comes and goes with the configuration.

use super::*;

#[test]
fn when_all_slots_were_used_the_oldest_is_reused_and_none_in_use() {
    let mut lab = Lab::serving();
    let filler = |slot: u16| Backend { vlan: slot, ..backend(99) };
    lab.actual.slots.extend((3..MAX_SLOTS as u16).map(|slot| (slot, filler(slot))));
    lab.actual.next_slot = MAX_SLOTS as u16;
    lab.hop(101).mac = mac(201);
    lab.hop(102).mac = mac(202);
    lab.apply();
    // 0 is in use until the commit, 2 holds .103.
    assert_eq!(lab.actual.slots[&0], backend(101));
    assert_eq!(lab.actual.slots[&1].next_hop, mac(201));
    assert_eq!(lab.actual.slots[&2], backend(103));
    assert_eq!(lab.actual.slots[&3].next_hop, mac(202));
    assert_eq!(lab.actual.active(0), up(1, 1));
}

#[test]
fn services_with_the_same_backend_share_a_slot() {
    let mut lab = Lab::new();
    let second =
        Service { port: 6380, master: MASTER, role: ServiceRole::Master, backend_port: None };
    lab.topology.vips[0].services.push(second);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.actual.slots.len(), 3);
    assert_eq!((lab.actual.active(0), lab.actual.active(1)), (up(0, 1), up(0, 1)));
}

#[test]
fn a_service_keeps_its_index_and_a_new_one_takes_the_lowest_free() {
    let mut lab = Lab::serving();
    let service =
        |port| Service { port, master: MASTER, role: ServiceRole::Master, backend_port: None };
    lab.topology.vips[0].services = vec![service(7000), service(6379), service(7001)];
    lab.apply();
    assert_eq!(lab.actual.services, [(key(6379), 0), (key(7000), 1), (key(7001), 2)].into());
    assert_eq!(lab.actual.active(0), up(0, 1));
}

#[test]
fn a_service_that_is_not_configured_any_more_goes_down_and_away() {
    let mut lab = Lab::serving();
    let service =
        |port| Service { port, master: MASTER, role: ServiceRole::Master, backend_port: None };
    lab.topology.vips[0].services = vec![service(7000)];
    assert_eq!(
        lab.apply(),
        [
            activate(down(0, 1)),
            Step::PutService { key: key(7000), index: 1 },
            Step::SetConfirmed { service: 1, confirmed: confirmed(target(101, 1)) },
            Step::SetActive { service: 1, active: up(0, 1) },
            Step::SetConfirmed { service: 0, confirmed: Confirmed::default() },
            Step::RemoveService { key: key(6379) },
        ]
    );
    // Flows of the removed service must not pass for the index's next owner's.
    lab.topology.vips[0].services.push(service(7001));
    lab.serve(target(102, 2));
    lab.apply();
    assert_eq!(lab.actual.services[&key(7001)], 0);
    assert_eq!(lab.actual.active(0), up(1, 2));
}

#[test]
fn a_removed_vip_is_not_answered_for_before_its_service_is_down() {
    let mut lab = Lab::serving();
    lab.topology.vips.clear();
    assert_eq!(
        lab.apply(),
        [
            Step::RemoveAddress { addr: VIP },
            activate(down(0, 1)),
            Step::SetConfirmed { service: 0, confirmed: Confirmed::default() },
            Step::RemoveService { key: key(6379) },
        ]
    );
}

#[test]
fn an_interface_that_is_not_attached_any_more_is_removed_last() {
    let mut lab = Lab::serving();
    let other = Interface { mac: mac(51), zero: [0; 2] };
    lab.interfaces = [(3, other)].into();
    for host in 101..=103 {
        let hop = lab.hop(host);
        (hop.ifindex, hop.own_mac) = (3, mac(51));
    }
    let steps = lab.apply();
    assert_eq!(steps.first(), Some(&Step::PutInterface { ifindex: 3, interface: other }));
    assert_eq!(steps.last(), Some(&Step::RemoveInterface { ifindex: LAN }));
}

#[test]
fn too_many_services_are_a_problem() {
    let mut lab = Lab::serving();
    let service =
        |port| Service { port, master: MASTER, role: ServiceRole::Master, backend_port: None };
    lab.topology.vips[0].services = (1..=1025).map(service).collect();
    lab.actual.services.clear();
    lab.apply();
    let service = "198.18.0.250:1025".parse().unwrap();
    assert_eq!(lab.problems, [Problem::NoIndex { service }]);
}

#[test]
fn when_slots_run_out_replicas_go_without() {
    let mut lab = Lab::new();
    lab.nodes[0] =
        (0..10_000_u16).map(|n| SocketAddr::from(([198, 18, 0, 102], 10_000 + n))).collect();
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.actual.slots.len(), MAX_SLOTS as usize);
    assert_eq!(lab.actual.active(0).state(), ServiceState::Up);
    assert_eq!(lab.problems.len(), 10_000 + 1 - MAX_SLOTS as usize);
}

#[test]
fn a_service_is_found_by_its_index() {
    let lab = Lab::serving();
    let found = lab.topology.service_at(&lab.actual, 0).map(|(vip, service)| vip.key(service));
    assert_eq!(found, Some("198.18.0.250:6379".parse().unwrap()));
    assert!(lab.topology.service_at(&lab.actual, 1).is_none());
}

#[test]
fn the_topology_follows_the_configuration() {
    let config: crate::config::Config = toml::from_str(
        r#"
        [daemon]
        interfaces = ["eth1"]
        [sentinel]
        endpoints = ["198.18.0.101:26379"]
        [[vip]]
        address = "198.18.0.250"
        service = [{ port = 6379, master = "b" }, { port = 6380, master = "a", backend_port = 7 }]
        [[vip]]
        address = "198.18.0.251"
        mode = "dsr"
        service = [{ port = 6379, master = "b" }]
        "#,
    )
    .unwrap();
    let topology = Topology::new(&config);
    let found: Vec<_> = topology
        .services()
        .map(|(vip, service)| (vip.key(service).to_string(), vip.mode, *service))
        .collect();
    let role = ServiceRole::Master;
    let service = |port, master, backend_port| Service { port, master, role, backend_port };
    assert_eq!(
        found,
        [
            ("198.18.0.250:6379".into(), Mode::Nat, service(6379, MasterId(0), None)),
            ("198.18.0.250:6380".into(), Mode::Nat, service(6380, MasterId(1), Some(7))),
            ("198.18.0.251:6379".into(), Mode::Dsr, service(6379, MasterId(0), None)),
        ]
    );
    assert_eq!(topology.masters.len(), 2);
}
