//! The layers of real clients: they log in, and do what clients do.
//!
//! [`Writers`] (layer `redis`) write increasing numbers and read them back at the end; [`Idle`]
//! (layer `idle`) only wait. Both reach the node by a [`Target`]: an address, or what the Sentinels
//! say. A client gives up after one time-out, `--timeout`, on whatever it is doing.
//!
//! Connections are TCP as most clients have it: without Nagle's delay, and without keepalive or
//! TCP_USER_TIMEOUT, so that nobody learns of anything because of the probe's own settings.

mod idle;
mod target;
mod writes;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::idle::{Idle, Waited};
pub use self::target::Target;
pub use self::writes::{Writers, Written};

use super::report::{Layer, LayerName};

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

/// Where nodes listen, `ip:port`, by `run_id`; see [`super::sentinels::Group::nodes`].
pub type Addresses = BTreeMap<String, String>;

/// A layer of which nothing is known yet.
fn blank(name: LayerName) -> Layer {
    Layer {
        name,
        schedule: None,
        fates: BTreeMap::new(),
        errors: BTreeMap::new(),
        lost: 0,
        duplicated: 0,
        blackout: None,
        outages: vec![],
        latency: None,
        wire: None,
        fresh: None,
        lanes: vec![],
        nodes: vec![],
        writes: None,
        waiting: None,
        owners: None,
    }
}
