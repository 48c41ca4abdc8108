//! The real nodes, Sentinels and driver.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Pipeline, Value, pipe};
use tokio::sync::{mpsc, oneshot, watch};

use super::site::{Ask, Lost, NodeFacts, Site, View};
use crate::config::{Config, Endpoint};
use crate::connect::{Deadlines, Dialer, Error, Link, SetupError, checked, info_field, text};
use crate::model::MasterId;
use crate::order::{self, Accepted, Manner, Orders, Ready, Refusal};
use crate::redis_node::{Role, reply};
use crate::resolve::Resolver;
use crate::sentinel::{self, Inspection};

/// How long a node may take. Short: clients wait meanwhile.
const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_millis(500),
    login: Duration::from_millis(500),
    answer: Duration::from_millis(1000),
};

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

/// Everybody, by the network. Holds one connection to each node.
pub struct Remote {
    name: String,
    orders: Orders,
    endpoints: Vec<Endpoint>,
    sentinels: Dialer,
    nodes: Dialer,
    resolver: Resolver,
    links: Mutex<HashMap<SocketAddr, Link>>,
    line: Line,
}

impl Remote {
    /// For the master of this name.
    ///
    /// # Errors
    ///
    /// A password file or a TLS file can't be used.
    pub fn new(config: &Config, name: &str, line: Line) -> Result<Self, SetupError> {
        // Whatever it must know is looked up while the Sentinels are asked, before anybody waits.
        let resolver = Resolver::default();
        Ok(Self {
            name: name.to_owned(),
            orders: Orders::new(config, resolver.clone())?,
            endpoints: config.sentinel.endpoints.clone(),
            sentinels: Dialer::new(&config.sentinel.login, sentinel::DEADLINES)?,
            nodes: Dialer::new(&config.redis.login, DEADLINES)?,
            resolver,
            links: Mutex::default(),
            line,
        })
    }

    /// The answers to several commands, by the connection that is kept, or a new one if that is
    /// lost.
    async fn send(&self, node: SocketAddr, commands: &Pipeline) -> Result<Vec<Value>, Error> {
        let kept = self.links().get(&node).map(|link| link.requests().clone());
        if let Some(requests) = kept {
            match requests.send(commands).await {
                // A promotion cuts it, and so does a client kill of another's.
                Err(Error::Closed(_)) => {}
                answered => return answered,
            }
        }
        let ip = node.ip();
        let host = self.resolver.name_of(ip).unwrap_or_else(|| ip.to_string());
        let link = self.nodes.requests(&host, node).await?;
        let requests = link.requests().clone();
        self.links().insert(node, link);
        requests.send(commands).await
    }

    async fn one(&self, node: SocketAddr, words: &[&str]) -> Result<Value, Error> {
        let mut commands = pipe();
        commands.cmd(words[0]).arg(&words[1..]);
        nth(self.send(node, &commands).await?, 0)
    }

    fn links(&self) -> MutexGuard<'_, HashMap<SocketAddr, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site for Remote {
    async fn ready(&self, node: SocketAddr) -> Result<Ready, Refusal> {
        order::preconditions(&self.orders, &self.name, node).await
    }

    async fn sentinels(&self) -> Vec<Inspection> {
        let names = [self.name.as_str()];
        let ask = |endpoint| sentinel::inspect(&self.sentinels, &self.resolver, endpoint, &names);
        join_all(self.endpoints.iter().map(ask)).await
    }

    async fn inspect(&self, node: SocketAddr) -> Result<NodeFacts, Error> {
        let mut questions = pipe();
        questions.cmd("ROLE").cmd("INFO").arg("server");
        let answers = self.send(node, &questions).await?;
        // INFO may be forbidden.
        let info = answers.get(1).and_then(text).unwrap_or_default();
        let version = info_field(info, "redis_version").unwrap_or_default().to_owned();
        Ok(NodeFacts { role: reply::role(&nth(answers, 0)?)?, version })
    }

    async fn may_pause(&self, node: SocketAddr) -> Result<(), Error> {
        let mut harmless = pipe();
        harmless.cmd("CLIENT").arg(&["PAUSE", "0", "WRITE"]);
        // There is no such client.
        harmless.cmd("CLIENT").arg(&["KILL", "ID", "0"]);
        let answers = self.send(node, &harmless).await?;
        match nth(answers.clone(), 1) {
            Err(error @ Error::NoPerm(_)) => Err(error),
            _ => nth(answers, 0).map(drop),
        }
    }

    async fn pause(&self, node: SocketAddr, length: Duration) -> Result<u64, Error> {
        let mut commands = pipe();
        commands.cmd("CLIENT").arg("PAUSE").arg(length.as_millis().to_string()).arg("WRITE");
        commands.cmd("ROLE");
        let answers = self.send(node, &commands).await?;
        nth(answers.clone(), 0)?;
        match reply::role(&nth(answers, 1)?)? {
            Role::Master { offset, .. } => Ok(offset),
            Role::Replica { .. } | Role::Sentinel => {
                Err(Error::Protocol("it is no master any more".into()))
            }
        }
    }

    async fn unpause(&self, node: SocketAddr) -> Result<(), Error> {
        self.one(node, &["CLIENT", "UNPAUSE"]).await.map(drop)
    }

    async fn kill_clients(&self, node: SocketAddr) -> Result<(), Error> {
        self.one(node, &["CLIENT", "KILL", "TYPE", "normal"]).await.map(drop)
    }

    async fn role(&self, node: SocketAddr) -> Result<Role, Error> {
        reply::role(&self.one(node, &["ROLE"]).await?)
    }

    async fn priority(&self, node: SocketAddr) -> Result<u32, Error> {
        let answer = self.one(node, &["CONFIG", "GET", "replica-priority"]).await?;
        let value = match &answer {
            Value::Array(pair) => pair.get(1).and_then(text).and_then(|it| it.parse().ok()),
            _ => None,
        };
        value.ok_or_else(|| Error::Protocol(format!("unexpected answer to CONFIG GET: {answer:?}")))
    }

    async fn set_priority(
        &self,
        node: SocketAddr,
        priority: u32,
        lasting: bool,
    ) -> Result<(), Error> {
        self.one(node, &["CONFIG", "SET", "replica-priority", &priority.to_string()]).await?;
        if lasting {
            // It may have no file; then there is nothing in it either.
            let _ = self.one(node, &["CONFIG", "REWRITE"]).await;
        }
        Ok(())
    }

    /// The commands are those of `sentinelSendSlaveOf` in sentinel.c.
    async fn demote(&self, node: SocketAddr, of: SocketAddr) -> Result<(), Error> {
        let host = self.resolver.name_of(of.ip()).unwrap_or_else(|| of.ip().to_string());
        self.one(node, &["REPLICAOF", &host, &of.port().to_string()]).await?;
        // Courtesies: it is a replica already.
        let _ = self.one(node, &["CONFIG", "REWRITE"]).await;
        let _ = self.one(node, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        let _ = self.one(node, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
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

    fn cancel(&self) {
        // A driver that takes no more questions has stopped, and parks nobody. The queue has room
        // for everything that one switchover asks.
        let _ = self.line.asks.try_send(Ask::Cancel { master: self.line.master });
    }

    fn view(&self) -> watch::Receiver<View> {
        self.line.view.clone()
    }
}

fn nth(mut answers: Vec<Value>, index: usize) -> Result<Value, Error> {
    if index >= answers.len() {
        return Err(Error::Protocol("an answer is missing".into()));
    }
    checked(answers.swap_remove(index))
}
