//! How each Redis node is reached on the link layer, kept up to date.
//!
//! One thread asks the kernel's routing and neighbour tables and listens to rtnetlink's
//! notifications (links, addresses, routes, neighbours). Whatever changes, and every
//! [`REREAD`] anyway, the whole answer is computed anew and published if it differs: level, not
//! edge, so a lost notification costs seconds and never correctness.
//!
//! A missing link-layer address is asked for by the kernel's own resolution (`NTF_USE`), by ARP or
//! neighbour discovery, as if a packet had been sent; a stale one is confirmed the same way at each periodic read, so that a
//! node whose MAC changed silently is noticed without traffic. Static entries are left alone.
//!
//! The thread works in the network namespace of the thread that called [`spawn`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::model::NextHop;
use crate::netdev::{HostAddress, Link};

mod monitor;
mod resolve;

use monitor::{Monitor, Woken};
use resolve::Resolver;

/// The whole state is read again this often, whatever was notified.
pub const REREAD: Duration = Duration::from_secs(5);
/// While a next hop is unresolved it is read (and nudged) again this often.
pub const RESOLVE_INTERVAL: Duration = Duration::from_millis(250);
/// While one has stopped answering it is asked for again this often: it may come back with another
/// link-layer address.
pub const SILENT_INTERVAL: Duration = Duration::from_secs(1);
/// Two computations are at least this far apart: a storm of notifications is one change.
const COALESCE: Duration = Duration::from_millis(5);
/// At most this many nodes are followed.
pub const MAX_NODES: usize = 1_024;

/// Each followed node's next hop, or why it has none.
pub type NextHops = HashMap<IpAddr, Result<NextHop, Unreachable>>;

/// What the thread publishes: the network as the daemon needs to know it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    /// One entry for each followed node, once it was first looked at.
    pub next_hops: NextHops,
    /// Nodes whose next hop stopped answering (NUD_FAILED). Their entry in `next_hops` keeps
    /// the last known address: a host that reboots comes back with it.
    pub silent: BTreeSet<IpAddr>,
    /// Every interface, by index: link up and down, MAC and XDP program changes show here.
    pub links: BTreeMap<u32, Link>,
    /// Every address of this host.
    pub addresses: Vec<HostAddress>,
}

impl Network {
    /// The interface `name`, if it exists now.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }
}

/// Why a node has no next hop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreachable {
    /// The node is this host: XDP sees arriving frames only, never those of the local stack.
    #[error("it is an address of this host, which XDP cannot forward to")]
    Local,
    /// The routing table has nothing for it.
    #[error("no route to it")]
    NoRoute,
    /// A link-local address means another host on each interface, and Sentinel names none.
    #[error("it is a link-local address, which does not say on which interface it is")]
    LinkLocal,
    /// The route is of a kind that is not a unicast next hop.
    #[error("its route is {0}, which vipd does not forward by")]
    UnsupportedRoute(String),
    /// The interface is down or has no carrier.
    #[error("interface {0} is down")]
    LinkDown(String),
    /// Not an Ethernet interface, or a VLAN device on top of something unusual.
    #[error("interface {0} is not plain Ethernet or one 802.1Q tag on it")]
    NotEthernet(String),
    /// Nobody answered ARP or neighbour discovery for it so far.
    #[error("no answer to {} for {next_hop} on {interface}", question(*next_hop))]
    Unresolved {
        /// The node itself, or the router towards it.
        next_hop: IpAddr,
        /// The interface.
        interface: String,
    },
    /// The kernel refused the question.
    #[error("the kernel's routing table cannot be read: {0}")]
    Kernel(String),
}

/// How a link-layer address is asked for.
const fn question(next_hop: IpAddr) -> &'static str {
    match next_hop {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}

/// Handle on the thread; dropping it ends the thread.
#[derive(Debug)]
pub struct Neighbours {
    wanted: Arc<Mutex<Wanted>>,
    wake: UnixStream,
}

#[derive(Debug, Default)]
struct Wanted {
    nodes: BTreeSet<IpAddr>,
    stop: bool,
}

/// Starts the thread. Its first publication, with no node followed, comes at once.
pub fn spawn() -> io::Result<(Neighbours, watch::Receiver<Network>)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let wanted = Arc::new(Mutex::new(Wanted::default()));
    let mut resolver = Resolver::open()?;
    let monitor = Monitor::open(woken)?;
    let (publish, network) = watch::channel(resolver.read(&BTreeSet::new(), false)?);
    let shared = Arc::clone(&wanted);
    std::thread::Builder::new()
        .name("neighbour".to_owned())
        .spawn(move || follow(&mut resolver, monitor, &shared, &publish))?;
    Ok((Neighbours { wanted, wake }, network))
}

impl Neighbours {
    /// Follow exactly these nodes from now on (the first [`MAX_NODES`] of them). Takes effect at
    /// once; never blocks.
    pub fn track(&self, nodes: impl IntoIterator<Item = IpAddr>) {
        let mut nodes: BTreeSet<_> = nodes.into_iter().collect();
        if nodes.len() > MAX_NODES {
            warn!(nodes = nodes.len(), limit = MAX_NODES, "too many Redis nodes to follow");
            nodes = nodes.into_iter().take(MAX_NODES).collect();
        }
        let mut wanted = self.wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if wanted.nodes != nodes {
            wanted.nodes = nodes;
            self.nudge();
        }
    }

    fn nudge(&self) {
        // A full pipe means the thread is about to wake anyway.
        let _ = io::Write::write(&mut &self.wake, &[0]);
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).stop = true;
        self.nudge();
    }
}

/// The thread: wait, read, publish, until the handle is dropped.
fn follow(
    resolver: &mut Resolver,
    mut monitor: Monitor,
    wanted: &Mutex<Wanted>,
    publish: &watch::Sender<Network>,
) {
    let mut confirm = true;
    let mut confirmed = Instant::now();
    loop {
        let nodes = {
            let wanted = wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if wanted.stop {
                return;
            }
            wanted.nodes.clone()
        };
        if confirm {
            confirmed = Instant::now();
        }
        match resolver.read(&nodes, confirm) {
            Ok(network) => publish_changes(publish, network),
            Err(error) => warn!(%error, "cannot read the kernel's network tables; will try again"),
        }
        let (unresolved, silent) = {
            let network = publish.borrow();
            let mut hops = network.next_hops.values();
            let unresolved = hops.any(|hop| matches!(hop, Err(Unreachable::Unresolved { .. })));
            (unresolved, !network.silent.is_empty())
        };
        // Whatever else happens meanwhile: frequent changes must not keep a confirmation off.
        let due = REREAD.saturating_sub(confirmed.elapsed());
        let timeout = match (unresolved, silent) {
            (true, _) => RESOLVE_INTERVAL,
            (false, true) => due.min(SILENT_INTERVAL),
            (false, false) => due,
        };
        monitor.relevant(resolver.relevant());
        confirm = match monitor.wait(timeout) {
            Ok(Woken::Changed | Woken::Nudged) => unresolved,
            Ok(Woken::TimedOut) => true,
            Ok(Woken::Overrun) => {
                info!("netlink notifications were lost; reading everything again");
                true
            }
            Err(error) => {
                warn!(%error, "cannot wait for netlink notifications; will read again");
                std::thread::sleep(RESOLVE_INTERVAL);
                true
            }
        };
        std::thread::sleep(COALESCE);
        monitor.drain();
        confirm |= confirmed.elapsed() >= REREAD;
    }
}

/// Publishes `network` if it differs, and logs what changed for a node.
fn publish_changes(publish: &watch::Sender<Network>, network: Network) {
    publish.send_if_modified(|present| {
        for (node, now) in &network.next_hops {
            match (present.next_hops.get(node), now) {
                (before, now) if before == Some(now) => {}
                (_, Ok(hop)) => info!(%node, mac = %hop.mac, ifindex = hop.ifindex,
                    vlan = hop.vlan, router = ?hop.router, "next hop"),
                (_, Err(why)) => warn!(%node, %why, "no next hop"),
            }
        }
        for node in network.silent.difference(&present.silent) {
            warn!(%node, "its next hop stopped answering; keeping the last known address");
        }
        let changed = *present != network;
        *present = network;
        changed
    });
}
