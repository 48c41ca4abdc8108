//! What is told of a switchover: its steps, and how it failed.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use super::site::Lost;
use super::{Step, micros};
use crate::control::Response;
use crate::order::Refusal;

/// Tells whoever asked, and the log.
#[derive(Debug)]
pub struct Progress {
    master: String,
    begun: Instant,
    heard: mpsc::Sender<Response>,
}

impl Progress {
    /// Begins now.
    pub fn new(master: &str, heard: mpsc::Sender<Response>) -> Self {
        Self { master: master.to_owned(), begun: Instant::now(), heard }
    }

    pub(super) fn step(&self, what: impl fmt::Display) {
        let what = what.to_string();
        info!(master = self.master, "switchover: {what}");
        let after_us = micros(self.begun.elapsed());
        // Whoever asked may be gone, or slow.
        let _ = self.heard.try_send(Response::Step(Step { after_us, what }));
    }
}

/// Why it did not come about, and what could not be undone.
#[derive(Debug)]
pub struct Failure {
    pub(super) why: Why,
    /// A failover was ordered, by whomever.
    pub(super) ordered: bool,
    /// The new master is served all the same.
    pub(super) flipped: bool,
    /// What could not be undone.
    pub(super) left: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)?;
        if self.flipped {
            f.write_str("; the new master is served")?;
        } else if self.ordered {
            f.write_str("; a Sentinel may still promote a replica: see `vipd status`")?;
        } else if self.left.is_empty() {
            f.write_str("; everything is as it was")?;
        }
        self.left.iter().try_for_each(|left| write!(f, "; {left}"))
    }
}

/// Why it did not come about.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("the master is not served, or a failover is in progress: see `vipd status`")]
    NotServing,
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error("refused: {}", .0.join("; "))]
    Checks(Vec<String>),
    #[error("{0} {1}")]
    Node(SocketAddr, String),
    #[error("after {} s not every Sentinel prefers {to}", super::procedure::HINTING.as_secs())]
    NotPreferred { to: SocketAddr },
    #[error("not caught up within {} ms: {}", within.as_millis(), list(.lagging))]
    Lagging { within: Duration, lagging: Vec<Lag> },
    #[error("nothing was changed, for what would be owed can't be noted: {0}")]
    NotNoted(String),
    #[error("the clients of the VIP could not be parked: another failover came in between")]
    NotParked,
    #[error("another failover came in between")]
    Overtaken,
    #[error("the failover was aborted, or nobody was selected")]
    Aborted,
    #[error("nobody was promoted within {} s", super::procedure::FLIP.as_secs())]
    NotPromoted,
    #[error(transparent)]
    Stopping(#[from] Lost),
}

/// A replica that is behind.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Lag {
    pub node: SocketAddr,
    pub why: String,
}

fn list(lagging: &[Lag]) -> String {
    let each: Vec<_> = lagging.iter().map(|it| format!("{} {}", it.node, it.why)).collect();
    each.join(", ")
}
