//! Modes `host` and `real`: the VIP on this host or not.

use super::*;

const NODE: u8 = 50;

/// A Redis host, node .50: HOST is its own address.
fn redis_host() -> Lab {
    let mut lab = Lab::new();
    lab.topology.vips[0].mode = Mode::Host;
    lab.topology.vips[0].services[0].port = 8000;
    lab
}

fn vip_on_lan() -> HostAddress {
    HostAddress { address: VIP, prefix: 32, ifindex: LAN }
}

fn put_host(flags: u16) -> Step {
    put_vip(Address::HOST | flags)
}

fn local() -> Backend {
    Backend {
        addr: mapped([198, 18, 0, NODE]),
        port: 8000_u16.to_be_bytes(),
        mode: ForwardMode::Local as u32,
        ..Backend::EMPTY
    }
}

/// Applies steps and addresses; nothing may be left to do.
fn apply(lab: &mut Lab) -> Plan {
    let plan = lab.diff();
    plan.steps.iter().for_each(|step| lab.actual.apply(step));
    lab.own.addresses.extend(&plan.hold);
    lab.own.addresses.retain(|it| !plan.release.contains(it));
    let again = lab.diff();
    assert_eq!((again.steps, again.hold, again.release), (vec![], vec![], vec![]));
    plan
}

#[test]
fn the_host_of_the_master_holds_the_vip_before_it_answers() {
    let mut lab = redis_host();
    lab.serve(target(NODE, 1));
    let plan = apply(&mut lab);
    assert_eq!(plan.hold, [vip_on_lan()]);
    assert_eq!(plan.release, []);
    assert_eq!(lab.actual.backend(0), Some(&local()));
    assert_eq!(plan.steps.last(), Some(&put_host(Address::ANNOUNCE | Address::ECHO)));
}

#[test]
fn any_other_host_sends_strays_to_it_and_holds_nothing() {
    let mut lab = redis_host();
    lab.serve(target(101, 1));
    let plan = apply(&mut lab);
    assert_eq!((plan.hold, plan.release), (vec![], vec![]));
    assert_eq!(lab.actual.addresses[&VIP].flags, Address::HOST | Address::ECHO);
    let stray = Backend {
        source: [0; 16],
        first_port: 0,
        last_port: 0,
        mode: ForwardMode::Stray as u32,
        ..backend(101)
    };
    assert_eq!(lab.actual.backend(0), Some(&stray));
}

#[test]
fn a_host_that_loses_the_master_stops_to_answer_before_anything_else_and_releases_last() {
    let mut lab = redis_host();
    lab.serve(target(NODE, 1));
    apply(&mut lab);
    lab.serve(target(101, 2));
    let plan = apply(&mut lab);
    let stray = up(plan_slot(&plan), 2);
    let expected = [put_host(Address::ECHO), confirm(target(101, 2)), activate(stray)];
    assert_eq!((plan.steps[0], plan.steps[1..].last()), (expected[0], Some(&expected[2])));
    assert_eq!(plan.release, [vip_on_lan()]);
}

#[test]
fn a_vip_that_somebody_deleted_is_put_back() {
    let mut lab = redis_host();
    lab.serve(target(NODE, 1));
    apply(&mut lab);
    lab.own.addresses.retain(|it| it.address != VIP);
    let plan = apply(&mut lab);
    assert_eq!((plan.hold, plan.steps), (vec![vip_on_lan()], vec![]));
}

#[test]
fn a_vip_bound_by_hand_is_kept_by_the_master_s_host_and_taken_from_any_other() {
    let by_hand = HostAddress { address: VIP, prefix: 24, ifindex: LAN };
    for (master, release) in [(NODE, vec![]), (101, vec![by_hand])] {
        let mut lab = redis_host();
        lab.own.addresses.push(by_hand);
        // Nobody knows yet whose it is.
        assert_eq!(apply(&mut lab).release, []);
        lab.serve(target(master, 1));
        let plan = apply(&mut lab);
        assert_eq!((plan.hold, plan.release), (vec![], release));
    }
}

#[test]
fn a_withdrawn_vip_is_released() {
    let mut lab = redis_host();
    lab.serve(target(NODE, 1));
    apply(&mut lab);
    lab.desired[0].announce = false;
    let plan = apply(&mut lab);
    assert_eq!((plan.steps, plan.release), (vec![put_host(Address::ECHO)], vec![vip_on_lan()]));
}

#[test]
fn a_vip_that_somebody_else_has_is_not_held() {
    let mut lab = redis_host();
    lab.may_announce.clear();
    lab.serve(target(NODE, 1));
    assert_eq!(apply(&mut lab).hold, []);
}

#[test]
fn a_master_on_another_port_is_a_problem_in_either_place() {
    for host in [NODE, 101] {
        let mut lab = redis_host();
        lab.topology.vips[0].services[0].port = 6379;
        lab.nodes[0].clear();
        lab.serve(target(host, 1));
        lab.apply();
        assert_eq!(lab.why(), [Unreachable::Port { listens: 8000 }]);
    }
}

#[test]
fn a_real_server_always_has_the_vip_on_its_loopback_and_never_announces_it() {
    let mut lab = Lab::new();
    lab.topology.vips[0] =
        Vip { addr: VIP, mode: Mode::Real, source: Source::Auto, services: vec![] };
    let plan = apply(&mut lab);
    assert_eq!(plan.hold, [HostAddress { address: VIP, prefix: 32, ifindex: 1 }]);
    assert_eq!(lab.actual.addresses[&VIP], Address::new(Address::REAL));
}

#[test]
fn a_vip_that_changes_its_mode_falls_silent_in_between() {
    let mut lab = redis_host();
    lab.topology.vips[0].mode = Mode::Dsr;
    lab.serve(target(101, 1));
    lab.nodes[0].clear();
    apply(&mut lab);
    assert!(lab.actual.addresses[&VIP].has(Address::ANNOUNCE));
    lab.topology.vips[0].mode = Mode::Host;
    lab.serve(target(NODE, 2));
    let steps = apply(&mut lab).steps;
    assert_eq!(steps[0], put_vip(Address::DSR));
    assert!(steps.contains(&put_host(0)), "{steps:?}");
    assert_eq!(steps.last(), Some(&put_host(Address::ANNOUNCE | Address::ECHO)));
}

#[test]
fn a_vip_that_is_no_longer_configured_is_released() {
    let mut lab = redis_host();
    lab.serve(target(NODE, 1));
    apply(&mut lab);
    lab.topology.vips.clear();
    assert_eq!(apply(&mut lab).release, [vip_on_lan()]);
}

#[test]
fn the_vip_goes_to_the_interface_in_whose_subnet_it_is() {
    const OTHER: u32 = 7;
    let mut lab = redis_host();
    lab.own.interfaces = vec![OTHER, LAN];
    let other = HostAddress { address: "198.19.0.1".parse().unwrap(), prefix: 24, ifindex: OTHER };
    lab.own.addresses.push(other);
    lab.serve(target(NODE, 1));
    assert_eq!(apply(&mut lab).hold, [vip_on_lan()]);
}

#[test]
fn an_ipv6_vip_is_on_the_loopback_and_is_moved_there() {
    let vip: IpAddr = "fd98:18::250".parse().unwrap();
    let mut lab = redis_host();
    lab.topology.vips[0].addr = vip;
    lab.may_announce = [vip].into();
    let by_hand = HostAddress { address: vip, prefix: 64, ifindex: LAN };
    lab.own.addresses.push(by_hand);
    lab.serve(target(NODE, 1));
    let plan = apply(&mut lab);
    assert_eq!(plan.hold, [HostAddress { address: vip, prefix: 128, ifindex: 1 }]);
    assert_eq!(plan.release, [by_hand]);
}

#[test]
fn a_dual_stack_node_is_reached_by_its_other_address() {
    let six: IpAddr = "fd98:18::101".parse().unwrap();
    let mut lab = Lab::new();
    lab.topology.vips[0].addr = "fd98:18::250".parse().unwrap();
    lab.may_announce = [lab.topology.vips[0].addr].into();
    lab.nodes[0].clear();
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.why(), [Unreachable::OtherFamily]);
    lab.topology.same_host = vec![[node(101).ip(), six]];
    lab.next_hops.insert(six, hop(101));
    lab.apply();
    assert_eq!(lab.problems, []);
    assert_eq!(lab.actual.backend(0).unwrap().addr, crate::model::mapped_ip(six));
}

/// The slot that a plan's first `WriteSlot` writes, or the one that ACTIVE gets.
fn plan_slot(plan: &Plan) -> u16 {
    plan.steps
        .iter()
        .find_map(|step| match step {
            Step::SetActive { active, .. } => Some(active.slot()),
            _ => None,
        })
        .unwrap()
}
