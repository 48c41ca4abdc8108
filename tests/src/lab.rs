//! The lab: one deployment of Redis with three Sentinels, a director and a client.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client::Dialer;
use crate::daemon::{Daemon, Mode, Settings};
use crate::host::{Host, Segment};
use crate::namespace::Namespace;
use crate::process::tail;
use crate::reaper::{self, Reaper};
use crate::redis_node::{RedisNode, Role};
use crate::sentinel::{QUORUM, Sentinel, Watch};
use crate::wait::{PATIENCE, wait_for, wait_until};
use crate::writer::{Habit, Writer};
use crate::xdp_pass::PassPrograms;

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 250);
/// Redis nodes, and Sentinels.
pub const NODES: usize = 3;

/// What kind of lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// How vipd carries the VIP's traffic.
    pub mode: Mode,
    /// How the director is connected.
    pub nics: Nics,
    /// Where the Sentinels run.
    pub sentinels: Placement,
    /// Silence after which a Sentinel calls a node down. A busy machine keeps Redis silent for
    /// half a second at times.
    pub down_after: Duration,
    /// Password of every Redis and Sentinel.
    pub password: Option<String>,
    /// More lines for vipd's `[daemon]`.
    pub daemon: String,
}

/// How the director is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nics {
    /// Clients and Redis are on one network.
    One,
    /// Clients are on `eth0`, Redis is on `eth1`, and nothing routes between the two.
    Two,
}

/// Where the Sentinels run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Each beside a Redis, on its host.
    WithRedis,
    /// Each on a host of its own, so that it can be cut off alone.
    Apart,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Nat,
            nics: Nics::One,
            sentinels: Placement::WithRedis,
            // A busy machine must not make the Sentinels order a failover that no test did. A stall
            // of more than 2 s puts them into TILT, where they order none.
            down_after: Duration::from_secs(3),
            password: None,
            daemon: String::new(),
        }
    }
}

impl Options {
    /// The default lab in another mode.
    pub fn mode(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The same with Sentinels that are quick to find a master down: for a person to watch.
    pub fn eager(self) -> Self {
        Self { down_after: Duration::from_millis(500), ..self }
    }
}

/// A standing lab. Dropping it takes everything down, and so does the end of its process.
pub struct Lab {
    /// vipd on the director; not started by [`Lab::up`].
    pub daemon: Daemon,
    /// The Redis nodes.
    pub nodes: Vec<RedisNode>,
    /// The Sentinels.
    pub sentinels: Vec<Sentinel>,
    /// Where the clients are.
    pub client: Host,
    /// Where vipd is.
    pub director: Host,
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
        if options.mode == Mode::Dsr && options.nics == Nics::Two {
            bail!("in dsr mode the Redis hosts answer the client directly, so one network it is");
        }
        reaper::sweep()?;
        raise_open_files_limit()?;
        let name = unique_name();
        let run_directory = std::env::temp_dir().join(&name);
        let pin_directory = Path::new("/sys/fs/bpf").join(&name);
        let reaper = Reaper::watch(&name, &run_directory, &pin_directory)?;
        fs::create_dir_all(&run_directory)
            .with_context(|| format!("cannot make {}", run_directory.display()))?;

        let network = Network::build(&name, &options)?;
        let nodes = start_nodes(&network.redis, &run_directory, &options)?;
        let sentinels =
            start_sentinels(&network.sentinels, &run_directory, &options, nodes[0].address())?;
        let daemon = Daemon::prepare(
            &network.director.namespace,
            &run_directory,
            &Settings {
                interfaces: network.interfaces.clone(),
                sentinels: sentinels.iter().map(Sentinel::address).collect(),
                vip: VIP,
                port: service_port(options.mode),
                mode: options.mode,
                password: options.password.clone(),
                pin_directory,
                more: options.daemon.clone(),
            },
        )?;
        let lab = Self {
            daemon,
            nodes,
            sentinels,
            client: network.client,
            director: network.director,
            options,
            name,
            _pass: network.pass,
            _reaper: reaper,
        };
        lab.wait_settled()?;
        Ok(lab)
    }

    /// Its name, with which the names of all its namespaces begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of lab it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The VIP with its port.
    pub fn service(&self) -> SocketAddr {
        (VIP, service_port(self.options.mode)).into()
    }

    /// Starts vipd and waits until it serves the present master.
    pub fn serve(&mut self) -> Result<()> {
        self.daemon.start()?;
        self.daemon.wait_serving(self.node_of_majority()?.address())
    }

    /// How a client reaches the VIP.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(&self.client.namespace, self.service(), self.options.password.as_deref())
    }

    /// Starts a client that writes through the VIP.
    pub fn writer(&self, name: &str, habit: Habit) -> Writer {
        Writer::start(name, habit, &self.dialer())
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

    /// Waits until a majority of the Sentinels name another master than `old`, that one agrees, and
    /// vipd serves it. Returns its number.
    pub fn wait_failed_over(&self, old: usize) -> Result<usize> {
        let new = wait_for("Sentinel has made another node master", PATIENCE, || {
            let master = self.master()?;
            let promoted = master != old && self.nodes[master].role()? == Role::Master;
            Ok(promoted.then_some(master))
        })?;
        self.daemon.wait_serving(self.nodes[new].address())?;
        Ok(new)
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
        report += &format!("-- status\n{:#?}\n", self.daemon.status());
        report += &format!("-- end of vipd's log\n{}\n", tail(self.daemon.log(), 60));
        for sentinel in &self.sentinels {
            report += &format!("-- end of {}'s log\n", sentinel.name());
            report += &tail(&sentinel.log(), 15);
            report.push('\n');
        }
        report
    }

    fn node_of_majority(&self) -> Result<&RedisNode> {
        self.master().map(|number| &self.nodes[number])
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

/// `dsr` cannot translate ports, so there the VIP has Redis's own.
fn service_port(mode: Mode) -> u16 {
    match mode {
        Mode::Nat => 6379,
        Mode::Dsr => crate::redis_node::REDIS_PORT,
    }
}

/// `vipdlab<pid>x<number>`: see [`reaper::sweep`].
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{}x{number}", reaper::PREFIX, std::process::id())
}

struct Network {
    client: Host,
    director: Host,
    redis: Vec<Host>,
    sentinels: Vec<Host>,
    interfaces: Vec<String>,
    pass: PassPrograms,
}

impl Network {
    fn build(name: &str, options: &Options) -> Result<Self> {
        let switch = Namespace::create(&format!("{name}-switch"))?;
        for segment in [Segment::Front, Segment::Back] {
            let bridge = segment.bridge();
            switch.ip_batch(&format!(
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {bridge} up\n"
            ))?;
        }
        let redis_segment = match options.nics {
            Nics::One => Segment::Front,
            Nics::Two => Segment::Back,
        };
        let plug = |host: String, number: usize, segment| {
            Host::plug(name, &host, u8::try_from(number)?, &switch, segment)
        };
        let redis = (1..=NODES)
            .map(|number| plug(format!("redis{number}"), 100 + number, redis_segment))
            .collect::<Result<Vec<_>>>()?;
        let sentinels = match options.sentinels {
            Placement::WithRedis => redis.clone(),
            Placement::Apart => (1..=NODES)
                .map(|number| plug(format!("sentinel{number}"), 110 + number, redis_segment))
                .collect::<Result<_>>()?,
        };
        let client = plug("client".to_owned(), 10, Segment::Front)?;
        let director = plug("director".to_owned(), 50, Segment::Front)?;
        let mut interfaces = vec!["eth0".to_owned()];
        let mut ports = vec![director.port().to_owned()];
        if options.nics == Nics::Two {
            director.plug_second(50, Segment::Back)?;
            interfaces.push("eth1".to_owned());
            ports.push(director.second_port());
        }
        if options.mode == Mode::Dsr {
            redis.iter().try_for_each(hold_the_vip_silently)?;
        }
        let pass = PassPrograms::attach(&switch, &ports)?;
        Ok(Self { client, director, redis, sentinels, interfaces, pass })
    }
}

/// A real server of `dsr`: it accepts what is for the VIP, and never answers ARP for it.
fn hold_the_vip_silently(host: &Host) -> Result<()> {
    host.namespace.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    host.namespace.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    host.namespace.ip_batch(&format!("addr add {VIP}/32 dev lo\n"))
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
    options: &Options,
    master: SocketAddr,
) -> Result<Vec<Sentinel>> {
    let start = |(host, number): (&Host, u32)| {
        let name = format!("sentinel{number}");
        let mut sentinel = Sentinel::prepare(
            &name,
            host,
            run_directory,
            &Watch { master, down_after: options.down_after, password: options.password.clone() },
        )?;
        sentinel.start()?;
        Ok(sentinel)
    };
    hosts.iter().zip(1..).map(start).collect()
}
