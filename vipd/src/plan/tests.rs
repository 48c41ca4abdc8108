//! Steps for given situations, in order and complete.

use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::MAX_SLOTS;

use super::*;
use crate::config::{PortRange, Source};
use crate::failover::State;
use crate::model::{Epoch, MasterId};

const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 250);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 50);
const LAN: u32 = 2;
const MASTER: MasterId = MasterId(0);

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn interface() -> Interface {
    Interface { mac: mac(50), zero: [0; 2] }
}

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn target(host: u8, epoch: u64) -> Target {
    Target { addr: node(host), epoch: Epoch(epoch) }
}

fn hop(host: u8) -> NextHop {
    NextHop {
        ifindex: LAN,
        own_mac: mac(50),
        mac: mac(host),
        vlan: 0,
        router: None,
        source: HOST,
        on_link: vec![(HOST, 24)],
    }
}

/// What [`hop`] makes of a node for [`VIP`] in mode `nat`.
fn backend(host: u8) -> Backend {
    Backend {
        addr: mapped([198, 18, 0, host]),
        source: mapped(VIP.octets()),
        port: 8000_u16.to_be_bytes(),
        next_hop: mac(host),
        own_mac: mac(50),
        vlan: 0,
        first_port: 1024,
        last_port: 65535,
        ifindex: LAN,
        mode: ForwardMode::Nat as u32,
    }
}

fn up(slot: u16, generation: u32) -> Active {
    Active::new(ServiceState::Up, slot, generation)
}

fn down(slot: u16, generation: u32) -> Active {
    Active::new(ServiceState::Down, slot, generation)
}

fn key(port: u16) -> ServiceKey {
    ServiceKey::new(VIP.octets(), port.to_be_bytes())
}

fn put_vip(flags: u32) -> Step {
    Step::PutAddress { addr: VIP, address: Address { flags } }
}

fn confirm(target: Target) -> Step {
    Step::SetConfirmed { service: 0, confirmed: topology::confirmed(target) }
}

fn activate(active: Active) -> Step {
    Step::SetActive { service: 0, active }
}

const SHOWN_NAT: u32 = Address::NAT | Address::ANNOUNCE | Address::ECHO;

/// A director with one VIP, one service, one master name and three nodes, and its maps.
struct Lab {
    topology: Topology,
    desired: Vec<Desired>,
    nodes: Vec<Vec<SocketAddr>>,
    next_hops: HashMap<Ipv4Addr, NextHop>,
    interfaces: BTreeMap<u32, Interface>,
    may_announce: BTreeSet<Ipv4Addr>,
    actual: Actual,
    problems: Vec<Problem>,
}

impl Lab {
    fn new() -> Self {
        let service = Service { port: 6379, master: MASTER, backend_port: None };
        let vip = Vip { addr: VIP, mode: Mode::Nat, source: Source::Auto, services: vec![service] };
        Self {
            topology: Topology {
                vips: vec![vip],
                source_ports: PortRange { first: 61_000, last: 65_535 },
                masters: 1,
            },
            desired: vec![Desired { target: None, announce: false, state: State::Learning }],
            nodes: vec![vec![node(101), node(102), node(103)]],
            next_hops: (101..=103)
                .map(|host| (Ipv4Addr::new(198, 18, 0, host), hop(host)))
                .collect(),
            interfaces: [(LAN, interface())].into(),
            may_announce: [VIP].into(),
            actual: Actual::default(),
            problems: vec![],
        }
    }

    /// [`Self::new`] with .101 served and all applied.
    fn serving() -> Self {
        let mut lab = Self::new();
        lab.serve(target(101, 1));
        lab.apply();
        assert_eq!(lab.actual.active(0), up(0, 1));
        lab
    }

    fn serve(&mut self, target: Target) {
        self.desired[0] = Desired { target: Some(target), announce: true, state: State::Serving };
    }

    fn hop(&mut self, host: u8) -> &mut NextHop {
        self.next_hops.get_mut(&Ipv4Addr::new(198, 18, 0, host)).unwrap()
    }

    fn forget_hop(&mut self, host: u8) {
        self.next_hops.remove(&Ipv4Addr::new(198, 18, 0, host));
    }

    fn diff(&self) -> Plan {
        let wanted = Wanted {
            desired: &self.desired,
            nodes: &self.nodes,
            next_hops: &self.next_hops,
            interfaces: &self.interfaces,
            may_announce: &self.may_announce,
        };
        diff(&self.topology, &wanted, &self.actual)
    }

    /// Applies the plan and returns its steps; the next one must be empty.
    fn apply(&mut self) -> Vec<Step> {
        let plan = self.diff();
        for step in &plan.steps {
            self.actual.apply(step);
        }
        let again = self.diff();
        assert_eq!(again.steps, [], "not everything was done");
        assert_eq!(again.problems, plan.problems);
        self.problems = plan.problems;
        plan.steps
    }

    fn why(&self) -> Vec<Unreachable> {
        let why = self.problems.iter().map(|problem| match problem {
            Problem::Unreachable { why, .. } => *why,
            Problem::NoIndex { .. } | Problem::NoSlot { .. } => panic!("{problem}"),
        });
        why.collect()
    }
}

#[test]
fn before_a_master_is_known_everything_is_prepared_and_nothing_shown() {
    let mut lab = Lab::new();
    assert_eq!(
        lab.apply(),
        [
            Step::PutInterface { ifindex: LAN, interface: interface() },
            put_vip(Address::NAT),
            Step::WriteSlot { slot: 0, backend: backend(101) },
            Step::WriteSlot { slot: 1, backend: backend(102) },
            Step::WriteSlot { slot: 2, backend: backend(103) },
            Step::PutService { key: key(6379), index: 0 },
        ]
    );
    assert_eq!(lab.problems, []);
}

#[test]
fn a_first_master_is_committed_and_then_announced() {
    let mut lab = Lab::new();
    lab.apply();
    lab.serve(target(102, 1));
    assert_eq!(lab.apply(), [confirm(target(102, 1)), activate(up(1, 1)), put_vip(SHOWN_NAT)]);
}

#[test]
fn a_failover_to_a_prepared_replica_is_one_commit() {
    let mut lab = Lab::serving();
    lab.serve(target(102, 2));
    assert_eq!(lab.apply(), [confirm(target(102, 2)), activate(up(1, 2))]);
    lab.serve(target(101, 3));
    assert_eq!(lab.apply(), [confirm(target(101, 3)), activate(up(0, 3))]);
}

#[test]
fn a_higher_epoch_for_the_same_node_is_only_remembered() {
    let mut lab = Lab::serving();
    lab.serve(target(101, 5));
    assert_eq!(lab.apply(), [confirm(target(101, 5))]);
}

#[test]
fn a_restart_changes_nothing() {
    let mut lab = Lab::serving();
    lab.serve(target(102, 2));
    lab.apply();
    assert_eq!(lab.topology.adopted(&lab.actual), [Some(target(102, 2))]);
    lab.actual.next_slot = 0;
    assert_eq!(lab.diff(), Plan::default());
}

#[test]
fn a_new_mac_is_a_new_slot_in_the_same_generation() {
    let mut lab = Lab::serving();
    lab.hop(101).mac = mac(201);
    let moved = Backend { next_hop: mac(201), ..backend(101) };
    assert_eq!(lab.apply(), [Step::WriteSlot { slot: 3, backend: moved }, activate(up(3, 1))]);
    // A just-retired slot is reused last.
    lab.hop(101).mac = mac(202);
    let moved = Backend { next_hop: mac(202), ..backend(101) };
    assert_eq!(lab.apply(), [Step::WriteSlot { slot: 4, backend: moved }, activate(up(4, 1))]);
}

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

    lab.next_hops.insert(Ipv4Addr::new(198, 18, 0, 102), hop(102));
    assert_eq!(lab.apply(), [activate(up(1, 2)), put_vip(SHOWN_NAT)]);
}

#[test]
fn a_service_that_was_down_comes_back_to_the_same_node_in_the_same_generation() {
    let mut lab = Lab::serving();
    let shown = lab.desired.clone();
    lab.desired[0].target = None;
    assert_eq!(lab.apply(), [put_vip(Address::NAT), activate(down(0, 1))]);
    lab.desired = shown;
    assert_eq!(lab.apply(), [activate(up(0, 1)), put_vip(SHOWN_NAT)]);
}

#[test]
fn a_withdrawn_master_is_served_but_not_announced() {
    let mut lab = Lab::serving();
    lab.desired[0].announce = false;
    assert_eq!(lab.apply(), [put_vip(Address::NAT | Address::ECHO)]);
    lab.desired[0].announce = true;
    assert_eq!(lab.apply(), [put_vip(SHOWN_NAT)]);
}

#[test]
fn a_vip_that_somebody_else_holds_is_not_announced() {
    let mut lab = Lab::serving();
    lab.may_announce.clear();
    assert_eq!(lab.apply(), [put_vip(Address::NAT | Address::ECHO)]);
}

#[test]
fn a_vip_is_announced_while_any_of_its_masters_says_so() {
    let mut lab = Lab::new();
    let second = Service { port: 6380, master: MasterId(1), backend_port: None };
    lab.topology.vips[0].services.push(second);
    lab.topology.masters = 2;
    lab.desired.push(Desired { target: None, announce: false, state: State::Learning });
    lab.nodes.push(vec![]);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.actual.addresses[&VIP].flags, SHOWN_NAT);
    assert_eq!(lab.actual.active(1), Active::default());
}

#[test]
fn off_link_the_host_s_own_address_is_the_source() {
    let mut lab = Lab::new();
    for host in 101..=103 {
        lab.hop(host).on_link = vec![(Ipv4Addr::new(198, 19, 0, 0), 16)];
    }
    lab.serve(target(101, 1));
    lab.apply();
    let expected = Backend {
        source: mapped(HOST.octets()),
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
    assert_eq!(lab.topology.adopted(&lab.actual), [Some(target(101, 1))]);
}

#[test]
fn services_with_the_same_backend_share_a_slot() {
    let mut lab = Lab::new();
    let second = Service { port: 6380, master: MASTER, backend_port: None };
    lab.topology.vips[0].services.push(second);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.actual.slots.len(), 3);
    assert_eq!((lab.actual.active(0), lab.actual.active(1)), (up(0, 1), up(0, 1)));
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
    assert_eq!(lab.why(), [Unreachable::DsrPort { listens: 8000 }]);
    assert_eq!(lab.actual.active(0), Active::default());
    assert!(lab.actual.slots.is_empty());
}

#[test]
fn dsr_through_a_router_is_a_problem() {
    let mut lab = Lab::new();
    lab.topology.vips[0].mode = Mode::Dsr;
    lab.topology.vips[0].services[0].port = 8000;
    lab.nodes[0].truncate(1);
    let router = Ipv4Addr::new(198, 18, 0, 1);
    lab.hop(101).router = Some(router);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.why(), [Unreachable::DsrThroughRouter { router }]);
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
    assert_eq!(lab.why(), [Unreachable::Ipv6]);
    assert_eq!(lab.topology.adopted(&lab.actual)[0].map(|target| target.addr), Some(node));
}

#[test]
fn a_service_keeps_its_index_and_a_new_one_takes_the_lowest_free() {
    let mut lab = Lab::serving();
    let service = |port| Service { port, master: MASTER, backend_port: None };
    lab.topology.vips[0].services = vec![service(7000), service(6379), service(7001)];
    lab.apply();
    assert_eq!(lab.actual.services, [(key(6379), 0), (key(7000), 1), (key(7001), 2)].into());
    assert_eq!(lab.actual.active(0), up(0, 1));
}

#[test]
fn a_service_that_is_not_configured_any_more_goes_down_and_away() {
    let mut lab = Lab::serving();
    let service = |port| Service { port, master: MASTER, backend_port: None };
    lab.topology.vips[0].services = vec![service(7000)];
    assert_eq!(
        lab.apply(),
        [
            activate(down(0, 1)),
            Step::PutService { key: key(7000), index: 1 },
            Step::SetConfirmed { service: 1, confirmed: topology::confirmed(target(101, 1)) },
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
    let service = |port| Service { port, master: MASTER, backend_port: None };
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
fn a_commit_that_was_cut_short_is_finished_after_the_restart() {
    let mut lab = Lab::serving();
    lab.serve(target(102, 2));
    let plan = lab.diff();
    assert_eq!(plan.steps[0], confirm(target(102, 2)));
    lab.actual.apply(&plan.steps[0]);
    assert_eq!(lab.topology.adopted(&lab.actual), [Some(target(102, 2))]);
    assert_eq!(lab.apply(), [activate(up(1, 2))]);
}

#[test]
fn a_service_is_found_by_its_index() {
    let lab = Lab::serving();
    let found = lab.topology.service_at(&lab.actual, 0).map(|(vip, service)| vip.socket(service));
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
        .map(|(vip, service)| (vip.socket(service).to_string(), vip.mode, *service))
        .collect();
    let service = |port, master, backend_port| Service { port, master, backend_port };
    assert_eq!(
        found,
        [
            ("198.18.0.250:6379".into(), Mode::Nat, service(6379, MasterId(0), None)),
            ("198.18.0.250:6380".into(), Mode::Nat, service(6380, MasterId(1), Some(7))),
            ("198.18.0.251:6379".into(), Mode::Dsr, service(6379, MasterId(0), None)),
        ]
    );
    assert_eq!(topology.masters, 2);
}
