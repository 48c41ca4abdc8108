//! What `vipd status --json` promises to those who script against it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::address::same_node;

/// The whole answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// vipd's version.
    pub version: String,
    /// vipd's process.
    pub pid: u32,
    /// The interfaces it answers on.
    pub interfaces: Vec<Interface>,
    /// One per VIP and port.
    pub services: Vec<Service>,
    /// The last ones, in order.
    pub failovers: Vec<Failover>,
    /// By name.
    pub counters: BTreeMap<String, Value>,
}

/// One interface.
#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The kernel's number of the program.
    pub program_id: u32,
}

/// One service.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// The virtual address.
    pub vip: String,
    /// Its TCP port.
    pub port: u16,
    /// `nat`, `dsr`, `host` or `real`.
    pub mode: String,
    /// Sentinel's name of the master.
    pub master: String,
    /// What the service is doing.
    pub state: String,
    /// Where its packets go now.
    pub backend: Option<SocketAddr>,
    /// The config-epoch of that.
    pub epoch: Option<u64>,
    /// Counts cutovers.
    pub generation: Option<u32>,
    /// Whether ARP for the VIP is answered.
    pub announcing: bool,
    /// Mode `host`: whether this host is to have the VIP.
    #[serde(default)]
    pub owner: bool,
}

/// One failover.
#[derive(Clone, Debug, Deserialize)]
pub struct Failover {
    /// Which service moved.
    pub service: Value,
    /// The old master.
    pub from: Option<SocketAddr>,
    /// The new master.
    pub to: SocketAddr,
    /// Its config-epoch, once a Sentinel has named one.
    pub epoch: Option<u64>,
    /// When what was seen.
    pub timeline: Timeline,
    /// What began it, such as `down` or `planned`.
    #[serde(default)]
    pub trigger: String,
    /// `provisional`, `confirmed`, `reverted` or `abandoned`.
    #[serde(default)]
    pub outcome: String,
    /// For how long no packet reached anybody.
    pub parked_for_ns: Option<u64>,
    /// Connects that were waiting, and were sent on to the new master.
    pub syns_replayed: Option<u64>,
    /// Clients of the old master that were told by a reset.
    pub clients_freed: Option<u64>,
    /// How long before the first `+switch-master` the service moved.
    pub ahead_of_switch_master_ns: Option<i64>,
}

/// Nanoseconds of CLOCK_MONOTONIC; what was not seen is absent or null.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Timeline {
    /// A Sentinel found the old master silent.
    pub sdown_ns: Option<u64>,
    /// A quorum of them did.
    pub odown_ns: Option<u64>,
    /// The leader chose a replica.
    pub selected_ns: Option<u64>,
    /// vipd asked a Sentinel for a failover.
    pub ordered_ns: Option<u64>,
    /// From here on nothing reaches the old master.
    pub parked_ns: Option<u64>,
    /// The leader told the replica to become master.
    pub promoting_ns: Option<u64>,
    /// The leader found it to be one.
    pub promoted_ns: Option<u64>,
    /// The first `+switch-master`.
    pub switch_master_ns: Option<u64>,
    /// The new master answered ROLE with `master`.
    pub role_confirmed_ns: Option<u64>,
    /// The one write that moved the service.
    pub flip_ns: Option<u64>,
    /// The first packet to the new master, by the kernel's clock.
    pub first_packet_ns: Option<u64>,
    /// The last waiting connect was sent on to the new master.
    pub replayed_ns: Option<u64>,
    /// The last client of the old master was told.
    pub freed_ns: Option<u64>,
    /// Nothing came of it: the old master is served again.
    pub unparked_ns: Option<u64>,
    /// An epoch confirmed the new master.
    pub confirmed_ns: Option<u64>,
}

impl Timeline {
    /// Its moments with a name for each, in the order in which they usually happen.
    pub fn moments(&self) -> [(&'static str, Option<u64>); 15] {
        [
            ("vipd asks a Sentinel for a failover", self.ordered_ns),
            ("first Sentinel finds the master silent (+sdown)", self.sdown_ns),
            ("a quorum agrees (+odown)", self.odown_ns),
            ("the leader chooses a replica (+selected-slave)", self.selected_ns),
            ("vipd parks the service: nothing reaches the old master", self.parked_ns),
            ("the leader tells the replica to become master", self.promoting_ns),
            ("the leader finds it to be one (+promoted-slave)", self.promoted_ns),
            ("a Sentinel announces the new master (+switch-master)", self.switch_master_ns),
            ("the new master itself confirms it (ROLE)", self.role_confirmed_ns),
            ("vipd moves the VIP: one write in the kernel", self.flip_ns),
            ("the first packet reaches the new master", self.first_packet_ns),
            ("the last waiting connect is sent on to it", self.replayed_ns),
            ("the last client of the old master is told", self.freed_ns),
            ("the old master is served again: nothing came of it", self.unparked_ns),
            ("an epoch confirms the new master", self.confirmed_ns),
        ]
    }
}

impl Status {
    /// Whether every service points to `backend`, by whichever of its addresses, and is announced.
    pub fn serves(&self, backend: SocketAddr) -> bool {
        let points = |service: &Service| service.backend.is_some_and(|it| same_node(it, backend));
        !self.services.is_empty()
            && self.services.iter().all(|service| points(service) && service.announcing)
    }

    /// Mode `host`: whether every service is `owner`'s and not announced here.
    pub fn leaves_to(&self, owner: SocketAddr) -> bool {
        !self.services.is_empty()
            && self.services.iter().all(|service| {
                service.backend == Some(owner) && !service.announcing && !service.owner
            })
    }
}
