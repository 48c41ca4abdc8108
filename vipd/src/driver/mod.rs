//! The daemon: the only place where events meet. One `select!` takes whatever comes, tells the
//! pure core, and brings the kernel in line with what the core wants.
//!
//! ```text
//! sentinel, redis_node, kernel events ──▶ failover ──▶ desired ─┐
//! neighbour, possession ────────────────────────────────────────┴▶ plan ──▶ datapath
//! ```

mod clients;
mod fast_fail;
mod host;
mod knowledge;
mod ownership;
pub mod possession;
mod reconcile;
mod reload;
mod report;
mod rounds;
mod start;
mod switchover;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};
use vipd_common::maps::{Interface, KernelEvent};

use self::clients::Requests;
use self::fast_fail::Witness;
use self::knowledge::Knowledge;
use self::possession::{Possession, Probed};
use self::reconcile::Told;
use self::rounds::{Answer, Rounds};
use self::start::Sources;
use self::switchover::Switchovers;
use crate::announce::Port;
use crate::clock::Monotonic;
use crate::config::Config;
use crate::control::{Answer as Reply, Control, Question, Request, Response};
use crate::datapath::{Datapath, Events, Released};
use crate::failover::{Command, Event, Failover};
use crate::holding::Holding;
use crate::model::{MasterId, NextHop, unmapped_ip};
use crate::neighbour::{Neighbours, Network};
use crate::notify::Hint;
use crate::plan::{Actual, Problem, Topology};
use crate::redis_node::Watchers;
use crate::sentinel::Followers;
use crate::status::MAX_FAILOVERS;
use crate::switchover::Ask;
use crate::timeline::FailoverRecord;

/// Reports on their way; whoever reports waits while it is full.
const QUEUE: usize = 512;
/// What should be and what is are compared this often even if nothing happens.
const RECONCILE: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT. `file` is what SIGHUP and `vipd reload` read again.
///
/// # Errors
///
/// Whatever keeps it from starting, with nothing left behind on the host; later only the loss of
/// its own event sources, after which what is pinned forwards on, as after a crash. Sentinels or
/// Redis nodes that don't answer are waited for.
pub async fn run(config: Config, file: Option<PathBuf>) -> Result<()> {
    // Before anything is put on the host: a signal during the start must not leave it there.
    let signals = Signals::listen()?;
    let (mut driver, inputs) = Driver::start(config, file).await?;
    driver.serve(inputs, signals).await.context(
        "vipd can't go on; what is pinned forwards on until the next `vipd run` or `vipd detach`",
    )?;
    driver.stop().await
}

/// What ends the daemon, or lets it read its configuration again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
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
    holding: Holding,
    /// VIPs that were withdrawn, with the interface of each: who is connected to one may not know yet.
    abandoned: BTreeMap<IpAddr, u32>,
    rounds: Rounds,
    /// With `fast_fail = "refused"`.
    witness: Option<Witness>,
    /// Masters that somebody served before: in mode `host` their VIPs change hands without a
    /// question.
    settled: BTreeSet<MasterId>,
    knowledge: Knowledge,
    failovers: VecDeque<Told>,
    switchovers: Switchovers,
    requests: Requests,
    /// What isn't as it should be, since when.
    problems: BTreeMap<Problem, Instant>,
    /// Those that were logged.
    reported: BTreeSet<Problem>,
    /// As of the last look.
    cables: Vec<(Port, bool, u32)>,
    /// Interfaces that are not there, or are without the program.
    detached: BTreeSet<String>,
    /// What is wrong with the host, in words.
    host_problems: BTreeSet<String>,
    /// Until when the kernel answers for addresses of mode `host`.
    lease: Monotonic,
    /// When it was renewed, or was to be.
    lease_kept: Instant,
    /// When this vipd started, was reloaded or had stood still: what it withdraws within the next lease
    /// may be back in a moment.
    unsure_since: Instant,
    /// VIPs may become addresses of this host: the program is in its place.
    may_hold: bool,
    /// Where the configuration is from; none if it was all flags.
    file: Option<PathBuf>,
    /// For a socket that is opened later.
    ask: mpsc::Sender<Question>,
    _control: Control,
    hints: Option<Control>,
}

/// Where events come from.
struct Inputs {
    sources: Sources,
    network: watch::Receiver<Network>,
    kernel: Events,
    released: mpsc::Receiver<Released>,
    probes: mpsc::Receiver<Probed>,
    rounds: mpsc::Receiver<Answer>,
    questions: mpsc::Receiver<Question>,
    switchovers: mpsc::Receiver<Ask>,
}

impl Driver {
    /// The event loop.
    async fn serve(&mut self, mut inputs: Inputs, mut signals: Signals) -> Result<()> {
        let mut tick = interval(RECONCILE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = pin!(sleep_until(self.deadline()));
            let renewal = pin!(sleep_until(self.renewal()));
            tokio::select! {
                report = inputs.sources.sentinels.recv() => {
                    self.sentinel_said(report.context("the Sentinels are no longer followed")?);
                }
                report = inputs.sources.nodes.recv() => {
                    self.node_said(report.context("the Redis nodes are no longer watched")?);
                }
                event = inputs.kernel.next() => {
                    self.kernel_said(&event.context("the kernel's events can't be read")?);
                }
                Some(released) = inputs.released.recv() => self.released(&released),
                changed = inputs.network.changed() => {
                    changed.context("the network is no longer watched")?;
                    self.network = inputs.network.borrow_and_update().clone();
                    // First: what was known before may not be said on a cable that is back.
                    self.look_at_cables(&mut inputs.sources);
                    self.network_changed();
                }
                Some(probed) = inputs.probes.recv() => {
                    self.possession.probed(probed, Instant::now());
                    self.reconcile();
                }
                Some(answer) = inputs.rounds.recv() => self.rounds.answered(answer),
                Some((request, answer)) = inputs.questions.recv() => {
                    let reply = self.answer(request, &mut inputs.sources).await;
                    // Whoever asked may be gone.
                    let _ = answer.send(reply);
                }
                Some(ask) = inputs.switchovers.recv() => self.switchover_asks(ask),
                Some(done) = inputs.sources.orders.recv() => self.order_done(done),
                () = deadline => {
                    self.tell(Monotonic::now(), Event::Tick);
                    self.suspicions_due();
                }
                _ = tick.tick() => {
                    self.look_at_host();
                    self.reconcile();
                }
                () = renewal => self.keep_lease(&mut inputs.sources),
                _ = signals.hangup.recv() => {
                    info!("SIGHUP: reading the configuration again");
                    if let Err(error) = self.reload(&mut inputs.sources).await {
                        error!("nothing was changed: {error:#}");
                    }
                }
                _ = signals.terminate.recv() => { info!("SIGTERM: stopping"); return Ok(()); }
                _ = signals.interrupt.recv() => { info!("SIGINT: stopping"); return Ok(()); }
            }
        }
    }

    fn deadline(&self) -> Instant {
        let far = Duration::from_secs(3600);
        let deadlines = [self.failover.deadline(), self.suspicion_deadline()];
        let next = deadlines.into_iter().flatten().min();
        let wait = next.map_or(far, |at| at.since(Monotonic::now()));
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
            self.switchovers.show(self.failover.desired(), Monotonic::now());
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
                Command::Record(record) => self.record(*record),
                Command::Notice { master, notice } => {
                    let sentinel = notice.sentinel().map(|it| self.knowledge.endpoint(it));
                    warn!(master = self.knowledge.name(master), sentinel, "{notice}");
                }
            }
        }
    }

    fn record(&mut self, record: FailoverRecord) {
        if record.timeline.first_packet.is_some() {
            info!(master = self.knowledge.name(record.master), "{record}");
        }
        if let Some(told) = self.failovers.iter_mut().find(|told| told.record.id == record.id) {
            told.record = record;
            return;
        }
        if record.from.is_some() {
            self.settled.insert(record.master);
        }
        if self.failovers.len() >= MAX_FAILOVERS {
            self.failovers.pop_front();
        }
        self.failovers.push_back(Told { record, cutover: None });
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
                    self.switchovers.first_packet(master, at);
                    self.tell(Monotonic::now(), Event::FirstPacket { master, at });
                }
            }
            KernelEvent::REFUSED => self.refused_in_kernel(event.service),
            KernelEvent::RIVAL => {
                let vip = unmapped_ip(event.addr);
                let ports = self.ports();
                // Two interfaces on one link hear each other.
                let is_own = ports.iter().any(|port| port.mac == event.mac);
                let port = ports.into_iter().find(|port| port.ifindex == event.ifindex);
                if let Some(port) = port
                    && !is_own
                {
                    self.possession.rival(vip, event.mac, port, &self.actual, Instant::now());
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
        let ips = nodes.iter().map(SocketAddr::ip);
        let other = |ip| self.topology.other_address(ip);
        let ips: BTreeSet<IpAddr> = ips.flat_map(|ip| [Some(ip), other(ip)]).flatten().collect();
        self.neighbours.track(ips);
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

    async fn answer(&mut self, request: Request, sources: &mut Sources) -> Reply {
        Reply::Now(match request {
            Request::Switchover(order) => return self.switch_over(order),
            Request::Status => match self.status() {
                Ok(status) => Response::Status(Box::new(status)),
                Err(error) => Response::Error(format!("{error:#}")),
            },
            Request::Notify(hint) => self.hinted(&hint),
            Request::Reload => match self.reload(sources).await {
                Ok(()) => Response::Done,
                Err(error) => Response::Error(format!("{error:#}")),
            },
        })
    }

    /// A Sentinel's script says that a master has changed. Whom it names is of no interest: the
    /// script may be a late retry, and whoever calls it may be anybody.
    fn hinted(&self, hint: &Hint) -> Response {
        let Some(master) = self.knowledge.master(&hint.master) else {
            let name = &hint.master;
            return Response::Unknown(format!("this vipd has no service of the master {name:?}"));
        };
        debug!(?hint, "notified: asking every Sentinel");
        self.followers.refresh(master);
        Response::Done
    }
}
