//! Which VIPs are ours to announce, and saying so.
//!
//! Before a VIP is announced the link is asked whether somebody else has it (RFC 5227); while
//! somebody has, we wait and ask again. In mode `host` a VIP is *shared*: the other Redis hosts have
//! it in their turn, Sentinel decides whose turn it is, and to ask at a failover would cost more than
//! the failover. So a shared VIP is asked for once, at the start and beforehand; that a Redis host
//! has it is no obstacle, that a stranger has it is one.
//!
//! A rival that claims what we announce is answered at a bounded rate. Only where the VIP is shared
//! and the rival is a Redis host is it left alone: it is the new owner, and we are late.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};
use vipd_common::addr::MacAddr;
use vipd_common::maps::Address;

use crate::announce::{self, Announcer, Occupancy, Port, Schedule, SolicitedNode, Tenure};
use crate::clock::Monotonic;
use crate::neighbour::{Network, Unreachable};
use crate::plan::Actual;

/// How long until a VIP that somebody else has, or that could not be probed for, is probed for
/// again.
const RETRY: Duration = Duration::from_secs(3);
/// Rivals remembered for status; the oldest go.
const MAX_RIVALS: usize = 16;

/// What a probe found.
pub type Probed = (IpAddr, io::Result<Occupancy>);

/// What [`Possession::update`] goes by.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// VIPs that have something to announce.
    pub wanted: &'a BTreeSet<IpAddr>,
    /// VIPs in mode `host`, wanted now or not.
    pub shared: &'a BTreeSet<IpAddr>,
    /// Interfaces that carry the program, up or down.
    pub ports: &'a [Port],
    /// Whether they are up, and the link-layer addresses of the Redis hosts.
    pub network: &'a Network,
    /// What the maps answer for.
    pub actual: &'a Actual,
}

/// The VIPs, and our claims to them.
#[derive(Debug)]
pub struct Possession {
    held: BTreeSet<IpAddr>,
    waiting: BTreeMap<IpAddr, Waiting>,
    wanted: BTreeSet<IpAddr>,
    shared: BTreeSet<IpAddr>,
    /// Link-layer addresses of the Redis hosts on our links.
    peers: BTreeSet<MacAddr>,
    /// Whether those are all: at a start, none is known yet.
    peers_known: bool,
    /// Which VIP was announced by which interface with which address, and that interface's carrier
    /// changes at the time.
    announced: HashMap<(Port, IpAddr), u32>,
    /// What an earlier daemon has announced. It is not said again: the maps may be right about the
    /// answers, and yet another Redis host may have announced since.
    adopted: HashSet<(Port, IpAddr)>,
    rivals: BTreeMap<(IpAddr, MacAddr), Rival>,
    announcer: Announcer,
    solicited: SolicitedNode,
    /// VIPs for which solicitations may not arrive, in words.
    deaf: BTreeSet<String>,
    probes: mpsc::Sender<Probed>,
}

/// A VIP that is not held.
#[derive(Debug)]
enum Waiting {
    /// Why not the last time, if this is not the first.
    Probing(Option<Refusal>),
    /// Why not, and when to try again.
    Refused(Refusal, Instant),
}

/// Why a VIP is not held.
#[derive(Clone, Debug)]
struct Refusal {
    why: String,
    /// Who has it, if that is why.
    holder: Option<MacAddr>,
    /// The operator has been told.
    told: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rival {
    times: u64,
    /// It was a Redis host and the VIP a shared one.
    peer: bool,
}

impl Possession {
    /// What the maps announce already, from before a restart, is held without asking: the link
    /// would only find ourselves.
    ///
    /// # Errors
    ///
    /// No packet socket: CAP_NET_RAW is missing.
    pub fn new(
        actual: &Actual,
        schedule: Schedule,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Probed>)> {
        use anyhow::Context as _;
        let (probes, probed) = mpsc::channel(64);
        let announcer = Announcer::new(schedule)
            .context("cannot open a packet socket for announcements; it takes CAP_NET_RAW")?;
        let possession = Self {
            held: answered(actual).map(|(vip, _)| vip).collect(),
            waiting: BTreeMap::new(),
            wanted: BTreeSet::new(),
            shared: BTreeSet::new(),
            peers: BTreeSet::new(),
            peers_known: false,
            announced: HashMap::new(),
            adopted: adopted(actual),
            rivals: BTreeMap::new(),
            announcer,
            solicited: SolicitedNode::default(),
            deaf: BTreeSet::new(),
            probes,
        };
        Ok((possession, probed))
    }

    /// VIPs that may be announced; shared ones also while it is not our turn.
    pub fn held(&self) -> &BTreeSet<IpAddr> {
        &self.held
    }

    /// VIPs that are ours without a question.
    pub fn grant(&mut self, vips: BTreeSet<IpAddr>) {
        self.waiting.retain(|vip, _| !vips.contains(vip));
        self.held.extend(vips);
    }

    /// Shared VIPs are announced by us until then at the latest; before the first call there is no
    /// limit. To be called whenever the lease in the maps is renewed, or ended.
    pub fn lease(&self, until: Monotonic) {
        self.announcer.lease(until);
    }

    /// When announcements are repeated, from the next one on.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.announcer.set_schedule(schedule);
    }

    /// Probes for what is not held, announces what the maps have begun to answer, and gives up what
    /// is no longer wanted. An interface that comes (back) up or changes its link-layer address is
    /// announced on anew.
    pub fn update(&mut self, situation: &Situation<'_>, now: Instant) {
        let Situation { wanted, shared, network, actual, .. } = *situation;
        self.wanted.clone_from(wanted);
        self.shared.clone_from(shared);
        self.peers = peers(network);
        self.peers_known = knows_all_peers(network);
        let running = |port: &&Port| network.links.get(&port.ifindex).is_some_and(|it| it.running);
        let ports: Vec<Port> = situation.ports.iter().filter(running).copied().collect();

        let asked: BTreeSet<IpAddr> = wanted.union(shared).copied().collect();
        self.held.retain(|vip| asked.contains(vip));
        self.waiting.retain(|vip, _| asked.contains(vip));
        self.give_way();
        for vip in asked {
            if self.held.contains(&vip) || ports.is_empty() {
                continue;
            }
            let before = match self.waiting.get(&vip) {
                None => None,
                Some(Waiting::Refused(refusal, retry)) if *retry <= now => Some(refusal.clone()),
                Some(Waiting::Probing(_) | Waiting::Refused(..)) => continue,
            };
            self.waiting.insert(vip, Waiting::Probing(before));
            tokio::spawn(probe(vip, ports.clone(), self.probes.clone()));
        }
        self.tell();
        self.announce(&ports, network, actual);
    }

    /// A probe has ended.
    pub fn probed(&mut self, (vip, outcome): Probed, now: Instant) {
        let Some(waiting) = self.waiting.get(&vip) else { return };
        let (why, holder) = match outcome {
            Ok(Occupancy::Free) => {
                self.waiting.remove(&vip);
                self.held.insert(vip);
                return;
            }
            Ok(Occupancy::InUse { mac }) => {
                let why = format!(
                    "the VIP {vip} is in use by {mac}: not announced until that is gone; asked \
                     again every {} s",
                    RETRY.as_secs()
                );
                (why, Some(mac))
            }
            Err(error) => (format!("cannot ask the link for the VIP {vip}: {error}"), None),
        };
        let told = matches!(waiting, Waiting::Probing(Some(it)) if it.told && it.why == why);
        let refusal = Refusal { why, holder, told };
        self.waiting.insert(vip, Waiting::Refused(refusal, now + RETRY));
        self.give_way();
        self.tell();
    }

    /// Somebody else claims a VIP. One that is not announced now is no longer held, unless it is
    /// shared: before the next time the link is asked who has it.
    pub fn rival(&mut self, vip: IpAddr, mac: MacAddr, port: Port, actual: &Actual, now: Instant) {
        let shared = self.shared.contains(&vip);
        let peer = shared && self.peers.contains(&mac);
        if self.rivals.len() >= MAX_RIVALS && !self.rivals.contains_key(&(vip, mac)) {
            self.rivals.pop_first();
        }
        let rival = self.rivals.entry((vip, mac)).or_default();
        *rival = Rival { times: rival.times + 1, peer };
        if peer {
            warn!(%vip, rival = %mac, "another Redis host announces the VIP; left to Sentinel");
            return;
        }
        if shared && !self.peers_known {
            warn!(%vip, rival = %mac, "another host, perhaps a Redis host, announces the VIP");
            return;
        }
        warn!(%vip, rival = %mac, "another host claims the VIP");
        let announced = self.announced.keys().any(|(_, announced)| *announced == vip);
        if !announced && !self.shared.contains(&vip) {
            self.held.remove(&vip);
        }
        if self.announced.contains_key(&(port, vip)) {
            let tenure = actual.addresses.get(&vip).map_or(Tenure::Leased, tenure);
            if let Err(error) = self.announcer.defend(port, vip, tenure, now.into_std()) {
                warn!(%vip, "cannot defend the VIP: {error}");
            }
        }
    }

    /// For status.
    pub fn problems(&self) -> Vec<String> {
        let refused = self.waiting.iter().filter_map(|(vip, it)| match it {
            // It is not our turn, so nobody is worse off.
            _ if !self.wanted.contains(vip) => None,
            Waiting::Probing(refusal) => refusal.as_ref().map(|it| it.why.clone()),
            Waiting::Refused(refusal, _) => Some(refusal.why.clone()),
        });
        let rivals = self.rivals.iter().map(|((vip, mac), rival)| {
            let who = if rival.peer { "the Redis host " } else { "" };
            format!("{who}{mac} has claimed the VIP {vip}, {} times seen", rival.times)
        });
        refused.chain(rivals).chain(self.deaf.iter().cloned()).collect()
    }

    /// A shared VIP that a Redis host has is ours as well, once we know that it is one.
    fn give_way(&mut self) {
        let (shared, peers) = (&self.shared, &self.peers);
        let cleared: Vec<IpAddr> = self
            .waiting
            .iter()
            .filter(|(vip, waiting)| {
                let refusal = match waiting {
                    Waiting::Probing(refusal) => refusal.as_ref(),
                    Waiting::Refused(refusal, _) => Some(refusal),
                };
                let holder = refusal.and_then(|refusal| refusal.holder);
                shared.contains(vip) && holder.is_some_and(|holder| peers.contains(&holder))
            })
            .map(|(vip, _)| *vip)
            .collect();
        for vip in cleared {
            self.waiting.remove(&vip);
            self.held.insert(vip);
        }
    }

    /// Each refusal once, however often it is asked again, and only where it hurts.
    fn tell(&mut self) {
        for (vip, waiting) in &mut self.waiting {
            if let Waiting::Refused(refusal, _) = waiting
                && !refusal.told
                && self.wanted.contains(vip)
            {
                error!("{}", refusal.why);
                refusal.told = true;
            }
        }
    }

    /// Announcements follow what the maps answer, so that nobody is sent to a closed door.
    fn announce(&mut self, ports: &[Port], network: &Network, actual: &Actual) {
        let answered: Vec<(IpAddr, Tenure)> =
            answered(actual).map(|(vip, address)| (vip, tenure(address))).collect();
        self.listen(ports, &answered);
        let mut now = HashMap::new();
        for port in ports {
            let changes = network.links.get(&port.ifindex).map_or(0, |link| link.carrier_changes);
            for &(vip, tenure) in &answered {
                now.insert((*port, vip), changes);
                let before = self.announced.get(&(*port, vip));
                if before == Some(&changes) {
                    continue;
                }
                if self.adopted.remove(&(*port, vip)) && before.is_none() {
                    self.announcer.resume(*port, vip, tenure);
                    continue;
                }
                info!(%vip, mac = %port.mac, "announced");
                if let Err(error) = self.announcer.announce(*port, vip, tenure) {
                    warn!(%vip, "cannot send an announcement: {error}");
                }
            }
        }
        for (port, vip) in self.announced.keys().filter(|key| !now.contains_key(key)) {
            if !answered.iter().any(|(answered, _)| answered == vip) {
                info!(%vip, "no longer announced");
                self.announcer.withdraw(*vip);
            } else if !now.keys().any(|(it, of)| it.ifindex == port.ifindex && of == vip) {
                self.announcer.stop(port.ifindex, *vip);
            }
        }
        self.announced = now;
        // What isn't answered any more is announced like anything else when it is again.
        self.adopted.clear();
    }

    /// Solicitations for what is answered must arrive. (The VIP is no address of the interface, or
    /// the kernel would see to it.)
    fn listen(&mut self, ports: &[Port], answered: &[(IpAddr, Tenure)]) {
        let wanted =
            answered.iter().flat_map(|(vip, _)| ports.iter().map(|port| (port.ifindex, *vip)));
        let failed = self.solicited.follow(wanted);
        let deaf = failed.into_iter().map(|it| format!("{:#}", anyhow::Error::from(it)));
        let deaf: BTreeSet<String> = deaf.collect();
        for problem in deaf.difference(&self.deaf) {
            warn!("{problem}");
        }
        self.deaf = deaf;
    }
}

/// What the maps answer, by interface.
fn adopted(actual: &Actual) -> HashSet<(Port, IpAddr)> {
    let ports = actual.interfaces.iter();
    let ports = ports.map(|(&ifindex, interface)| Port { ifindex, mac: interface.mac });
    ports.flat_map(|port| answered(actual).map(move |(vip, _)| (port, vip))).collect()
}

/// The VIPs that the maps answer for.
fn answered(actual: &Actual) -> impl Iterator<Item = (IpAddr, &Address)> {
    actual
        .addresses
        .iter()
        .filter(|(_, address)| address.has(Address::ANNOUNCE))
        .map(|(vip, address)| (*vip, address))
}

fn tenure(address: &Address) -> Tenure {
    if address.has(Address::HOST) { Tenure::Leased } else { Tenure::Own }
}

/// The link-layer addresses of the nodes themselves, not of routers towards them.
fn peers(network: &Network) -> BTreeSet<MacAddr> {
    let hops = network.next_hops.values().filter_map(|hop| hop.as_ref().ok());
    hops.filter(|hop| hop.router.is_none()).map(|hop| hop.mac).collect()
}

fn knows_all_peers(network: &Network) -> bool {
    let known = |hop: &Result<_, Unreachable>| matches!(hop, Ok(_) | Err(Unreachable::Local));
    !network.next_hops.is_empty() && network.next_hops.values().all(known)
}

/// Asks on every interface at once.
async fn probe(vip: IpAddr, ports: Vec<Port>, probes: mpsc::Sender<Probed>) {
    let own: Vec<MacAddr> = ports.iter().map(|port| port.mac).collect();
    let asked = ports.iter().map(|port| announce::probe_beside(*port, &own, vip));
    let mut outcome = Ok(Occupancy::Free);
    for answer in futures_util::future::join_all(asked).await {
        match (&outcome, &answer) {
            (Ok(Occupancy::InUse { .. }), _) | (_, Ok(Occupancy::Free)) => {}
            (_, Ok(Occupancy::InUse { .. })) | (Ok(Occupancy::Free), Err(_)) => outcome = answer,
            (Err(_), Err(_)) => {}
        }
    }
    // The driver may have stopped.
    let _ = probes.send((vip, outcome)).await;
}
