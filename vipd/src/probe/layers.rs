//! The layers of a session: what each needs, made ready before anything is sent.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::live::Live;
use super::packet::{End, Icmp, Ours, Pace, PacketSocket, Probe, Syn, Volley};
use super::report::LayerName;
use super::settings;
use super::who_has::{Link, WhoHas};
use crate::cli::ProbeFlags;
use crate::clock::Monotonic;

/// What is probed with packets, and whether that is possible here.
#[derive(Debug)]
pub struct Packets {
    to: SocketAddr,
    layers: Vec<LayerName>,
    ports: RangeInclusive<u16>,
    link: Option<Link>,
    rates: Rates,
    mark: u64,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    arp: u32,
    icmp: u32,
    syn: u32,
}

/// One layer of packets, of one run.
pub struct Running {
    /// Which.
    pub name: LayerName,
    /// How it is getting on.
    pub live: Arc<Live>,
    /// What it sends and hears.
    pub volley: Volley,
}

/// What it takes, for messages.
const PERMISSION: &str = "raw sockets need CAP_NET_RAW: run vipd probe as root, or give it the \
                          capability (setcap cap_net_raw+ep VIPD)";

impl Packets {
    /// Tries what `layers` need. Those that are not possible here are left out with a note, unless
    /// they were asked for by name.
    ///
    /// # Errors
    ///
    /// One that was asked for is not possible.
    pub fn prepare(
        flags: &ProbeFlags,
        to: SocketAddr,
        layers: &mut Vec<LayerName>,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let link = Link::towards(to.ip(), flags.load.interface.as_deref());
        let mut packets = Self {
            to,
            layers: vec![],
            ports: settings::source_ports(&flags.load)?,
            link: None,
            rates: Rates {
                arp: flags.load.arp_rate,
                icmp: flags.load.icmp_rate,
                syn: flags.load.syn_rate,
            },
            mark: random(),
        };
        let problem = match link {
            Ok(link) if link.on_link || flags.load.interface.is_some() => {
                packets.link = Some(link);
                None
            }
            Ok(link) => {
                let text = format!(
                    "{} is not on the link of {}: it is reached through a router, which alone asks \
                     for it (--interface names another link)",
                    to.ip(),
                    link.name
                );
                packets.link = Some(link);
                Some(text)
            }
            Err(error) if flags.load.interface.is_some() => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        };
        let mut forbidden = vec![];
        for &name in &*layers {
            let why = match name {
                LayerName::Redis | LayerName::Idle => continue,
                LayerName::Arp | LayerName::Nd if problem.is_some() => problem.clone(),
                _ => match packets.attempt(name) {
                    Ok(()) => None,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        forbidden.push(name);
                        continue;
                    }
                    Err(error) => Some(error.to_string()),
                },
            };
            match why {
                None => packets.layers.push(name),
                Some(why) if flags.layers.is_empty() => {
                    notes.push(format!("{} is left out: {why}", name.name()));
                }
                Some(why) => bail!("layer {} is not possible: {why}", name.name()),
            }
        }
        if !forbidden.is_empty() {
            let names = |layers: &[LayerName]| {
                layers.iter().map(|layer| layer.name()).collect::<Vec<_>>().join(",")
            };
            let without: Vec<_> =
                layers.iter().copied().filter(|layer| !forbidden.contains(layer)).collect();
            let forbidden = names(&forbidden);
            if !flags.layers.is_empty() {
                let rest = if without.is_empty() { "redis,idle".into() } else { names(&without) };
                bail!("{forbidden}: {PERMISSION}. Without it, --layers {rest} works");
            }
            notes.push(format!("{forbidden} are left out: {PERMISSION}"));
        }
        layers.retain(|layer| {
            matches!(layer, LayerName::Redis | LayerName::Idle) || packets.layers.contains(layer)
        });
        Ok(packets)
    }

    /// Whether its socket can be had.
    fn attempt(&self, name: LayerName) -> io::Result<()> {
        match name {
            LayerName::Arp | LayerName::Nd => self.who_has().map(drop),
            LayerName::Icmp => Icmp::new(self.to.ip(), self.mark, 0).map(drop),
            LayerName::Syn => self.syn(0).map(drop),
            LayerName::Redis | LayerName::Idle => Ok(()),
        }
    }

    fn who_has(&self) -> io::Result<(PacketSocket, WhoHas)> {
        let link =
            self.link.as_ref().ok_or_else(|| io::Error::other("there is no link to ask on"))?;
        WhoHas::new(self.to.ip(), link)
    }

    fn syn(&self, first_sequence: u32) -> io::Result<(PacketSocket, Syn)> {
        Syn::new(self.to, self.ports.clone(), first_sequence)
    }

    /// Which there are.
    pub fn names(&self) -> &[LayerName] {
        &self.layers
    }

    /// Begins to send at `begin`.
    pub fn start(
        &self,
        begin: Monotonic,
        end: &Arc<End>,
        timeout: Duration,
    ) -> Result<Vec<Running>> {
        let start = |&name: &LayerName| {
            let live = Arc::new(Live::default());
            let pace = |rate: u32| (rate > 0).then(|| Pace::new(begin, rate));
            let volley = match name {
                LayerName::Arp | LayerName::Nd => {
                    shoot(self.who_has(), pace(self.rates.arp), end, timeout, &live)
                }
                LayerName::Icmp => {
                    let icmp = Icmp::new(self.to.ip(), self.mark, random());
                    shoot(icmp, pace(self.rates.icmp), end, timeout, &live)
                }
                LayerName::Syn => {
                    let syn = self.syn(random() as u32);
                    shoot(syn, pace(self.rates.syn), end, timeout, &live)
                }
                LayerName::Redis | LayerName::Idle => bail!("{} is no packet", name.name()),
            };
            let volley = volley.with_context(|| format!("layer {}", name.name()))?;
            Ok(Running { name, live, volley })
        };
        self.layers.iter().map(start).collect()
    }

    /// What a capture of the own packets takes: the interface's index, and what to keep.
    ///
    /// # Errors
    ///
    /// There is no link, or nothing to capture.
    pub fn captured(&self) -> Result<(u32, Ours)> {
        let has = |layer| self.layers.contains(&layer);
        let link = self.link.as_ref().context("--pcap: there is no link to capture on")?;
        anyhow::ensure!(!self.layers.is_empty(), "--pcap: no layer that is probed sends packets");
        let ours = Ours {
            vip: self.to.ip(),
            syn: has(LayerName::Syn).then(|| (self.to.port(), self.ports.clone())),
            icmp: has(LayerName::Icmp).then_some(self.mark),
            who_has: has(LayerName::Arp) || has(LayerName::Nd),
        };
        Ok((link.port.ifindex, ours))
    }
}

fn shoot(
    made: io::Result<(PacketSocket, impl Probe)>,
    pace: Option<Pace>,
    end: &Arc<End>,
    timeout: Duration,
    live: &Arc<Live>,
) -> Result<Volley> {
    let (socket, probe) = made?;
    Volley::start(socket, probe, pace, end, timeout, live)
}

/// Different each time.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
