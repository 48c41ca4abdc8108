//! One master's states and every transition between them, without time and without effects.

use std::net::SocketAddr;

use super::claims::Support;
use super::{Role, State, Target};
use crate::config::OnSentinelLoss;

/// Where one master name stands. `target` is what is served, `candidate` what is asked for ROLE.
///
/// ```text
///            majority, successor                candidate is master
///  Learning ─────────────────────▶ Confirming ──────────────────────┐
///     ▲  no majority, or no successor   │                           │
///     └─────────────────────────────────┘                           ▼
///                                                              ┌─────────┐
///                 ┌─────────── successor ──────────────────────│         │
///                 ▼                                            │         │
///             Replacing ── candidate is master, ──────────────▶│         │
///                 │        or no successor                     │         │
///                 └─ no answer for long, and it is to          │         │
///                    withdraw: Returning, or Withdrawn         │         │
///                    without a majority                        │         │
///                                                              │ Serving │
///                 ┌─────────── too few Sentinels, for long, ────│         │
///                 ▼            and it is to withdraw           │         │
///             Withdrawn ── majority, no successor ────────────▶│         │
///               │   ▲                                          │         │
///     majority, │   │ no majority                              │         │
///     successor ▼   │                                          │         │
///             Returning ── candidate is master, ──────────────▶│         │
///                          or majority, no successor           └─────────┘
/// ```
///
/// In `Confirming`, `Replacing` and `Returning` a newer successor takes the candidate's place.
///
/// *Successor*: the target that the Sentinels' live claims name instead of the present one (see
/// [`super::claims::Claims::elect`]). *Majority*: more than half of the configured Sentinels have
/// a live claim.
///
/// An early cutover (a flip before an epoch is known) will be one more phase between `Serving` and
/// `Replacing`: parked, its candidate named by `+selected-slave`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// No master was ever confirmed, and no majority names one.
    Learning,
    /// A majority names the first master; it has not answered.
    Confirming { candidate: Target },
    /// The confirmed master is the newest that is known.
    Serving { target: Target },
    /// A newer master is known and has not answered; the old one goes on.
    Replacing { target: Target, candidate: Target },
    /// Not announced: too few Sentinels answer. Waits for a majority.
    Withdrawn { target: Target },
    /// Not announced: a majority is back and names a newer master, which has not answered; or it
    /// has not for so long that somebody else may have announced it.
    Returning { target: Target, candidate: Target },
}

/// What can move a [`Phase`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// The live claims changed, or were repeated.
    Claims { support: Support, successor: Option<Target> },
    /// A node answered ROLE, or did not.
    Role { node: SocketAddr, role: Role },
    /// What this phase waits for has not come in time. For [`Phase::Serving`], that is
    /// enough Sentinels with a claim.
    Overdue {
        /// What follows.
        action: OnSentinelLoss,
        /// As of the last claims.
        support: Support,
    },
}

impl Phase {
    /// The transition table.
    pub(super) fn next(self, input: Input) -> Self {
        use Input::{Claims, Overdue};
        use Phase::{Confirming, Learning, Replacing, Returning, Serving, Withdrawn};
        use Support::{Majority, Minority, Nobody};

        match (self, input) {
            (Learning, Claims { support: Majority, successor: Some(candidate) }) => {
                Confirming { candidate }
            }
            (
                Learning,
                Claims { support: Majority, successor: None }
                | Claims { support: Nobody | Minority, successor: _ }
                | Input::Role { .. }
                | Overdue { .. },
            ) => Learning,

            (Confirming { .. }, Claims { support: Majority, successor: Some(candidate) }) => {
                Confirming { candidate }
            }
            (
                Confirming { .. },
                Claims { support: Majority, successor: None }
                | Claims { support: Nobody | Minority, successor: _ },
            ) => Learning,
            (Confirming { candidate }, Input::Role { node, role }) => {
                if confirms(candidate, node, role) { Serving { target: candidate } } else { self }
            }
            (Confirming { .. }, Overdue { .. }) => self,

            (Serving { target }, Claims { support: _, successor: Some(candidate) }) => {
                Replacing { target, candidate }
            }
            (Serving { .. }, Claims { support: _, successor: None } | Input::Role { .. }) => self,
            (Serving { target }, Overdue { action: OnSentinelLoss::Withdraw, support: _ }) => {
                Withdrawn { target }
            }
            (Serving { .. }, Overdue { action: OnSentinelLoss::Hold, support: _ }) => self,

            (Replacing { target, .. }, Claims { support: _, successor: Some(candidate) }) => {
                Replacing { target, candidate }
            }
            (Replacing { target, .. }, Claims { support: _, successor: None }) => {
                Serving { target }
            }
            (Replacing { candidate, .. }, Input::Role { node, role }) => {
                if confirms(candidate, node, role) { Serving { target: candidate } } else { self }
            }
            (
                Replacing { target, candidate },
                Overdue { action: OnSentinelLoss::Withdraw, support },
            ) => match support {
                Majority => Returning { target, candidate },
                Nobody | Minority => Withdrawn { target },
            },
            (Replacing { .. }, Overdue { action: OnSentinelLoss::Hold, support: _ }) => self,

            (Withdrawn { target }, Claims { support: Majority, successor: Some(candidate) }) => {
                Returning { target, candidate }
            }
            (Withdrawn { target }, Claims { support: Majority, successor: None }) => {
                Serving { target }
            }
            (
                Withdrawn { .. },
                Claims { support: Nobody | Minority, successor: _ }
                | Input::Role { .. }
                | Overdue { .. },
            ) => self,

            (
                Returning { target, .. },
                Claims { support: Majority, successor: Some(candidate) },
            ) => Returning { target, candidate },
            (Returning { target, .. }, Claims { support: Majority, successor: None }) => {
                Serving { target }
            }
            (Returning { target, .. }, Claims { support: Nobody | Minority, successor: _ }) => {
                Withdrawn { target }
            }
            (Returning { candidate, .. }, Input::Role { node, role }) => {
                if confirms(candidate, node, role) { Serving { target: candidate } } else { self }
            }
            (Returning { .. }, Overdue { .. }) => self,
        }
    }

    /// What is served.
    pub(super) fn target(self) -> Option<Target> {
        match self {
            Self::Learning | Self::Confirming { .. } => None,
            Self::Serving { target }
            | Self::Replacing { target, .. }
            | Self::Withdrawn { target }
            | Self::Returning { target, .. } => Some(target),
        }
    }

    /// What is asked for ROLE.
    pub(super) fn candidate(self) -> Option<Target> {
        match self {
            Self::Learning | Self::Serving { .. } | Self::Withdrawn { .. } => None,
            Self::Confirming { candidate }
            | Self::Replacing { candidate, .. }
            | Self::Returning { candidate, .. } => Some(candidate),
        }
    }

    /// Whether the VIP may be answered for.
    pub(super) fn announces(self) -> bool {
        match self {
            Self::Serving { .. } | Self::Replacing { .. } => true,
            Self::Learning
            | Self::Confirming { .. }
            | Self::Withdrawn { .. }
            | Self::Returning { .. } => false,
        }
    }

    /// The same in four words.
    pub(super) fn state(self) -> State {
        match self {
            Self::Learning => State::Learning,
            Self::Confirming { .. } | Self::Replacing { .. } => State::Confirming,
            Self::Serving { .. } => State::Serving,
            Self::Withdrawn { .. } | Self::Returning { .. } => State::Withdrawn,
        }
    }
}

/// Only the claimed node's own word counts, and only this one.
fn confirms(candidate: Target, node: SocketAddr, role: Role) -> bool {
    match role {
        Role::Master => node == candidate.addr,
        Role::Replica | Role::NoAnswer => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn target(host: u8, epoch: u64) -> Target {
        Target { addr: SocketAddr::from(([198, 18, 0, host], 8000)), epoch: Epoch(epoch) }
    }

    /// One row for each input, one column for each phase.
    #[test]
    fn the_whole_transition_table() {
        let (present, asked, newer) = (target(101, 3), target(102, 4), target(103, 5));
        let other = target(104, 0);

        let l = Phase::Learning;
        let c = Phase::Confirming { candidate: asked };
        let s = Phase::Serving { target: present };
        let r = Phase::Replacing { target: present, candidate: asked };
        let w = Phase::Withdrawn { target: present };
        let q = Phase::Returning { target: present, candidate: asked };
        // The same, superseded or confirmed.
        let c2 = Phase::Confirming { candidate: newer };
        let r2 = Phase::Replacing { target: present, candidate: newer };
        let q2 = Phase::Returning { target: present, candidate: newer };
        let s2 = Phase::Serving { target: asked };

        let claims = |support, successor| Input::Claims { support, successor };
        let role = |node: Target, role| Input::Role { node: node.addr, role };
        let overdue = |action, support| Input::Overdue { action, support };
        let unmoved = [l, c, s, r, w, q];
        let table = [
            (claims(Support::Nobody, None), [l, l, s, s, w, w]),
            (claims(Support::Nobody, Some(newer)), [l, l, r2, r2, w, w]),
            (claims(Support::Minority, None), [l, l, s, s, w, w]),
            (claims(Support::Minority, Some(newer)), [l, l, r2, r2, w, w]),
            (claims(Support::Majority, None), [l, l, s, s, s, s]),
            (claims(Support::Majority, Some(newer)), [c2, c2, r2, r2, q2, q2]),
            (role(asked, Role::Master), [l, s2, s, s2, w, s2]),
            (role(asked, Role::Replica), unmoved),
            (role(asked, Role::NoAnswer), unmoved),
            (role(present, Role::Master), unmoved),
            (role(present, Role::Replica), unmoved),
            (role(present, Role::NoAnswer), unmoved),
            (role(other, Role::Master), unmoved),
            (role(other, Role::Replica), unmoved),
            (role(other, Role::NoAnswer), unmoved),
            (overdue(OnSentinelLoss::Hold, Support::Majority), unmoved),
            (overdue(OnSentinelLoss::Hold, Support::Nobody), unmoved),
            (overdue(OnSentinelLoss::Withdraw, Support::Majority), [l, c, w, q, w, q]),
            (overdue(OnSentinelLoss::Withdraw, Support::Minority), [l, c, w, w, w, q]),
            (overdue(OnSentinelLoss::Withdraw, Support::Nobody), [l, c, w, w, w, q]),
        ];

        for (input, expected) in table {
            for (before, after) in unmoved.into_iter().zip(expected) {
                assert_eq!(before.next(input), after, "{before:?} on {input:?}");
            }
        }
    }

    #[test]
    fn the_same_host_on_another_port_confirms_nothing() {
        let candidate = target(102, 4);
        let phase = Phase::Confirming { candidate };
        let mut node = candidate.addr;
        node.set_port(6379);
        assert_eq!(phase.next(Input::Role { node, role: Role::Master }), phase);
    }
}
