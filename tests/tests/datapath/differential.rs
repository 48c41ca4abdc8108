//! The kernel against the model: the same history must give the same verdicts, bytes and flows. It
//! is what entitles the fuzz target and the tests on the host to speak for the kernel.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use vipd_common::addr::MacAddr;
use vipd_common::maps::{
    Active, Address, Backend, FLOWS, Flow, FlowKey, ForwardMode, HALF_OPEN, Pending, ServiceKey,
    ServiceState,
};
use vipd_common::verdict::{Action, Verdict};
use vipd_common::wire::ip::Ip;
use vipd_ebpf::model::{self, World};
use vipd_ebpf::tables::FlowTable;

use crate::family::{Family, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT, CLIENT_2, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC,
    R2, R2_MAC, ROUTER, SERVICE_PORT, STRANGER_MAC, Tcp, VIP, arp, icmp,
};
use crate::kernel::{INGRESS, Kernel, Xdp_, nat_backend};

const HISTORIES: u32 = 400;
const DSR_VIP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 18, 0, 251);

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Cutover {
        state: ServiceState,
        slot: u16,
        generation: u32,
    },
    /// The daemon's lease ends, or begins again.
    Lease(bool),
    Frame {
        frame: Vec<u8>,
        poke: Option<(prop::sample::Index, u8)>,
        cut: Option<prop::sample::Index>,
    },
}

fn slots() -> [Backend; 4] {
    let r1 = nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR);
    let r2 = nat_backend(R2, BACKEND_PORT, R2_MAC, VIP);
    [
        Backend::EMPTY,
        Backend { vlan: 20, ..r1 },
        r2,
        Backend { mode: ForwardMode::Dsr as u32, ifindex: 99, ..r1 },
    ]
}

fn addresses() -> [(std::net::Ipv4Addr, u16); 3] {
    [
        (VIP, Address::NAT | Address::ANNOUNCE | Address::ECHO),
        (DSR_VIP, Address::DSR),
        (DIRECTOR, Address::SOURCE),
    ]
}

fn active(step: (ServiceState, u16, u32)) -> Active {
    Active::new(step.0, step.1, step.2)
}

const START: (ServiceState, u16, u32) = (ServiceState::Up, 1, 1);

fn kernel<F: Family>() -> Kernel<F> {
    let mut kernel = Kernel::load(DIRECTOR_MAC);
    for (addr, flags) in addresses() {
        kernel.address(addr, flags);
    }
    for vip in [VIP, DSR_VIP] {
        kernel.service(vip, SERVICE_PORT, 0);
    }
    for (slot, backend) in (0..).zip(slots()) {
        kernel.backend(slot, backend);
    }
    kernel
}

fn world<F: Family>() -> World {
    let mut world = World::default();
    world.interfaces.insert(INGRESS, DIRECTOR_MAC);
    let maps = F::maps(&mut world);
    for (addr, flags) in addresses() {
        maps.addresses.insert(F::bytes(addr.octets()), Address::new(flags));
    }
    for vip in [VIP, DSR_VIP] {
        let key = ServiceKey::new(F::bytes(vip.octets()), SERVICE_PORT.to_be_bytes());
        maps.services.insert(key, 0);
    }
    for (slot, backend) in (0..).zip(slots()) {
        world.backends.insert(slot, Kernel::<F>::translated(backend));
    }
    world.active.insert(0, active(START));
    world.lease = u64::MAX;
    world
}

fn segment() -> impl Strategy<Value = Tcp> {
    let flags = select(vec!["S", "SA", "A", "A", "PA", "FA", "R", "RA", "SF", ""]);
    // Each client has a port of its own: NAT keeps it, and chance plays no part.
    let ends = prop_oneof![
        4 => Just(((CLIENT_MAC, CLIENT, CLIENT_PORT), (DIRECTOR_MAC, VIP, SERVICE_PORT))),
        1 => Just(((CLIENT_MAC, CLIENT_2, 50_000), (DIRECTOR_MAC, VIP, SERVICE_PORT))),
        1 => Just(((CLIENT_MAC, CLIENT, 50_001), (DIRECTOR_MAC, VIP, 6380))),
        3 => Just(((CLIENT_MAC, CLIENT, CLIENT_PORT), (DIRECTOR_MAC, DSR_VIP, SERVICE_PORT))),
        4 => Just(((R1_MAC, R1, BACKEND_PORT), (DIRECTOR_MAC, DIRECTOR, CLIENT_PORT))),
        2 => Just(((R2_MAC, R2, BACKEND_PORT), (DIRECTOR_MAC, VIP, CLIENT_PORT))),
        1 => Just(((CLIENT_MAC, CLIENT, CLIENT_PORT), (STRANGER_MAC, VIP, SERVICE_PORT))),
    ];
    let numbers = (select(vec![1000, 1001, u32::MAX]), select(vec![1001, 5000, 5001, 0]));
    let vlan = select(vec![None, None, None, Some(10), Some(20)]);
    let ttl = select(vec![64, 64, 64, 1, 2, 255]);
    (ends, flags, numbers, vlan, ttl, 0..40_usize).prop_map(
        |((from, to), flags, (seq, ack), vlan, ttl, length)| {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let base = Tcp { from, to, ..Tcp::to_vip(flags) };
            base.seq(seq, ack).payload(&payload).vlan(vlan).ttl(ttl)
        },
    )
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let tcp = segment().prop_map(|segment| segment.frame());
    let error =
        (segment(), select(vec![3, 11, 12, 5]), 20..80_usize).prop_map(|(about, kind, length)| {
            let quote = Tcp { vlan: None, from: about.to, to: about.from, ..about.clone() };
            let quote = quote.frame()[14..].iter().copied().take(length).collect::<Vec<_>>();
            icmp(
                (CLIENT_MAC, ROUTER),
                (DIRECTOR_MAC, about.to.1),
                about.ttl,
                (kind, 4, [0; 4]),
                &quote,
            )
        });
    let echo = (0..20_usize).prop_map(|length| {
        icmp((CLIENT_MAC, CLIENT), (DIRECTOR_MAC, VIP), 9, (8, 0, [0; 4]), &vec![7; length])
    });
    let ask = select(vec![VIP, DSR_VIP, R1]).prop_map(|target| {
        let sender = (CLIENT_MAC, CLIENT);
        let operation = etherparse::ArpOperation::REQUEST;
        arp(operation, MacAddr::BROADCAST, sender, (MacAddr::ZERO, target))
    });
    let noise = prop::collection::vec(any::<u8>(), 14..100);
    prop_oneof![12 => tcp, 2 => error, 1 => echo, 1 => ask, 1 => noise]
}

/// A client's half of a handshake: what chance would hardly find.
fn handshake() -> impl Strategy<Value = Vec<Step>> {
    select(vec![VIP, DSR_VIP]).prop_map(|vip| {
        let segment = |flags, seq| Tcp {
            to: (DIRECTOR_MAC, vip, SERVICE_PORT),
            ..Tcp::to_vip(flags).seq(seq, 5001)
        };
        [segment("S", 1000), segment("A", 1001)]
            .map(|segment| Step::Frame { frame: segment.frame(), poke: None, cut: None })
            .to_vec()
    })
}

fn step() -> impl Strategy<Value = Vec<Step>> {
    let state =
        select(vec![ServiceState::Up, ServiceState::Up, ServiceState::Parked, ServiceState::Down]);
    let cutover = (state, 0..5_u16, 1..4_u32).prop_map(|(state, slot, generation)| Step::Cutover {
        state,
        slot,
        generation,
    });
    let poke = prop::option::weighted(0.15, any::<(prop::sample::Index, u8)>());
    let cut = prop::option::weighted(0.05, any::<prop::sample::Index>());
    let frame =
        (frame(), poke, cut).prop_map(|(frame, poke, cut)| Step::Frame { frame, poke, cut });
    let lease = any::<bool>().prop_map(Step::Lease);
    let single = prop_oneof![2 => cutover, 1 => lease, 24 => frame].prop_map(|step| vec![step]);
    prop_oneof![12 => single, 1 => handshake()]
}

/// A flow with its key, less its time.
fn timeless<A: Ip>((key, flow): (FlowKey<A>, Flow<A>)) -> (String, String) {
    (format!("{key:?}"), format!("{:?}", Flow { last_seen: 0, ..flow }))
}

/// An unanswered SYN with its key, less its time, and less what is behind its frame.
fn ageless<A: Ip>((key, pending): (FlowKey<A>, Pending)) -> (String, String) {
    let frame = &pending.frame[..pending.len.into()];
    let rest = Pending { at: 0, frame: Pending::EMPTY.frame, ..pending };
    (format!("{key:?}"), format!("{rest:?} {frame:02x?}"))
}

/// Whether NAT chose the source port by chance: then the two need not agree from here on.
fn is_chance<F: Family>(verdict: Verdict, frame: &[u8], out: &[u8]) -> bool {
    let port = |frame: &[u8]| {
        let l4 = if frame[12] == 0x81 { F::L4 + 4 } else { F::L4 };
        [frame[l4], frame[l4 + 1]]
    };
    verdict == Verdict::NatNew && port(frame) != port(out)
}

fn compare<F: Family>(kernel: &mut Kernel<F>, history: Vec<Step>) -> Result<(), TestCaseError> {
    kernel.forget_flows();
    kernel.active(0, START.0, START.1, START.2);
    kernel.lease(u64::MAX);
    let mut world = world::<F>();
    for step in history {
        let frame = match step {
            Step::Cutover { state, slot, generation } => {
                kernel.active(0, state, slot, generation);
                world.active.insert(0, active((state, slot, generation)));
                continue;
            }
            Step::Lease(runs) => {
                world.lease = if runs { u64::MAX } else { 0 };
                kernel.lease(world.lease);
                continue;
            }
            Step::Frame { frame, poke, cut } => {
                let mut frame = F::frame(&frame);
                if let Some((at, byte)) = poke {
                    let at = at.index(frame.len());
                    frame[at] = byte;
                }
                if let Some(at) = cut {
                    frame.truncate(14 + at.index(frame.len() - 13));
                }
                frame
            }
        };
        let ours = model::run(&world, INGRESS, &frame);
        let theirs = kernel.run_raw(INGRESS, &frame);
        // The kernel has no port but the ingress: there, what leaves by another is dropped.
        let leaves = ours.verdict.action() == Action::Forward && ours.egress != INGRESS;
        let verdict = if leaves { Verdict::NoPort } else { ours.verdict };
        prop_assert_eq!(verdict, theirs.verdict, "{:02x?}", frame);
        if is_chance::<F>(ours.verdict, &frame, &theirs.frame) {
            return Ok(());
        }
        let action = match verdict.action() {
            Action::Pass => Xdp_::Pass,
            Action::Drop => Xdp_::Drop,
            Action::Transmit => Xdp_::Tx,
            Action::Forward => Xdp_::Tx,
        };
        prop_assert_eq!(action, theirs.action, "{:02x?}", frame);
        prop_assert_eq!(&ours.frame, &theirs.frame, "{:?} of {:02x?}", ours.verdict, frame);
    }
    for (name, table) in [(FLOWS, FlowTable::Established), (HALF_OPEN, FlowTable::HalfOpen)] {
        let ours: BTreeMap<_, _> =
            F::maps(&mut world).flows(table).into_iter().map(timeless).collect();
        let theirs: BTreeMap<_, _> = kernel.raw_flows(name).into_iter().map(timeless).collect();
        prop_assert_eq!(ours, theirs, "{}", name);
    }
    let ours: BTreeMap<_, _> = F::maps(&mut world).pending().into_iter().map(ageless).collect();
    let theirs: BTreeMap<_, _> = kernel.raw_pending().into_iter().map(ageless).collect();
    prop_assert_eq!(ours, theirs, "PENDING");
    Ok(())
}

fn the_kernel_and_the_model_agree_on_every_history<F: Family>() {
    let kernel = RefCell::new(kernel::<F>());
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let histories = prop::collection::vec(step(), 1..40).prop_map(|steps| steps.concat());
    TestRunner::new(config)
        .run(&histories, |history| compare(&mut kernel.borrow_mut(), history))
        .unwrap_or_else(|error| panic!("{error}"));
    // The histories are worth comparing: they went through the program's every part.
    let mut kernel = kernel.into_inner();
    for verdict in [
        Verdict::NatNew,
        Verdict::NatToBackend,
        Verdict::NatToClient,
        Verdict::NatStaleReset,
        Verdict::NatStaleDrop,
        Verdict::NoFlowReset,
        Verdict::NoServiceReset,
        Verdict::DsrToBackend,
        Verdict::DsrStaleReset,
        Verdict::DsrStaleDrop,
        Verdict::EchoReply,
        Verdict::IcmpToBackend,
        Verdict::ServiceParked,
    ] {
        assert_ne!(kernel.count(verdict), 0, "{verdict:?} never came");
    }
}

in_both_families! {
    the_kernel_and_the_model_agree_on_every_history,
}
