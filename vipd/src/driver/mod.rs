//! The daemon: the only place where events meet. One `select!` takes whatever comes, tells the
//! pure core, and brings the kernel in line with what the core wants.
//!
//! ```text
//! sentinel, redis_node, kernel events ──▶ failover ──▶ desired ─┐
//! neighbour, possession ────────────────────────────────────────┴▶ plan ──▶ datapath
//! ```

mod host;
mod knowledge;
mod possession;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};
use vipd_common::maps::{Interface, KernelEvent, ServiceState};

use self::knowledge::Knowledge;
use self::possession::{Possession, Probed};
use crate::announce::Port;
use crate::clock::Monotonic;
use crate::config::{Config, OnStop};
use crate::control::{Control, Question, Request, Response};
use crate::datapath::{Datapath, Events, OpenSettings};
use crate::failover::{Command, Event, Failover, Settings, Target};
use crate::model::{MasterId, NextHop, unmapped_ip};
use crate::neighbour::{self, Neighbours, Network};
use crate::plan::{self, Actual, Problem, Step, Topology, Wanted};
use crate::redis_node::{self, Watchers};
use crate::resolve::Resolver;
use crate::sentinel::{self, Followers};
use crate::status::MAX_FAILOVERS;
use crate::timeline::FailoverRecord;

/// Reports on their way; whoever reports waits while it is full.
const QUEUE: usize = 512;
/// What should be and what is are compared this often even if nothing happens.
const RECONCILE: Duration = Duration::from_secs(1);

/// What is solved sooner than this was no problem: a next hop that is just being resolved, say.
const LASTING: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Whatever keeps it from starting, with nothing left behind on the host; later only the loss of
/// its own event sources, after which what is pinned forwards on, as after a crash. Sentinels or
/// Redis nodes that don't answer are waited for.
pub async fn run(config: Config) -> Result<()> {
    // Before anything is put on the host: a signal during the start must not leave it there.
    let signals = Signals::listen()?;
    let (mut driver, inputs) = Driver::start(config).await?;
    driver.serve(inputs, signals).await.context(
        "vipd can't go on; what is pinned forwards on until the next `vipd run` or `vipd detach`",
    )?;
    driver.stop().await
}

/// What ends the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Everything the daemon holds.
struct Driver {
    config: Config,
    topology: Topology,
    failover: Failover,
    datapath: Datapath,
    /// What the maps hold; kept by what is written to them, read back after a failed write.
    actual: Actual,
    watchers: Watchers,
    followers: Followers,
    neighbours: Neighbours,
    network: Network,
    next_hops: HashMap<IpAddr, NextHop>,
    possession: Possession,
    knowledge: Knowledge,
    failovers: VecDeque<FailoverRecord>,
    /// What isn't as it should be, since when.
    problems: BTreeMap<Problem, Instant>,
    /// Those that were logged.
    reported: BTreeSet<Problem>,
    /// Interfaces that are not there, or are without the program.
    detached: BTreeSet<String>,
    /// What is wrong with the host, in words.
    host_problems: BTreeSet<String>,
    _control: Control,
}

/// Where events come from.
struct Inputs {
    sentinels: mpsc::Receiver<sentinel::Report>,
    nodes: mpsc::Receiver<redis_node::Report>,
    network: watch::Receiver<Network>,
    kernel: Events,
    probes: mpsc::Receiver<Probed>,
    questions: mpsc::Receiver<Question>,
}

impl Driver {
    /// Checks the host, takes over or makes the datapath, and starts listening to everybody.
    async fn start(config: Config) -> Result<(Self, Inputs)> {
        let (neighbours, mut network_input) =
            neighbour::spawn().context("cannot read this host's network (rtnetlink)")?;
        let network = network_input.borrow_and_update().clone();
        if let Some(why) = host::own_vips(&config, &network).next() {
            bail!(why);
        }

        let (ask, questions) = mpsc::channel(QUEUE);
        // The lock on the pins first: the socket's file may be a running vipd's.
        let (mut datapath, adopted) = Datapath::open(&OpenSettings::from(&config.daemon))?;
        let control = Control::listen(&config.daemon.control_socket, ask).await?;
        if !adopted.interfaces.is_empty() {
            info!(interfaces = ?adopted.interfaces, "taking over from an earlier vipd");
        }

        let topology = Topology::new(&config);
        let targets = topology.adopted(&adopted.actual, adopted.lease > Monotonic::now());
        let failover = Failover::new(&Settings::new(&config), &targets, Monotonic::now());

        let (sentinel_reports, sentinels) = mpsc::channel(QUEUE);
        let (node_reports, nodes) = mpsc::channel(QUEUE);
        let resolver = Resolver::default();
        let watchers = Watchers::new(&config.redis.login, resolver.clone(), node_reports)?;
        let followers = Followers::spawn(&config, resolver, sentinel_reports)?;
        let (possession, probes) = Possession::new(&adopted.actual)?;

        let kernel = datapath.events()?.context("the kernel's events are taken already")?;
        let mut driver = Self {
            knowledge: Knowledge::new(&config),
            topology,
            failover,
            datapath,
            actual: adopted.actual,
            watchers,
            followers,
            neighbours,
            network,
            next_hops: HashMap::new(),
            possession,
            failovers: VecDeque::new(),
            problems: BTreeMap::new(),
            reported: BTreeSet::new(),
            detached: BTreeSet::new(),
            host_problems: BTreeSet::new(),
            _control: control,
            config,
        };
        // The maps say what the interfaces are before the first packet meets the program.
        driver.reconcile();
        let interfaces = driver.config.daemon.interfaces.clone();
        driver.datapath.attach(&interfaces)?;
        driver.datapath.commit();
        // Whom the maps name is followed, whether or not a Sentinel ever answers.
        driver.nodes_changed();
        for it in driver.datapath.interfaces() {
            info!(
                interface = it.name,
                mode = it.xdp_mode.name(),
                program = it.program_id,
                "attached"
            );
        }
        let inputs = Inputs { sentinels, nodes, network: network_input, kernel, probes, questions };
        Ok((driver, inputs))
    }

    /// The event loop.
    async fn serve(&mut self, mut inputs: Inputs, mut signals: Signals) -> Result<()> {
        let mut tick = interval(RECONCILE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = pin!(sleep_until(self.deadline()));
            tokio::select! {
                report = inputs.sentinels.recv() => {
                    self.sentinel_said(report.context("the Sentinels are no longer followed")?);
                }
                report = inputs.nodes.recv() => {
                    self.node_said(report.context("the Redis nodes are no longer watched")?);
                }
                event = inputs.kernel.next() => {
                    self.kernel_said(&event.context("the kernel's events can't be read")?);
                }
                changed = inputs.network.changed() => {
                    changed.context("the network is no longer watched")?;
                    self.network = inputs.network.borrow_and_update().clone();
                    self.network_changed();
                }
                Some(probed) = inputs.probes.recv() => {
                    self.possession.probed(probed, Instant::now());
                    self.reconcile();
                }
                Some((request, answer)) = inputs.questions.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.answer(request));
                }
                () = deadline => self.tell(Monotonic::now(), Event::Tick),
                _ = tick.tick() => {
                    self.look_at_host();
                    self.reconcile();
                }
                _ = signals.terminate.recv() => { info!("SIGTERM: stopping"); return Ok(()); }
                _ = signals.interrupt.recv() => { info!("SIGINT: stopping"); return Ok(()); }
            }
        }
    }

    /// Leaves the host as it was, or as `on_stop = "keep"` wants it.
    async fn stop(self) -> Result<()> {
        self.followers.shutdown().await;
        self.watchers.shutdown().await;
        let pin_dir = self.config.daemon.pin_dir.display();
        match self.config.daemon.on_stop {
            OnStop::Keep => {
                info!(
                    "on_stop = \"keep\": the program and its maps stay pinned in {pin_dir} and \
                     forward on; the next `vipd run` takes them over, `vipd detach` removes them"
                );
            }
            OnStop::Detach => {
                let removed = self.datapath.detach().context("not everything was removed")?;
                info!(interfaces = ?removed.interfaces, maps = removed.maps.len(), "detached");
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let far = Duration::from_secs(3600);
        let wait = self.failover.deadline().map_or(far, |at| at.since(Monotonic::now()));
        Instant::now() + wait
    }

    /// Tells the core what happened, does what it commands, and brings the kernel in line.
    fn tell(&mut self, now: Monotonic, event: Event) {
        let before = self.failover.desired().to_vec();
        let commands = self.failover.handle(now, event);
        let changed = before != self.failover.desired();
        // The flip first: nothing else is in a hurry.
        if changed {
            self.reconcile();
        }
        self.obey(commands);
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::AskRole { master, node } => {
                    if let Some(old) = self.knowledge.asking.insert(master, node) {
                        self.watchers.stop(old);
                    }
                    self.watchers.ask(node);
                }
                Command::StopAsking { master } => {
                    if let Some(node) = self.knowledge.asking.remove(&master) {
                        self.watchers.stop(node);
                    }
                }
                Command::Record(record) => self.record(record),
                Command::Notice { master, notice } => {
                    let sentinel = notice.sentinel().map(|it| self.knowledge.endpoint(it));
                    warn!(master = self.knowledge.name(master), sentinel, "{notice}");
                }
            }
        }
    }

    fn record(&mut self, record: FailoverRecord) {
        if record.timeline.first_packet.is_some() {
            info!(master = self.knowledge.name(record.master), "{}", record.timeline);
        }
        if let Some(known) = self.failovers.iter_mut().find(|known| known.id == record.id) {
            *known = record;
            return;
        }
        if self.failovers.len() >= MAX_FAILOVERS {
            self.failovers.pop_front();
        }
        self.failovers.push_back(record);
    }

    fn kernel_said(&mut self, event: &KernelEvent) {
        match event.kind {
            KernelEvent::FIRST_PACKET => {
                let current = self.actual.active(event.service).generation();
                let master = self
                    .topology
                    .service_at(&self.actual, event.service)
                    .map(|(_, service)| service.master);
                if let Some(master) = master
                    && current == event.generation
                {
                    let at = Monotonic(event.time_ns);
                    self.tell(Monotonic::now(), Event::FirstPacket { master, at });
                }
            }
            KernelEvent::RIVAL => {
                let vip = unmapped_ip(event.addr);
                let ports = self.ports();
                // Two interfaces on one link hear each other.
                let is_own = ports.iter().any(|port| port.mac == event.mac);
                let port = ports.into_iter().find(|port| port.ifindex == event.ifindex);
                if let Some(port) = port
                    && !is_own
                {
                    self.possession.rival(vip, event.mac, port, Instant::now());
                }
            }
            other => warn!(kind = other, "the kernel reports something unknown"),
        }
    }

    fn network_changed(&mut self) {
        self.next_hops = self
            .network
            .next_hops
            .iter()
            .filter_map(|(node, hop)| Some((*node, hop.as_ref().ok()?.clone())))
            .collect();
        self.look_at_host();
        self.reconcile();
    }

    /// The set of nodes may have changed: watch and resolve exactly those.
    fn nodes_changed(&mut self) {
        let nodes: BTreeSet<SocketAddr> = self
            .knowledge
            .nodes(self.failover.desired())
            .into_iter()
            .flatten()
            .chain(self.knowledge.asking.values().copied())
            .collect();
        self.knowledge.keep_only(&nodes);
        for refused in self.watchers.watch(&nodes) {
            warn!(node = %refused, "too many Redis nodes: this one is not watched");
        }
        self.neighbours.track(nodes.iter().map(SocketAddr::ip));
    }

    /// Compares what should be with what is, and takes the steps between them.
    fn reconcile(&mut self) {
        let interfaces = self.interfaces();
        let announceable = self.possession.held().clone();
        let own = host::own_addresses(&self.config, &self.network);
        let nodes = self.knowledge.nodes(self.failover.desired());
        let wanted = Wanted {
            desired: self.failover.desired(),
            nodes: &nodes,
            next_hops: &self.next_hops,
            interfaces: &interfaces,
            own: &own,
            may_announce: &announceable,
        };
        let plan = plan::diff(&self.topology, &wanted, &self.actual);
        let flips = self.apply(&plan.steps);
        self.report_problems(plan.problems);
        for (master, at) in flips {
            let desired = self.failover.desired().get(master.0);
            if let Some(target) = desired.and_then(|desired| desired.target) {
                self.flipped(master, target, at);
            }
        }
        self.possess();
    }

    /// Takes the steps; returns the masters whose services point elsewhere now, each with the
    /// moment before its first write.
    fn apply(&mut self, steps: &[Step]) -> BTreeMap<MasterId, Monotonic> {
        let mut flips = BTreeMap::new();
        for step in steps {
            let at = Monotonic::now();
            if let Err(error) = self.datapath.apply(step) {
                error!("{:#}", anyhow::Error::from(error));
                // What was not done shows in what is; the next reconciliation tries again.
                match self.datapath.read_actual() {
                    Ok(actual) => self.actual = actual,
                    Err(error) => error!("{:#}", anyhow::Error::from(error)),
                }
                return flips;
            }
            if let Step::SetActive { service, active } = *step
                && active.state() == ServiceState::Up
                && active.generation() != self.actual.active(service).generation()
                && let Some((_, it)) = self.topology.service_at(&self.actual, service)
            {
                flips.entry(it.master).or_insert(at);
            }
            self.actual.apply(step);
        }
        flips
    }

    fn flipped(&mut self, master: MasterId, target: Target, at: Monotonic) {
        let commands = self.failover.handle(at, Event::Committed { master, target });
        info!(
            master = self.knowledge.name(master),
            to = %target.addr,
            epoch = target.epoch.0,
            "flip"
        );
        self.obey(commands);
    }

    /// VIPs that have something to announce are probed for, held, announced, or given up.
    fn possess(&mut self) {
        let wanted: BTreeSet<IpAddr> = self
            .topology
            .services()
            .filter(|(_, service)| {
                let desired = self.failover.desired().get(service.master.0);
                desired.is_some_and(|desired| desired.announce && desired.target.is_some())
            })
            .map(|(vip, _)| vip.addr)
            .collect();
        let up =
            |port: &Port| self.network.links.get(&port.ifindex).is_some_and(|link| link.running);
        let ports: Vec<Port> = self.ports().into_iter().filter(up).collect();
        self.possession.update(&wanted, &ports, &self.actual, Instant::now());
    }

    fn report_problems(&mut self, problems: Vec<Problem>) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.problems);
        for problem in problems {
            let since = before.get(&problem).copied().unwrap_or(now);
            self.problems.insert(problem, since);
            if now.duration_since(since) >= LASTING && self.reported.insert(problem) {
                warn!("{problem}");
            }
        }
        self.reported.retain(|problem| {
            let lasts = self.problems.contains_key(problem);
            if !lasts {
                info!("no longer: {problem}");
            }
            lasts
        });
    }

    /// The attached interfaces, as they are now.
    fn interfaces(&self) -> BTreeMap<u32, Interface> {
        self.ports()
            .into_iter()
            .map(|port| (port.ifindex, Interface { mac: port.mac, zero: [0; 2] }))
            .collect()
    }

    fn ports(&self) -> Vec<Port> {
        let names = &self.config.daemon.interfaces;
        names
            .iter()
            .filter(|name| !self.detached.contains(*name))
            .filter_map(|name| {
                let link = self.network.link(name)?;
                Some(Port { ifindex: link.ifindex, mac: link.mac? })
            })
            .collect()
    }

    fn answer(&self, request: Request) -> Response {
        match request {
            Request::Status => match self.status() {
                Ok(status) => Response::Status(Box::new(status)),
                Err(error) => Response::Error(format!("{error:#}")),
            },
        }
    }
}
