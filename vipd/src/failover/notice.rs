//! What an operator must know, in words.

use std::fmt;
use std::net::SocketAddr;

use super::{LossPolicy, Target};
use crate::config::OnSentinelLoss;
use crate::model::{Epoch, SentinelId};

/// Something an operator must know about one master name. Each comes once, not with every event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A Sentinel names a master of an earlier epoch. Once for each claim.
    LowerEpoch {
        /// Who says so.
        sentinel: SentinelId,
        /// What it says.
        claimed: Target,
        /// What is served and stays.
        present: Target,
    },
    /// A Sentinel answers, but does not monitor this name.
    UnknownMaster {
        /// Which one.
        sentinel: SentinelId,
    },
    /// The newest epoch is claimed for several nodes, none of them by a majority.
    Split {
        /// That epoch.
        epoch: Epoch,
        /// What is served meanwhile.
        present: Option<Target>,
    },
    /// Nothing is served yet, because too few Sentinels name a master.
    NoMajority {
        /// Configured Sentinels that do.
        live: usize,
        /// How many it takes.
        needed: usize,
    },
    /// The newest master has not answered ROLE = master for a while.
    Unconfirmed {
        /// Whom the Sentinels name.
        candidate: Target,
        /// What is served meanwhile.
        present: Option<Target>,
    },
    /// Too few Sentinels have named a master for a while.
    SentinelsLost {
        /// What is served.
        present: Target,
        /// How many are too few, and what follows.
        policy: LossPolicy,
    },
    /// Enough Sentinels name a master again; meanwhile the old one was served on.
    SentinelsBack,
    /// A majority of the Sentinels is back and the VIP is announced again.
    AnnouncedAgain {
        /// What is served.
        present: Target,
    },
    /// The services were parked for a promotion that did not come.
    NotPromoted {
        /// The replica, if a Sentinel has named one.
        candidate: Option<SocketAddr>,
        /// Who is served again.
        serving: SocketAddr,
        /// The leader said so; else it took too long.
        aborted: bool,
    },
    /// What is served provisionally will hardly be confirmed.
    Doubted {
        /// That node.
        node: SocketAddr,
        /// Who is served again if it is master.
        target: Target,
    },
    /// It was not.
    Reverted {
        /// That node.
        from: SocketAddr,
        /// Who is served again.
        to: Target,
    },
    /// The served node calls itself a replica, and no Sentinel names a newer master.
    ServedIsReplica {
        /// That node.
        node: SocketAddr,
    },
    /// The served node calls itself master again.
    ServedIsMasterAgain {
        /// That node.
        node: SocketAddr,
    },
}

impl Notice {
    /// The Sentinel it is about, for a caller that knows its name.
    pub fn sentinel(&self) -> Option<SentinelId> {
        match self {
            Self::LowerEpoch { sentinel, .. } | Self::UnknownMaster { sentinel } => Some(*sentinel),
            Self::Split { .. }
            | Self::NoMajority { .. }
            | Self::Unconfirmed { .. }
            | Self::SentinelsLost { .. }
            | Self::SentinelsBack
            | Self::AnnouncedAgain { .. }
            | Self::NotPromoted { .. }
            | Self::Doubted { .. }
            | Self::Reverted { .. }
            | Self::ServedIsReplica { .. }
            | Self::ServedIsMasterAgain { .. } => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LowerEpoch { claimed, present, .. } => write!(
                f,
                "a Sentinel names {claimed}, refused: {present} is newer; if the Sentinels were \
                 set up anew on purpose, `vipd detach` and start again"
            ),
            Self::UnknownMaster { .. } => write!(
                f,
                "a Sentinel does not monitor this master name; check the name in the configuration \
                 and `SENTINEL MASTERS` there"
            ),
            Self::Split { epoch, present } => {
                write!(f, "the Sentinels name different masters at epoch {epoch}; ")?;
                meanwhile(f, *present)?;
                f.write_str(" until a majority agrees")
            }
            Self::NoMajority { live, needed } => write!(
                f,
                "{live} of the configured Sentinels name a master, {needed} must; not announced \
                 until then"
            ),
            Self::Unconfirmed { candidate, present } => {
                write!(f, "{candidate} does not answer ROLE as master; ")?;
                meanwhile(f, *present)?;
                f.write_str(" until it does")
            }
            Self::SentinelsLost { present, policy } => {
                f.write_str(if policy.needs_majority {
                    "fewer than a majority of the Sentinels name a master; "
                } else {
                    "no Sentinel names a master; "
                })?;
                match policy.action {
                    OnSentinelLoss::Hold => write!(f, "{present} is served on"),
                    OnSentinelLoss::Withdraw => {
                        write!(f, "not announced until a majority is back ({present} was served)")
                    }
                }
            }
            Self::SentinelsBack => f.write_str("enough Sentinels name a master again"),
            Self::AnnouncedAgain { present } => {
                write!(f, "a majority of the Sentinels is back; {present} is announced again")
            }
            Self::NotPromoted { candidate, serving, aborted } => {
                match candidate {
                    Some(candidate) => write!(f, "{candidate} was selected, but ")?,
                    None => f.write_str("a failover was asked for, but ")?,
                }
                f.write_str(if *aborted {
                    "its leader gave up"
                } else {
                    "no promotion came in time"
                })?;
                write!(f, "; {serving} is served again")
            }
            Self::Doubted { node, target } => write!(
                f,
                "{node} was promoted and no Sentinel confirms it; {target} is served again if it is \
                 master"
            ),
            Self::Reverted { from, to } => write!(
                f,
                "back from {from} to {to}: that promotion was never confirmed; what was written to \
                 {from} since is lost if Sentinel makes it a replica"
            ),
            Self::ServedIsReplica { node } => write!(
                f,
                "{node} is served and calls itself a replica, but no Sentinel names a newer \
                 master; was it changed by hand?"
            ),
            Self::ServedIsMasterAgain { node } => write!(f, "{node} calls itself master again"),
        }
    }
}

fn meanwhile(f: &mut fmt::Formatter<'_>, present: Option<Target>) -> fmt::Result {
    match present {
        Some(present) => write!(f, "{present} is served on"),
        None => f.write_str("nothing is served"),
    }
}
