//! `vipd run` as a process, without a Sentinel: it adopts what a test has put into the pinned maps.

use std::fs::{File, read_to_string};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vipd::config::XdpMode;
use vipd::datapath::{Datapath, OpenSettings, Pass};
use vipd::netdev;
use vipd::plan::Step;
use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::{
    Active, Address, Backend, Confirmed, ForwardMode, Interface, ServiceState, name_hash,
};

use crate::lab::{Netns, Pins, layout, names, unique, veth, wait_for};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 7, 0x50]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 7, 0x66]);
const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 250);
/// An address of the peer.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 66);

struct Lab {
    own: Netns,
    peer: Netns,
    pins: Pins,
    files: PathBuf,
}

fn lab() -> Lab {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.7.50/24", &OWN.to_string()),
        (&peer, "eth0", "198.18.7.66/24", &PEER.to_string()),
    );
    let files = std::env::temp_dir().join(unique("daemon"));
    std::fs::create_dir(&files).expect("mkdir");
    Lab { own, peer, pins: Pins::new(), files }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.files);
    }
}

/// A running vipd; killed at the end.
struct Vipd {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Lab {
    /// `vipd run`; nobody listens where its Sentinel should be.
    fn run(&self, interfaces: &[&str]) -> Vipd {
        let (socket, log) = (self.files.join("sock"), self.files.join("log"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.own.name, env!("CARGO_BIN_EXE_vipd"), "run"]);
        for interface in interfaces {
            command.args(["--interface", interface]);
        }
        command.args(["--vip", &format!("{VIP}:6379"), "--master", "mymaster"]);
        command.args(["--sentinel", "198.18.7.66:26379"]);
        command.arg("--pin-dir").arg(self.pins.dir()).arg("--control-socket").arg(&socket);
        let child = command.stderr(File::create(&log).expect("log")).spawn().expect("spawn");
        Vipd { child, socket, log }
    }

    /// [`Self::run`], and waits until it answers.
    fn start(&self, interfaces: &[&str]) -> Vipd {
        let vipd = self.run(interfaces);
        vipd.wait("an answer to `vipd status`", |status| status["pid"].is_u64());
        vipd
    }

    /// Puts into the maps what a vipd left that served [`NODE`], announced or not.
    fn served_before(&self, shown: u16) {
        self.own.run(|| {
            let ifindex = netdev::link("eth0").expect("eth0").ifindex;
            let settings = OpenSettings {
                pin_dir: self.pins.dir(),
                xdp_mode: XdpMode::Auto,
                max_connections: 65_536,
                max_half_open: 16_384,
                max_pending_syns: 32_768,
            };
            let (mut datapath, _) = Datapath::open(&settings).expect("open");
            let key = (VIP, 6_379_u16).into();
            let backend = Backend {
                addr: mapped(NODE.octets()),
                source: mapped(VIP.octets()),
                port: 8_000_u16.to_be_bytes(),
                next_hop: PEER,
                own_mac: OWN,
                vlan: 0,
                first_port: 1_024,
                last_port: 65_535,
                ifindex,
                mode: ForwardMode::Nat as u32,
            };
            let confirmed = Confirmed {
                epoch: 5,
                addr: mapped(NODE.octets()),
                master: name_hash("mymaster"),
                port: 8_000,
                valid: 1,
                ..Confirmed::default()
            };
            for step in [
                Step::PutInterface { ifindex, interface: Interface { mac: OWN, zero: [0; 2] } },
                Step::PutAddress { addr: VIP.into(), address: Address::new(Address::NAT | shown) },
                Step::PutService { key, index: 0 },
                Step::WriteSlot { slot: 0, backend },
                Step::SetConfirmed { service: 0, confirmed },
                Step::SetActive { service: 0, active: Active::new(ServiceState::Up, 0, 1) },
            ] {
                datapath.apply(&step).expect("apply");
            }
            datapath.commit();
        });
    }

    fn program(&self) -> Option<u32> {
        self.own.run(|| netdev::link("eth0").ok()?.xdp.map(|xdp| xdp.program_id))
    }
}

impl Vipd {
    fn status(&self) -> Option<serde_json::Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
        let output = command.args(["status", "--json", "--socket"]).arg(&self.socket).output();
        serde_json::from_slice(&output.expect("status").stdout).ok()
    }

    fn wait(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let reached = || self.status().filter(|status| holds(status)).map(drop);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, reached);
        }));
        if let Err(panic) = found {
            let log = read_to_string(&self.log).unwrap_or_default();
            eprintln!("vipd says:\n{log}\nstatus: {:#?}", self.status());
            std::panic::resume_unwind(panic);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("kill");
    }
}

impl Drop for Vipd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn problem(status: &serde_json::Value, words: &str) -> bool {
    let problems = status["problems"].as_array().expect("problems");
    problems.iter().any(|it| it.as_str().is_some_and(|it| it.contains(words)))
}

fn announcing(status: &serde_json::Value) -> bool {
    status["services"][0]["announcing"] == true
}

#[test]
fn sigterm_during_the_start_leaves_nothing_behind() {
    let lab = lab();
    let mut vipd = lab.run(&["eth0"]);
    wait_for("the first pin", || (!names(&lab.pins.dir().join(layout())).is_empty()).then_some(()));
    vipd.signal(Signal::SIGTERM);
    let ended = vipd.child.wait().expect("wait");
    assert!(ended.success(), "{ended}");
    assert_eq!(lab.program(), None);
    assert!(!lab.pins.dir().exists());
}

#[test]
fn what_was_served_before_a_restart_is_watched_without_a_sentinel() {
    let lab = lab();
    lab.served_before(Address::ANNOUNCE);
    let vipd = lab.start(&["eth0"]);
    vipd.wait("the adopted master's next hop", |status| {
        status["nodes"][0]["next_hop"] == PEER.to_string()
    });
}

#[test]
fn an_interface_that_is_made_anew_gets_the_program_and_the_announcement_again() {
    let lab = lab();
    lab.served_before(Address::ANNOUNCE);
    let vipd = lab.start(&["eth0"]);
    vipd.wait("service", announcing);
    lab.own.ip("link del eth0");
    vipd.wait("the loss is told", |status| problem(status, "eth0 is gone"));
    veth(
        (&lab.own, "eth0", "198.18.7.50/24", &OWN.to_string()),
        (&lab.peer, "eth0", "198.18.7.66/24", &PEER.to_string()),
    );
    wait_for("the program", || lab.program());
    vipd.wait("service again", |status| {
        announcing(status) && status["services"][0]["state"] == "serving"
    });
    vipd.wait("no problem", |status| !problem(status, "eth0 is gone"));
}

#[test]
fn an_interface_that_somebody_else_took_is_told_and_never_announced_on() {
    let lab = lab();
    lab.served_before(Address::ANNOUNCE);
    let vipd = lab.start(&["eth0"]);
    vipd.wait("service", announcing);
    lab.own.ip("link del eth0");
    vipd.wait("the loss is told", |status| problem(status, "eth0"));
    // Under another name, so that the other program is there first.
    veth(
        (&lab.own, "temp0", "", &OWN.to_string()),
        (&lab.peer, "eth0", "198.18.7.66/24", &PEER.to_string()),
    );
    let pass = lab.own.run(|| Pass::attach("temp0").expect("pass"));
    lab.own.ip("link set temp0 down");
    lab.own.ip("link set temp0 name eth0");
    lab.own.ip("addr add 198.18.7.50/24 dev eth0");
    lab.own.ip("link set eth0 up");
    vipd.wait("the other program is told", |status| problem(status, "another XDP program"));
    vipd.wait("no service", |status| !announcing(status));
    lab.own.run(|| drop(pass));
    vipd.wait("service again", announcing);
}

#[test]
fn a_vip_that_becomes_an_address_of_the_host_is_told() {
    let lab = lab();
    let vipd = lab.start(&["eth0"]);
    lab.own.ip("addr add 198.18.7.250/24 dev eth0");
    vipd.wait("it is told", |status| problem(status, "is an address of this host"));
    lab.own.ip("addr del 198.18.7.250/24 dev eth0");
    vipd.wait("it is gone", |status| !problem(status, "is an address of this host"));
}

#[test]
fn a_vip_that_another_took_while_the_service_was_down_is_not_taken_back() {
    let lab = lab();
    lab.own.ip("link add two type veth peer name owt");
    lab.own.ip("link set two up");
    lab.own.ip("link set owt up");
    lab.served_before(Address::ANNOUNCE);
    let vipd = lab.start(&["eth0"]);
    vipd.wait("service", announcing);
    // The way to the master leads nowhere for a while.
    lab.own.ip("neigh add 198.18.7.66 dev two lladdr 02:00:00:00:07:77");
    lab.own.ip("route add 198.18.7.66/32 dev two");
    vipd.wait("no service", |status| !announcing(status));
    // As another director would: it has found the VIP free.
    lab.peer.ip("addr add 198.18.7.250/24 dev eth0");
    lab.peer.block_on(|| async {
        let ifindex = nix::net::if_::if_nametoindex("eth0").expect("eth0");
        let port = vipd::announce::Port { ifindex, mac: PEER };
        let schedule = vipd::announce::Schedule::default();
        let mut announcer = vipd::announce::Announcer::new(schedule).expect("socket");
        announcer.announce(port, VIP.into(), vipd::announce::Tenure::Own).expect("send");
    });
    vipd.wait("the claim is told", |status| problem(status, "has claimed the VIP"));
    lab.own.ip("route del 198.18.7.66/32 dev two");
    vipd.wait("it is told", |status| problem(status, "is in use by"));
    assert!(!vipd.status().is_some_and(|status| announcing(&status)));
    lab.peer.ip("addr del 198.18.7.250/24 dev eth0");
    vipd.wait("service again", announcing);
}

#[test]
fn two_interfaces_on_one_link_are_no_rivals() {
    let lab = lab();
    veth((&lab.own, "eth1", "", "02:00:00:00:07:51"), (&lab.peer, "eth1", "", "02:00:00:00:07:67"));
    lab.peer.ip("link add br0 type bridge");
    for port in ["eth0", "eth1"] {
        lab.peer.ip(&format!("link set {port} master br0"));
    }
    lab.peer.ip(&format!("link set br0 address {PEER} up"));
    lab.peer.ip("addr del 198.18.7.66/24 dev eth0");
    lab.peer.ip("addr add 198.18.7.66/24 dev br0");
    lab.served_before(0);
    let vipd = lab.start(&["eth0", "eth1"]);
    vipd.wait("service", announcing);
    assert!(!vipd.status().is_some_and(|status| problem(&status, "claimed")));
}
