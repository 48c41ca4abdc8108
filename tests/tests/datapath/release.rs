//! The daemon's [`Releaser`] on a veth: what it injects is what the program handles, and what leaves
//! arrives at the other end.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use vipd::config::XdpMode;
use vipd::datapath::{Datapath, OpenSettings, Pass, Release, Released, Releaser};
use vipd::netdev;
use vipd::plan::Step;
use vipd_common::maps::{
    self, Active, Address, Backend, Flow, FlowKey, ForwardMode, Interface, LAYOUT, Pending,
    ServiceState, direction, state,
};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R2_SLOT, SERVICE};
use crate::family::{Family, Ipv4, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT_MAC, DIRECTOR, DIRECTOR_MAC, R2, R2_MAC, SERVICE_PORT, Tcp, VIP,
};
use crate::kernel::{Kernel, nat_backend, now};

const MANY: u32 = 100_000;
const FEW: u32 = 1_000;

/// A director with a cable to the rest of the world, in a network namespace of this thread's. Its
/// service has just gone over to r2.
struct Site<F: Family> {
    datapath: Datapath,
    releaser: Releaser,
    released: tokio::sync::mpsc::Receiver<Released>,
    pins: PathBuf,
    ifindex: u32,
    pending: HashMap<MapData, FlowKey<F::Addr>, Pending>,
    established: HashMap<MapData, FlowKey<F::Addr>, Flow<F::Addr>>,
    half_open: HashMap<MapData, FlowKey<F::Addr>, Flow<F::Addr>>,
    _pass: Pass,
}

impl<F: Family> Site<F> {
    fn up(mode: ForwardMode, capacity: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: only this thread moves to a new network namespace; nothing is shared.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "unshare: {}: run as root", std::io::Error::last_os_error());
        ip(&format!("link add own0 address {DIRECTOR_MAC} type veth peer name world0"));
        ip("link set own0 up");
        ip("link set world0 up");
        let pass = Pass::attach("world0").unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vipdk-{}-{number}", std::process::id());
        let pins = PathBuf::from("/sys/fs/bpf").join(name);
        let settings = OpenSettings {
            pin_dir: pins.clone(),
            xdp_mode: XdpMode::Native,
            max_connections: capacity,
            max_half_open: capacity,
            max_pending_syns: capacity,
        };
        let (mut datapath, _) = Datapath::open(&settings).unwrap();
        datapath.attach(&["own0".to_owned()]).unwrap();
        assert_eq!(datapath.can_release(), Ok(()));
        let (releaser, released) = datapath.releaser().unwrap();
        let layout = pins.join(format!("v{LAYOUT}"));
        let map = |name| {
            let data = MapData::from_pin(layout.join(F::map(name))).unwrap();
            Map::LruHashMap(data)
        };
        let site = Self {
            releaser,
            released,
            ifindex: netdev::link("own0").unwrap().ifindex,
            pending: map(maps::PENDING).try_into().unwrap(),
            established: map(maps::FLOWS).try_into().unwrap(),
            half_open: map(maps::HALF_OPEN).try_into().unwrap(),
            pins,
            datapath,
            _pass: pass,
        };
        site.describe(mode)
    }

    fn describe(mut self, mode: ForwardMode) -> Self {
        let interface = Interface { mac: DIRECTOR_MAC, zero: [0; 2] };
        let mode_flag = if mode == ForwardMode::Nat { Address::NAT } else { Address::DSR };
        let backend = Kernel::<F>::translated(nat_backend(R2, BACKEND_PORT, R2_MAC, DIRECTOR));
        let backend = Backend { ifindex: self.ifindex, mode: mode as u32, ..backend };
        let active = Active::new(ServiceState::Up, R2_SLOT, GENERATION + 1);
        for step in [
            Step::PutInterface { ifindex: self.ifindex, interface },
            Step::PutAddress { addr: F::addr(VIP), address: Address::new(mode_flag) },
            Step::PutAddress { addr: F::addr(DIRECTOR), address: Address::new(Address::SOURCE) },
            Step::PutService { key: (F::addr(VIP), SERVICE_PORT).into(), index: SERVICE },
            Step::WriteSlot { slot: R2_SLOT, backend },
            Step::SetActive { service: SERVICE, active },
        ] {
            self.datapath.apply(&step).unwrap();
        }
        self
    }

    /// A client's SYN that went to r1, now.
    fn syn(&self, number: u32) -> (FlowKey<F::Addr>, Pending) {
        let (addr, port) = client(number);
        let frame = F::frame(&Tcp::to_vip("S").client(addr, port).frame());
        let mut pending = Pending {
            at: now(),
            service: SERVICE,
            generation: GENERATION,
            ifindex: self.ifindex,
            seq: 1000,
            len: frame.len() as u16,
            ..Pending::EMPTY
        };
        pending.frame[..frame.len()].copy_from_slice(&frame);
        (key::<F>(number), pending)
    }

    /// The halves of a client's connection to r1.
    fn connection(&self, number: u32, mode: ForwardMode) -> [(FlowKey<F::Addr>, Flow<F::Addr>); 2] {
        let client = key::<F>(number);
        let port = (number as u16).to_be_bytes();
        let source = F::bytes(DIRECTOR.octets());
        let r1 = (F::bytes([198, 18, 1, (number >> 16) as u8]), BACKEND_PORT.to_be_bytes());
        let backend = FlowKey::new(r1, (source, port));
        let flow = Flow {
            last_seen: now(),
            service: SERVICE,
            generation: GENERATION,
            next_seq: 1001,
            last_ack: 5001,
            client_ifindex: self.ifindex,
            client_mac: CLIENT_MAC,
            client_gateway: DIRECTOR_MAC,
            leaves: if mode == ForwardMode::Dsr { client } else { backend.reversed() },
            ..Flow::EMPTY
        };
        let direction = direction::FROM_BACKEND;
        let leaves = client.reversed();
        [(client, flow), (backend, Flow { leaves, direction, next_seq: 5001, ..flow })]
    }

    fn count(&self, verdict: Verdict) -> u64 {
        let counters = self.datapath.counters().unwrap();
        counters.iter().find(|(it, _)| *it == verdict).unwrap().1.packets
    }

    fn release(&mut self, replay: bool, free: bool) -> Released {
        let lines = vec![SERVICE];
        let patience = Duration::from_secs(15);
        assert!(self.releaser.release(Release { id: 7, lines, replay, free, patience }));
        let released = self.released.blocking_recv().unwrap();
        assert_eq!((released.id, &released.error), (7, &None));
        released
    }
}

impl<F: Family> Drop for Site<F> {
    fn drop(&mut self) {
        ip("link del own0");
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// TCP frames that have reached the other end. (It hears other things too, now and then.)
fn arrived() -> u64 {
    let shown = ip("-s -o link show world0");
    let (_, numbers) = shown.split_once("RX:").unwrap().1.split_once('\\').unwrap();
    numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn client(number: u32) -> (Ipv4Addr, u16) {
    let [_, _, c, d] = (number / 50_000 + 0x0a).to_be_bytes();
    (Ipv4Addr::new(198, 19, c, d), (10_000 + number % 50_000) as u16)
}

fn key<F: Family>(number: u32) -> FlowKey<F::Addr> {
    let (addr, port) = client(number);
    let vip = (F::bytes(VIP.octets()), SERVICE_PORT.to_be_bytes());
    FlowKey::new((F::bytes(addr.octets()), port.to_be_bytes()), vip)
}

#[test]
fn a_hundred_thousand_unanswered_syns_reach_the_new_backend() {
    let mut site = Site::<Ipv4>::up(ForwardMode::Nat, 2 * MANY);
    for number in 0..MANY {
        let (key, pending) = site.syn(number);
        site.pending.insert(key, pending, 0).unwrap();
    }
    let before = arrived();
    let released = site.release(true, false);
    let time = released.replayed.since(released.begun);
    println!("{MANY} SYNs sent again in {time:?}");
    assert_eq!((released.syns, released.freed), (MANY, 0));
    assert_eq!(site.count(Verdict::NatNew), u64::from(MANY));
    assert!(arrived() - before >= u64::from(MANY), "{} of {MANY}", arrived() - before);
    // One replay each.
    assert_eq!(site.release(true, false).syns, 0);
}

#[test]
fn a_hundred_thousand_clients_of_the_old_backend_are_reset() {
    let mut site = Site::<Ipv4>::up(ForwardMode::Nat, 2 * MANY);
    for number in 0..MANY {
        for (key, flow) in site.connection(number, ForwardMode::Nat) {
            site.established.insert(key, flow, 0).unwrap();
        }
    }
    let before = arrived();
    let released = site.release(true, true);
    println!("{MANY} clients freed in {:?}", released.done.since(released.begun));
    assert_eq!((released.syns, released.freed), (0, MANY));
    assert_eq!(site.count(Verdict::NatStaleReset), u64::from(MANY));
    assert!(arrived() - before >= u64::from(MANY), "{} of {MANY}", arrived() - before);
    // Each is freed once.
    assert_eq!(site.release(true, true).freed, 0);
}

fn only_syns_that_wait_are_sent_again<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    let cases: [(&str, bool, fn(&mut Pending)); 8] = [
        ("went to r1", true, |_| {}),
        ("was parked", true, |it| it.state = Pending::HELD),
        ("was parked, and the same node serves again", true, |it| {
            (it.state, it.generation) = (Pending::HELD, GENERATION + 1);
        }),
        ("went to r2", false, |it| it.generation = GENERATION + 1),
        ("was sent again before", false, |it| it.state = Pending::REPLAYED),
        ("of another service", false, |it| it.service = SERVICE + 1),
        ("nearly too old", true, |it| it.at -= 14_000_000_000),
        ("too old", false, |it| it.at -= 16_000_000_000),
    ];
    assert!(now() > 16_000_000_000, "this machine has only just started");
    for (number, (_, _, change)) in (0..).zip(cases) {
        let (key, mut pending) = site.syn(number);
        change(&mut pending);
        site.pending.insert(key, pending, 0).unwrap();
    }
    let released = site.release(true, true);
    assert_eq!((released.syns, released.freed), (4, 0));
    assert_eq!(site.count(Verdict::NatNew), 4);
    for (number, (what, wanted, _)) in (0..).zip(cases) {
        let went = site.half_open.get(&key::<F>(number), 0).is_ok();
        assert_eq!(went, wanted, "{what}");
    }
}

fn only_clients_that_may_still_wait_are_reset<F: Family>() {
    for mode in [ForwardMode::Nat, ForwardMode::Dsr] {
        let mut site = Site::<F>::up(mode, FEW);
        type Case<A> = (&'static str, bool, fn(&mut Flow<A>));
        let cases: [Case<F::Addr>; 6] = [
            ("of r1", true, |_| {}),
            ("of r2", false, |it| it.generation = GENERATION + 1),
            ("knows", false, |it| it.state = state::RESET),
            ("is closing", true, |it| it.state = state::FIN),
            ("is closed", false, |it| it.state = state::FIN | state::PEER_FIN),
            ("of another service", false, |it| it.service = SERVICE + 1),
        ];
        let halves = if mode == ForwardMode::Nat { 2 } else { 1 };
        for (number, (_, _, change)) in (0..).zip(cases) {
            for (key, mut flow) in site.connection(number, mode).into_iter().take(halves) {
                change(&mut flow);
                site.established.insert(key, flow, 0).unwrap();
            }
        }
        let released = site.release(true, true);
        assert_eq!(released.freed, 2, "{mode:?}");
        for (number, (what, wanted, _)) in (0..).zip(cases) {
            let flow = site.established.get(&key::<F>(number), 0).unwrap();
            let knew = what == "knows";
            assert_eq!(flow.state & state::RESET != 0, wanted || knew, "{mode:?} {what}");
        }
        let verdict = match mode {
            ForwardMode::Nat => Verdict::NatStaleReset,
            _ => Verdict::DsrStaleReset,
        };
        assert_eq!(site.count(verdict), 2);
    }
}

/// Its client got the SYN-ACK and is connected; only we have not seen its ACK.
fn a_half_open_connection_is_reset_if_it_was_answered<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    for (number, state) in [(0, 0), (1, state::ANSWERED)] {
        let [(client, flow), (backend, other)] = site.connection(number, ForwardMode::Nat);
        site.half_open.insert(client, Flow { state, ..flow }, 0).unwrap();
        site.half_open.insert(backend, other, 0).unwrap();
    }
    assert_eq!(site.release(true, true).freed, 1);
    let state = |number| site.half_open.get(&key::<F>(number), 0).unwrap().state;
    assert_eq!((state(0), state(1)), (0, state::ANSWERED | state::RESET));
}

fn nothing_is_done_that_was_not_asked_for<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    let (key, pending) = site.syn(0);
    site.pending.insert(key, pending, 0).unwrap();
    for (key, flow) in site.connection(1, ForwardMode::Nat) {
        site.established.insert(key, flow, 0).unwrap();
    }
    let did = |released: Released| (released.syns, released.freed);
    assert_eq!(did(site.release(false, false)), (0, 0));
    assert_eq!(did(site.release(false, true)), (0, 1));
    assert_eq!(did(site.release(true, false)), (1, 0));
    assert_eq!(did(site.release(true, true)), (0, 0));
}

fn an_interface_that_is_gone_is_an_error_and_the_others_get_theirs<F: Family>() {
    let mut site = Site::<F>::up(ForwardMode::Nat, FEW);
    for number in 0..4 {
        let (key, mut pending) = site.syn(number);
        pending.ifindex = if number == 0 { 4_000 } else { site.ifindex };
        site.pending.insert(key, pending, 0).unwrap();
    }
    let lines = vec![SERVICE];
    let patience = Duration::from_secs(15);
    let job = Release { id: 1, lines, replay: true, free: true, patience };
    assert!(site.releaser.release(job));
    let released = site.released.blocking_recv().unwrap();
    assert_eq!(released.syns, 3);
    let error = released.error.unwrap();
    assert!(error.contains("interface 4000"), "{error}");
}

#[test]
fn a_full_queue_says_so() {
    let mut site = Site::<Ipv4>::up(ForwardMode::Nat, FEW);
    let job =
        || Release { id: 0, lines: vec![], replay: true, free: true, patience: Duration::ZERO };
    let taken = (0..100_000).take_while(|_| site.releaser.release(job())).count();
    assert!((64..100_000).contains(&taken), "{taken}");
    assert!(site.released.blocking_recv().is_some());
}

in_both_families! {
    only_syns_that_wait_are_sent_again,
    only_clients_that_may_still_wait_are_reset,
    a_half_open_connection_is_reset_if_it_was_answered,
    nothing_is_done_that_was_not_asked_for,
    an_interface_that_is_gone_is_an_error_and_the_others_get_theirs,
}
