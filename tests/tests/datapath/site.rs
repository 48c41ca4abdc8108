//! A director with a cable, whose maps are the daemon's and whose traffic is made up.

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
    ServiceState, direction,
};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R2_SLOT, SERVICE};
use crate::family::Family;
use crate::frames::{
    BACKEND_PORT, CLIENT_MAC, DIRECTOR, DIRECTOR_MAC, R2, R2_MAC, SERVICE_PORT, Tcp, VIP,
};
use crate::kernel::{Kernel, Remembered, nat_backend, now};

/// A director with a cable to the rest of the world, in a network namespace of this thread's. Its
/// service has just gone over to r2.
pub struct Site<F: Family> {
    datapath: Datapath,
    pub releaser: Releaser,
    pub released: tokio::sync::mpsc::Receiver<Released>,
    pins: PathBuf,
    pub ifindex: u32,
    pub pending: HashMap<MapData, FlowKey<F::Addr>, Pending>,
    pub established: HashMap<MapData, FlowKey<F::Addr>, Flow<F::Addr>>,
    pub half_open: HashMap<MapData, FlowKey<F::Addr>, Flow<F::Addr>>,
    _pass: Pass,
}

impl<F: Family> Site<F> {
    pub fn up(mode: ForwardMode, capacity: u32) -> Self {
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
    pub fn syn(&self, number: u32) -> (FlowKey<F::Addr>, Pending) {
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
    pub fn connection(&self, number: u32, mode: ForwardMode) -> [Remembered<F::Addr>; 2] {
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

    pub fn count(&self, verdict: Verdict) -> u64 {
        let counters = self.datapath.counters().unwrap();
        counters.iter().find(|(it, _)| *it == verdict).unwrap().1.packets
    }

    pub fn release(&mut self, replay: bool, free: bool) -> Released {
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
pub fn arrived() -> u64 {
    let shown = ip("-s -o link show world0");
    let (_, numbers) = shown.split_once("RX:").unwrap().1.split_once('\\').unwrap();
    numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn client(number: u32) -> (Ipv4Addr, u16) {
    let [_, _, c, d] = (number / 50_000 + 0x0a).to_be_bytes();
    (Ipv4Addr::new(198, 19, c, d), (10_000 + number % 50_000) as u16)
}

pub fn key<F: Family>(number: u32) -> FlowKey<F::Addr> {
    let (addr, port) = client(number);
    let vip = (F::bytes(VIP.octets()), SERVICE_PORT.to_be_bytes());
    FlowKey::new((F::bytes(addr.octets()), port.to_be_bytes()), vip)
}
