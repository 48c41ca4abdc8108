//! What a switchover needs of the world: the seam at which the tests fake it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::record::Owed;
use crate::clock::Monotonic;
use crate::config::Endpoint;
use crate::connect::Error;
use crate::model::MasterId;
use crate::order::{Accepted, Ready, Refusal};
use crate::redis_node::Role;
use crate::sentinel::Inspection;

/// What the driver says of one master now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct View {
    /// Whom packets go to.
    pub serves: Option<SocketAddr>,
    /// That one is confirmed, and nobody else is known or looked for.
    pub steady: bool,
    /// Nobody is served for now.
    pub parked: bool,
    /// When packets began to go to `serves`.
    pub since: Monotonic,
    /// The first packet that did.
    pub first_packet: Option<Monotonic>,
}

/// The driver doesn't go along: it is about to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("vipd is stopping")]
pub struct Lost;

/// What the driver is asked.
#[derive(Debug)]
pub enum Ask {
    /// A failover is about to be ordered: hold the clients back, for so long at most.
    Park {
        /// Of which name.
        master: MasterId,
        /// Unless a leader selects a replica meanwhile.
        limit: Duration,
        /// It is done.
        done: oneshot::Sender<()>,
    },
    /// A Sentinel has taken the order: if it gives up, the park ends.
    Taken {
        /// Of which name.
        master: MasterId,
        /// Which one.
        sentinel: Endpoint,
    },
    /// It was not ordered after all.
    Cancel {
        /// Of which name.
        master: MasterId,
    },
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// Its role and offset.
    pub role: Role,
    /// `redis_version`; empty if INFO is forbidden.
    pub version: String,
}

/// Who can be asked for `replica-priority`.
pub trait Priorities: Sync {
    /// Reads it.
    fn priority(&self, node: SocketAddr) -> impl Future<Output = Result<u32, Error>> + Send;
    /// Sets it. With `lasting` in the configuration file as well, if there is one.
    fn set_priority(
        &self,
        node: SocketAddr,
        priority: u32,
        lasting: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Everybody whom a switchover talks to. Every call ends within a few seconds.
pub trait Site: Priorities {
    /// Whether a Sentinel would take the order now.
    fn ready(&self, node: SocketAddr) -> impl Future<Output = Result<Ready, Refusal>> + Send;
    /// What each configured Sentinel says within that time.
    fn sentinels(&self, within: Duration) -> impl Future<Output = Vec<Inspection>> + Send;
    /// Who a node is. The connection is kept for what follows.
    fn inspect(&self, node: SocketAddr) -> impl Future<Output = Result<NodeFacts, Error>> + Send;
    /// Whether `node` lets vipd pause it; pauses nobody.
    fn may_pause(&self, node: SocketAddr) -> impl Future<Output = Result<(), Error>> + Send;
    /// Holds the writers of `node` back; returns its offset, which no write raises any more.
    fn pause(
        &self,
        node: SocketAddr,
        length: Duration,
    ) -> impl Future<Output = Result<u64, Error>> + Send;
    /// Lets them go on.
    fn unpause(&self, node: SocketAddr) -> impl Future<Output = Result<(), Error>> + Send;
    /// Cuts all clients of `node` off.
    fn kill_clients(&self, node: SocketAddr) -> impl Future<Output = Result<(), Error>> + Send;
    /// Asks `node` for ROLE.
    fn role(&self, node: SocketAddr) -> impl Future<Output = Result<Role, Error>> + Send;
    /// Priorities that were changed and not set back: by this switchover, or before.
    fn owed(&self) -> Vec<Owed>;
    /// Writes down that these are about to be changed, for the vipd after a crash.
    fn owe(&self, owed: &[Owed]) -> io::Result<()>;
    /// The priority of `node` is as it was.
    fn settled(&self, node: SocketAddr);
    /// Makes `node` a replica of `of`, as Sentinel would.
    fn demote(
        &self,
        node: SocketAddr,
        of: SocketAddr,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Orders the failover.
    fn order(&self, node: SocketAddr) -> impl Future<Output = Result<Accepted, Refusal>> + Send;
    /// Tells the driver that it will be ordered.
    fn park(&self, limit: Duration) -> impl Future<Output = Result<(), Lost>> + Send;
    /// Tells the driver who took the order.
    fn taken(&self, sentinel: &Endpoint);
    /// Tells the driver that it was not.
    fn cancel(&self);
    /// What the driver says.
    fn view(&self) -> watch::Receiver<View>;
}
