//! How a client finds the node.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::pipe;
use tokio::time::timeout;

use super::connection::{Commands, Connection};
use super::failure::Failure;
use crate::config::{Endpoint, Login};
use crate::connect::{Deadlines, Dialer, Error, Phase, SetupError, info_field};
use crate::probe::sentinels::Group;
use crate::sentinel::reply::{self, Named};

/// Where clients connect to. Cheap to clone; clones share what they know of the Sentinels.
#[derive(Clone, Debug)]
pub struct Target {
    way: Way,
    nodes: Dialer,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Way {
    Fixed { host: String, addr: SocketAddr },
    Sentinels(Arc<Asking>),
}

/// As clients do that know Sentinel.
#[derive(Debug)]
struct Asking {
    group: Group,
    /// The one that answered last is asked first.
    order: Mutex<Vec<Endpoint>>,
}

/// A connection, and who is at its other end.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) node: Identity,
}

/// Who a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    /// Another one for each start of a Redis.
    pub(super) run_id: String,
    /// By its own word.
    pub(super) is_master: bool,
}

impl Target {
    /// A fixed address: a VIP, a proxy, a node. `addr` is what `endpoint` resolves to.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn fixed(
        endpoint: &Endpoint,
        addr: SocketAddr,
        login: &Login,
        timeout: Duration,
    ) -> Result<Self, SetupError> {
        let way = Way::Fixed { host: endpoint.host.clone(), addr };
        Ok(Self { way, nodes: Dialer::new(login, deadlines(timeout))?, timeout })
    }

    /// No fixed address: before every connection the Sentinels are asked, one after another, and the
    /// first that answers is asked first the next time. The node that it names must call itself
    /// master.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn sentinels(group: &Group, login: &Login, timeout: Duration) -> Result<Self, SetupError> {
        let order = Mutex::new(group.endpoints().to_vec());
        let way = Way::Sentinels(Arc::new(Asking { group: group.clone(), order }));
        Ok(Self { way, nodes: Dialer::new(login, deadlines(timeout))?, timeout })
    }

    /// The same with another time-out.
    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        let nodes = self.nodes.with_deadlines(deadlines(timeout));
        Self { way: self.way.clone(), nodes, timeout }
    }

    /// A connection to the node, logged in, within the time-out in all.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        self.in_time(self.reach()).await
    }

    /// The same, and who the node is; in all within the time-out as well.
    pub(super) async fn open(&self) -> Result<Opened, Failure> {
        self.in_time(async {
            let mut connection = self.reach().await?;
            let node = identify(&mut connection).await?;
            Ok(Opened { connection, node })
        })
        .await
    }

    async fn reach(&self) -> Result<Connection, Failure> {
        match &self.way {
            Way::Fixed { host, addr } => Ok(Connection::new(self.nodes.plain(host, *addr).await?)),
            Way::Sentinels(asking) => {
                let Named { host, port } = asking.ask(self.timeout).await?;
                let addr = asking.group.resolver().resolve(&host, port).await?;
                let mut connection = Connection::new(self.nodes.plain(&host, addr).await?);
                if !identify(&mut connection).await?.is_master {
                    let says = format!("the Sentinels name {addr}, which is no master");
                    return Err(Failure::refused("no master", says));
                }
                Ok(connection)
            }
        }
    }

    /// Bounds `work` by the time-out.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = || Err(Failure::timeout(Phase::Connect, self.timeout));
        timeout(self.timeout, work).await.unwrap_or_else(|_| late())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Fixed { addr, .. } => addr.fmt(f),
            Way::Sentinels(asking) => write!(f, "{} by its Sentinels", asking.group.master()),
        }
    }
}

impl Asking {
    /// Where the master is. Each Sentinel gets its share of the time, so that one that is silent
    /// leaves some for the others and for the node.
    async fn ask(&self, time: Duration) -> Result<Named, Failure> {
        let order = self.order().clone();
        let share = time / (order.len() as u32 + 1);
        let dialer = self.group.dialer().with_deadlines(deadlines(share));
        let mut failure = Failure::refused("no sentinel", "there is no Sentinel to ask");
        for (place, sentinel) in order.iter().enumerate() {
            let asked = timeout(share, self.ask_one(&dialer, sentinel)).await;
            match asked.unwrap_or_else(|_| Err(Failure::timeout(Phase::Answer, share))) {
                Ok(node) => {
                    self.prefer(&order[..place], sentinel);
                    return Ok(node);
                }
                Err(why) => {
                    let says = format!("no Sentinel answers: {sentinel} {}", why.says);
                    failure = Failure { kind: "no sentinel".into(), says, ..why };
                }
            }
        }
        Err(failure)
    }

    async fn ask_one(&self, dialer: &Dialer, sentinel: &Endpoint) -> Result<Named, Failure> {
        let Endpoint { host, port } = sentinel;
        let addr = self.group.resolver().resolve(host, *port).await?;
        let link = dialer.requests(host, addr).await?;
        let mut question = pipe();
        question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(self.group.master());
        let answer = link.requests().send(&question).await?.pop();
        let named = reply::named(crate::connect::checked(answer.unwrap_or(redis::Value::Nil))?)?;
        let unknown = || Error::Protocol(format!("knows no master {:?}", self.group.master()));
        Ok(named.ok_or_else(unknown)?)
    }

    /// Those that failed are asked last, the one that answered first.
    fn prefer(&self, failed: &[Endpoint], answered: &Endpoint) {
        let mut order = self.order();
        order.sort_by_key(|it| if it == answered { 0 } else { 1 + u8::from(failed.contains(it)) });
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Vec<Endpoint>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// INFO, for [`identity`].
pub(super) fn who_are_you(commands: Commands) -> Commands {
    commands.add(&["INFO", "server"])
}

/// From the answer to [`who_are_you`].
pub(super) fn run_id(info: &str) -> Result<String, Failure> {
    match info_field(info, "run_id") {
        Some(run_id) if !run_id.is_empty() => Ok(run_id.to_owned()),
        _ => Err(Failure::protocol("INFO names no run_id")),
    }
}

/// Asks who a node is.
pub(super) async fn identify(connection: &mut Connection) -> Result<Identity, Failure> {
    let questions = who_are_you(Commands::default()).add(&["INFO", "replication"]);
    connection.send(&questions).await?;
    let run_id = run_id(&connection.text().await?)?;
    let replication = connection.text().await?;
    Ok(Identity { run_id, is_master: info_field(&replication, "role") == Some("master") })
}

/// One time-out for each step; [`Target::in_time`] bounds them together.
fn deadlines(timeout: Duration) -> Deadlines {
    Deadlines { connect: timeout, login: timeout, answer: timeout }
}
