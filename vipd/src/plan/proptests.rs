//! Properties that hold for every situation, and after every single step.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::{Group, MAX_SLOTS};

use super::actual::names_a_slot;
use super::*;
use crate::config::{PortRange, ServiceRole, Source};
use crate::failover::{State, Target};
use crate::model::{Epoch, MasterId, mapped_ip, unmapped_ip};

const MASTERS: usize = 2;
const NODES: u8 = 4;

fn vip_addr(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 250 + n))
}

fn node_addr(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 101 + n))
}

fn node(n: u8) -> SocketAddr {
    SocketAddr::from((node_addr(n), 8000))
}

/// One moment's situation.
#[derive(Clone, Debug)]
struct World {
    topology: Topology,
    desired: Vec<Desired>,
    nodes: Vec<Vec<SocketAddr>>,
    replicas: Vec<Replicas>,
    next_hops: HashMap<IpAddr, NextHop>,
    interfaces: BTreeMap<u32, Interface>,
    own: OwnAddresses,
    may_announce: BTreeSet<IpAddr>,
}

impl World {
    fn diff(&self, actual: &Actual) -> Plan {
        let wanted = Wanted {
            desired: &self.desired,
            nodes: &self.nodes,
            replicas: &self.replicas,
            next_hops: &self.next_hops,
            interfaces: &self.interfaces,
            own: &self.own,
            may_announce: &self.may_announce,
        };
        diff(&self.topology, &wanted, actual)
    }

    /// As the driver does it.
    fn hold_and_release(&mut self, plan: &Plan) {
        self.own.addresses.extend(&plan.hold);
        self.own.addresses.retain(|it| !plan.release.contains(it));
    }
}

fn any_vip(n: u8) -> impl Strategy<Value = Vip> {
    let role = prop_oneof![2 => Just(ServiceRole::Master), 1 => Just(ServiceRole::Replica)];
    let service = (0..MASTERS, prop_oneof![3 => Just(None), 1 => Just(Some(7000))], role);
    let services = prop::collection::btree_map(
        prop_oneof![Just(6379_u16), Just(6380), Just(8000)],
        service,
        0..3,
    );
    let mode = prop_oneof![
        3 => Just(Mode::Nat),
        1 => Just(Mode::Dsr),
        2 => Just(Mode::Host),
        1 => Just(Mode::Real)
    ];
    let source = prop_oneof![
        3 => Just(Source::Auto),
        1 => Just(Source::Address(vip_addr(0))),
        1 => Just(Source::Address(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 50))))
    ];
    (mode, source, services).prop_map(move |(mode, source, services)| Vip {
        addr: vip_addr(n),
        mode,
        source,
        services: services
            .into_iter()
            // One master for the whole address, and none at all.
            .filter(|(_, (master, ..))| mode != Mode::Real && (mode != Mode::Host || *master == 0))
            .map(|(port, (master, backend_port, role))| Service {
                port,
                master: MasterId(master),
                role: if mode == Mode::Nat { role } else { ServiceRole::Master },
                backend_port: backend_port.filter(|_| mode == Mode::Nat),
            })
            .collect(),
    })
}

/// The addresses of a host that may be a Redis node, and may have VIPs already.
fn any_own() -> impl Strategy<Value = OwnAddresses> {
    let node = prop::option::of((0..NODES).prop_map(node_addr));
    let vips = prop::collection::btree_set((0..2_u8).prop_map(vip_addr), 0..3);
    (node, vips).prop_map(|(node, vips)| OwnAddresses {
        addresses: node
            .into_iter()
            .chain(vips)
            .map(|address| HostAddress { address, prefix: 24, ifindex: 1 })
            .collect(),
        interfaces: vec![1, 2],
    })
}

fn any_hop(n: u8) -> impl Strategy<Value = Option<NextHop>> {
    let hop = (1..4_u32, 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
        move |(ifindex, variant, routed, on_link)| NextHop {
            ifindex,
            own_mac: MacAddr([2, 0, 0, 0, 1, ifindex as u8]),
            mac: MacAddr([2, 0, 0, 0, variant, n]),
            vlan: 0,
            router: routed.then_some([198, 18, 0, 1].into()),
            source: [198, 18, 0, 50 + ifindex as u8].into(),
            on_link: if on_link { vec![([198, 18, 0, 50].into(), 24)] } else { vec![] },
        },
    );
    prop_oneof![1 => Just(None), 4 => hop.prop_map(Some)]
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let target = prop::option::weighted(0.8, (0..NODES, 0..50_u64));
    let provisional = prop::option::weighted(0.3, 0..NODES);
    (target, provisional, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(target, provisional, announce, parked)| Desired {
            target: target.map(|(n, epoch)| Target { addr: node(n), epoch: Epoch(epoch) }),
            provisional: provisional.map(node).filter(|_| target.is_some()),
            parked: parked && target.is_some(),
            announce,
            state: State::Serving,
        },
    )
}

fn any_replicas() -> impl Strategy<Value = Replicas> {
    let health = prop_oneof![
        1 => Just(Health::Unknown),
        4 => Just(Health::Fit),
        1 => Just(Health::Unfit),
        1 => Just(Health::Stale),
        2 => Just(Health::Dead)
    ];
    let health = prop::collection::btree_map((0..NODES).prop_map(node), health, 0..5);
    (any::<bool>(), health).prop_map(|(known, health)| Replicas { known, health })
}

fn any_world() -> impl Strategy<Value = World> {
    let vips = (prop::option::weighted(0.8, any_vip(0)), prop::option::weighted(0.6, any_vip(1)));
    let nodes = prop::collection::vec(prop::collection::vec((0..NODES).prop_map(node), 0..4), 2);
    let nodes = (nodes, prop::collection::vec(any_replicas(), 2));
    let hops = (any_hop(0), any_hop(1), any_hop(2), any_hop(3));
    let interfaces = prop::collection::btree_set(1..4_u32, 1..4);
    let may = prop::collection::btree_set((0..2_u8).prop_map(vip_addr), 0..3);
    let desired = prop::collection::vec(any_desired(), MASTERS);
    (vips, nodes, hops, (interfaces, any_own()), may, desired).prop_map(
        |(vips, (nodes, replicas), hops, (interfaces, own), may_announce, desired)| World {
            topology: Topology {
                vips: [vips.0, vips.1].into_iter().flatten().collect(),
                source_ports: PortRange { first: 61_000, last: 65_535 },
                same_host: vec![],
                masters: (0..MASTERS as u64).collect(),
            },
            desired,
            nodes,
            replicas,
            next_hops: [hops.0, hops.1, hops.2, hops.3]
                .into_iter()
                .enumerate()
                .filter_map(|(n, hop)| Some((node_addr(n as u8), hop?)))
                .collect(),
            interfaces: interfaces
                .into_iter()
                .map(|ifindex| {
                    let mac = MacAddr([2, 0, 0, 0, 1, ifindex as u8]);
                    (ifindex, Interface { mac, zero: [0; 2] })
                })
                .collect(),
            own,
            may_announce,
        },
    )
}

/// Position of a step in the order that the module promises; none for one that may stand in
/// several places.
fn phase(step: &Step, before: &Actual) -> Option<u32> {
    match step {
        Step::PutInterface { .. } | Step::WriteSlot { .. } | Step::PutService { .. } => Some(2),
        Step::PutGroup { members, .. } if *members == Group::EMPTY => Some(6),
        Step::PutGroup { .. } => Some(4),
        Step::RemoveInterface { .. } | Step::RemoveService { .. } => Some(6),
        Step::PutAddress { addr, address } => {
            let shown = before.addresses.get(addr).map_or(0, |before| before.flags) & SHOWN;
            match (address.flags & SHOWN).cmp(&shown) {
                std::cmp::Ordering::Less => Some(0),
                std::cmp::Ordering::Equal => Some(2),
                std::cmp::Ordering::Greater => Some(5),
            }
        }
        Step::RemoveAddress { addr } => {
            let was_virtual = before.addresses[addr].has(Address::VIRTUAL);
            Some(if was_virtual { 0 } else { 6 })
        }
        Step::SetActive { active, .. } => match active.state() {
            ServiceState::Down | ServiceState::Parked => Some(1),
            ServiceState::Up | ServiceState::Group => Some(4),
        },
        Step::SetConfirmed { confirmed, .. } => (confirmed.valid == 1).then_some(3),
    }
}

fn step_is_about(step: &Step, vip: IpAddr) -> bool {
    matches!(step, Step::PutAddress { addr, .. } if *addr == vip)
}

/// Node and NAT source: what a generation stands for.
type Identity = ([u8; 16], [u8; 2], [u8; 16]);

/// Applies the first `done` steps of a plan, and checks what must hold after each.
fn apply(
    actual: &mut Actual,
    plan: &Plan,
    done: usize,
    history: &mut BTreeMap<u32, (Identity, u32)>,
) {
    let mut end = actual.clone();
    plan.steps.iter().for_each(|step| end.apply(step));
    // An earlier plan was cut short between the service that went down and the one that was to
    // come up: this plan finds it so, and mends it with its own steps.
    let found: BTreeSet<IpAddr> =
        actual.addresses.keys().copied().filter(|addr| !is_backed(actual, *addr)).collect();
    let mut reached = 0;
    for step in plan.steps.iter().take(done) {
        if let Some(phase) = phase(step, actual) {
            assert!(phase >= reached, "{step:?} comes too late in {:#?}", plan.steps);
            reached = phase;
        }
        match step {
            Step::WriteSlot { slot, .. } => {
                assert!(u32::from(*slot) < MAX_SLOTS);
                let mut named = actual.active.values().filter(|it| names_a_slot(**it));
                assert!(named.all(|it| it.slot() != *slot), "ACTIVE names slot {slot}");
            }
            Step::SetActive { service, active } if active.state() == ServiceState::Group => {
                // No connection is its own, so what comes after it is new whatever it is.
                history.remove(service);
                let group = actual.groups.get(&active.slot().into()).expect("an empty group");
                assert!(group.members.iter().all(|it| is_up(actual, (*it).into())));
            }
            Step::SetActive { service, active } if *service >= MAX_SERVICES => {
                let before = actual.active(*service);
                match (before.state(), active.state()) {
                    (ServiceState::Up, ServiceState::Down) => {
                        assert!(active.generation() > before.generation(), "its clients wait");
                    }
                    (ServiceState::Up, ServiceState::Up) => {
                        let tuple = |it: &Active| {
                            let it = &actual.slots[&it.slot()];
                            (it.addr, it.port, it.source)
                        };
                        let same = tuple(&before) == tuple(active);
                        assert_eq!(same, before.generation() == active.generation());
                    }
                    _ => assert!(active.generation() >= before.generation()),
                }
            }
            Step::SetActive { service, active } if active.state() == ServiceState::Up => {
                let backend = actual.slots.get(&active.slot()).expect("an empty slot");
                let identity = (backend.addr, backend.port, backend.source);
                let generation = active.generation();
                if let Some((last, generation_then)) =
                    history.insert(*service, (identity, generation))
                {
                    assert_eq!(
                        last == identity,
                        generation_then == generation,
                        "the generation changes with the node or the source"
                    );
                    assert!(generation >= generation_then);
                }
            }
            Step::SetActive { service, active } if active.state() == ServiceState::Parked => {
                let before = actual.active(*service);
                assert_eq!(before.state(), ServiceState::Up, "only what is up can be parked");
                assert_eq!(
                    (before.slot(), before.generation()),
                    (active.slot(), active.generation())
                );
            }
            Step::SetActive { .. }
            | Step::PutInterface { .. }
            | Step::RemoveInterface { .. }
            | Step::PutAddress { .. }
            | Step::RemoveAddress { .. }
            | Step::PutService { .. }
            | Step::PutGroup { .. }
            | Step::RemoveService { .. }
            | Step::SetConfirmed { .. } => {}
        }
        actual.apply(step);
        for (addr, address) in &actual.addresses {
            // Between a service that goes down and another that comes up in the same plan, a
            // VIP stays shown.
            let backed = is_backed(actual, *addr) || is_backed(&end, *addr);
            let as_found = found.contains(addr) && !step_is_about(step, *addr);
            assert!(
                !address.has(SHOWN) || backed || as_found,
                "{addr} has nothing behind it after {step:?}"
            );
        }
    }
}

/// Whether any service of this VIP is up.
fn is_backed(actual: &Actual, vip: IpAddr) -> bool {
    let mut services = actual.services.iter().filter(|(key, _)| key.ip() == vip);
    services.any(|(_, index)| is_up(actual, *index))
}

fn is_up(actual: &Actual, index: u32) -> bool {
    actual.active(index).state() != ServiceState::Down
}

/// What must hold of a service that is spread over replicas.
fn check_group(world: &World, actual: &Actual, service: &Service, index: u32) {
    let active = actual.active(index);
    let members: Vec<_> = actual.members(index).collect();
    if active.state() == ServiceState::Group {
        let group = actual.groups[&active.slot().into()];
        assert!(group.count > 0 && group.count as usize <= Group::MAX);
        let listed: BTreeSet<_> = group.members.iter().collect();
        assert_eq!(listed.len(), group.count as usize, "each once, and nobody else");
        assert!(listed.iter().all(|line| is_up(actual, u32::from(**line))));
    } else {
        assert!(members.iter().all(|it| !it.is_listed));
    }
    let target = world.desired[service.master.0].serves();
    let replicas = &world.replicas[service.master.0];
    let health = |node| replicas.health.get(&node).copied().unwrap_or(Health::Unknown);
    for it in &members {
        assert!(it.is_up || !it.is_listed);
        assert!(health(it.node) != Health::Dead || !it.is_up, "{} is dead", it.node);
        assert!(!it.is_listed || health(it.node) != Health::Unfit || target == Some(it.node));
    }
    let reads = |it: &&group::MemberLine| it.is_listed && target != Some(it.node);
    let spread = members.iter().filter(reads).count() > 0;
    let master = members.iter().any(|it| it.is_listed && target == Some(it.node));
    assert!(!(spread && master), "the master serves only where no replica does");
}

/// What must hold once a plan is applied.
fn check_result(world: &World, actual: &Actual) {
    for (vip, service) in world.topology.services() {
        let index = actual.services[&vip.key(service)];
        let active = actual.active(index);
        if service.role == ServiceRole::Replica {
            check_group(world, actual, service, index);
            continue;
        }
        assert_eq!(actual.members(index).count(), 0, "lines of another time");
        let desired = world.desired[service.master.0];
        assert_eq!(active.state() == ServiceState::Parked, desired.parked && is_up(actual, index));
        if active.state() != ServiceState::Up {
            continue;
        }
        let node = desired.serves().expect("up without a target");
        let backend = actual.backend(index).unwrap();
        let port = match vip.mode {
            Mode::Nat => service.backend_port.unwrap_or(node.port()),
            Mode::Dsr | Mode::Host | Mode::Real => node.port(),
        };
        assert_eq!(backend.addr, mapped_ip(node.ip()), "another node than desired");
        let is_local = backend.mode == ForwardMode::Local as u32;
        let is_here = world.own.contains(&node.ip());
        assert_eq!(is_local, vip.mode == Mode::Host && is_here);
        assert_eq!(backend.port, port.to_be_bytes());
        if backend.mode == ForwardMode::Nat as u32 {
            let source = unmapped_ip(backend.source);
            assert!(actual.addresses[&source].has(Address::VIRTUAL | Address::SOURCE));
        }
    }
    for vip in world.topology.vips.iter().filter(|vip| vip.mode.holds_the_address()) {
        let announced = actual.addresses[&vip.addr].has(Address::ANNOUNCE);
        let held = world.own.contains(&vip.addr);
        assert!(held || !announced, "{} is announced and not held", vip.addr);
        let known = vip.services.iter().all(|it| world.desired[it.master.0].target.is_some());
        if vip.mode == Mode::Host && known {
            assert_eq!(held, announced, "{} is held and not announced", vip.addr);
        }
        assert!(vip.mode == Mode::Host || (held && !announced));
    }
    let keys: BTreeSet<_> =
        world.topology.services().map(|(vip, service)| vip.key(service)).collect();
    assert_eq!(keys, actual.services.keys().copied().collect());
    let indexes: BTreeSet<_> = actual.services.values().collect();
    assert_eq!(indexes.len(), actual.services.len(), "two services with one index");
    for (addr, address) in &actual.addresses {
        assert!(!address.has(Address::ANNOUNCE) || world.may_announce.contains(addr));
        let configured = world.topology.vips.iter().any(|vip| vip.addr == *addr);
        assert_eq!(configured, address.has(Address::VIRTUAL));
        assert_ne!(configured, address.has(Address::SOURCE));
    }
}

/// Maps in which every slot was used before.
fn worn_out() -> Actual {
    let used = |slot: u16| {
        (slot, Backend { addr: mapped([198, 19, 0, 1]), vlan: slot, mode: 1, ..Backend::EMPTY })
    };
    Actual { slots: (0..MAX_SLOTS as u16).map(used).collect(), ..Actual::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_plan_is_safe_step_by_step_and_leaves_nothing_to_do(
        worlds in prop::collection::vec(any_world(), 1..8),
    ) {
        let mut actual = Actual::default();
        let mut history = BTreeMap::new();
        for mut world in worlds {
            let plan = world.diff(&actual);
            apply(&mut actual, &plan, usize::MAX, &mut history);
            world.hold_and_release(&plan);
            check_result(&world, &actual);
            let again = world.diff(&actual);
            prop_assert_eq!(&again.steps, &[]);
            prop_assert_eq!((again.hold, again.release), (vec![], vec![]));
            prop_assert_eq!(again.problems, plan.problems);
        }
    }

    /// A daemon that dies between any two steps leaves maps from which the next one finishes.
    #[test]
    fn a_plan_that_was_cut_short_is_finished_by_the_next(
        worlds in prop::collection::vec((any_world(), 0..20_usize), 1..6),
        mut last in any_world(),
    ) {
        let mut actual = Actual::default();
        let mut history = BTreeMap::new();
        for (world, done) in worlds {
            let plan = world.diff(&actual);
            apply(&mut actual, &plan, done, &mut history);
            actual.next_slot = 0;
        }
        let plan = last.diff(&actual);
        apply(&mut actual, &plan, usize::MAX, &mut history);
        last.hold_and_release(&plan);
        check_result(&last, &actual);
        prop_assert_eq!(last.diff(&actual).steps, &[]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn slots_that_were_used_before_are_as_good(
        worlds in prop::collection::vec(any_world(), 1..6),
    ) {
        let mut actual = worn_out();
        let mut history = BTreeMap::new();
        for mut world in worlds {
            let plan = world.diff(&actual);
            apply(&mut actual, &plan, usize::MAX, &mut history);
            world.hold_and_release(&plan);
            check_result(&world, &actual);
            prop_assert_eq!(world.diff(&actual).steps, &[]);
        }
    }
}
