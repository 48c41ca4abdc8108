//! The lab: one deployment of Redis with three Sentinels, what moves its VIP, and a client.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::address::Family;
use crate::client::Dialer;
use crate::daemon::{Daemon, Mode, Settings};
use crate::host::Host;
use crate::network::{NODES, Network};
use crate::options::{Mover, Options};
use crate::peers::Peer;
use crate::process::tail;
use crate::reaper::{self, AGENTS, Reaper};
use crate::redis_node::{RedisNode, Role};
use crate::sentinel::{QUORUM, Sentinel, Watch};
use crate::wait::{PATIENCE, wait_for, wait_until};
use crate::writer::{Habit, Writer};
use crate::xdp_pass::PassPrograms;

/// A standing lab. Dropping it takes everything down, and so does the end of its process.
pub struct Lab {
    /// vipd on the director; in mode `host` that of each Redis host, in the order of the nodes. Not
    /// started by [`Lab::up`].
    pub daemons: Vec<Daemon>,
    /// With [`Options::agents`], vipd as a real server on each Redis host.
    pub agents: Vec<Daemon>,
    /// The Redis nodes.
    pub nodes: Vec<RedisNode>,
    /// The Sentinels.
    pub sentinels: Vec<Sentinel>,
    /// Where the clients are.
    pub client: Host,
    /// Where the recorders of ARP are.
    pub observer: Host,
    director: Option<Host>,
    peer: Option<Peer>,
    options: Options,
    name: String,
    _pass: PassPrograms,
    // Last: what runs ends before what it runs in is removed.
    _reaper: Reaper,
}

impl Lab {
    /// Builds the network, starts Redis and the Sentinels, and waits until each Sentinel knows all
    /// the others and both replicas.
    pub fn up(options: Options) -> Result<Self> {
        options.verify()?;
        reaper::sweep()?;
        raise_open_files_limit()?;
        let name = unique_name();
        let run_directory = run_directory(&name);
        let pin_directory = Path::new("/sys/fs/bpf").join(&name);
        let reaper = Reaper::watch(&name, &run_directory, &pin_directory)?;
        fs::create_dir_all(&run_directory)
            .with_context(|| format!("cannot make {}", run_directory.display()))?;

        let network = Network::build(&name, &options)?;
        let service = (options.family.vips()[0], service_port(options.mode)).into();
        let peer = Peer::prepare(options.mover, &network, service, &run_directory)?;
        let nodes = start_nodes(&network.redis, &run_directory, &options)?;
        let watch = Watch {
            master: nodes[0].address(),
            down_after: options.down_after,
            failover_timeout: options.failover_timeout,
            password: options.password.clone(),
        };
        let sentinels = start_sentinels(&network.sentinels, &run_directory, &watch, peer.as_ref())?;
        let plan = Plan { network: &network, options: &options, sentinels: &sentinels };
        let daemons = match options.mover {
            Mover::Vipd => plan.daemons(&run_directory, &pin_directory)?,
            _ => vec![],
        };
        let agents = if options.agents {
            // The director's pins are in the other directory itself.
            let pins = pin_directory.with_file_name(format!("{name}{AGENTS}"));
            plan.on_redis_hosts(&run_directory, &pins, true)?
        } else {
            vec![]
        };
        let lab = Self {
            daemons,
            agents,
            nodes,
            sentinels,
            client: network.client,
            observer: network.observer,
            director: network.director,
            peer,
            options,
            name,
            _pass: network.pass,
            _reaper: reaper,
        };
        lab.wait_settled()?;
        Ok(lab)
    }

    /// The director's vipd.
    ///
    /// # Panics
    ///
    /// If the lab has none.
    pub fn daemon(&self) -> &Daemon {
        self.daemons.first().expect("this lab has no vipd")
    }

    /// [`Self::daemon`], to start and stop it.
    ///
    /// # Panics
    ///
    /// If the lab has none.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemons.first_mut().expect("this lab has no vipd")
    }

    /// Where the director's vipd is.
    ///
    /// # Panics
    ///
    /// If the lab has none.
    pub fn director(&self) -> &Host {
        self.director.as_ref().expect("this lab has no director")
    }

    /// Its name, with which the names of all its namespaces begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are; it goes with the lab.
    pub fn directory(&self) -> PathBuf {
        run_directory(&self.name)
    }

    /// What kind of lab it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The VIP with its port; the first if there are several.
    pub fn service(&self) -> SocketAddr {
        self.services()[0]
    }

    /// Every VIP with its port.
    pub fn services(&self) -> Vec<SocketAddr> {
        let port = service_port(self.options.mode);
        self.options.family.vips().into_iter().map(|vip| (vip, port).into()).collect()
    }

    /// Starts every vipd, or who else moves the VIP, and waits until the present master is served.
    pub fn serve(&mut self) -> Result<()> {
        let master = self.master()?;
        if let Some(peer) = &mut self.peer {
            let sentinels: Vec<_> = self.sentinels.iter().map(Sentinel::address).collect();
            peer.start(&self.nodes, master, &sentinels)?;
        }
        self.agents.iter_mut().try_for_each(Daemon::start)?;
        self.daemons.iter_mut().try_for_each(Daemon::start)?;
        self.wait_serving(master)
    }

    /// Waits until the VIP leads to node `node`, as whoever moves it says: every vipd that runs, or
    /// as [`Peer::wait_serving`] finds out.
    pub fn wait_serving(&self, node: usize) -> Result<()> {
        let address = self.nodes[node].address();
        if let Some(peer) = &self.peer {
            return peer.wait_serving(&self.nodes[node], &self.dialer());
        }
        if self.options.mode != Mode::Host {
            return self.daemon().wait_serving(address);
        }
        for (number, daemon) in self.daemons.iter().enumerate() {
            if number == node {
                daemon.wait_serving(address)?;
            } else if daemon.is_alive() {
                daemon.wait_leaving_to(address)?;
            }
        }
        Ok(())
    }

    /// How a client reaches the VIP; the first if there are several.
    pub fn dialer(&self) -> Dialer {
        self.dialer_to(self.service())
    }

    /// How a client reaches one of [`Self::services`].
    pub fn dialer_to(&self, service: SocketAddr) -> Dialer {
        Dialer::new(&self.client.namespace, service, self.options.password.as_deref())
    }

    /// Starts a client that writes through one of [`Self::services`].
    pub fn writer(&self, name: &str, habit: Habit, service: SocketAddr) -> Writer {
        Writer::start(name, habit, &self.dialer_to(service))
    }

    /// Number of the node that a majority of the Sentinels name as the master.
    pub fn master(&self) -> Result<usize> {
        for (number, node) in self.nodes.iter().enumerate() {
            let believers = self.sentinels.iter().filter(|sentinel| {
                sentinel.is_running() && sentinel.master().is_ok_and(|it| it == node.address())
            });
            if believers.count() > NODES / 2 {
                return Ok(number);
            }
        }
        bail!("no majority of the Sentinels agrees on a master")
    }

    /// Waits until the VIP leads to node `node`, as the one says that is to have it then.
    pub fn wait_taken_over(&self, node: usize) -> Result<()> {
        match (self.options.mode, self.daemons.get(node)) {
            (Mode::Host, Some(daemon)) => daemon.wait_serving(self.nodes[node].address()),
            _ => self.wait_serving(node),
        }
    }

    /// Waits until a majority of the Sentinels name another master than `old`, that one agrees, and
    /// the VIP leads to it. Returns its number.
    pub fn wait_failed_over(&self, old: usize) -> Result<usize> {
        let new = self.wait_promoted(old)?;
        self.wait_taken_over(new)?;
        Ok(new)
    }

    /// Waits until a majority of the Sentinels name another master than `old` and that one agrees.
    /// Returns its number.
    pub fn wait_promoted(&self, old: usize) -> Result<usize> {
        wait_for("Sentinel has made another node master", PATIENCE, || {
            let master = self.master()?;
            let promoted = master != old && self.nodes[master].role()? == Role::Master;
            Ok(promoted.then_some(master))
        })
    }

    /// Waits until every running Sentinel is ready to fail over: it knows the other Sentinels, and
    /// replicas that are in sync.
    pub fn wait_settled(&self) -> Result<()> {
        let master = self.master()?;
        for (number, node) in self.nodes.iter().enumerate() {
            let expected =
                if number == master { Role::Master } else { Role::Replica { in_sync: true } };
            wait_until(format_args!("{} is {expected:?}", node.name()), PATIENCE, || {
                Ok(node.role()? == expected)
            })?;
        }
        let others = self.sentinels.iter().filter(|sentinel| sentinel.is_running()).count() - 1;
        ensure!(others + 1 >= QUORUM as usize, "too few Sentinels run to fail over");
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_running()) {
            wait_until(format_args!("{} is ready", sentinel.name()), PATIENCE, || {
                let replicas: Vec<std::collections::HashMap<String, String>> =
                    sentinel.ask(&["SENTINEL", "REPLICAS", crate::sentinel::MASTER_NAME])?;
                let ready = replicas.iter().filter(|replica| {
                    replica.get("flags").is_some_and(|flags| flags == "slave")
                        && replica.get("master-link-status").is_some_and(|status| status == "ok")
                });
                Ok(ready.count() == NODES - 1
                    && sentinel.number("num-other-sentinels")? >= others as u64)
            })?;
        }
        Ok(())
    }

    /// What one needs to see when something went wrong.
    pub fn report(&self) -> String {
        let mut report = format!("lab {}:\n", self.name);
        for node in &self.nodes {
            report += &format!("  {} {}: {:?}\n", node.name(), node.address(), node.role());
        }
        for sentinel in &self.sentinels {
            report += &format!("  {}: master is {:?}\n", sentinel.name(), sentinel.master());
        }
        for daemon in self.daemons.iter().chain(&self.agents) {
            report += &format!("-- status\n{:#?}\n", daemon.status());
            report += &format!("-- end of {}\n", daemon.log().display());
            report += &tail(daemon.log(), 60);
            report.push('\n');
        }
        report += &self.peer.as_ref().map(Peer::report).unwrap_or_default();
        for sentinel in &self.sentinels {
            report += &format!("-- end of {}'s log\n", sentinel.name());
            report += &tail(&sentinel.log(), 15);
            report.push('\n');
        }
        report
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// The usual 1,024 are too few for a thousand clients, here and in Redis.
fn raise_open_files_limit() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to an rlimit.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max.min(20_000);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    ensure!(raised, "cannot raise the limit of open files: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Only `nat` can translate ports; otherwise the VIP has Redis's own.
fn service_port(mode: Mode) -> u16 {
    match mode {
        Mode::Nat => 6379,
        Mode::Dsr | Mode::Host => crate::redis_node::REDIS_PORT,
    }
}

/// `vipdlab<pid>x<number>`: see [`reaper::sweep`].
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{}x{number}", reaper::PREFIX, std::process::id())
}

fn run_directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

fn start_nodes(hosts: &[Host], run_directory: &Path, options: &Options) -> Result<Vec<RedisNode>> {
    let mut nodes: Vec<RedisNode> = Vec::new();
    for (host, number) in hosts.iter().zip(1..) {
        let master = nodes.first().map(RedisNode::address);
        let name = format!("redis{number}");
        let password = options.password.as_deref();
        let mut node = RedisNode::prepare(&name, host, run_directory, password, master)?;
        node.start()?;
        nodes.push(node);
    }
    for node in &nodes[1..] {
        // A Sentinel finds replicas in the master's INFO, which it asks for only every 10 s.
        wait_until(format_args!("{} is in sync", node.name()), PATIENCE, || {
            Ok(node.role()? == Role::Replica { in_sync: true })
        })?;
    }
    Ok(nodes)
}

fn start_sentinels(
    hosts: &[Host],
    run_directory: &Path,
    watch: &Watch,
    peer: Option<&Peer>,
) -> Result<Vec<Sentinel>> {
    let start = |(number, host): (usize, &Host)| {
        let name = format!("sentinel{}", number + 1);
        let script = peer.and_then(|peer| peer.sentinel_script(number));
        let mut sentinel = Sentinel::prepare(&name, host, run_directory, watch, script)?;
        sentinel.start()?;
        Ok(sentinel)
    };
    hosts.iter().enumerate().map(start).collect()
}

/// What the configurations of vipd follow from.
struct Plan<'a> {
    network: &'a Network,
    options: &'a Options,
    sentinels: &'a [Sentinel],
}

impl Plan<'_> {
    /// One on the director, or one on each Redis host, with a directory and pins of its own.
    fn daemons(&self, run_directory: &Path, pin_directory: &Path) -> Result<Vec<Daemon>> {
        if let Some(director) = &self.network.director {
            let settings = self.settings(pin_directory, false);
            return Ok(vec![Daemon::prepare(&director.namespace, run_directory, &settings)?]);
        }
        self.on_redis_hosts(run_directory, pin_directory, false)
    }

    fn on_redis_hosts(
        &self,
        run_directory: &Path,
        pin_directory: &Path,
        real_server: bool,
    ) -> Result<Vec<Daemon>> {
        let prepare = |(host, number): (&Host, u32)| {
            let name = format!("vipd{number}");
            let settings = self.settings(&pin_directory.join(&name), real_server);
            Daemon::prepare(&host.namespace, &run_directory.join(&name), &settings)
        };
        self.network.redis.iter().zip(1..).map(prepare).collect()
    }

    fn settings(&self, pin_directory: &Path, real_server: bool) -> Settings {
        let same_host = match self.options.family {
            Family::V4 | Family::V6 => vec![],
            Family::Both => self.network.redis.iter().map(|it| it.addresses().collect()).collect(),
        };
        Settings {
            interfaces: self.network.interfaces.clone(),
            sentinels: self.sentinels.iter().map(Sentinel::address).collect(),
            vips: self.options.family.vips(),
            port: service_port(self.options.mode),
            mode: self.options.mode,
            real_server,
            password: self.options.password.clone(),
            pin_directory: pin_directory.to_owned(),
            more: self.options.daemon.clone(),
            same_host,
        }
    }
}
