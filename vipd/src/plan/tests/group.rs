//! Read-only services: who gets new connections, who keeps them, and whose are ended.

use vipd_common::maps::{Group, MAX_LINES, MAX_SERVICES};

use super::super::group::MemberLine;
use super::*;

/// Member lines of the first three nodes that get one.
const FIRST: u32 = MAX_SERVICES;

/// One read-only service; .101 is the master, .102 and .103 are fit replicas.
fn reading() -> Lab {
    let mut lab = unread();
    lab.health(102, Health::Fit);
    lab.health(103, Health::Fit);
    lab.apply();
    assert_eq!(lab.listed(), [102, 103]);
    lab
}

/// The same before anybody was heard of.
fn unread() -> Lab {
    let mut lab = Lab::new();
    lab.topology.vips[0].services[0].role = ServiceRole::Replica;
    lab.replicas = vec![Replicas { known: true, ..Replicas::default() }];
    lab.serve(target(101, 1));
    lab
}

impl Lab {
    fn health(&mut self, host: u8, health: Health) {
        self.replicas[0].health.insert(node(host), health);
    }

    fn members(&self) -> Vec<MemberLine> {
        self.actual.members(0).collect()
    }

    /// Who gets new connections.
    fn listed(&self) -> Vec<u8> {
        let listed = self.members().into_iter().filter(|it| it.is_listed);
        listed.map(|it| host_of(it.node)).collect()
    }

    /// Who carries connections.
    fn up(&self) -> Vec<u8> {
        self.members().into_iter().filter(|it| it.is_up).map(|it| host_of(it.node)).collect()
    }

    fn line(&self, host: u8) -> u32 {
        let is_its = |it: &u32| {
            let confirmed = self.actual.confirmed(*it);
            confirmed.valid == 2 && confirmed.addr == mapped([198, 18, 0, host])
        };
        (MAX_SERVICES..MAX_LINES).find(is_its).expect("it has no line")
    }
}

fn host_of(node: SocketAddr) -> u8 {
    match node.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => unreachable!("the lab is IPv4"),
    }
}

#[test]
fn the_lines_come_first_then_the_list_then_the_service() {
    let mut lab = unread();
    lab.health(102, Health::Fit);
    lab.health(103, Health::Fit);
    let steps = lab.apply();
    let (first, second) = (FIRST, FIRST + 1);
    let order: Vec<&Step> = steps
        .iter()
        .filter(|it| matches!(it, Step::SetActive { .. } | Step::PutGroup { .. }))
        .collect();
    let mut members = [0; Group::MAX];
    for (at, member) in members.iter_mut().enumerate() {
        *member = if at % 2 == 0 { first } else { second } as u16;
    }
    assert_eq!(
        order,
        [
            &Step::SetActive { service: first, active: up(1, 1) },
            &Step::SetActive { service: second, active: up(2, 1) },
            &Step::PutGroup { group: 0, members: Group { count: 2, members } },
            &Step::SetActive { service: 0, active: Active::new(ServiceState::Group, 0, 1) },
        ]
    );
    assert!(lab.actual.addresses[&VIP].has(Address::ANNOUNCE));
}

#[test]
fn the_master_serves_until_a_replica_is_fit_and_keeps_the_connections_of_that_time() {
    let mut lab = unread();
    lab.apply();
    assert_eq!(lab.listed(), [101]);
    let master = (lab.line(101), lab.actual.active(lab.line(101)));
    lab.health(101, Health::Unfit);
    lab.health(102, Health::Fit);
    lab.apply();
    assert_eq!((lab.listed(), lab.up()), (vec![102], vec![101, 102]));
    assert_eq!((lab.line(101), lab.actual.active(lab.line(101))), master);
}

#[test]
fn while_the_master_is_dead_the_replicas_it_left_behind_serve() {
    let mut lab = reading();
    lab.health(101, Health::Dead);
    lab.health(102, Health::Stale);
    lab.health(103, Health::Stale);
    lab.apply();
    assert_eq!(lab.listed(), [102, 103]);
    // One that lives is better than they are.
    lab.health(101, Health::Unfit);
    lab.apply();
    assert_eq!(lab.listed(), [101]);
    lab.health(103, Health::Fit);
    lab.apply();
    assert_eq!(lab.listed(), [103]);
}

#[test]
fn a_replica_that_is_no_longer_fit_keeps_its_connections_and_gets_no_new_one() {
    let mut lab = reading();
    let before = lab.actual.active(lab.line(102));
    lab.health(102, Health::Unfit);
    let steps = lab.apply();
    assert!(matches!(steps[..], [Step::PutGroup { group: 0, .. }]), "{steps:?}");
    assert_eq!((lab.listed(), lab.up()), (vec![103], vec![102, 103]));
    lab.health(102, Health::Fit);
    lab.apply();
    assert_eq!(lab.actual.active(lab.line(102)), before);
    assert_eq!(lab.listed(), [102, 103]);
}

#[test]
fn a_replica_that_died_loses_its_connections_and_the_other_one_keeps_its_own() {
    let mut lab = reading();
    let (dead, other) = (lab.line(102), lab.actual.active(lab.line(103)));
    let before = lab.actual.active(dead);
    lab.health(102, Health::Dead);
    lab.apply();
    let after = lab.actual.active(dead);
    assert_eq!(after, down(before.slot(), before.generation() + 1));
    assert_eq!(lab.actual.active(lab.line(103)), other);
    assert_eq!((lab.listed(), lab.up()), (vec![103], vec![103]));
    // It comes back to the same line, and what was ended stays so.
    lab.health(102, Health::Fit);
    lab.apply();
    assert_eq!(lab.line(102), dead);
    assert_eq!(lab.actual.active(dead), up(before.slot(), before.generation() + 1));
    assert_eq!(lab.listed(), [102, 103]);
}

#[test]
fn with_all_replicas_gone_the_master_serves_and_with_the_master_gone_too_nobody() {
    let mut lab = reading();
    lab.health(101, Health::Unfit);
    lab.health(102, Health::Dead);
    lab.health(103, Health::Dead);
    lab.apply();
    assert_eq!((lab.listed(), lab.up()), (vec![101], vec![101]));
    lab.health(101, Health::Dead);
    lab.apply();
    assert_eq!(lab.up(), Vec::<u8>::new());
    assert_eq!(lab.actual.active(0).state(), ServiceState::Down);
    assert!(!lab.actual.addresses[&VIP].has(Address::ANNOUNCE));
    assert_eq!(lab.actual.groups.len(), 0);
    lab.health(103, Health::Fit);
    lab.apply();
    assert_eq!(lab.listed(), [103]);
}

#[test]
fn a_promoted_replica_leaves_the_list_and_the_old_master_joins_it() {
    let mut lab = reading();
    let promoted = lab.actual.active(lab.line(102));
    lab.serve(target(102, 2));
    lab.health(102, Health::Unfit);
    lab.health(101, Health::Fit);
    lab.apply();
    assert_eq!((lab.listed(), lab.up()), (vec![101, 103], vec![101, 102, 103]));
    assert_eq!(lab.actual.active(lab.line(102)), promoted);
}

#[test]
fn after_a_restart_everybody_stays_until_something_is_heard() {
    let mut lab = reading();
    lab.health(102, Health::Unfit);
    lab.apply();
    lab.replicas = vec![Replicas::default()];
    lab.nodes = vec![vec![]];
    lab.next_hops.clear();
    assert_eq!(lab.diff().steps, []);
    assert_eq!((lab.listed(), lab.up()), (vec![103], vec![102, 103]));
}

#[test]
fn a_node_that_nobody_names_any_more_gives_its_line_back() {
    let mut lab = reading();
    let line = lab.line(102);
    let before = lab.actual.active(line);
    lab.nodes[0].retain(|it| *it != node(102));
    lab.replicas[0].health.remove(&node(102));
    lab.apply();
    assert_eq!(lab.actual.active(line), down(before.slot(), before.generation() + 1));
    assert_eq!(lab.actual.confirmed(line), Confirmed::default());
    assert_eq!(lab.listed(), [103]);
}

#[test]
fn a_service_that_stops_being_read_only_ends_its_readers() {
    let mut lab = reading();
    lab.topology.vips[0].services[0].role = ServiceRole::Master;
    lab.apply();
    assert_eq!(lab.members(), []);
    assert_eq!(lab.actual.groups.len(), 0);
    assert_eq!(lab.actual.active(0).state(), ServiceState::Up);
    for line in [FIRST, FIRST + 1] {
        assert_eq!(lab.actual.active(line).state(), ServiceState::Down);
    }
    // And the other way round, in a generation of its own.
    let before = lab.actual.active(0).generation();
    lab.topology.vips[0].services[0].role = ServiceRole::Replica;
    lab.apply();
    assert_eq!(lab.listed(), [102, 103]);
    assert!(lab.actual.active(0).generation() > before);
}

#[test]
fn without_a_line_left_it_is_a_problem() {
    let mut lab = unread();
    for line in MAX_SERVICES..MAX_LINES {
        let taken = Confirmed { epoch: 7, port: line, valid: 2, ..Confirmed::default() };
        lab.actual.confirmed.insert(line, taken);
    }
    let problem = Problem::NoLine { service: key(6379), node: node(101) };
    assert_eq!(lab.diff().problems, [problem]);
    // The lines belonged to nobody who is configured: the next plan has them.
    lab.diff().steps.iter().for_each(|step| lab.actual.apply(step));
    lab.apply();
    assert_eq!(lab.listed(), [101]);
}

#[test]
fn a_group_holds_thirty_and_says_so() {
    let mut lab = unread();
    for host in 110..150 {
        lab.nodes[0].push(node(host));
        lab.next_hops.insert(node(host).ip(), hop(host));
        lab.health(host, Health::Fit);
    }
    lab.apply();
    assert_eq!(lab.listed().len(), Group::MAX);
    assert_eq!(lab.problems, [Problem::GroupFull { service: key(6379) }]);
}
