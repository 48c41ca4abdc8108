//! When the Sentinels of a master count as lost, and what follows.

use std::time::Duration;

use super::PATIENCE;
use super::claims::Support;
use crate::config::OnSentinelLoss;

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
    /// answers by now. `lease` is how long it may go on.
    pub const fn host(action: OnSentinelLoss, lease: Duration) -> Self {
        Self { needs_majority: true, patience: lease, action }
    }

    pub(super) fn is_loss(self, support: Support) -> bool {
        match support {
            Support::Nobody => true,
            Support::Minority => self.needs_majority,
            Support::Majority => false,
        }
    }
}
