//! Steps for given situations, in order and complete.

mod cutover;
mod group;
mod host;
mod reach;
mod tables;

use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::MAX_SLOTS;

use std::net::Ipv4Addr;

use super::*;
use crate::config::{PortRange, ServiceRole, Source};
use crate::failover::{State, Target};
use crate::model::{Epoch, MasterId};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 250));
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 50));
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
        source: mapped([198, 18, 0, 250]),
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

fn key(port: u16) -> SocketAddr {
    SocketAddr::new(VIP, port)
}

fn put_vip(flags: u16) -> Step {
    Step::PutAddress { addr: VIP, address: Address::new(flags) }
}

fn confirm(target: Target) -> Step {
    Step::SetConfirmed { service: 0, confirmed: confirmed(target) }
}

fn serving(target: Target) -> Desired {
    let target = Some(target);
    Desired { target, announce: true, state: State::Serving, ..Desired::default() }
}

fn confirmed(target: Target) -> Confirmed {
    topology::confirmed(NAME, &serving(target)).unwrap()
}

fn activate(active: Active) -> Step {
    Step::SetActive { service: 0, active }
}

/// The hash of the first master's name.
const NAME: u64 = 11;

const SHOWN_NAT: u16 = Address::NAT | Address::ANNOUNCE | Address::ECHO;

/// A director with one VIP, one service, one master name and three nodes, and its maps.
struct Lab {
    topology: Topology,
    desired: Vec<Desired>,
    nodes: Vec<Vec<SocketAddr>>,
    replicas: Vec<Replicas>,
    next_hops: HashMap<IpAddr, NextHop>,
    interfaces: BTreeMap<u32, Interface>,
    own: OwnAddresses,
    may_announce: BTreeSet<IpAddr>,
    actual: Actual,
    problems: Vec<Problem>,
}

impl Lab {
    fn new() -> Self {
        let service =
            Service { port: 6379, master: MASTER, role: ServiceRole::Master, backend_port: None };
        let vip = Vip { addr: VIP, mode: Mode::Nat, source: Source::Auto, services: vec![service] };
        Self {
            topology: Topology {
                vips: vec![vip],
                source_ports: PortRange { first: 61_000, last: 65_535 },
                same_host: vec![],
                masters: vec![NAME],
            },
            desired: vec![Desired::default()],
            nodes: vec![vec![node(101), node(102), node(103)]],
            replicas: vec![],
            next_hops: (101..=103)
                .map(|host| (IpAddr::V4(Ipv4Addr::new(198, 18, 0, host)), hop(host)))
                .collect(),
            interfaces: [(LAN, interface())].into(),
            own: OwnAddresses {
                addresses: vec![HostAddress { address: HOST, prefix: 24, ifindex: LAN }],
                interfaces: vec![LAN],
            },
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
        self.desired[0] = serving(target);
    }

    fn hop(&mut self, host: u8) -> &mut NextHop {
        self.next_hops.get_mut(&node(host).ip()).unwrap()
    }

    fn forget_hop(&mut self, host: u8) {
        self.next_hops.remove(&node(host).ip());
    }

    fn diff(&self) -> Plan {
        let wanted = Wanted {
            desired: &self.desired,
            nodes: &self.nodes,
            replicas: &self.replicas,
            next_hops: &self.next_hops,
            interfaces: &self.interfaces,
            own: &self.own,
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
            Problem::NoIndex { .. }
            | Problem::NoSlot { .. }
            | Problem::NoLine { .. }
            | Problem::NoGroup { .. }
            | Problem::GroupFull { .. } => panic!("{problem}"),
        });
        why.collect()
    }
}
