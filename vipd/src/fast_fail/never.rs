//! Why a master that seems gone is left to the Sentinels.

use std::net::SocketAddr;
use std::time::Duration;

use crate::order::Refusal;

/// Why vipd asks for no failover of a master whose host refuses connections.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Never {
    /// It may never have been there since vipd looks: a start of the whole site, perhaps.
    #[error("it was not seen alive just before")]
    NotSeen,
    /// One was asked for a short time ago.
    #[error("a failover was asked for {} s ago already", .0.as_secs())]
    TooSoon(Duration),
    /// There was one, whoever asked for it.
    #[error("its last failover was {} s ago", .0.as_secs())]
    FailedOver(Duration),
    /// What an earlier vipd may have asked for just before is not known.
    #[error("vipd was restarted {} s ago, and may have asked for a failover before", .0.as_secs())]
    Restarted(Duration),
    /// A Sentinel has found it down: its failover and one that is asked for would collide.
    #[error("a Sentinel has noticed it itself")]
    Noticed,
    /// A Sentinel is in TILT.
    #[error("a Sentinel is in TILT")]
    Tilt,
    /// Too few Sentinels answer.
    #[error("no majority of the Sentinels answers")]
    Minority,
    /// No replica can bear witness.
    #[error("no replica was connected to it until the end and can be asked now")]
    NoReplica,
    /// Sentinel may promote it, and what it has is old.
    #[error("the replica {0} may be promoted, and was not connected to it until the end")]
    Stale(SocketAddr),
    /// It is vipd that is refused, not everybody.
    #[error("the replica {0} is still connected to it")]
    Contradicted(SocketAddr),
    /// On its own host, its port has a listener.
    #[error("somebody listens on {0}: something rejects connections to it")]
    Listening(SocketAddr),
    /// What is known can't be completed: the host could not be asked who listens.
    #[error("it can't be found out who listens on {0}: {1}")]
    Unknown(SocketAddr, String),
    /// A Sentinel was not asked, or said no.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer from the Sentinels yet.
    #[error("the Sentinels have not answered in time")]
    Unanswered,
}
