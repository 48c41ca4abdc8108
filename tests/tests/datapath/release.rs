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
use vipd_common::addr::Ipv4Bytes;
use vipd_common::maps::{self, Active, Address, FlowKey, Interface, LAYOUT, Pending, ServiceState};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, R2_SLOT, SERVICE};
use crate::frames::{BACKEND_PORT, DIRECTOR, DIRECTOR_MAC, R2, R2_MAC, SERVICE_PORT, Tcp, VIP};
use crate::kernel::nat_backend;

const MANY: u32 = 100_000;

/// A director with a cable to the rest of the world, in a network namespace of this thread's.
struct Site {
    datapath: Datapath,
    releaser: Releaser,
    released: tokio::sync::mpsc::Receiver<Released>,
    pins: PathBuf,
    ifindex: u32,
    _pass: Pass,
}

impl Site {
    fn up() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: only this thread moves to a new network namespace; nothing is shared.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "unshare: {}: run as root", std::io::Error::last_os_error());
        ip(&format!("link add own0 address {DIRECTOR_MAC} type veth peer name world0"));
        ip("link set own0 up");
        ip("link set world0 up");
        let pass = Pass::attach("world0").unwrap();
        let unique =
            format!("vipdk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pins = PathBuf::from("/sys/fs/bpf").join(unique);
        let settings = OpenSettings {
            pin_dir: pins.clone(),
            xdp_mode: XdpMode::Native,
            max_connections: 2 * MANY,
            max_half_open: 2 * MANY,
            max_pending_syns: 2 * MANY,
        };
        let (mut datapath, _) = Datapath::open(&settings).unwrap();
        datapath.attach(&["own0".to_owned()]).unwrap();
        datapath.can_release().unwrap();
        let (releaser, released) = datapath.releaser().unwrap();
        let ifindex = netdev::link("own0").unwrap().ifindex;
        let site = Self { datapath, releaser, released, pins, ifindex, _pass: pass };
        site.describe()
    }

    fn describe(mut self) -> Self {
        let interface = Interface { mac: DIRECTOR_MAC, zero: [0; 2] };
        let mut backend = nat_backend(R2, BACKEND_PORT, R2_MAC, DIRECTOR);
        backend.ifindex = self.ifindex;
        for step in [
            Step::PutInterface { ifindex: self.ifindex, interface },
            Step::PutAddress { addr: VIP.into(), address: Address::new(Address::NAT) },
            Step::PutAddress { addr: DIRECTOR.into(), address: Address::new(Address::SOURCE) },
            Step::PutService { key: (VIP, SERVICE_PORT).into(), index: SERVICE },
            Step::WriteSlot { slot: R2_SLOT, backend },
            Step::SetActive {
                service: SERVICE,
                active: Active::new(ServiceState::Up, R2_SLOT, GENERATION + 1),
            },
        ] {
            self.datapath.apply(&step).unwrap();
        }
        self
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.pins.join(format!("v{LAYOUT}")).join(name)).unwrap()
    }

    fn count(&self, verdict: Verdict) -> u64 {
        let counters = self.datapath.counters().unwrap();
        counters.iter().find(|(it, _)| *it == verdict).unwrap().1.packets
    }

    fn release(&mut self, job: Release) -> Released {
        assert!(self.releaser.release(job));
        self.released.blocking_recv().unwrap()
    }
}

impl Drop for Site {
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

/// Frames that an interface has received.
fn arrived(interface: &str) -> u64 {
    let shown = ip(&format!("-s -o link show {interface}"));
    let (_, rx) = shown.split_once("RX:").unwrap();
    let numbers = rx.split_once('\\').unwrap().1;
    numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn client(number: u32) -> (Ipv4Addr, u16) {
    let [_, _, c, d] = (number / 50_000 + 0x0a).to_be_bytes();
    (Ipv4Addr::new(198, 19, c, d), (10_000 + number % 50_000) as u16)
}

#[test]
fn a_hundred_thousand_unanswered_syns_reach_the_new_backend() {
    let mut site = Site::up();
    let map = Map::LruHashMap(site.map(maps::PENDING));
    let mut pending = HashMap::<_, FlowKey<Ipv4Bytes>, Pending>::try_from(map).unwrap();
    let now = crate::kernel::now();
    let many = std::env::var("N").map_or(MANY, |n| n.parse().unwrap());
    for number in 0..many {
        let (addr, port) = client(number);
        let syn = Tcp::to_vip("S").client(addr, port).frame();
        let key = FlowKey::new(
            (addr.octets(), port.to_be_bytes()),
            (VIP.octets(), SERVICE_PORT.to_be_bytes()),
        );
        let mut entry = Pending {
            at: now,
            service: SERVICE,
            generation: GENERATION,
            ifindex: site.ifindex,
            seq: 1000,
            len: syn.len() as u16,
            ..Pending::EMPTY
        };
        entry.frame[..syn.len()].copy_from_slice(&syn);
        pending.insert(key, entry, 0).unwrap();
    }
    let before = arrived("world0");
    let released = site.release(Release {
        id: 7,
        lines: vec![SERVICE],
        replay: true,
        free: false,
        patience: Duration::from_secs(60),
    });
    println!("{released:?} {:?}", released.replayed.since(released.begun));
    println!(
        "arrived {} nat_new {} no_port {}",
        arrived("world0") - before,
        site.count(Verdict::NatNew),
        site.count(Verdict::NoSourcePort)
    );
}
