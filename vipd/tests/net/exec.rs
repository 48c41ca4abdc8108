//! vipd under `ip netns exec`, which hides the host's /sys: killed with -9, the program must go
//! on, and the next vipd, under another `ip netns exec`, must take it over.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vipd::config::XdpMode;
use vipd::datapath::{Datapath, OpenSettings, detach_all};
use vipd::netdev;

use crate::lab::{Netns, Pins, unique, veth};

const PIN_DIR: &str = "VIPDNET_PIN_DIR";
const AS_NOBODY: &str = "VIPDNET_AS_NOBODY";

/// Not a test: the process that the others start, as a vipd. Prints what it adopted and its
/// program's id, and waits to be killed.
#[test]
fn as_a_process() {
    let Some(pin_dir) = std::env::var_os(PIN_DIR) else { return };
    let settings = OpenSettings {
        pin_dir: pin_dir.into(),
        xdp_mode: XdpMode::Auto,
        max_connections: 1_024,
        max_half_open: 512,
        max_pending_syns: 512,
    };
    if std::env::var_os(AS_NOBODY).is_some() {
        nix::unistd::setuid(65_534.into()).expect("setuid");
        let error = Datapath::open(&settings).err().expect("no permission");
        println!("\nREFUSED {error}");
        return;
    }
    let (mut datapath, adopted) = Datapath::open(&settings).expect("open");
    datapath.attach(&["eth0".to_owned()]).expect("attach");
    datapath.commit();
    println!("\nREADY {} {}", adopted.interfaces.len(), datapath.interfaces()[0].program_id);
    let _ = std::io::stdin().read_line(&mut String::new());
}

struct Process(Child);

impl Process {
    /// Starts it by `how`; (adopted interfaces, program id) once it is up.
    fn start(how: &[&str], pin_dir: &Path) -> (Self, usize, u32) {
        let own = std::env::current_exe().expect("own path");
        let mut child = Command::new(how[0])
            .args(&how[1..])
            .arg(own)
            .args(["--exact", "exec::as_a_process", "--nocapture"])
            .env(PIN_DIR, pin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let this = Self(child);
        for line in output.lines() {
            let line = line.expect("readable");
            if let Some((adopted, program)) =
                line.strip_prefix("READY ").and_then(|rest| rest.split_once(' '))
            {
                let number = |text: &str| text.parse::<u32>().expect("a number");
                return (this, number(adopted) as usize, number(program));
            }
        }
        panic!("{how:?} ended before it was up");
    }

    /// SIGKILL; `ip netns exec` and `nsenter` replace themselves with the command.
    fn kill(mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.6.50/24", "02:00:00:00:06:50"),
        (&peer, "eth0", "198.18.6.66/24", "02:00:00:00:06:66"),
    );
    (own, peer)
}

fn program(netns: &Netns) -> Option<u32> {
    netns.run(|| netdev::link("eth0").expect("eth0").xdp.map(|xdp| xdp.program_id))
}

/// Kills and adopts, first and second started by `first` and `second`.
fn kill_and_adopt(netns: &Netns, pin_dir: &Path, first: &[&str], second: &[&str]) {
    let (process, adopted, old) = Process::start(first, pin_dir);
    assert_eq!(adopted, 0);
    assert_eq!(program(netns), Some(old));
    process.kill();
    assert_eq!(program(netns), Some(old), "it must go on without vipd");

    let (process, adopted, new) = Process::start(second, pin_dir);
    assert_eq!(adopted, 1, "the second vipd must find the pins");
    assert_ne!(new, old);
    assert_eq!(program(netns), Some(new));
    process.kill();
    // Seen from the host as well.
    let removed = netns.run(|| detach_all(pin_dir).expect("detach"));
    assert_eq!(removed.interfaces, ["eth0"]);
    assert_eq!(program(netns), None);
}

/// A pin directory below /sys/fs/bpf, removed at the end.
struct Usual(PathBuf);

impl Usual {
    fn new() -> Self {
        Self(Path::new("/sys/fs/bpf").join(unique("usual")))
    }
}

impl Drop for Usual {
    fn drop(&mut self) {
        let _ = detach_all(&self.0);
    }
}

#[test]
fn one_ip_netns_exec_adopts_from_another_in_the_usual_place() {
    let (own, _peer) = pair();
    let pins = Usual::new();
    let exec = ["ip", "netns", "exec", &own.name];
    kill_and_adopt(&own, &pins.0, &exec, &exec);
}

#[test]
fn one_ip_netns_exec_adopts_from_another_where_bpffs_must_be_mounted() {
    let (own, _peer) = pair();
    let pins = Pins::new();
    let exec = ["ip", "netns", "exec", &own.name];
    kill_and_adopt(&own, &pins.dir(), &exec, &exec);
}

#[test]
fn nsenter_and_ip_netns_exec_see_the_same_pins() {
    let (own, _peer) = pair();
    let pins = Usual::new();
    let exec = ["ip", "netns", "exec", &own.name];
    let net = format!("--net=/run/netns/{}", own.name);
    let enter = ["nsenter", &net];
    kill_and_adopt(&own, &pins.0, &exec, &enter);
    kill_and_adopt(&own, &pins.0, &enter, &exec);
}

#[test]
fn without_privileges_the_missing_capabilities_are_named() {
    let pins = Usual::new();
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "exec::as_a_process", "--nocapture"])
        .env(PIN_DIR, &pins.0)
        .env(AS_NOBODY, "1")
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let refused = text.lines().find_map(|line| line.strip_prefix("REFUSED ")).expect(&text);
    assert!(refused.contains("no permission") && refused.contains("CAP_"), "{refused}");
    println!("{refused}");
}
