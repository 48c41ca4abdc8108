//! When the Sentinels of a master count as lost, and what follows.

use std::time::Duration;

use super::claims::Support;
use super::{PATIENCE, Settings};
use crate::config::{Config, Mode, OnSentinelLoss};

impl Settings {
    /// From a validated configuration.
    pub fn new(config: &Config) -> Self {
        let daemon = &config.daemon;
        let on_a_host = |name: &str| {
            let hosts = config.vips.iter().filter(|vip| vip.mode == Mode::Host);
            hosts.flat_map(|vip| &vip.services).any(|service| service.master == name)
        };
        let policy = |name| {
            if on_a_host(name) {
                LossPolicy::host(daemon.on_minority, daemon.lease())
            } else {
                LossPolicy::director(daemon.on_sentinel_loss)
            }
        };
        Self {
            configured_sentinels: config.sentinel.endpoints.len(),
            policies: config.masters().into_iter().map(policy).collect(),
            cutover: daemon.cutover,
            park: config.failover.park(),
        }
    }
}

/// What to do about a master whose Sentinels don't answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LossPolicy {
    /// Fewer than a majority is a loss already; otherwise only silence of all of them is.
    pub needs_majority: bool,
    /// How long it must last.
    pub patience: Duration,
    /// What follows.
    pub action: OnSentinelLoss,
}

impl LossPolicy {
    /// For a director: it is the only one that answers for the VIP, whoever is master.
    pub const fn director(action: OnSentinelLoss) -> Self {
        Self { needs_majority: false, patience: PATIENCE, action }
    }

    /// For mode `host`: a host that is cut off from the majority must expect that another one
    /// answers by now. `lease` is how long it may go on, from when the last majority was asked that
    /// answered.
    pub const fn host(action: OnSentinelLoss, lease: Duration) -> Self {
        Self { needs_majority: true, patience: lease, action }
    }

    /// What follows when something did not come in time; `answer` is whether that was a new master's
    /// ROLE. A director goes on with the old one then. A host must expect that the new one has
    /// announced itself, and that only this host can't reach it.
    pub(super) fn action_after(self, answer: bool) -> OnSentinelLoss {
        if answer && !self.needs_majority { OnSentinelLoss::Hold } else { self.action }
    }

    /// How long a majority counts as heard, where one is needed.
    pub(super) fn lease(self) -> Option<Duration> {
        self.needs_majority.then_some(self.patience)
    }

    /// Whether it is a loss, from now on. Where a majority is needed it is one when the lease ends,
    /// whatever they said meanwhile.
    pub(super) fn is_loss(self, support: Support) -> bool {
        match support {
            Support::Nobody => !self.needs_majority,
            Support::Minority | Support::Majority => false,
        }
    }
}
