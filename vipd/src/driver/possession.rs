//! Which VIPs are ours to announce. Before a VIP is announced the link is asked whether somebody
//! else has it (RFC 5227); while somebody has, we wait and ask again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};
use vipd_common::addr::MacAddr;
use vipd_common::maps::Address;

use crate::announce::{self, Announcer, Occupancy, Port};
use crate::plan::Actual;

/// How long until a VIP that somebody else has, or that could not be probed for, is probed for
/// again.
const RETRY: Duration = Duration::from_secs(3);
/// Rivals remembered for status; the oldest go.
const MAX_RIVALS: usize = 16;

/// What a probe found.
pub type Probed = (IpAddr, io::Result<Occupancy>);

/// The VIPs, and our claims to them.
#[derive(Debug)]
pub struct Possession {
    held: BTreeSet<IpAddr>,
    waiting: BTreeMap<IpAddr, Waiting>,
    /// Announced by gratuitous ARP: which VIP, and by which interface with which address.
    announced: HashSet<(Port, IpAddr)>,
    rivals: BTreeMap<(IpAddr, MacAddr), u64>,
    announcer: Announcer,
    probes: mpsc::Sender<Probed>,
}

/// A VIP that is wanted and not held.
#[derive(Debug)]
enum Waiting {
    /// Why not the last time, if this is not the first.
    Probing(Option<String>),
    /// Why not, and when to try again.
    Refused(String, Instant),
}

impl Possession {
    /// What the maps announce already, from before a restart, is held without asking: the link
    /// would only find ourselves.
    ///
    /// # Errors
    ///
    /// No packet socket: CAP_NET_RAW is missing.
    pub fn new(actual: &Actual) -> anyhow::Result<(Self, mpsc::Receiver<Probed>)> {
        use anyhow::Context as _;
        let (probes, probed) = mpsc::channel(64);
        let announcer = Announcer::new()
            .context("cannot open a packet socket for gratuitous ARP; it takes CAP_NET_RAW")?;
        let announced = actual.addresses.iter().filter(|(_, it)| it.has(Address::ANNOUNCE));
        let possession = Self {
            held: announced.map(|(vip, _)| *vip).collect(),
            waiting: BTreeMap::new(),
            announced: HashSet::new(),
            rivals: BTreeMap::new(),
            announcer,
            probes,
        };
        Ok((possession, probed))
    }

    /// VIPs that may be announced.
    pub fn held(&self) -> &BTreeSet<IpAddr> {
        &self.held
    }

    /// VIPs that are ours without a question.
    pub fn grant(&mut self, vips: BTreeSet<IpAddr>) {
        self.waiting.retain(|vip, _| !vips.contains(vip));
        self.held.extend(vips);
    }

    /// Probes for what is wanted and not held, announces what the maps have begun to answer, and
    /// gives up what is no longer wanted. `ports` are the interfaces that can send now: one that
    /// comes (back) up or changes its address is announced on anew.
    pub fn update(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        ports: &[Port],
        actual: &Actual,
        now: Instant,
    ) {
        self.held.retain(|vip| wanted.contains(vip));
        self.waiting.retain(|vip, _| wanted.contains(vip));
        for &vip in wanted.difference(&self.held.clone()) {
            let before = match self.waiting.get(&vip) {
                None => None,
                Some(Waiting::Refused(why, retry)) if *retry <= now => Some(why.clone()),
                Some(Waiting::Probing(_) | Waiting::Refused(..)) => continue,
            };
            if !ports.is_empty() {
                self.waiting.insert(vip, Waiting::Probing(before));
                tokio::spawn(probe(vip, ports.to_vec(), self.probes.clone()));
            }
        }
        self.announce(ports, actual);
    }

    /// A probe has ended.
    pub fn probed(&mut self, (vip, outcome): Probed, now: Instant) {
        let Some(waiting) = self.waiting.get(&vip) else { return };
        let refused = match outcome {
            Ok(Occupancy::Free) => {
                self.waiting.remove(&vip);
                self.held.insert(vip);
                return;
            }
            Ok(Occupancy::InUse { mac }) => format!(
                "the VIP {vip} is in use by {mac}: not announced until that is gone; asked again \
                 every {} s",
                RETRY.as_secs()
            ),
            Err(error) => format!("cannot ask the link for the VIP {vip}: {error}"),
        };
        // Each once, however often it is asked again.
        if !matches!(waiting, Waiting::Probing(Some(before)) if *before == refused) {
            error!("{refused}");
        }
        self.waiting.insert(vip, Waiting::Refused(refused, now + RETRY));
    }

    /// Somebody else's ARP claims a VIP: defended, if it is ours, at a bounded rate. One that is not
    /// announced now is no longer held: before the next time the link is asked who has it.
    pub fn rival(&mut self, vip: IpAddr, mac: MacAddr, port: Port, now: Instant) {
        warn!(%vip, rival = %mac, "another host claims the VIP");
        if self.rivals.len() >= MAX_RIVALS && !self.rivals.contains_key(&(vip, mac)) {
            self.rivals.pop_first();
        }
        *self.rivals.entry((vip, mac)).or_default() += 1;
        if !self.announced.iter().any(|(_, announced)| *announced == vip) {
            self.held.remove(&vip);
        }
        if self.announced.contains(&(port, vip))
            && let Err(error) = self.announcer.defend(port, vip, now.into_std())
        {
            warn!(%vip, "cannot defend the VIP: {error}");
        }
    }

    /// For status.
    pub fn problems(&self) -> Vec<String> {
        let refused = self.waiting.values().filter_map(|it| match it {
            Waiting::Probing(why) => why.clone(),
            Waiting::Refused(why, _) => Some(why.clone()),
        });
        let rivals = self.rivals.iter().map(|((vip, mac), times)| {
            format!("{mac} has claimed the VIP {vip}, {times} times seen")
        });
        refused.chain(rivals).collect()
    }

    /// Gratuitous ARP follows what the maps answer, so that nobody is sent to a closed door.
    fn announce(&mut self, ports: &[Port], actual: &Actual) {
        let answered: Vec<IpAddr> = actual
            .addresses
            .iter()
            .filter(|(_, address)| address.has(Address::ANNOUNCE))
            .map(|(vip, _)| *vip)
            .collect();
        let now: HashSet<(Port, IpAddr)> =
            ports.iter().flat_map(|port| answered.iter().map(|vip| (*port, *vip))).collect();
        for (port, vip) in now.difference(&self.announced) {
            info!(%vip, mac = %port.mac, "announced");
            if let Err(error) = self.announcer.announce(*port, *vip) {
                warn!(%vip, "cannot send gratuitous ARP: {error}");
            }
        }
        for (_, vip) in self.announced.difference(&now) {
            if !answered.contains(vip) {
                info!(%vip, "no longer announced");
                self.announcer.withdraw(*vip);
            }
        }
        self.announced = now;
    }
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
