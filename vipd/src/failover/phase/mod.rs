//! One master's states and every transition between them, without time and without effects.

mod next;

use std::net::SocketAddr;

use super::claims::Support;
use super::{Role, State, Target};
use crate::config::OnSentinelLoss;
use crate::model::SentinelId;

/// Where one master name stands. `served` is where packets go, `candidate` whom ROLE is asked.
///
/// ```text
///            majority, successor                candidate is master
///  Learning ─────────────────────▶ Confirming ──────────────────────┐
///     ▲  no majority, or no successor   │                           │
///     └─────────────────────────────────┘                           ▼
///                                                              ┌─────────┐
///                 ┌── a leader has selected a replica, or ─────│         │
///                 │   vipd itself asks for a failover          │         │
///                 ▼                                            │         │
///             Promoting ── aborted by that leader, or for ────▶│         │
///               │   │      too long without a promotion        │         │
///               │   └───── the candidate is master: ──────────▶│         │
///               │          provisional, until an epoch says so │         │
///     successor │                                              │         │
///               ▼ ┌─────────── successor ──────────────────────│         │
///             Replacing ── candidate is master, ──────────────▶│         │
///                 │        or no successor                     │         │
///                 └─ no answer for long, and it is to          │ Serving │
///                    withdraw: Returning, or Withdrawn         │         │
///                    without a majority                        │         │
///                                                              │         │
///                 ┌─── provisional, and aborted, demoted or ───│         │
///                 ▼    for too long without an epoch           │         │
///             Reverting ── the confirmed master is master, ───▶│         │
///                 │        or no majority                      │         │
///                 └─ successor: Replacing                      │         │
///                                                              │         │
///                 ┌─────────── too few Sentinels, for long, ───│         │
///                 ▼            and it is to withdraw           │         │
///             Withdrawn ── majority, nothing else is known ───▶│         │
///               │   ▲                                          │         │
///     majority, │   │ no majority                              │         │
///  successor or ▼   │                                          │         │
///   provisional Returning ── candidate is master, ────────────▶│         │
///                          or majority, nothing else is known  └─────────┘
/// ```
///
/// In `Promoting` and `Replacing` the services are parked, as long as it is not for too long. In
/// `Promoting` a later leader's replica, and in `Confirming`, `Replacing` and `Returning` a newer
/// successor takes the candidate's place. `Promoting` and `Reverting` can end in `Withdrawn`, too.
///
/// *Successor*: the target that the Sentinels' live claims name instead of the confirmed one (see
/// [`super::claims::Claims::elect`]). Where it is the node that is served provisionally, it is
/// confirmed by that. *Majority*: more than half of the configured Sentinels have a live claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// No master was ever confirmed, and no majority names one.
    Learning,
    /// A majority names the first master; it has not answered.
    Confirming { candidate: Target },
    /// The master is the newest that is known.
    Serving { served: Served },
    /// A failover is on its way: a replica is going to be promoted.
    Promoting { served: Served, promotion: Promotion, parked: bool },
    /// A newer master is known and has not answered.
    Replacing { served: Served, candidate: Target, parked: bool },
    /// What is served provisionally will not be confirmed: back, if the confirmed one is master.
    Reverting { target: Target, provisional: SocketAddr },
    /// Not announced: too few Sentinels answer. Waits for a majority.
    Withdrawn { served: Served },
    /// Not announced: a majority is back and names a newer master, which has not answered; or it
    /// has not for so long that somebody else may have announced it.
    Returning { served: Served, candidate: Target },
}

/// Where packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Served {
    /// What an epoch and ROLE have confirmed.
    pub(super) target: Target,
    /// The replica that was promoted in its place, by its own word only.
    pub(super) provisional: Option<Provisional>,
}

/// A flip that no epoch has confirmed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Provisional {
    pub(super) node: SocketAddr,
    /// Who selected it; unknown after a restart.
    pub(super) leader: Option<SentinelId>,
}

/// A failover on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Promotion {
    /// The replica that was selected; none while vipd has only asked for the failover.
    pub(super) candidate: Option<SocketAddr>,
    /// Who selected it.
    pub(super) leader: Option<SentinelId>,
    /// The candidate has said since then that it is a replica.
    pub(super) was_replica: bool,
}

/// What can move a [`Phase`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// The live claims changed, or were repeated. `park`: a successor's predecessor is fenced.
    Claims { support: Support, successor: Option<Target>, park: bool },
    /// A node answered ROLE, or did not.
    Role { node: SocketAddr, role: Role },
    /// A Sentinel that leads a failover has selected this replica.
    Selected { leader: SentinelId, node: SocketAddr, park: bool },
    /// That Sentinel has given its failover up.
    Aborted { leader: SentinelId },
    /// vipd itself asks for a failover.
    Ordered,
    /// This Sentinel has taken it on.
    Taken { leader: SentinelId },
    /// It did not, or nobody took it on.
    Cancelled,
    /// What this phase waits for has not come in time. For [`Phase::Serving`], that is
    /// enough Sentinels with a claim.
    Overdue {
        /// What follows.
        action: OnSentinelLoss,
        /// As of the last claims.
        support: Support,
    },
    /// A failover takes too long: parked for the longest that is allowed, watched for longer, or
    /// provisional without an epoch.
    Expired {
        /// As of the last claims.
        support: Support,
    },
}

impl Phase {
    /// What is served, or would be if it weren't withdrawn or parked.
    pub(super) fn served(self) -> Option<Served> {
        match self {
            Self::Learning | Self::Confirming { .. } => None,
            Self::Serving { served }
            | Self::Promoting { served, .. }
            | Self::Replacing { served, .. }
            | Self::Withdrawn { served }
            | Self::Returning { served, .. } => Some(served),
            Self::Reverting { target, provisional } => Some(Served {
                target,
                provisional: Some(Provisional { node: provisional, leader: None }),
            }),
        }
    }

    /// What was confirmed.
    pub(super) fn target(self) -> Option<Target> {
        self.served().map(|served| served.target)
    }

    /// What is asked for ROLE.
    pub(super) fn candidate(self) -> Option<SocketAddr> {
        match self {
            Self::Learning | Self::Serving { .. } | Self::Withdrawn { .. } => None,
            Self::Promoting { promotion, .. } => promotion.candidate,
            Self::Reverting { target, .. } => Some(target.addr),
            Self::Confirming { candidate }
            | Self::Replacing { candidate, .. }
            | Self::Returning { candidate, .. } => Some(candidate.addr),
        }
    }

    /// Whether the VIP may be answered for.
    pub(super) fn announces(self) -> bool {
        match self {
            Self::Serving { .. }
            | Self::Promoting { .. }
            | Self::Replacing { .. }
            | Self::Reverting { .. } => true,
            Self::Learning
            | Self::Confirming { .. }
            | Self::Withdrawn { .. }
            | Self::Returning { .. } => false,
        }
    }

    /// Whether nothing reaches whom it serves.
    pub(super) fn is_parked(self) -> bool {
        match self {
            Self::Promoting { parked, .. } | Self::Replacing { parked, .. } => parked,
            Self::Learning
            | Self::Confirming { .. }
            | Self::Serving { .. }
            | Self::Reverting { .. }
            | Self::Withdrawn { .. }
            | Self::Returning { .. } => false,
        }
    }

    /// The same in a word.
    pub(super) fn state(self) -> State {
        match self {
            Self::Learning => State::Learning,
            Self::Promoting { parked: true, .. } | Self::Replacing { parked: true, .. } => {
                State::Parked
            }
            Self::Confirming { .. } | Self::Replacing { .. } => State::Confirming,
            Self::Promoting { .. } => State::Promoting,
            Self::Serving { served } => {
                if served.provisional.is_some() {
                    State::Provisional
                } else {
                    State::Serving
                }
            }
            Self::Reverting { .. } => State::Provisional,
            Self::Withdrawn { .. } | Self::Returning { .. } => State::Withdrawn,
        }
    }
}

impl Served {
    /// As an epoch has confirmed it.
    pub(super) fn confirmed(target: Target) -> Self {
        Self { target, provisional: None }
    }

    /// Where packets go.
    pub(super) fn addr(self) -> SocketAddr {
        self.provisional.map_or(self.target.addr, |provisional| provisional.node)
    }
}

#[cfg(test)]
mod tests;
