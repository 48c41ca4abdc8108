//! The real nodes, Sentinels and driver.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Value, pipe};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::nodes::{Nodes, nth};
use super::record::{Owed, Record};
use super::site::{Ask, Lost, NodeFacts, Priorities, Site, View};
use crate::config::{Config, Endpoint};
use crate::connect::{Dialer, Error, Phase, SetupError, checked, info_field, text};
use crate::model::MasterId;
use crate::order::{self, Accepted, Manner, Orders, Ready, Refusal};
use crate::redis_node::{Role, reply};
use crate::resolve::Resolver;
use crate::sentinel::{self, Inspection};

/// The way to the driver.
#[derive(Debug)]
pub struct Line {
    /// Which master it is about.
    pub master: MasterId,
    /// To the driver.
    pub asks: mpsc::Sender<Ask>,
    /// From the driver.
    pub view: watch::Receiver<View>,
}

/// Everybody, by the network.
pub struct Remote {
    name: String,
    orders: Orders,
    endpoints: Vec<Endpoint>,
    sentinels: Dialer,
    nodes: Nodes,
    /// Whom vipd is, to the nodes.
    user: String,
    resolver: Resolver,
    record: Arc<Record>,
    line: Line,
}

impl Remote {
    /// For the master of this name.
    ///
    /// # Errors
    ///
    /// A password file or a TLS file can't be used.
    pub fn new(
        config: &Config,
        name: &str,
        record: Arc<Record>,
        line: Line,
    ) -> Result<Self, SetupError> {
        // Whatever it must know is looked up while the Sentinels are asked, before anybody waits.
        let resolver = Resolver::default();
        Ok(Self {
            name: name.to_owned(),
            orders: Orders::new(config, resolver.clone())?,
            endpoints: config.sentinel.endpoints.clone(),
            sentinels: Dialer::new(&config.sentinel.login, sentinel::DEADLINES)?,
            nodes: Nodes::new(&config.redis.login, resolver.clone())?,
            user: config.redis.login.username.clone().unwrap_or_else(|| "default".to_owned()),
            resolver,
            record,
            line,
        })
    }
}

impl Priorities for Remote {
    async fn priority(&self, node: SocketAddr) -> Result<u32, Error> {
        self.nodes.priority(node).await
    }

    async fn set_priority(
        &self,
        node: SocketAddr,
        priority: u32,
        lasting: bool,
    ) -> Result<(), Error> {
        self.nodes.set_priority(node, priority, lasting).await
    }
}

impl Site for Remote {
    async fn ready(&self, node: SocketAddr) -> Result<Ready, Refusal> {
        order::preconditions(&self.orders, &self.name, node).await
    }

    async fn sentinels(&self, within: Duration) -> Vec<Inspection> {
        let names = &[self.name.as_str()];
        let ask = |endpoint| async move {
            let asked = sentinel::inspect(&self.sentinels, &self.resolver, endpoint, names);
            timeout(within, asked).await.unwrap_or_else(|_| Inspection {
                endpoint: endpoint.clone(),
                addr: None,
                answer: Err(Error::Timeout { during: Phase::Answer, after: within }),
            })
        };
        join_all(self.endpoints.iter().map(ask)).await
    }

    async fn inspect(&self, node: SocketAddr) -> Result<NodeFacts, Error> {
        let mut questions = pipe();
        questions.cmd("ROLE").cmd("INFO").arg("server");
        let answers = self.nodes.send(node, &questions).await?;
        // INFO may be forbidden.
        let info = answers.get(1).and_then(text).unwrap_or_default();
        let version = info_field(info, "redis_version").unwrap_or_default().to_owned();
        Ok(NodeFacts { role: reply::role(&nth(answers, 0)?)?, version })
    }

    async fn may_pause(&self, node: SocketAddr) -> Result<(), Error> {
        let mut questions = pipe();
        let needed = [&["PAUSE", "0", "WRITE"][..], &["UNPAUSE"], &["KILL", "ID", "0"], &["LIST"]];
        for command in needed {
            questions.cmd("ACL").arg("DRYRUN").arg(&self.user).arg("CLIENT").arg(command);
        }
        // There is no such client.
        questions.cmd("CLIENT").arg(&["KILL", "ID", "0"]);
        let mut answers = self.nodes.send(node, &questions).await?;
        if let Some(Err(error @ Error::NoPerm(_))) = answers.pop().map(checked) {
            return Err(error);
        }
        for answer in answers {
            match permitted(checked(answer)) {
                Permission::Given => {}
                Permission::Lacking(error) => return Err(error),
                // Then a pause that vipd may not begin is refused, and one that it may not end
                // ends by itself.
                Permission::Unknown => return Ok(()),
                Permission::Old => return self.probe(node).await,
            }
        }
        Ok(())
    }

    async fn pause(&self, node: SocketAddr, length: Duration) -> Result<u64, Error> {
        let mut commands = pipe();
        commands.cmd("CLIENT").arg("PAUSE").arg(length.as_millis().to_string()).arg("WRITE");
        commands.cmd("ROLE");
        let answers = self.nodes.send(node, &commands).await?;
        nth(answers.clone(), 0)?;
        // Whatever goes wrong from here on, it is paused: no refusal.
        let role = nth(answers, 1).and_then(|answer| reply::role(&answer));
        match role.map_err(|error| Error::Protocol(error.to_string()))? {
            Role::Master { offset, .. } => Ok(offset),
            Role::Replica { .. } | Role::Sentinel => {
                Err(Error::Protocol("it is no master any more".into()))
            }
        }
    }

    async fn unpause(&self, node: SocketAddr) -> Result<(), Error> {
        self.nodes.one(node, &["CLIENT", "UNPAUSE"]).await.map(drop)
    }

    async fn kill_clients(&self, node: SocketAddr) -> Result<(), Error> {
        // Whoever comes while others are cut off is found the next time.
        for _ in 0..KILLS {
            let list = self.nodes.one(node, &["CLIENT", "LIST", "TYPE", "normal"]).await?;
            let ids = strangers(text(&list).unwrap_or_default());
            if ids.is_empty() {
                return Ok(());
            }
            let mut commands = pipe();
            for id in ids {
                commands.cmd("CLIENT").arg("KILL").arg("ID").arg(id);
            }
            for answer in self.nodes.send(node, &commands).await? {
                checked(answer)?;
            }
        }
        Ok(())
    }

    async fn role(&self, node: SocketAddr) -> Result<Role, Error> {
        reply::role(&self.nodes.one(node, &["ROLE"]).await?)
    }

    fn owed(&self) -> Vec<Owed> {
        self.record.owed()
    }

    fn owe(&self, owed: &[Owed]) -> io::Result<()> {
        self.record.owe(owed)
    }

    fn settled(&self, node: SocketAddr) {
        self.record.settled(node);
    }

    /// The commands are those of `sentinelSendSlaveOf` in sentinel.c, but for whom they cut off.
    async fn demote(&self, node: SocketAddr, of: SocketAddr) -> Result<(), Error> {
        let host = self.resolver.name_of(of.ip()).unwrap_or_else(|| of.ip().to_string());
        self.nodes.one(node, &["REPLICAOF", &host, &of.port().to_string()]).await?;
        // Courtesies: it is a replica already.
        let _ = self.nodes.one(node, &["CONFIG", "REWRITE"]).await;
        let _ = self.kill_clients(node).await;
        let _ = self.nodes.one(node, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        Ok(())
    }

    async fn order(&self, node: SocketAddr) -> Result<Accepted, Refusal> {
        order::failover(&self.orders, &self.name, node, Manner::Coordinated).await
    }

    async fn park(&self, limit: Duration) -> Result<(), Lost> {
        let (done, parked) = oneshot::channel();
        let master = self.line.master;
        self.line.asks.send(Ask::Park { master, limit, done }).await.map_err(|_| Lost)?;
        parked.await.map_err(|_| Lost)
    }

    fn taken(&self, sentinel: &Endpoint) {
        let ask = Ask::Taken { master: self.line.master, sentinel: sentinel.clone() };
        // As below.
        let _ = self.line.asks.try_send(ask);
    }

    fn cancel(&self) {
        // A driver that takes no more questions has stopped, and parks nobody. The queue has room
        // for everything that one switchover asks.
        let _ = self.line.asks.try_send(Ask::Cancel { master: self.line.master });
    }

    fn view(&self) -> watch::Receiver<View> {
        self.line.view.clone()
    }
}

impl Remote {
    /// For Redis 6, which knows no DRYRUN: a pause that ends at once shortens no other one. Nobody
    /// is asked whether it may be ended: that would end an operator's own.
    async fn probe(&self, node: SocketAddr) -> Result<(), Error> {
        self.nodes.one(node, &["CLIENT", "PAUSE", "0", "WRITE"]).await.map(drop)
    }
}

/// Rounds of cutting clients off.
const KILLS: usize = 3;

/// The clients in an answer to CLIENT LIST that are no Sentinels and no vipd, by id. A Sentinel that is
/// cut off comes back after a second at the soonest, and keeps count over a change of master: with a
/// shorter `down-after-milliseconds` it would find the new one down.
fn strangers(list: &str) -> Vec<&str> {
    let is_stranger = |client: &&str| {
        let name = field(client, "name=").unwrap_or_default();
        !name.starts_with("sentinel-") && name != "vipd"
    };
    list.lines().filter(is_stranger).filter_map(|client| field(client, "id=")).collect()
}

fn field<'a>(client: &'a str, key: &str) -> Option<&'a str> {
    client.split(' ').find_map(|field| field.strip_prefix(key))
}

/// What ACL DRYRUN says.
#[derive(PartialEq, Debug)]
enum Permission {
    Given,
    Lacking(Error),
    /// It may not be asked.
    Unknown,
    /// There is no such command.
    Old,
}

fn permitted(answer: Result<Value, Error>) -> Permission {
    match answer {
        Ok(Value::Okay) => Permission::Given,
        Ok(value) => match text(&value) {
            Some("OK") => Permission::Given,
            Some(why) => Permission::Lacking(Error::NoPerm(why.to_owned())),
            None => Permission::Unknown,
        },
        Err(Error::NoPerm(_)) => Permission::Unknown,
        Err(_) => Permission::Old,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_and_vipds_are_no_strangers() {
        let list = "id=3 addr=198.18.0.102:4000 fd=8 name=sentinel-0a1b2c3d-cmd age=9 flags=N\n\
                    id=4 addr=198.18.0.10:4001 fd=9 name= age=1 flags=b\n\
                    id=5 addr=198.18.0.50:4002 fd=10 name=vipd age=9 flags=N\n\
                    id=17 addr=198.18.0.10:4003 fd=11 name=my-sentinel-app age=9 flags=N\n";
        assert_eq!(strangers(list), ["4", "17"]);
        assert_eq!(strangers(""), [""; 0]);
    }

    #[test]
    fn a_permission_that_lacks_is_told_from_one_that_can_not_be_asked_for() {
        assert_eq!(permitted(Ok(Value::Okay)), Permission::Given);
        let lacks = "User default has no permissions to run the 'client|unpause' command";
        let answer = Value::BulkString(lacks.into());
        assert_eq!(permitted(Ok(answer)), Permission::Lacking(Error::NoPerm(lacks.to_owned())));
        assert_eq!(permitted(Err(Error::NoPerm("acl|dryrun".into()))), Permission::Unknown);
        let old = "Unknown subcommand or wrong number of arguments for 'DRYRUN'";
        assert_eq!(permitted(Err(Error::Server(old.into()))), Permission::Old);
    }
}
