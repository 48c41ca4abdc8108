//! The real program and maps in the real kernel, run on one frame at a time by
//! `BPF_PROG_TEST_RUN`.

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::Command;

use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::{TestRun as _, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use vipd_common::addr::{Ipv4Bytes, MacAddr, mapped};
use vipd_common::buckets::{Buckets, Entry};
use vipd_common::maps::{
    self, Active, Address, AddressEntry, Backend, Counter, Flow, FlowKey, ForwardMode, Group,
    Interface, InterfaceEntry, KernelEvent, Pending, ServiceEntry, ServiceKey, ServiceState,
};
use vipd_common::verdict::Verdict;
use vipd_common::wire::ip::Ip;

use crate::family::Family;

/// `BPF_PROG_TEST_RUN` without a context takes frames to come in by the loopback interface.
pub const INGRESS: u32 = 1;

/// XDP's return values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xdp_ {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// `struct xdp_md`: with it `BPF_PROG_TEST_RUN` lets a frame come in by a chosen interface.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ifindex: u32,
    rx_queue: u32,
    egress_ifindex: u32,
}

impl XdpMd {
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: six integers without padding, borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

/// What became of a frame.
#[derive(Debug)]
pub struct Run {
    /// The only counter that moved.
    pub verdict: Verdict,
    /// What the kernel was told.
    pub action: Xdp_,
    /// The frame as it left.
    pub frame: Vec<u8>,
}

/// A flow with its key.
pub type Remembered<A> = (FlowKey<A>, Flow<A>);

/// The loaded object, in a network namespace of its own.
pub struct Kernel<F> {
    ebpf: Ebpf,
    family: PhantomData<F>,
    /// The counters after the last run; reading them is most of what a run costs.
    counted: Option<Vec<Counter>>,
}

impl<F: Family> Kernel<F> {
    /// Loads the object with small flow tables, and describes the ingress interface.
    pub fn load(own: MacAddr) -> Self {
        Self::load_sized(own, 1024, 256)
    }

    /// The same with `flows` and `half_open` entries.
    pub fn load_sized(own: MacAddr, flows: u32, half_open: u32) -> Self {
        // SAFETY: only this thread moves to a new network namespace; nothing is shared.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "unshare: {}: run as root", std::io::Error::last_os_error());
        let object = object();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::FLOWS, flows)
            .map_max_entries(maps::FLOWS6, flows)
            .map_max_entries(maps::HALF_OPEN, half_open)
            .map_max_entries(maps::HALF_OPEN6, half_open)
            .map_max_entries(maps::PENDING, half_open)
            .map_max_entries(maps::PENDING6, half_open)
            .load(&object)
            .unwrap_or_else(|error| panic!("loading the object: {error:?}"));
        for name in ["vipd", "vipd6", "vipd_replay", "pass"] {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap_or_else(|error| panic!("loading {name}: {error}"));
        }
        for (index, name) in [(maps::IPV6_PROGRAM, "vipd6"), (maps::MAIN_PROGRAM, "vipd")] {
            let program: &Xdp = ebpf.program(name).unwrap().try_into().unwrap();
            let program = program.fd().unwrap().try_clone().unwrap();
            let programs = ebpf.map_mut(maps::PROGRAMS).unwrap();
            ProgramArray::try_from(programs).unwrap().set(index, &program, 0).unwrap();
        }
        let mut kernel = Self { ebpf, family: PhantomData, counted: None };
        kernel.interface(INGRESS, own);
        // As with a daemon that is alive.
        kernel.lease(u64::MAX);
        kernel
    }

    pub fn interface(&mut self, ifindex: u32, mac: MacAddr) {
        let interface = Interface { mac, zero: [0; 2] };
        self.buckets::<InterfaceEntry>(maps::INTERFACES).insert(ifindex, interface).unwrap();
    }

    /// Lets frames be redirected to `ifindex`, which must exist.
    pub fn port(&mut self, ifindex: u32) {
        let map = self.map(maps::PORTS);
        DevMapHash::try_from(map).unwrap().insert(ifindex, ifindex, None, 0).unwrap();
    }

    pub fn address(&mut self, addr: Ipv4Addr, flags: u16) {
        self.put_address(F::addr(addr), Address::new(flags));
    }

    /// A VIP in mode `host`, for which `line` decides.
    pub fn host_address(&mut self, addr: Ipv4Addr, flags: u16, line: u16) {
        let address = Address { flags: flags | Address::HOST, service: line };
        self.put_address(F::addr(addr), address);
    }

    fn put_address(&mut self, addr: IpAddr, address: Address) {
        match addr {
            IpAddr::V4(addr) => {
                self.buckets::<AddressEntry<_>>(maps::VIPS).insert(addr.octets(), address)
            }
            IpAddr::V6(addr) => {
                self.buckets::<AddressEntry<_>>(maps::VIPS6).insert(addr.octets(), address)
            }
        }
        .unwrap();
    }

    /// A NAT VIP with a service in IPv6, whatever the family of this value.
    pub fn ipv6_service(&mut self, addr: IpAddr, port: u16, index: u32) {
        let IpAddr::V6(v6) = addr else { panic!("{addr} is no IPv6 address") };
        self.put_address(addr, Address::new(Address::NAT));
        let key = ServiceKey::new(v6.octets(), port.to_be_bytes());
        self.buckets::<ServiceEntry<_>>(maps::SERVICES6).insert(key, index).unwrap();
    }

    /// As before the daemon has opened its maps.
    pub fn without_ipv6_program(&mut self) {
        let programs = ProgramArray::try_from(self.map(maps::PROGRAMS));
        programs.unwrap().clear_index(&maps::IPV6_PROGRAM).unwrap();
    }

    /// Lets it be announced until then.
    pub fn lease(&mut self, until: u64) {
        let map = self.map(maps::LEASE);
        Array::<_, u64>::try_from(map).unwrap().set(0, until, 0).unwrap();
    }

    pub fn group(&mut self, index: u32, members: &[u16]) {
        let mut group = Group { count: members.len() as u32, ..Group::EMPTY };
        group.members[..members.len()].copy_from_slice(members);
        let map = self.map(maps::GROUPS);
        Array::<_, Group>::try_from(map).unwrap().set(index, group, 0).unwrap();
    }

    pub fn service(&mut self, addr: Ipv4Addr, port: u16, index: u32) {
        let port = port.to_be_bytes();
        match F::addr(addr) {
            IpAddr::V4(addr) => self
                .buckets::<ServiceEntry<_>>(maps::SERVICES)
                .insert(ServiceKey::new(addr.octets(), port), index),
            IpAddr::V6(addr) => self
                .buckets::<ServiceEntry<_>>(maps::SERVICES6)
                .insert(ServiceKey::new(addr.octets(), port), index),
        }
        .unwrap();
    }

    pub fn active(&mut self, service: u32, state: ServiceState, slot: u16, generation: u32) {
        let map = self.map(maps::ACTIVE);
        let active = Active::new(state, slot, generation);
        Array::<_, u64>::try_from(map).unwrap().set(service, active.0, 0).unwrap();
    }

    pub fn backend(&mut self, slot: u16, backend: Backend) {
        let backend = Self::translated(backend);
        let map = self.map(maps::BACKENDS);
        Array::<_, Backend>::try_from(map).unwrap().set(u32::from(slot), backend, 0).unwrap();
    }

    /// What an IPv4 backend is in this family.
    pub fn translated(backend: Backend) -> Backend {
        let translate = |mapped: [u8; 16]| match mapped {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4 @ ..] => F::bytes(v4).mapped(),
            other => other,
        };
        Backend { addr: translate(backend.addr), source: translate(backend.source), ..backend }
    }

    pub fn put_flow(&mut self, table: &str, key: FlowKey<Ipv4Bytes>, flow: Flow<Ipv4Bytes>) {
        let (key, flow) = translated((key, flow), F::bytes);
        self.hash::<FlowKey<F::Addr>, Flow<F::Addr>>(F::map(table)).insert(key, flow, 0).unwrap();
    }

    pub fn flow(&mut self, table: &str, key: FlowKey<Ipv4Bytes>) -> Option<Flow<Ipv4Bytes>> {
        let flows = self.flows(table);
        flows.into_iter().find(|(found, _)| *found == key).map(|(_, flow)| flow)
    }

    /// The flows of `table`, in IPv4.
    pub fn flows(&mut self, table: &str) -> Vec<Remembered<Ipv4Bytes>> {
        let flows = self.raw_flows(table).into_iter();
        flows.map(|flow| translated(flow, F::bytes_back)).collect()
    }

    /// The flows of `table` as they are.
    pub fn raw_flows(&mut self, table: &str) -> Vec<Remembered<F::Addr>> {
        let map = self.hash::<FlowKey<F::Addr>, Flow<F::Addr>>(F::map(table));
        map.iter().map(|entry| entry.unwrap()).collect()
    }

    /// The unanswered SYNs, with their keys in IPv4.
    pub fn pending(&mut self) -> Vec<(FlowKey<Ipv4Bytes>, Pending)> {
        let pending = self.raw_pending().into_iter();
        pending.map(|(key, it)| (translated_key(key, &F::bytes_back), it)).collect()
    }

    /// The unanswered SYNs as they are.
    pub fn raw_pending(&mut self) -> Vec<(FlowKey<F::Addr>, Pending)> {
        let map = self.hash::<FlowKey<F::Addr>, Pending>(F::map(maps::PENDING));
        map.iter().map(|entry| entry.unwrap()).collect()
    }

    /// The events that the kernel has reported since the last call.
    pub fn events(&mut self) -> Vec<KernelEvent> {
        let mut ring = RingBuf::try_from(self.map(maps::EVENTS)).unwrap();
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<KernelEvent>());
            // SAFETY: the size was checked, and `KernelEvent` is valid for every pattern.
            events.push(unsafe { item.as_ptr().cast::<KernelEvent>().read_unaligned() });
        }
        events
    }

    /// Runs the program on a frame and compares all there is to compare.
    #[track_caller]
    pub fn expect(&mut self, what: &str, frame: &[u8], expected: (Verdict, Xdp_), out: &[u8]) {
        let run = self.run_raw(INGRESS, &F::frame(frame));
        assert_eq!((run.verdict, run.action), expected, "{what}");
        assert_eq!(run.frame, F::frame(out), "{what}");
    }

    /// The same for a frame that must stay as it is.
    #[track_caller]
    pub fn expect_untouched(&mut self, what: &str, frame: &[u8], expected: (Verdict, Xdp_)) {
        self.expect(what, frame, expected, frame);
    }

    /// Runs the program on a frame. Panics unless exactly one counter moved, by one packet and
    /// the frame's bytes.
    pub fn run(&mut self, frame: &[u8]) -> Run {
        self.run_from(INGRESS, frame)
    }

    /// The same for a frame that comes in by another interface, which must exist.
    pub fn run_from(&mut self, ifindex: u32, frame: &[u8]) -> Run {
        let run = self.run_raw(ifindex, &F::frame(frame));
        Run { frame: F::back(&run.frame), ..run }
    }

    /// The same for a frame as it is.
    pub fn run_raw(&mut self, ifindex: u32, frame: &[u8]) -> Run {
        let before = self.counted.take().unwrap_or_else(|| self.counters());
        let mut out = vec![0; frame.len() + 64];
        let context = XdpMd { data_end: frame.len() as u32, ifindex, ..XdpMd::default() };
        let result = self
            .program("vipd")
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(context.as_bytes()),
                ..TestRunOptions::new()
            })
            .unwrap_or_else(|error| panic!("BPF_PROG_TEST_RUN of {} bytes: {error}", frame.len()));
        out.truncate(result.data_size_out as usize);
        let after = self.counters();
        let moved: Vec<_> = Verdict::ALL
            .into_iter()
            .zip(after.iter().copied().zip(before))
            .filter(|(_, (after, before))| after != before)
            .collect();
        self.counted = Some(after);
        let [(verdict, (after, before))] = moved[..] else {
            panic!("one counter should have moved: {moved:?}")
        };
        assert_eq!(after.packets, before.packets + 1);
        assert_eq!(after.bytes, before.bytes + frame.len() as u64);
        let action = match result.return_value {
            0 => Xdp_::Aborted,
            1 => Xdp_::Drop,
            2 => Xdp_::Pass,
            3 => Xdp_::Tx,
            4 => Xdp_::Redirect,
            other => panic!("XDP action {other}"),
        };
        Run { verdict, action, frame: out }
    }

    /// Runs the program on a frame, and looks at nothing.
    pub fn feed(&mut self, frame: &[u8]) {
        let frame = &F::frame(frame);
        self.counted = None;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        self.program("vipd").test_run(options).unwrap();
    }

    /// Packets that left with this verdict.
    pub fn count(&mut self, verdict: Verdict) -> u64 {
        self.counters()[verdict as usize].packets
    }

    /// Removes every entry of the flow tables and every unanswered SYN.
    pub fn forget_flows(&mut self) {
        for table in [maps::FLOWS, maps::HALF_OPEN] {
            for (key, _) in self.raw_flows(table) {
                let mut map = self.hash::<FlowKey<F::Addr>, Flow<F::Addr>>(F::map(table));
                map.remove(&key).unwrap();
            }
        }
        for (key, _) in self.raw_pending() {
            let map = F::map(maps::PENDING);
            self.hash::<FlowKey<F::Addr>, Pending>(map).remove(&key).unwrap();
        }
    }

    /// Mean ns a run of a program on `frame`, over `repeat` runs. The frame must come out as it
    /// goes in, or each run would see another.
    pub fn time(&self, program: &str, frame: &[u8], repeat: u32) -> u64 {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        self.program(program).test_run(options).unwrap().duration.as_nanos() as u64
    }

    /// Instructions that the verifier walked to accept a program. It gives up at a million.
    pub fn verified_instructions(&self, name: &str) -> u32 {
        self.program(name).info().unwrap().verified_instruction_count().unwrap()
    }

    /// A program, loaded.
    pub fn program_fd(&self, name: &str) -> BorrowedFd<'_> {
        self.program(name).fd().unwrap().as_fd()
    }

    fn program(&self, name: &str) -> &Xdp {
        self.ebpf.program(name).unwrap().try_into().unwrap()
    }

    fn counters(&mut self) -> Vec<Counter> {
        let map = self.map(maps::COUNTERS);
        let array = PerCpuArray::<_, Counter>::try_from(map).unwrap();
        (0..Verdict::COUNT)
            .map(|index| {
                array.get(&index, 0).unwrap().iter().fold(Counter::default(), |sum, cpu| Counter {
                    packets: sum.packets + cpu.packets,
                    bytes: sum.bytes + cpu.bytes,
                })
            })
            .collect()
    }

    fn map(&mut self, name: &str) -> &mut Map {
        self.ebpf.map_mut(name).unwrap_or_else(|| panic!("no map {name}"))
    }

    fn buckets<E: Entry + aya::Pod>(&mut self, name: &str) -> Buckets<&mut MapData, E> {
        Buckets::new(Array::try_from(self.map(name)).unwrap())
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.map(name)).unwrap()
    }
}

/// A new interface in this thread's network namespace; its index.
pub fn new_interface(name: &str) -> u32 {
    let made = Command::new("ip").args(["link", "add", name, "type", "veth"]).status();
    assert!(made.is_ok_and(|status| status.success()), "ip link add {name}");
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// CLOCK_MONOTONIC, ns, as the program reads it.
pub fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// A NAT backend on the ingress link, reached directly.
pub fn nat_backend(addr: Ipv4Addr, port: u16, mac: MacAddr, source: Ipv4Addr) -> Backend {
    Backend {
        addr: mapped(addr.octets()),
        source: mapped(source.octets()),
        port: port.to_be_bytes(),
        next_hop: mac,
        own_mac: crate::frames::DIRECTOR_MAC,
        vlan: 0,
        first_port: 1024,
        last_port: 65_535,
        ifindex: INGRESS,
        mode: ForwardMode::Nat as u32,
    }
}

/// A flow of one family in another.
fn translated<A: Ip, B: Ip>((key, flow): Remembered<A>, addr: impl Fn(A) -> B) -> Remembered<B> {
    let translate = |key: FlowKey<A>| translated_key(key, &addr);
    let flow = Flow {
        last_seen: flow.last_seen,
        leaves: translate(flow.leaves),
        service: flow.service,
        next_seq: flow.next_seq,
        generation: flow.generation,
        last_ack: flow.last_ack,
        slot: flow.slot,
        client_ifindex: flow.client_ifindex,
        client_mac: flow.client_mac,
        client_vlan: flow.client_vlan,
        client_gateway: flow.client_gateway,
        direction: flow.direction,
        state: flow.state,
        zero: B::FLOW_PAD,
    };
    (translate(key), flow)
}

fn translated_key<A: Ip, B: Ip>(key: FlowKey<A>, addr: &impl Fn(A) -> B) -> FlowKey<B> {
    FlowKey::new((addr(key.src), key.src_port), (addr(key.dst), key.dst_port))
}

fn object() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/vipd.bpf.o");
    std::fs::read(path)
        .unwrap_or_else(|error| panic!("{path}: {error}: build it with `cargo xtask build-ebpf`"))
}
