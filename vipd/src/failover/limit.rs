//! How long a failover on its way may take, by phase.

use std::net::SocketAddr;
use std::time::Duration;

use super::phase::Phase;

/// A leader sends SLAVEOF NO ONE within 200 ms of having selected a replica; where it can't, it gives
/// up after its `failover-timeout`, which is three minutes by default.
const WATCH: Duration = Duration::from_secs(60);
/// The leader reads INFO from the promoted node each second, and the others follow within two. Where
/// nobody has announced it after so long, the leader is gone.
const EPOCH: Duration = Duration::from_secs(30);
/// After a park of which nothing came, a Sentinel's word doesn't park again for so long: one that
/// lies, or repeats itself, costs a fraction of the time.
pub(super) const HOLD_OFF: Duration = Duration::from_secs(10);

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limit {
    /// Nothing.
    Unlimited,
    /// To be parked for a failover that vipd asks for.
    Order,
    /// To be parked for a promotion.
    Park,
    /// To be parked for a node that an epoch names and that doesn't answer.
    Replacement,
    /// To wait for a promotion that is long in coming.
    Watch,
    /// To serve this node without an epoch.
    Epoch(SocketAddr),
}

impl Limit {
    pub(super) fn of(phase: Phase) -> Self {
        match phase {
            Phase::Promoting { promotion, parked: true, .. } => {
                if promotion.candidate.is_some() {
                    Self::Park
                } else {
                    Self::Order
                }
            }
            Phase::Promoting { parked: false, .. } => Self::Watch,
            Phase::Replacing { parked: true, .. } => Self::Replacement,
            Phase::Serving { served } => {
                served.provisional.map_or(Self::Unlimited, |it| Self::Epoch(it.node))
            }
            Phase::Learning
            | Phase::Confirming { .. }
            | Phase::Replacing { parked: false, .. }
            | Phase::Reverting { .. }
            | Phase::Withdrawn { .. }
            | Phase::Returning { .. } => Self::Unlimited,
        }
    }

    /// How long. `park` is the configured longest park.
    pub(super) fn length(self, park: Duration) -> Option<Duration> {
        match self {
            Self::Unlimited => None,
            Self::Order | Self::Park | Self::Replacement => Some(park),
            Self::Watch => Some(WATCH),
            Self::Epoch(_) => Some(EPOCH),
        }
    }
}
