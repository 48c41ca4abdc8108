//! How the daemon comes, and how it goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;
use vipd_common::maps::Address;

use super::clients::Requests;
use super::fast_fail::{Done, Witness};
use super::knowledge::Knowledge;
use super::possession::Possession;
use super::rounds::Rounds;
use super::switchover::Switchovers;
use super::{Driver, Inputs, QUEUE, host};
use crate::announce::Schedule;
use crate::clock::Monotonic;
use crate::config::{Config, Mode, OnStop};
use crate::control::{Access, Control};
use crate::datapath::{Datapath, OpenSettings};
use crate::failover::{Desired, Event, Failover, Settings};
use crate::holding::Holding;
use crate::model::MasterId;
use crate::neighbour::{self, Network};
use crate::plan::{Actual, Topology};
use crate::redis_node::{self, Watchers};
use crate::resolve::Resolver;
use crate::sentinel::{self, Followers};

/// What one configuration brings with it: whoever follows and decides by it. A reload makes all of
/// it anew, beside the kernel's part, which stays as it is.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) topology: Topology,
    pub(super) failover: Failover,
    pub(super) knowledge: Knowledge,
    pub(super) watchers: Watchers,
    pub(super) followers: Followers,
    pub(super) witness: Option<Witness>,
}

/// What [`Parts`] report by.
pub(super) struct Sources {
    pub(super) sentinels: mpsc::Receiver<sentinel::Report>,
    pub(super) nodes: mpsc::Receiver<redis_node::Report>,
    /// What became of checks and orders.
    pub(super) orders: mpsc::Receiver<Done>,
}

impl Parts {
    /// Goes on from what the maps hold, and begins to ask the Sentinels. `lease` is until when
    /// addresses of mode `host` are answered for; masters that are `withdrawn`, by name, stay so
    /// until a majority agrees. `heard` is when the Sentinels were last heard of a master.
    ///
    /// # Errors
    ///
    /// A password file or a TLS file can't be used.
    pub(super) fn new(
        config: Config,
        actual: &Actual,
        lease: Monotonic,
        withdrawn: &BTreeSet<&str>,
        heard: impl Fn(&str) -> Option<Monotonic>,
    ) -> Result<(Self, Sources)> {
        let topology = Topology::new(&config);
        let now = Monotonic::now();
        let mut targets = topology.adopted(actual, lease > now);
        for (name, target) in config.masters().into_iter().zip(&mut targets) {
            if let Some(target) = target {
                target.announced &= !withdrawn.contains(name);
                target.heard = heard(name);
            }
        }
        let failover = Failover::new(&Settings::new(&config), &targets, now);
        let (sentinel_reports, sentinels) = mpsc::channel(QUEUE);
        let (node_reports, nodes) = mpsc::channel(QUEUE);
        let resolver = Resolver::default();
        let watchers = Watchers::new(&config.redis.login, resolver.clone(), node_reports)?;
        let (done, orders) = mpsc::channel(QUEUE);
        let taken_over = targets.iter().map(Option::is_some);
        let witness = Witness::new(&config, taken_over, resolver.clone(), done)?;
        let followers = Followers::spawn(&config, resolver, sentinel_reports)?;
        let knowledge = Knowledge::new(&config);
        let parts = Self { config, topology, failover, knowledge, watchers, followers, witness };
        Ok((parts, Sources { sentinels, nodes, orders }))
    }
}

/// The masters that somebody served before a restart: another host, or this one. One that was
/// confirmed here and never announced, because a stranger has its VIP, is not among them.
fn settled(
    topology: &Topology,
    failover: &Failover,
    actual: &Actual,
    network: &Network,
) -> BTreeSet<MasterId> {
    let announced = |vip: IpAddr| {
        let address = actual.addresses.get(&vip);
        address.is_some_and(|address| address.has(Address::ANNOUNCE))
    };
    let elsewhere = |master: MasterId| {
        let node = failover.desired().get(master.0).and_then(Desired::serves);
        let is_own = |ip: IpAddr| network.addresses.iter().any(|own| own.address == ip);
        node.is_some_and(|node| !is_own(node.ip()))
    };
    topology
        .services()
        .filter(|(vip, service)| announced(vip.addr) || elsewhere(service.master))
        .map(|(_, service)| service.master)
        .collect()
}

impl Driver {
    /// Checks the host, takes over or makes the datapath, and starts listening to everybody.
    pub(super) async fn start(config: Config, file: Option<PathBuf>) -> Result<(Self, Inputs)> {
        let (neighbours, mut network_input) =
            neighbour::spawn().context("cannot read this host's network (rtnetlink)")?;
        let network = network_input.borrow_and_update().clone();
        let (ask, questions) = mpsc::channel(QUEUE);
        // The lock on the pins first: the socket's file may be a running vipd's.
        let (mut datapath, adopted) = Datapath::open(&OpenSettings::from(&config))?;
        if let Some(why) = host::own_vips(&config, &network, &adopted.actual).next() {
            bail!(why);
        }
        let control =
            Control::listen(&config.daemon.control_socket, Access::Control, ask.clone()).await?;
        let hints = match &config.daemon.notify_socket {
            Some(path) => Some(Control::listen(path, Access::Hints, ask.clone()).await?),
            None => None,
        };
        if !adopted.interfaces.is_empty() {
            info!(interfaces = ?adopted.interfaces, "taking over from an earlier vipd");
        }

        let leased = adopted.lease > Monotonic::now();
        // It began when its last owner was sure of a majority, or later.
        let lease = u64::try_from(config.daemon.lease().as_nanos()).unwrap_or(u64::MAX);
        let heard = Monotonic(adopted.lease.0.saturating_sub(lease));
        let (parts, mut sources) =
            Parts::new(config, &adopted.actual, adopted.lease, &BTreeSet::new(), |_| Some(heard))?;
        let Parts { config, topology, failover, knowledge, watchers, followers, witness } = parts;
        let (possession, probes) =
            Possession::new(&adopted.actual, Schedule::from(&config.announce))?;
        let (rounds, answers) = Rounds::new();
        let (switchovers, asks) = Switchovers::new(&config)?;
        let holding = Holding::open(&config.daemon.control_socket)?;
        let settled = settled(&topology, &failover, &adopted.actual, &network);

        let kernel = datapath.events()?.context("the kernel's events are taken already")?;
        let mut driver = Self {
            config,
            topology,
            failover,
            knowledge,
            datapath,
            actual: adopted.actual,
            watchers,
            followers,
            neighbours,
            network,
            next_hops: HashMap::new(),
            possession,
            holding,
            abandoned: BTreeMap::new(),
            rounds,
            witness,
            settled,
            failovers: VecDeque::new(),
            switchovers,
            requests: Requests::default(),
            problems: BTreeMap::new(),
            reported: BTreeSet::new(),
            cables: Vec::new(),
            may_hold: false,
            lease_kept: Instant::now(),
            unsure_since: Instant::now(),
            detached: BTreeSet::new(),
            host_problems: BTreeSet::new(),
            lease: adopted.lease,
            file,
            ask,
            _control: control,
            hints,
        };
        driver.cables = driver.cables();
        driver.possession.lease(driver.lease);
        // The maps say what the interfaces are before the first packet meets the program.
        driver.reconcile();
        let interfaces = driver.config.daemon.interfaces.clone();
        driver.datapath.attach(&interfaces)?;
        driver.datapath.commit();
        let problem = driver.carries().then(|| driver.datapath.can_release().err()).flatten();
        let (releaser, released) = driver.datapath.releaser()?;
        driver.requests.open(releaser, problem);
        // Now that the kernel is kept from answering for them, VIPs may be held.
        driver.may_hold = true;
        driver.quiet_held_addresses();
        if leased {
            // It may have run out meanwhile.
            driver.keep_lease(&mut sources);
        } else {
            driver.renew_lease();
        }
        driver.reconcile();
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
        let network = network_input;
        let inputs = Inputs {
            sources,
            network,
            kernel,
            released,
            probes,
            rounds: answers,
            questions,
            switchovers: asks,
        };
        Ok((driver, inputs))
    }

    /// Whether connections go through this host.
    fn carries(&self) -> bool {
        self.topology.vips.iter().any(|vip| matches!(vip.mode, Mode::Nat | Mode::Dsr))
    }

    /// Leaves the host as it was, or as `on_stop = "keep"` wants it.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(master) = self.switchovers.stop().await {
            self.tell(Monotonic::now(), Event::Cancelled { master });
        }
        let pin_dir = self.config.daemon.pin_dir.display().to_string();
        match self.config.daemon.on_stop {
            OnStop::Keep => {
                info!(
                    "on_stop = \"keep\": the program and its maps stay pinned in {pin_dir} and \
                     forward on; the next `vipd run` takes them over, `vipd detach` removes them"
                );
            }
            OnStop::Detach => {
                self.give_everything_up().context("not everything was removed")?;
                let removed = self.datapath.detach().context("not everything was removed")?;
                info!(interfaces = ?removed.interfaces, maps = removed.maps.len(), "detached");
            }
        }
        self.followers.shutdown().await;
        self.watchers.shutdown().await;
        Ok(())
    }
}
