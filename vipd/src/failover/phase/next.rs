//! The transition table: a function for each phase, with every input that there is.

use std::net::SocketAddr;

use super::{Input, Phase, Promotion, Provisional, Served};
use crate::config::OnSentinelLoss;
use crate::failover::claims::Support;
use crate::failover::{Lineage, Role, Target};
use crate::model::SentinelId;

impl Phase {
    /// Where this input leads.
    pub(in crate::failover) fn next(self, input: Input) -> Self {
        use Phase::{
            Confirming, Learning, Promoting, Replacing, Returning, Reverting, Serving, Withdrawn,
        };
        match self {
            Learning => learning(input),
            Confirming { candidate } => confirming(candidate, input),
            Serving { served } => serving(served, input),
            Promoting { served, promotion, parked } => promoting(served, promotion, parked, input),
            Replacing { served, candidate, parked } => replacing(served, candidate, parked, input),
            Reverting { target, provisional } => reverting(target, provisional, input),
            Withdrawn { served } => withdrawn(served, input),
            Returning { served, candidate } => returning(served, candidate, input),
        }
    }
}

fn learning(input: Input) -> Phase {
    match input {
        Input::Claims { support: Support::Majority, successor: Some(candidate), .. } => {
            Phase::Confirming { candidate }
        }
        Input::Claims { .. }
        | Input::Role { .. }
        | Input::Selected { .. }
        | Input::Aborted { .. }
        | Input::Ordered
        | Input::Taken { .. }
        | Input::Cancelled
        | Input::Overdue { .. }
        | Input::Expired { .. } => Phase::Learning,
    }
}

fn confirming(candidate: Target, input: Input) -> Phase {
    match input {
        Input::Claims { .. } => learning(input),
        Input::Role { node, role } if confirms(candidate, node, role) => {
            Phase::Serving { served: Served::confirmed(candidate) }
        }
        Input::Role { .. }
        | Input::Selected { .. }
        | Input::Aborted { .. }
        | Input::Ordered
        | Input::Taken { .. }
        | Input::Cancelled
        | Input::Overdue { .. }
        | Input::Expired { .. } => Phase::Confirming { candidate },
    }
}

fn serving(served: Served, input: Input) -> Phase {
    let stays = Phase::Serving { served };
    match input {
        Input::Claims { successor: Some(successor), park, .. } => {
            succeeded(served, successor, park)
        }
        Input::Claims { successor: None, .. } => stays,
        // Selected again, or by a Sentinel that is late: it is served already.
        Input::Selected { leader, node, .. } if node == served.addr() => match served.provisional {
            Some(_) => {
                let provisional = Some(Provisional { node, leader: Some(leader) });
                Phase::Serving { served: Served { provisional, ..served } }
            }
            None => stays,
        },
        Input::Selected { leader, node, park } => selected(served, leader, node, park),
        Input::Ordered => {
            let promotion = Promotion { candidate: None, leader: None, was_replica: false };
            Phase::Promoting { served, promotion, parked: true }
        }
        // Whoever the leader is if that isn't known: only the old master's own word leads back.
        Input::Aborted { leader } => match served.provisional {
            Some(it) if it.leader.is_none_or(|it| it == leader) => reverted(served, it),
            Some(_) | None => stays,
        },
        // Demoted: nobody will confirm it.
        Input::Role { node, role: Role::Replica } => match served.provisional {
            Some(it) if it.node == node => reverted(served, it),
            Some(_) | None => stays,
        },
        Input::Role { role: Role::Master(_) | Role::NoAnswer, .. }
        | Input::Taken { .. }
        | Input::Cancelled => stays,
        // Without a majority nobody knows whether it was confirmed.
        Input::Expired { support: Support::Majority } => match served.provisional {
            Some(it) => reverted(served, it),
            None => stays,
        },
        Input::Expired { support: Support::Nobody | Support::Minority } => stays,
        Input::Overdue { action: OnSentinelLoss::Withdraw, .. } => Phase::Withdrawn { served },
        Input::Overdue { action: OnSentinelLoss::Hold, .. } => stays,
    }
}

fn promoting(served: Served, promotion: Promotion, parked: bool, input: Input) -> Phase {
    let stays = Phase::Promoting { served, promotion, parked };
    match input {
        Input::Claims { successor: Some(successor), park, .. } => match served.provisional {
            // The election before this one.
            Some(it) if it.node == successor.addr => {
                let served = Served::confirmed(successor);
                Phase::Promoting { served, promotion, parked }
            }
            // Who is parked stays so, whatever the settings.
            Some(_) | None => succeeded(served, successor, park || parked),
        },
        Input::Claims { successor: None, .. } => stays,
        Input::Role { node, role } if promotion.candidate == Some(node) => match role {
            Role::Master(lineage) if promotion.is_promoted(lineage) => {
                let provisional = Provisional { node, leader: promotion.leader };
                // It may be the confirmed one's turn again.
                let provisional = Some(provisional).filter(|it| it.node != served.target.addr);
                Phase::Serving { served: Served { provisional, ..served } }
            }
            Role::Replica => {
                let promotion = Promotion { was_replica: true, ..promotion };
                Phase::Promoting { served, promotion, parked }
            }
            Role::Master(_) | Role::NoAnswer => stays,
        },
        Input::Role { .. } => stays,
        Input::Ordered => Phase::Promoting { served, promotion, parked: true },
        Input::Taken { leader } => {
            let leader = promotion.leader.or(Some(leader));
            let promotion = Promotion { leader, ..promotion };
            Phase::Promoting { served, promotion, parked }
        }
        Input::Selected { leader, node, park } if promotion.candidate == Some(node) => {
            let promotion = Promotion { leader: Some(leader), ..promotion };
            Phase::Promoting { served, promotion, parked: parked || park }
        }
        // Whoever is late names whom it had selected before.
        Input::Selected { node, .. } if node == served.addr() => stays,
        Input::Selected { leader, node, park } => selected(served, leader, node, parked || park),
        // Others give up all the time: those that were not elected.
        Input::Aborted { leader } => {
            if promotion.leader == Some(leader) {
                Phase::Serving { served }
            } else {
                stays
            }
        }
        Input::Cancelled => {
            if promotion.candidate.is_none() {
                Phase::Serving { served }
            } else {
                stays
            }
        }
        Input::Expired { .. } => {
            if parked && promotion.candidate.is_some() {
                Phase::Promoting { served, promotion, parked: false }
            } else {
                Phase::Serving { served }
            }
        }
        Input::Overdue { action: OnSentinelLoss::Withdraw, .. } => Phase::Withdrawn { served },
        Input::Overdue { action: OnSentinelLoss::Hold, .. } => stays,
    }
}

fn replacing(served: Served, candidate: Target, parked: bool, input: Input) -> Phase {
    let stays = Phase::Replacing { served, candidate, parked };
    match input {
        Input::Claims { successor: Some(candidate), .. } => {
            Phase::Replacing { served, candidate, parked }
        }
        Input::Claims { successor: None, .. } => Phase::Serving { served },
        Input::Role { node, role } if confirms(candidate, node, role) => {
            Phase::Serving { served: Served::confirmed(candidate) }
        }
        // An epoch is worth more than whatever is on its way.
        Input::Role { .. }
        | Input::Selected { .. }
        | Input::Aborted { .. }
        | Input::Ordered
        | Input::Taken { .. }
        | Input::Cancelled => stays,
        Input::Expired { .. } => Phase::Replacing { served, candidate, parked: false },
        Input::Overdue { action: OnSentinelLoss::Withdraw, support } => match support {
            Support::Majority => Phase::Returning { served, candidate },
            Support::Nobody | Support::Minority => Phase::Withdrawn { served },
        },
        Input::Overdue { action: OnSentinelLoss::Hold, .. } => stays,
    }
}

fn reverting(target: Target, node: SocketAddr, input: Input) -> Phase {
    let stays = Phase::Reverting { target, provisional: node };
    let doubtful = |leader| Served { target, provisional: Some(Provisional { node, leader }) };
    match input {
        // Its word that it is master may be old.
        Input::Claims { successor: Some(candidate), park, .. } => {
            let parked = park && candidate.addr != node;
            Phase::Replacing { served: doubtful(None), candidate, parked }
        }
        Input::Claims { support: Support::Majority, successor: None, .. } => stays,
        Input::Claims { support: Support::Nobody | Support::Minority, successor: None, .. } => {
            Phase::Serving { served: doubtful(None) }
        }
        Input::Role { node, role } if confirms(target, node, role) => {
            Phase::Serving { served: Served::confirmed(target) }
        }
        Input::Selected { leader, node: selected, .. } if selected == node => {
            Phase::Serving { served: doubtful(Some(leader)) }
        }
        Input::Selected { leader, node, park } => selected(doubtful(None), leader, node, park),
        Input::Role { .. }
        | Input::Aborted { .. }
        | Input::Ordered
        | Input::Taken { .. }
        | Input::Cancelled
        | Input::Expired { .. }
        | Input::Overdue { action: OnSentinelLoss::Hold, .. } => stays,
        Input::Overdue { action: OnSentinelLoss::Withdraw, .. } => {
            Phase::Withdrawn { served: doubtful(None) }
        }
    }
}

fn withdrawn(served: Served, input: Input) -> Phase {
    match input {
        Input::Claims { support: Support::Majority, successor: Some(candidate), .. } => {
            Phase::Returning { served, candidate }
        }
        // Whether it was confirmed meanwhile, or demoted, they don't say: only what was is sure.
        Input::Claims { support: Support::Majority, successor: None, .. } => {
            match served.provisional {
                Some(_) => Phase::Returning { served, candidate: served.target },
                None => Phase::Serving { served },
            }
        }
        Input::Claims { support: Support::Nobody | Support::Minority, .. }
        | Input::Role { .. }
        | Input::Selected { .. }
        | Input::Aborted { .. }
        | Input::Ordered
        | Input::Taken { .. }
        | Input::Cancelled
        | Input::Overdue { .. }
        | Input::Expired { .. } => Phase::Withdrawn { served },
    }
}

fn returning(served: Served, candidate: Target, input: Input) -> Phase {
    match input {
        Input::Claims { .. } => withdrawn(served, input),
        Input::Role { node, role } if confirms(candidate, node, role) => {
            Phase::Serving { served: Served::confirmed(candidate) }
        }
        Input::Role { .. }
        | Input::Selected { .. }
        | Input::Aborted { .. }
        | Input::Ordered
        | Input::Taken { .. }
        | Input::Cancelled
        | Input::Overdue { .. }
        | Input::Expired { .. } => Phase::Returning { served, candidate },
    }
}

/// The claims name a successor.
fn succeeded(served: Served, successor: Target, park: bool) -> Phase {
    match served.provisional {
        // It has said so itself already.
        Some(it) if it.node == successor.addr => {
            Phase::Serving { served: Served::confirmed(successor) }
        }
        Some(_) | None => {
            // There is nobody to be fenced where only the epoch is new.
            let parked = park && successor.addr != served.addr();
            Phase::Replacing { served, candidate: successor, parked }
        }
    }
}

fn selected(served: Served, leader: SentinelId, node: SocketAddr, parked: bool) -> Phase {
    let promotion = Promotion { candidate: Some(node), leader: Some(leader), was_replica: false };
    Phase::Promoting { served, promotion, parked }
}

fn reverted(served: Served, provisional: Provisional) -> Phase {
    Phase::Reverting { target: served.target, provisional: provisional.node }
}

impl Promotion {
    /// Whether a candidate that calls itself master was promoted. One that was restarted does so as
    /// well, and has lost its data.
    fn is_promoted(self, lineage: Lineage) -> bool {
        match lineage {
            Lineage::Heir => true,
            Lineage::Stranger => false,
            Lineage::Unknown => self.was_replica,
        }
    }
}

/// Only the claimed node's own word counts, and only this one.
fn confirms(candidate: Target, node: SocketAddr, role: Role) -> bool {
    match role {
        Role::Master(_) => node == candidate.addr,
        Role::Replica | Role::NoAnswer => false,
    }
}
