//! One question to one Redis node, for `vipd check`.

use std::net::SocketAddr;

use redis::pipe;

use super::{Replication, Role, reply};
use crate::connect::{Dialer, Error, checked, info_field, text};
use crate::resolve::Resolver;

/// What a Redis node that answers says.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeInspection {
    /// Its role.
    pub role: Role,
    /// Histories and lag; `None` if INFO is forbidden, which `run` can do without.
    pub replication: Option<Replication>,
    /// `run_id`; empty if INFO is forbidden.
    pub run_id: String,
    /// `redis_version`; empty if INFO is forbidden.
    pub version: String,
}

/// Asks one node. Takes some seconds at most. `resolver` is the one that found the node.
pub async fn inspect(
    dialer: &Dialer,
    resolver: &Resolver,
    node: SocketAddr,
) -> Result<NodeInspection, Error> {
    let ip = node.ip();
    let host = resolver.name_of(ip).unwrap_or_else(|| ip.to_string());
    let link = dialer.requests(&host, node).await?;
    let mut questions = pipe();
    questions.cmd("ROLE").cmd("INFO");
    let mut answers = link.requests().send(&questions).await?.into_iter().map(checked);
    let role = match answers.next() {
        Some(value) => reply::role(&value?)?,
        None => return Err(Error::Protocol("an answer is missing".into())),
    };
    let info = answers.next().and_then(Result::ok);
    let info = info.as_ref().and_then(text);
    let field = |key| info.and_then(|info| info_field(info, key)).unwrap_or_default().to_owned();
    Ok(NodeInspection {
        role,
        replication: info.map(reply::replication),
        run_id: field("run_id"),
        version: field("redis_version"),
    })
}
