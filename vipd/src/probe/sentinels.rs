//! The Sentinels of `--sentinel`: which master, who its nodes are, and what they publish.

use anyhow::{Result, bail};

use super::clients::Addresses;
use super::moment::Moment;
use crate::config::{Endpoint, Login};

/// Sentinels that know a master.
#[derive(Clone, Debug)]
pub struct Group {
    master: String,
}

/// The Sentinels' events, while they come. Nothing is followed any more when this is dropped.
#[derive(Debug)]
pub struct SentinelMarks {}

impl Group {
    /// Asks all of them; without a name the only master that they know is taken.
    ///
    /// # Errors
    ///
    /// None answers, they don't know the name, or know several.
    pub async fn find(
        _endpoints: &[Endpoint],
        _login: &Login,
        _master: Option<&str>,
    ) -> Result<Self> {
        bail!("not yet")
    }

    /// Sentinel's name of the master.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// Where its nodes listen, as far as the Sentinels say; takes some seconds at most. Ask before a
    /// run and after it, and put both together: a node that starts again has a new `run_id`.
    pub async fn nodes(&self) -> Addresses {
        Addresses::new()
    }

    /// Follows all of them; returns when each is subscribed to or has failed for the first time.
    pub async fn follow(&self) -> SentinelMarks {
        SentinelMarks {}
    }
}

impl SentinelMarks {
    /// What they published, in order of time, and notes about those that were not heard.
    pub async fn stop(self) -> (Vec<Moment>, Vec<String>) {
        (vec![], vec![])
    }
}
