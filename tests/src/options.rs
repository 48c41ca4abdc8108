//! What kind of lab.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::address::Family;
use crate::daemon::Mode;

/// What kind of lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// How vipd carries the VIP's traffic; with it, where vipd runs.
    pub mode: Mode,
    /// Who moves the VIP.
    pub mover: Mover,
    /// Of the VIP, of Redis and of the Sentinels.
    pub family: Family,
    /// How the director is connected.
    pub nics: Nics,
    /// Where the Sentinels run.
    pub sentinels: Placement,
    /// Silence after which a Sentinel calls a node down. A busy machine keeps Redis silent for
    /// half a second at times.
    pub down_after: Duration,
    /// Sentinel's own limit for each step of a failover, and half the time until it may try the next
    /// one of the same master.
    pub failover_timeout: Duration,
    /// Mode `dsr`: the VIPs are on the Redis hosts by a vipd of their own (mode `real`), and not by
    /// hand.
    pub agents: bool,
    /// Password of every Redis and Sentinel.
    pub password: Option<String>,
    /// More lines for vipd's `[daemon]`.
    pub daemon: String,
}

/// Who moves the VIP when there is a new master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mover {
    /// vipd.
    Vipd,
    /// See [`crate::peers::script`].
    Script,
    /// See [`crate::peers::keepalived`].
    Keepalived,
    /// See [`crate::peers::haproxy`].
    HaProxy,
    /// See [`crate::peers::nft_listener`].
    NftListener,
    /// There is no VIP: clients ask the Sentinels for the master's own address.
    Nobody,
}

impl Mover {
    /// The mode of vipd whose topology it needs; any will do for vipd itself.
    fn topology(self) -> Option<Mode> {
        match self {
            Self::Vipd => None,
            Self::Script | Self::Keepalived | Self::Nobody => Some(Mode::Host),
            Self::HaProxy | Self::NftListener => Some(Mode::Nat),
        }
    }
}

/// How the director is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nics {
    /// Clients and Redis are on one network.
    One,
    /// Clients are on `eth0`, Redis is on `eth1`, and nothing routes between the two.
    Two,
}

/// Where the Sentinels run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Each beside a Redis, on its host.
    WithRedis,
    /// Each on a host of its own, so that it can be cut off alone.
    Apart,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Nat,
            mover: Mover::Vipd,
            family: Family::V4,
            nics: Nics::One,
            sentinels: Placement::WithRedis,
            // A busy machine must not make the Sentinels order a failover that no test did. A stall
            // of more than 2 s puts them into TILT, where they order none.
            down_after: Duration::from_secs(3),
            failover_timeout: Duration::from_secs(5),
            agents: false,
            password: None,
            daemon: String::new(),
        }
    }
}

impl Options {
    /// The default lab in another mode.
    pub fn mode(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The default lab with another mover of the VIP, in the topology that it needs.
    pub fn moved_by(mover: Mover) -> Self {
        Self { mover, ..Self::mode(mover.topology().unwrap_or(Mode::Nat)) }
    }

    /// The same with addresses of `family`.
    pub fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// The same with this `lease_ms`, and nothing else in the daemon's section.
    pub fn lease(self, lease: Duration) -> Self {
        Self { daemon: format!("lease_ms = {}", lease.as_millis()), ..self }
    }

    /// The same with Sentinels that are quick to find a master down: for a person to watch.
    pub fn eager(self) -> Self {
        Self { down_after: Duration::from_millis(500), ..self }
    }

    /// Fails if no network could be like this.
    pub(crate) fn verify(&self) -> Result<()> {
        let one_network = self.mode == Mode::Nat && self.family == Family::V4;
        ensure!(
            self.nics == Nics::One || one_network,
            "a lab with two networks is for nat on IPv4: in other modes the Redis hosts answer \
             the client directly"
        );
        ensure!(!self.agents || self.mode == Mode::Dsr, "only the real servers of dsr have agents");
        if let Some(topology) = self.mover.topology() {
            ensure!(
                self.mode == topology && self.nics == Nics::One && self.family == Family::V4,
                "{:?} needs the topology of mode {}, on one IPv4 network",
                self.mover,
                topology.name()
            );
        }
        Ok(())
    }
}
