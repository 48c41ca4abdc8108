//! Follows every Sentinel, the configured ones and those they name, and reports what they say.
//!
//! One task a Sentinel ([`follow`]) holds two connections: one subscribed to its events, one for
//! questions. An event is only ever a reason to ask: decisions come from what is read afterwards.
//! Each Sentinel is asked again at once on every event, each second anyway (more often if a
//! lease is shorter than four seconds), and after every (re)connection, so that a lost event costs a
//! second at most.
//!
//! **A claim is a consistent pair.** While the leader reconfigures replicas, its `SENTINEL MASTER`
//! shows the new config-epoch beside the old address. `SENTINEL GET-MASTER-ADDR-BY-NAME` switches
//! to the promoted replica in the very step that raises the epoch (sentinel.c:
//! `sentinelGetCurrentMasterAddress` looks at `failover_state`, which `sentinelRefreshInstanceInfo`
//! sets together with `config_epoch`). So the epoch of the former is paired with the address of
//! the latter, and only if the epoch was the same before and after ([`reply::sandwich`]).
//!
//! **Permissions.** An ACL user needs `+ping +psubscribe +sentinel|myid +sentinel|master
//! +sentinel|get-master-addr-by-name +sentinel|replicas +sentinel|sentinels` and all channels
//! (`&*`). `+client|setname`, `+info` (for TILT) and `+sentinel|ckquorum` (for `check`) are useful.
//! To be asked for failovers takes more: see [`crate::order`].

mod follow;
mod inspect;
mod nudge;
pub mod reply;
mod roster;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use inspect::{Answer, Inspection, KnownMaster, MasterAnswer, inspect};
pub use reply::Replica;

use crate::clock::Monotonic;
use crate::config::{Config, Endpoint, Mode};
use crate::connect::{Deadlines, Dialer, Error, SetupError};
use crate::model::{Epoch, MasterId, SentinelId};
use crate::resolve::Resolver;
pub use crate::timeline::Sighting;

/// How long a Sentinel may take. One that accepts connections and never answers is lost within
/// three seconds.
pub const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(1),
    login: Duration::from_secs(2),
    answer: Duration::from_secs(2),
};

/// In mode `host` a majority must have been heard within the lease: each Sentinel is asked this often
/// in it, so that one answer may be lost or late.
const HEARD_PER_LEASE: u32 = 4;

/// What one Sentinel says, or that it is silent.
#[derive(Clone, PartialEq, Debug)]
pub enum Report {
    /// It is connected, and about to say everything it knows.
    Up {
        /// Which one.
        sentinel: SentinelId,
        /// Where it was found.
        addr: SocketAddr,
        /// `SENTINEL MYID`; empty before Redis 6.2.
        run_id: String,
    },
    /// The master that it names, with the config-epoch that belongs to it. Repeated each second, and
    /// more often where a lease depends on it.
    Claim {
        /// Who says so.
        sentinel: SentinelId,
        /// Of which master name.
        master: MasterId,
        /// The node.
        addr: SocketAddr,
        /// Its config-epoch.
        epoch: Epoch,
        /// Before it was asked.
        asked: Monotonic,
    },
    /// It answers, but doesn't know that name. Repeated each second.
    UnknownMaster {
        /// Who says so.
        sentinel: SentinelId,
        /// Which name.
        master: MasterId,
    },
    /// It names a master by a host name that has no address.
    Unresolvable {
        /// Who says so.
        sentinel: SentinelId,
        /// Of which master name.
        master: MasterId,
        /// Why there is no address.
        error: Error,
    },
    /// It is not connected (any more): what it said no longer counts. Once a loss, and again when
    /// the reason changes.
    Lost {
        /// Which one.
        sentinel: SentinelId,
        /// Why.
        error: Error,
    },
    /// An event that it published.
    Seen {
        /// Who published it.
        sentinel: SentinelId,
        /// About which master.
        master: MasterId,
        /// What happened.
        what: Sighting,
        /// When vipd received it.
        at: Monotonic,
    },
    /// The replicas that it knows, with an address each. Sent when they change.
    Nodes {
        /// Who says so.
        sentinel: SentinelId,
        /// Of which master name.
        master: MasterId,
        /// In no particular order.
        replicas: Vec<Replica>,
    },
    /// How it sees a master, for people. Sent when it changes.
    View {
        /// Who says so.
        sentinel: SentinelId,
        /// Of which master name.
        master: MasterId,
        /// What it sees.
        view: View,
    },
    /// It has entered or left TILT: it still answers, but takes no part in failovers. After `Up`,
    /// it is not in TILT unless it says so.
    Tilt {
        /// Which one.
        sentinel: SentinelId,
        /// Entered.
        tilt: bool,
    },
    /// Another Sentinel, named by those followed, is followed from now on.
    Found {
        /// Its number: at or above the number of configured ones; free again after `Forgotten`.
        sentinel: SentinelId,
        /// Where it is.
        endpoint: Endpoint,
    },
    /// Nobody names that one any more; it is not followed from now on.
    Forgotten {
        /// A number that `Found` gave.
        sentinel: SentinelId,
    },
}

/// How one Sentinel sees a master.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Sentinels that must agree that it is down.
    pub quorum: u32,
    /// Replicas that it knows.
    pub replicas: u32,
    /// Sentinels that it knows, without itself.
    pub other_sentinels: u32,
    /// Silence after which it calls the master down.
    pub down_after: Duration,
    /// `master`, `s_down`, `o_down`, `failover_in_progress`, …, as it says them.
    pub flags: String,
}

/// The tasks that follow the Sentinels. They end when this is dropped.
#[derive(Debug)]
pub struct Followers {
    roster: JoinHandle<()>,
    nudges: nudge::Nudges,
}

impl Followers {
    /// Follows the Sentinels of a validated configuration. `reports` should hold some hundred: a
    /// follower waits while it is full.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn spawn(
        config: &Config,
        resolver: Resolver,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, SetupError> {
        let masters: Vec<String> = config.masters().into_iter().map(str::to_owned).collect();
        let (nudges, nudged) = nudge::Nudges::new(masters.len());
        let context = Arc::new(follow::Context {
            dialer: Dialer::new(&config.sentinel.login, DEADLINES)?,
            masters,
            resolver,
            reports,
            claims_every: claims_every(config),
            nudged,
        });
        let endpoints = config.sentinel.endpoints.clone();
        Ok(Self { roster: tokio::spawn(roster::run(context, endpoints)), nudges })
    }

    /// Reads this master from every Sentinel again at once, as one of their events would; a Sentinel
    /// that is not connected is tried at once. However often this is called, each Sentinel is asked
    /// at a bounded rate.
    pub fn refresh(&self, master: MasterId) {
        self.nudges.nudge(master);
    }

    /// Ends all followers; their connections close without being waited for.
    pub async fn shutdown(mut self) {
        self.roster.abort();
        // Its only results are cancellation and a panic that was reported already.
        let _ = (&mut self.roster).await;
    }
}

/// How often each Sentinel is asked whom it names, if nothing happens.
fn claims_every(config: &Config) -> Duration {
    if config.vips.iter().any(|vip| vip.mode == Mode::Host) {
        follow::LEVEL.min(config.daemon.lease() / HEARD_PER_LEASE)
    } else {
        follow::LEVEL
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.roster.abort();
    }
}
