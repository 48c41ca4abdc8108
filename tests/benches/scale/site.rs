//! Three hosts with a hundred Redis processes and three Sentinels, and two directors.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use redis::{FromRedisValue, Value};
use vipd::clock::Monotonic;
use vipd_tests::Family;
use vipd_tests::address::Segment;
use vipd_tests::client::Dialer;
use vipd_tests::host::Host;
use vipd_tests::namespace::Namespace;
use vipd_tests::process::Process;
use vipd_tests::reaper::{self, Reaper};
use vipd_tests::sentinel::SENTINEL_PORT;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::xdp_pass::PassPrograms;

/// Masters, each with one replica.
pub const MASTERS: usize = 50;
/// First port of the services; the others follow.
pub const PORT: u16 = 6000;
/// First port of the Redis processes.
const REDIS_PORT: u16 = 7000;
const HOSTS: usize = 3;

/// `[[vip]]` tables: each VIP with a service for each master.
pub fn vip_tables(vips: Range<usize>, masters: Range<usize>) -> String {
    let mut text = String::new();
    for number in vips {
        text += &format!("[[vip]]\naddress = \"{}\"\n", vip(number));
        for master in masters.clone() {
            let port = usize::from(PORT) + master;
            text += &format!("[[vip.service]]\nport = {port}\nmaster = {:?}\n", name(master));
        }
    }
    text
}

pub fn vip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 200).to_bits() + number as u32)
}

/// What the Sentinels call a master.
pub fn name(master: usize) -> String {
    format!("master{master:02}")
}

/// The address of one of the three hosts.
pub fn redis_address(host: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 101).to_bits() + host as u32)
}

/// The first master (0) or the first replica (1) of a name.
pub fn node(master: usize, number: usize) -> SocketAddr {
    let address = redis_address((master + number) % HOSTS);
    (address, REDIS_PORT + master as u16).into()
}

/// All of it. Dropping it takes everything down, and so does the end of the process.
pub struct Site {
    pub directory: PathBuf,
    pub pins: PathBuf,
    pub directors: Vec<Host>,
    hosts: Vec<Host>,
    /// Two for each master.
    nodes: Vec<Node>,
    _sentinels: Vec<Process>,
    _pass: PassPrograms,
    // Last: what runs ends before what it runs in is removed.
    _reaper: Reaper,
}

struct Node {
    address: SocketAddr,
    host: Host,
    master: Option<SocketAddr>,
    process: Option<Process>,
}

impl Site {
    pub fn up() -> Result<Self> {
        reaper::sweep()?;
        let name = format!("{}{}x0", reaper::PREFIX, std::process::id());
        let directory = std::env::temp_dir().join(&name);
        let pins = Path::new("/sys/fs/bpf").join(&name);
        let reaper = Reaper::watch(&name, &directory, &pins)?;
        fs::create_dir_all(&directory)?;
        let switch = Namespace::create(&format!("{name}-switch"))?;
        let bridge = Segment::Front.bridge();
        switch.ip_batch(&format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {bridge} up\n"
        ))?;
        let plug = |what: &str, number: u8| {
            Host::plug(
                &name,
                &format!("{what}{number}"),
                number,
                &switch,
                Segment::Front,
                Family::V4,
            )
        };
        let hosts = [101, 102, 103].map(|number| plug("redis", number));
        let hosts = hosts.into_iter().collect::<Result<Vec<_>>>()?;
        let directors = [50, 51].map(|number| plug("director", number));
        let directors = directors.into_iter().collect::<Result<Vec<_>>>()?;
        let ports: Vec<_> = directors.iter().map(|host| host.port().to_owned()).collect();
        let pass = PassPrograms::attach(&switch, &ports)?;

        let mut nodes = Vec::new();
        for master in 0..MASTERS {
            for number in [0, 1] {
                nodes.push(Node {
                    address: node(master, number),
                    host: hosts[(master + number) % HOSTS].clone(),
                    master: (number == 1).then(|| node(master, 0)),
                    process: None,
                });
            }
        }
        for node in &mut nodes {
            node.start(&directory)?;
        }
        for node in &nodes {
            wait_until(format_args!("{} is ready", node.address), PATIENCE, || node.is_ready())?;
        }
        let sentinels = hosts.iter().map(|host| start_sentinel(host, &directory));
        let sentinels = sentinels.collect::<Result<_>>()?;
        let site = Self {
            directory,
            pins,
            directors,
            hosts,
            nodes,
            _sentinels: sentinels,
            _pass: pass,
            _reaper: reaper,
        };
        site.wait_settled()?;
        Ok(site)
    }

    pub fn sentinel_addresses(&self) -> Vec<SocketAddr> {
        self.hosts.iter().map(|host| (host.address, SENTINEL_PORT).into()).collect()
    }

    /// Which of its two nodes is the first name's master, as its first Sentinel says.
    pub fn master(&self) -> Result<SocketAddr> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &name(0)];
        let (address, port): (String, u16) = ask(&self.hosts[0], SENTINEL_PORT, &words)?;
        Ok(SocketAddr::new(address.parse()?, port))
    }

    /// The other node of the first name.
    pub fn other(&self, of: SocketAddr) -> SocketAddr {
        if of == node(0, 0) { node(0, 1) } else { node(0, 0) }
    }

    /// SIGKILL; returns when.
    pub fn kill(&mut self, address: SocketAddr) -> Result<Monotonic> {
        let process = self.node(address)?.process.take().context("it is not running")?;
        let at = Monotonic::now();
        process.kill()?;
        Ok(at)
    }

    /// Starts it again, as a replica of the other.
    pub fn restart(&mut self, address: SocketAddr) -> Result<()> {
        let (other, directory) = (self.other(address), self.directory.clone());
        let node = self.node(address)?;
        node.master = Some(other);
        node.start(&directory)
    }

    /// Waits until every Sentinel knows the others and a replica in sync for each name.
    pub fn wait_settled(&self) -> Result<()> {
        for host in &self.hosts {
            for master in 0..MASTERS {
                let name = name(master);
                wait_until(format_args!("Sentinels are ready for {name}"), PATIENCE, || {
                    let words = ["SENTINEL", "REPLICAS", &name];
                    let replicas: Vec<std::collections::HashMap<String, String>> =
                        ask(host, SENTINEL_PORT, &words)?;
                    let is = |replica: &std::collections::HashMap<String, String>, key, value| {
                        replica.get(key).is_some_and(|it| it == value)
                    };
                    let ready = replicas
                        .iter()
                        .any(|it| is(it, "flags", "slave") && is(it, "master-link-status", "ok"));
                    let words = ["SENTINEL", "CKQUORUM", &name];
                    Ok(ready && ask::<String>(host, SENTINEL_PORT, &words)?.starts_with("OK 3"))
                })?;
            }
        }
        Ok(())
    }

    fn node(&mut self, address: SocketAddr) -> Result<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.address == address);
        node.with_context(|| format!("there is no {address}"))
    }
}

impl Node {
    /// A Redis that keeps nothing and needs next to no memory.
    fn start(&mut self, directory: &Path) -> Result<()> {
        let port = self.address.port().to_string();
        let name = format!("{}-{port}", self.address.ip());
        let own = directory.join(&name);
        fs::create_dir_all(&own)?;
        let mut command: Command = self.host.namespace.command("redis-server");
        command.args(["--port", &port, "--bind", "0.0.0.0", "--protected-mode", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--maxmemory", "1mb"]);
        command.args(["--repl-backlog-size", "16kb", "--repl-diskless-sync-delay", "0"]);
        command.args(["--maxclients", "128", "--databases", "1"]).arg("--dir").arg(&own);
        if let Some(master) = self.master {
            command.args(["--replicaof", &master.ip().to_string(), &master.port().to_string()]);
        }
        self.process = Some(Process::start(&name, &mut command, &own.join("log"))?);
        Ok(())
    }

    /// A master answers, and a replica is in sync.
    fn is_ready(&self) -> Result<bool> {
        let words = ["INFO", "replication"];
        let info: String = ask(&self.host, self.address.port(), &words)?;
        Ok(self.master.is_none() || info.contains("master_link_status:up"))
    }
}

fn start_sentinel(host: &Host, directory: &Path) -> Result<Process> {
    let own = directory.join(format!("sentinel-{}", host.address));
    fs::create_dir_all(&own)?;
    let mut config =
        format!("port {SENTINEL_PORT}\nbind 0.0.0.0\nprotected-mode no\ndir {}\n", own.display());
    for master in 0..MASTERS {
        let (name, node) = (name(master), node(master, 0));
        // As in the lab: a machine that is busy makes nobody nervous.
        config += &format!(
            "sentinel monitor {name} {} {} 2\n\
             sentinel down-after-milliseconds {name} 3000\n\
             sentinel failover-timeout {name} 5000\n",
            node.ip(),
            node.port()
        );
    }
    let file = own.join("sentinel.conf");
    fs::write(&file, config)?;
    let mut command = host.namespace.command("redis-sentinel");
    let process = Process::start("sentinel", command.arg(file), &own.join("log"))?;
    wait_until(format_args!("the Sentinel on {} answers", host.address), PATIENCE, || {
        let answer: Value = ask(host, SENTINEL_PORT, &["PING"])?;
        ensure!(answer == Value::SimpleString("PONG".into()), "{answer:?}");
        Ok(true)
    })?;
    Ok(process)
}

/// One command, from the host itself.
fn ask<T: FromRedisValue>(host: &Host, port: u16, words: &[&str]) -> Result<T> {
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    let mut connection = Dialer::new(&host.namespace, local, None).connect()?;
    Ok(redis::Cmd::new().arg(words).query(&mut connection)?)
}
