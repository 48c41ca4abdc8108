//! The layers of real clients: they log in, and do what clients do.
//!
//! [`Writers`] (layer `redis`) write increasing numbers and read them back at the end; [`Idle`]
//! (layer `idle`) only wait. Both reach the node by a [`Target`]: an address, or what the Sentinels
//! say. A client gives up after one time-out, `--timeout`, on whatever it is doing.
//!
//! Connections are TCP as most clients have it: without Nagle's delay, and without keepalive or
//! TCP_USER_TIMEOUT, so that nobody learns of anything because of the probe's own settings.

mod connection;
mod descriptors;
mod failure;
#[cfg(test)]
mod fake;
mod idle;
mod pace;
mod resp;
mod target;
mod writes;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

pub use self::idle::{Idle, Waited};
pub use self::target::Target;
pub use self::writes::{Writers, Written};

/// What clients there are.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// How they reach the node.
    pub target: Target,
    /// When they give up.
    pub timeout: Duration,
    /// Persistent connections that write …
    pub connections: u32,
    /// … so many times a second, each.
    pub write_rate: u32,
    /// Writes a second that each come on a connection of their own.
    pub fresh_rate: u32,
    /// Connections that only wait.
    pub idle: u32,
}

/// Connections that one probe may have of a kind.
const MAX_CONNECTIONS: u32 = 10_000;
/// Writes a second that one probe may send: beyond that it would measure itself.
const MAX_RATE: u64 = 100_000;

impl ClientSettings {
    /// What is beyond reason.
    fn check(&self) -> Result<()> {
        let Self { timeout, connections, write_rate, fresh_rate, idle, .. } = self;
        let rate = u64::from(*connections) * u64::from(*write_rate) + u64::from(*fresh_rate);
        ensure!(!timeout.is_zero(), "--timeout is zero: no client could ever have an answer");
        ensure!(
            *connections <= MAX_CONNECTIONS && *idle <= MAX_CONNECTIONS,
            "--connections and --idle go up to {MAX_CONNECTIONS}"
        );
        ensure!(
            rate <= MAX_RATE,
            "{rate} writes a second in all (--connections times --write-rate, and --fresh-rate): \
             more than {MAX_RATE} would measure the probe itself"
        );
        Ok(())
    }
}

/// A node for people: where it listens, if that is known, and the beginning of its `run_id`.
fn label(run_id: &str, addresses: &Addresses) -> String {
    let short: String = run_id.chars().take(8).collect();
    match addresses.get(run_id) {
        Some(address) => format!("{address} ({short})"),
        None => short,
    }
}

/// Where nodes listen, `ip:port`, by `run_id`; see [`super::sentinels::Group::nodes`].
pub type Addresses = BTreeMap<String, String>;
