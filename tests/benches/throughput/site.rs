//! The network of the benchmark: one client, one Redis, and a box for each way between the two.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use vipd_tests::Mode;
use vipd_tests::address::{Family, Segment};
use vipd_tests::client::info_field;
use vipd_tests::daemon::{Daemon, Settings};
use vipd_tests::host::Host;
use vipd_tests::namespace::{Namespace, output};
use vipd_tests::reaper::{self, Reaper};
use vipd_tests::redis_node::RedisNode;
use vipd_tests::sentinel::{Sentinel, Watch};
use vipd_tests::xdp_pass::PassPrograms;

use crate::ways::Way;

/// Second addresses of the client and of Redis, which see each other through the router only.
const ROUTED_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 11);
pub const ROUTED_REDIS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 111);

/// Longer than Redis keeps the Sentinel waiting under load: nothing is to fail over here.
const DOWN_AFTER: Duration = Duration::from_secs(30);

/// The standing network with its Redis. Dropping it takes everything down, and so does the end of
/// the process.
pub struct Site {
    pub client: Host,
    pub redis: RedisNode,
    pub directory: PathBuf,
    switch: Namespace,
    name: String,
    sentinel: Sentinel,
    pins: PathBuf,
    pass: Vec<PassPrograms>,
    // Last: what runs ends before what it runs in is removed.
    _reaper: Reaper,
}

impl Site {
    /// Builds the switch, the client, and one Redis with a Sentinel beside it. No replicas and no
    /// append-only file: they would take the CPU that the way to Redis is to be measured with.
    pub fn up() -> Result<Self> {
        reaper::sweep()?;
        let name = format!("{}{}x0", reaper::PREFIX, std::process::id());
        let directory = std::env::temp_dir().join(&name);
        let pins = Path::new("/sys/fs/bpf").join(&name);
        let reaper = Reaper::watch(&name, &directory, &pins)?;
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let switch = Namespace::create(&format!("{name}-switch"))?;
        let bridge = Segment::Front.bridge();
        switch.ip_batch(&format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {bridge} up\n"
        ))?;
        bypass_netfilter(&switch)?;
        let client = plug(&name, "client", 10, &switch)?;
        let host = plug(&name, "redis1", 101, &switch)?;
        let mut redis = RedisNode::prepare("redis1", &host, &directory, None, None)?;
        redis.start()?;
        redis.ask::<redis::Value>(&["CONFIG", "SET", "appendonly", "no"])?;
        let watch = Watch {
            master: redis.address(),
            down_after: DOWN_AFTER,
            failover_timeout: DOWN_AFTER,
            password: None,
        };
        let mut sentinel = Sentinel::prepare("sentinel1", &host, &directory, &watch, None)?;
        sentinel.start()?;
        Ok(Self {
            client,
            redis,
            directory,
            switch,
            name,
            sentinel,
            pins,
            pass: vec![],
            _reaper: reaper,
        })
    }

    /// Redis's process id.
    pub fn redis_process(&self) -> Result<u32> {
        let info: String = self.redis.ask(&["INFO", "server"])?;
        let pid = info_field(&info, "process_id").context("Redis does not say its process id")?;
        pid.parse().context("not a process id")
    }

    /// Makes one more box.
    pub fn plug(&self, name: &str, number: u8) -> Result<Host> {
        plug(&self.name, name, number, &self.switch)
    }

    /// Starts a vipd of its own on `host`, and waits until it serves.
    pub fn start_vipd(&mut self, host: &Host, mode: Mode, service: SocketAddr) -> Result<Daemon> {
        if mode == Mode::Dsr {
            // A real server: it accepts what is for the VIP, and never answers ARP for it.
            let namespace = &self.redis.host().namespace;
            namespace.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            namespace.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            namespace.ip_batch(&format!("addr add {}/32 dev lo\n", service.ip()))?;
        }
        self.pass.push(PassPrograms::attach(&self.switch, &[host.port().to_owned()])?);
        fs::create_dir_all(&self.pins)
            .with_context(|| format!("cannot make {}", self.pins.display()))?;
        let directory = self.directory.join(mode.name());
        let settings = Settings {
            interfaces: vec!["eth0".to_owned()],
            sentinels: vec![self.sentinel.address()],
            vips: vec![service.ip()],
            port: service.port(),
            mode,
            real_server: false,
            password: None,
            pin_directory: self.pins.join(mode.name()),
            more: String::new(),
            same_host: vec![],
        };
        let mut daemon = Daemon::prepare(&host.namespace, &directory, &settings)?;
        daemon.start()?;
        daemon.wait_serving(self.redis.address())?;
        Ok(daemon)
    }

    /// Makes [`ROUTED_REDIS`] reachable from the client, and the client's answers, only through
    /// `router`.
    pub fn route_through(&self, router: &Host) -> Result<()> {
        self.client.namespace.ip_batch(&format!(
            "addr add {ROUTED_CLIENT}/24 dev eth0\n\
             route add {ROUTED_REDIS}/32 via {} dev eth0 src {ROUTED_CLIENT}\n",
            router.address
        ))?;
        self.redis.host().namespace.ip_batch(&format!(
            "addr add {ROUTED_REDIS}/24 dev eth0\n\
             route add {ROUTED_CLIENT}/32 via {} dev eth0\n",
            router.address
        ))
    }

    /// Sets generic receive offload alike on all cables, once they and the XDP programs are
    /// there: on at the hosts, as for a NIC, and off in the switch, which merges nothing.
    pub fn set_receive_offload(&self, ways: &[Way]) -> Result<()> {
        let boxes = ways.iter().filter_map(|way| way.host.as_ref());
        for host in boxes.chain([&self.client, self.redis.host()]) {
            for (namespace, interface, gro) in
                [(&host.namespace, "eth0", "on"), (&self.switch, host.port(), "off")]
            {
                output(namespace.command("ethtool").args(["-K", interface, "gro", gro]))?;
            }
        }
        Ok(())
    }
}

/// Where br_netfilter is loaded, bridges show every packet to iptables. A switch does not.
fn bypass_netfilter(switch: &Namespace) -> Result<()> {
    let setting = "net/bridge/bridge-nf-call-iptables";
    if Path::new("/proc/sys").join(setting).exists() {
        switch.sysctl(setting, "0")?;
    }
    Ok(())
}

fn plug(lab: &str, name: &str, number: u8, switch: &Namespace) -> Result<Host> {
    Host::plug(lab, name, number, switch, Segment::Front, Family::V4)
}
