//! The Redis nodes, by the network.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Pipeline, Value, pipe};

use super::site::Priorities;
use crate::config::Login;
use crate::connect::{Deadlines, Dialer, Error, Link, SetupError, checked, text};
use crate::resolve::Resolver;

/// How long a node may take. Short: clients wait meanwhile.
const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_millis(500),
    login: Duration::from_millis(500),
    answer: Duration::from_millis(1000),
};

/// Holds one connection to each node.
pub struct Nodes {
    dialer: Dialer,
    resolver: Resolver,
    links: Mutex<HashMap<SocketAddr, Link>>,
}

impl Nodes {
    /// `resolver` knows the nodes' names, if they have any.
    ///
    /// # Errors
    ///
    /// A password file or a TLS file can't be used.
    pub fn new(login: &Login, resolver: Resolver) -> Result<Self, SetupError> {
        Ok(Self { dialer: Dialer::new(login, DEADLINES)?, resolver, links: Mutex::default() })
    }

    /// The answers to several commands, by the connection that is kept, or a new one if that is
    /// lost.
    pub(super) async fn send(
        &self,
        node: SocketAddr,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, Error> {
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
        let link = self.dialer.requests(&host, node).await?;
        let requests = link.requests().clone();
        self.links().insert(node, link);
        requests.send(commands).await
    }

    pub(super) async fn one(&self, node: SocketAddr, words: &[&str]) -> Result<Value, Error> {
        let mut commands = pipe();
        commands.cmd(words[0]).arg(&words[1..]);
        nth(self.send(node, &commands).await?, 0)
    }

    fn links(&self) -> MutexGuard<'_, HashMap<SocketAddr, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Priorities for Nodes {
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
}

/// One of several answers.
pub(super) fn nth(mut answers: Vec<Value>, index: usize) -> Result<Value, Error> {
    if index >= answers.len() {
        return Err(Error::Protocol("an answer is missing".into()));
    }
    checked(answers.swap_remove(index))
}
