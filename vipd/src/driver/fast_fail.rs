//! Between [`crate::fast_fail`] and the rest: what it is told, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::sync::mpsc;
use tracing::{info, warn};
use vipd_common::maps::Address;

use super::Driver;
use crate::clock::Monotonic;
use crate::config::{self, Config, Mode};
use crate::connect::{Error, SetupError};
use crate::failover::{Event as Core, State};
use crate::fast_fail::{Answer, Command, Death, Event, FastFail, Never, Served, Settings};
use crate::model::{Epoch, MasterId};
use crate::order::{self, Accepted, Manner, Orders, Ready, Refusal};
use crate::redis_node::{Report, Role};
use crate::resolve::Resolver;
use crate::sock_diag;
use crate::timeline::{Sighting, Trigger};

/// The machine, and what it takes to ask Sentinels.
pub(super) struct Witness {
    machine: FastFail,
    orders: Orders,
    resolver: Resolver,
    done: mpsc::Sender<Done>,
    /// What the last check has found.
    found: BTreeMap<MasterId, Ready>,
}

/// What became of what the machine wanted.
pub(super) enum Done {
    Checked(MasterId, u64, Result<Ready, Never>),
    Asked(MasterId, Result<Accepted, Refusal>),
}

impl Witness {
    /// None where nobody has asked for it. `taken_over` are the masters of which an earlier vipd's
    /// state was found, `done` is where its tasks report.
    ///
    /// # Errors
    ///
    /// A password file or a TLS file can't be used.
    pub(super) fn new(
        config: &Config,
        taken_over: impl IntoIterator<Item = bool>,
        resolver: Resolver,
        done: mpsc::Sender<Done>,
    ) -> Result<Option<Self>, SetupError> {
        match config.daemon.fast_fail {
            config::FastFail::Off => return Ok(None),
            config::FastFail::Refused => {}
        }
        let settings =
            Settings { grace: config.failover.grace(), interval: config.failover.interval() };
        let now = Monotonic::now();
        let machine = FastFail::new(settings, taken_over.into_iter().map(|it| it.then_some(now)));
        let orders = Orders::new(config, resolver.clone())?;
        Ok(Some(Self { machine, orders, resolver, done, found: BTreeMap::new() }))
    }

    /// Goes on from what was ordered before a reload.
    pub(super) fn inherit(&mut self, earlier: &Self, same: impl Fn(MasterId) -> Option<MasterId>) {
        self.machine.inherit(&earlier.machine, same);
    }

    fn answer(&self, answer: &Result<Role, Error>) -> Answer {
        match answer {
            Ok(Role::Master { .. }) => Answer::Master,
            Ok(Role::Replica { of: (host, port), link_up: true, .. }) => {
                Answer::Replica(self.resolver.known(host, *port))
            }
            Ok(Role::Replica { link_up: false, .. }) => Answer::Replica(None),
            Ok(Role::Sentinel) => Answer::Present,
            Err(Error::Refused) => Answer::Refused,
            Err(
                Error::Resolve(_)
                | Error::Unreachable(_)
                | Error::Timeout { .. }
                | Error::Closed(_)
                | Error::Password(_)
                | Error::SameAs(_),
            ) => Answer::Silent,
            Err(
                Error::Tls(_)
                | Error::NoAuth
                | Error::WrongPassword
                | Error::PasswordUnexpected
                | Error::NoPerm(_)
                | Error::ProtectedMode
                | Error::TooManyClients
                | Error::Server(_)
                | Error::Protocol(_),
            ) => Answer::Present,
        }
    }
}

impl Driver {
    /// When [`Self::suspicions_due`] is to be called.
    pub(super) fn suspicion_deadline(&self) -> Option<Monotonic> {
        self.witness.as_ref()?.machine.deadline()
    }

    pub(super) fn suspicions_due(&mut self) {
        let now = Monotonic::now();
        if self.suspicion_deadline().is_some_and(|due| due <= now) {
            self.tell_fast_fail(now, Event::Tick);
        }
    }

    /// A node answered, or did not.
    pub(super) fn suspect(&mut self, report: &Report) {
        let Some(witness) = &self.witness else { return };
        let answer = witness.answer(&report.answer);
        self.tell_fast_fail(report.at, Event::Node(report.node, answer));
    }

    /// The kernel saw the host behind this service refuse a client.
    pub(super) fn refused_in_kernel(&mut self, service: u32) {
        let found = self.topology.service_at(&self.actual, service);
        let Some(master) = found.map(|(_, service)| service.master) else { return };
        let Some(witness) = &mut self.witness else { return };
        let commands = witness.machine.hinted(Monotonic::now(), master);
        self.obey_fast_fail(commands);
    }

    /// A Sentinel has come, gone, entered or left TILT, perhaps.
    pub(super) fn sentinels_changed(&mut self) {
        let readiness = self.knowledge.readiness();
        let Some(witness) = &self.witness else { return };
        if witness.machine.sentinels() != readiness {
            self.tell_fast_fail(Monotonic::now(), Event::Sentinels(readiness));
        }
    }

    /// A Sentinel has published something about a master.
    pub(super) fn noticed(&mut self, master: MasterId, what: Sighting) {
        match what {
            Sighting::Sdown | Sighting::Odown => {
                self.tell_fast_fail(Monotonic::now(), Event::Noticed(master));
            }
            Sighting::Selected(_) | Sighting::Promoting(_) | Sighting::Promoted(_) => {
                self.tell_fast_fail(Monotonic::now(), Event::Begun(master));
            }
            // Of one that has begun before; what it leads to is the core's to tell.
            Sighting::SwitchMaster | Sighting::End | Sighting::Aborted => {}
        }
    }

    /// Who is served, and of whom this vipd is the witness.
    pub(super) fn tell_witness(&mut self) {
        if self.witness.is_none() {
            return;
        }
        let nodes = self.knowledge.nodes(self.failover.desired());
        for (id, nodes) in nodes.into_iter().enumerate() {
            let id = MasterId(id);
            if let Some((node, epoch)) = self.leads(id) {
                self.tell_fast_fail(Monotonic::now(), Event::Leads(id, node, epoch));
            }
            let served = self.served(id, nodes);
            self.tell_fast_fail(Monotonic::now(), Event::Served(id, served));
        }
    }

    /// What became of a check or an order.
    pub(super) fn order_done(&mut self, done: Done) {
        let event = match done {
            Done::Checked(master, number, result) => {
                let result = result.map(|ready| {
                    let electable = ready.replicas.iter().filter(|it| order::is_electable(it));
                    let electable = electable.map(|it| it.replica.addr).collect();
                    if let Some(witness) = &mut self.witness {
                        witness.found.insert(master, ready);
                    }
                    electable
                });
                Event::Checked(master, number, result)
            }
            Done::Asked(master, Ok(accepted)) => {
                info!(
                    master = self.knowledge.name(master),
                    sentinel = %accepted.sentinel,
                    "fast fail: the failover was asked for"
                );
                if let Some(sentinel) = self.knowledge.sentinel(&accepted.sentinel) {
                    self.tell(Monotonic::now(), Core::Taken { master, sentinel });
                }
                Event::Asked(master, Ok(()))
            }
            Done::Asked(master, Err(refusal)) if refusal.may_be_under_way() => {
                let name = self.knowledge.name(master);
                warn!(master = name, "fast fail: a failover may be under way: {refusal}");
                Event::Asked(master, Ok(()))
            }
            Done::Asked(master, Err(refusal)) => {
                self.tell(Monotonic::now(), Core::Cancelled { master });
                Event::Asked(master, Err(Never::Refused(refusal)))
            }
        };
        self.tell_fast_fail(Monotonic::now(), event);
    }

    fn tell_fast_fail(&mut self, now: Monotonic, event: Event) {
        let Some(witness) = &mut self.witness else { return };
        let commands = witness.machine.handle(now, event);
        self.obey_fast_fail(commands);
    }

    fn obey_fast_fail(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Press(node) => self.watchers.suspect(node),
                Command::Release(node) => {
                    // The core may ask the same node for its own reasons.
                    if self.knowledge.asking.values().any(|asked| *asked == node) {
                        self.watchers.ask(node);
                    } else {
                        self.watchers.stop(node);
                    }
                }
                Command::Check(master, node, number) => self.check(master, node, number),
                Command::Order(master, death) => self.order(master, death),
                Command::Recovered(master, after) => info!(
                    master = self.knowledge.name(master),
                    "refused connections for {} ms and is back: nothing is done",
                    after.as_millis()
                ),
                Command::GiveUp(master, never) => warn!(
                    master = self.knowledge.name(master),
                    "refuses connections, and is left to the Sentinels: {never}"
                ),
            }
        }
    }

    /// Whether a failover could be asked for; on the master's own host, also whether its port is
    /// really closed.
    fn check(&self, master: MasterId, node: SocketAddr, number: u64) {
        let Some(witness) = &self.witness else { return };
        let (orders, done) = (witness.orders.clone(), witness.done.clone());
        let name = self.knowledge.name(master).to_owned();
        let is_own = self.is_own(node.ip());
        tokio::spawn(async move {
            let result = match closed(node, is_own) {
                Ok(()) => order::preconditions(&orders, &name, node).await,
                Err(never) => {
                    return report(&done, Done::Checked(master, number, Err(never))).await;
                }
            };
            let result = result.map_err(Never::Refused);
            report(&done, Done::Checked(master, number, result)).await;
        });
    }

    fn order(&mut self, master: MasterId, death: Death) {
        let Death { node, since, until, refusals } = death;
        let name = self.knowledge.name(master).to_owned();
        warn!(
            master = name,
            %node,
            "fast fail: {refusals} connections were refused within {} ms, its replicas have lost it: \
             a Sentinel is asked for a failover",
            until.since(since).as_millis()
        );
        let limit = self.config.failover.park();
        let why = Trigger::FastFail;
        self.tell(Monotonic::now(), Core::Ordered { master, why, limit });
        let Some(witness) = &self.witness else { return };
        let (mut orders, done) = (witness.orders.clone(), witness.done.clone());
        if let Some(found) = witness.found.get(&master) {
            orders = orders.only(&found.reachable);
        }
        tokio::spawn(async move {
            let result = order::failover(&orders, &name, node, Manner::Forced).await;
            report(&done, Done::Asked(master, result)).await;
        });
    }

    /// Where packets for it go, and the last epoch that was confirmed.
    fn leads(&self, master: MasterId) -> Option<(SocketAddr, Epoch)> {
        let desired = self.failover.desired().get(master.0)?;
        Some((desired.serves()?, desired.target?.epoch))
    }

    /// Whether this vipd is the one that may speak of this master's death: whoever answers for one of
    /// its VIPs, and where it has any of mode `host`, only on the master's own host.
    fn served(&self, master: MasterId, nodes: Vec<SocketAddr>) -> Option<Served> {
        let desired = self.failover.desired().get(master.0)?;
        if desired.state != State::Serving || desired.parked || desired.provisional.is_some() {
            return None;
        }
        let node = desired.target?.addr;
        let services = || self.topology.services().filter(|(_, it)| it.master == master);
        let announces = |(vip, _): &(&crate::plan::Vip, _)| {
            let address = self.actual.addresses.get(&vip.addr);
            address.is_some_and(|address| address.has(Address::ANNOUNCE))
        };
        let on_its_host = services().any(|(vip, _)| vip.mode == Mode::Host);
        if !services().any(|it| announces(&it)) || (on_its_host && !self.is_own(node.ip())) {
            return None;
        }
        let replicas: BTreeSet<SocketAddr> = nodes.into_iter().filter(|it| *it != node).collect();
        Some(Served { node, replicas })
    }
}

/// On the node's own host: nobody listens there.
fn closed(node: SocketAddr, is_own: bool) -> Result<(), Never> {
    if !is_own {
        return Ok(());
    }
    match sock_diag::is_listening(node) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Never::Listening(node)),
        Err(error) => Err(Never::Unknown(node, error.to_string())),
    }
}

async fn report(done: &mpsc::Sender<Done>, what: Done) {
    // The driver may have stopped, or read another configuration.
    let _ = done.send(what).await;
}
