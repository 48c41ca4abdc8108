//! From one master to the next, and what is shown meanwhile.

use super::*;
use crate::failover::Adopted;

fn adopted(target: Target) -> Adopted {
    Adopted { target, provisional: None, parked: false, announced: true, heard: None }
}

fn parked(slot: u16, generation: u32) -> Active {
    Active::new(ServiceState::Parked, slot, generation)
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
    let adopted = adopted(target(102, 2));
    assert_eq!(lab.topology.adopted(&lab.actual, false), [Some(adopted)]);
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
    let second =
        Service { port: 6380, master: MasterId(1), role: ServiceRole::Master, backend_port: None };
    lab.topology.vips[0].services.push(second);
    lab.topology.masters.push(12);
    lab.desired.push(Desired::default());
    lab.nodes.push(vec![]);
    lab.serve(target(101, 1));
    lab.apply();
    assert_eq!(lab.actual.addresses[&VIP].flags, SHOWN_NAT);
    assert_eq!(lab.actual.active(1), Active::default());
}

#[test]
fn a_commit_that_was_cut_short_is_finished_after_the_restart() {
    let mut lab = Lab::serving();
    lab.serve(target(102, 2));
    let plan = lab.diff();
    assert_eq!(plan.steps[0], confirm(target(102, 2)));
    lab.actual.apply(&plan.steps[0]);
    let adopted = adopted(target(102, 2));
    assert_eq!(lab.topology.adopted(&lab.actual, false), [Some(adopted)]);
    assert_eq!(lab.apply(), [activate(up(1, 2))]);
}

#[test]
fn a_cut_short_commit_out_of_a_park_is_finished_and_not_parked_again() {
    let mut lab = Lab::serving();
    lab.desired[0].parked = true;
    lab.apply();
    lab.serve(target(102, 2));
    let plan = lab.diff();
    lab.actual.apply(&plan.steps[0]);
    let adopted = adopted(target(102, 2));
    assert_eq!(lab.topology.adopted(&lab.actual, true), [Some(adopted)]);
}

#[test]
fn what_was_confirmed_for_another_master_name_is_not_taken_over() {
    let mut lab = Lab::serving();
    assert_ne!(lab.topology.adopted(&lab.actual, false), [None]);
    // The configuration names another master for the same VIP and port now.
    lab.topology.masters[0] = NAME + 1;
    assert_eq!(lab.topology.adopted(&lab.actual, false), [None]);
}

#[test]
fn a_park_is_one_step_and_shows_the_vip_as_before() {
    let mut lab = Lab::serving();
    lab.desired[0].parked = true;
    assert_eq!(lab.apply(), [activate(parked(0, 1))]);
    // For a restart, as long as the kernel holds it.
    let adopted = adopted(target(101, 1));
    assert_eq!(
        lab.topology.adopted(&lab.actual, true),
        [Some(Adopted { parked: true, ..adopted })]
    );
    assert_eq!(lab.topology.adopted(&lab.actual, false), [Some(adopted)]);
    // The node's MAC may be forgotten or change: nothing is sent there.
    lab.forget_hop(101);
    assert_eq!(lab.apply(), []);
    lab.next_hops.insert(node(101).ip(), hop(101));
    lab.desired[0].parked = false;
    assert_eq!(lab.apply(), [activate(up(0, 1))]);
}

#[test]
fn a_service_that_is_down_is_not_parked() {
    let mut lab = Lab::serving();
    lab.next_hops.insert(node(101).ip(), NextHop { ifindex: LAN + 1, ..hop(101) });
    lab.apply();
    lab.desired[0].parked = true;
    assert_eq!(lab.apply(), []);
    assert_eq!(lab.actual.active(0), down(0, 1));
}

#[test]
fn a_provisional_flip_keeps_what_was_confirmed_and_survives_a_restart() {
    let mut lab = Lab::serving();
    lab.desired[0].parked = true;
    lab.apply();
    lab.desired[0] = Desired { provisional: Some(node(102)), ..serving(target(101, 1)) };
    let steps = lab.apply();
    let [Step::SetConfirmed { service: 0, .. }, flip] = steps[..] else { panic!("{steps:?}") };
    assert_eq!(flip, activate(up(1, 2)));
    let provisional = Some(node(102));
    let adopted = Adopted { provisional, ..adopted(target(101, 1)) };
    assert_eq!(lab.topology.adopted(&lab.actual, false), [Some(adopted)]);
    // Its epoch changes nothing but what is remembered.
    lab.serve(target(102, 2));
    assert_eq!(lab.apply(), [confirm(target(102, 2))]);
}
