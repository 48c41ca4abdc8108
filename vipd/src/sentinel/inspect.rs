//! One question to one Sentinel, for `vipd check`.

use std::net::SocketAddr;

use redis::pipe;

use super::reply::{self, Peer, Sandwich};
use super::{Replica, View};
use crate::config::Endpoint;
use crate::connect::{Dialer, Error, checked, info_field, text};
use crate::model::Epoch;
use crate::resolve::Resolver;

/// A sandwich that something slipped into is read again this often.
const TORN_ATTEMPTS: usize = 5;

/// Asked for a failover of a master of this name, a Sentinel says that it has none, or that it does
/// not let vipd ask. A name has no spaces in any configuration.
const NOBODY: &str = "vipd check: nobody";

/// What is found about one Sentinel.
#[derive(Clone, PartialEq, Debug)]
pub struct Inspection {
    /// As configured.
    pub endpoint: Endpoint,
    /// What its name resolves to.
    pub addr: Option<SocketAddr>,
    /// What it says, or why it doesn't.
    pub answer: Result<Answer, Error>,
}

/// What a Sentinel that answers says.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// `SENTINEL MYID`; two endpoints with the same one are the same Sentinel. Empty before 6.2.
    pub run_id: String,
    /// `redis_version`; empty if INFO is forbidden.
    pub version: String,
    /// It is in TILT.
    pub tilt: bool,
    /// Whether it would let vipd ask for a failover.
    pub failover: Result<(), Error>,
    /// One for each name asked about, in that order.
    pub masters: Vec<MasterAnswer>,
}

/// What a Sentinel says about one master name.
#[derive(Clone, PartialEq, Debug)]
pub enum MasterAnswer {
    /// It doesn't know the name.
    Unknown,
    /// It is in the middle of a failover, and its answers do not fit together yet.
    Changing,
    /// It knows it.
    Known(KnownMaster),
}

/// A master that a Sentinel knows.
#[derive(Clone, PartialEq, Debug)]
pub struct KnownMaster {
    /// Where it is, or why its name has no address.
    pub addr: Result<SocketAddr, Error>,
    /// The config-epoch that belongs to the address.
    pub epoch: Epoch,
    /// Quorum, flags and counts.
    pub view: View,
    /// `SENTINEL CKQUORUM`: its text if a failover is possible, else why it is not.
    pub ckquorum: Result<String, Error>,
    /// Those with an address.
    pub replicas: Vec<Replica>,
    /// The other Sentinels that it knows.
    pub sentinels: Vec<Peer>,
}

/// Asks one Sentinel about these master names. Takes some seconds at most.
pub async fn inspect(
    dialer: &Dialer,
    resolver: &Resolver,
    endpoint: &Endpoint,
    masters: &[&str],
) -> Inspection {
    let resolved = resolver.resolve(&endpoint.host, endpoint.port).await;
    let answer = match &resolved {
        Ok(addr) => ask(dialer, resolver, endpoint, *addr, masters).await,
        Err(error) => Err(error.clone()),
    };
    Inspection { endpoint: endpoint.clone(), addr: resolved.ok(), answer }
}

async fn ask(
    dialer: &Dialer,
    resolver: &Resolver,
    endpoint: &Endpoint,
    addr: SocketAddr,
    masters: &[&str],
) -> Result<Answer, Error> {
    // What `run` needs to be allowed as well: a user who may not subscribe would be found out
    // only then.
    let mut subscriptions = dialer.subscriptions(&endpoint.host, addr).await?;
    super::follow::within(subscriptions.psubscribe(&reply::PATTERNS[..])).await?;
    drop(subscriptions);

    let link = dialer.requests(&endpoint.host, addr).await?;
    let requests = link.requests();
    let mut questions = pipe();
    questions.cmd("SENTINEL").arg("MYID").cmd("INFO");
    questions.cmd("SENTINEL").arg("FAILOVER").arg(NOBODY);
    let mut answers = requests.send(&questions).await?;
    let failover = match answers.pop().map(checked) {
        Some(Err(error @ Error::NoPerm(_))) => Err(error),
        Some(_) | None => Ok(()),
    };
    let texts: Vec<String> =
        answers.into_iter().map(|value| text(&value).unwrap_or_default().to_owned()).collect();
    let [run_id, info] = <[String; 2]>::try_from(texts).unwrap_or_default();
    if info_field(&info, "redis_mode").is_some_and(|mode| mode != "sentinel") {
        return Err(Error::Protocol("this is a Redis node, not a Sentinel".into()));
    }

    let mut answer = Answer {
        run_id,
        version: info_field(&info, "redis_version").unwrap_or_default().to_owned(),
        tilt: info_field(&info, "sentinel_tilt") == Some("1"),
        failover,
        masters: Vec::new(),
    };
    for master in masters {
        answer.masters.push(ask_about(requests, resolver, master).await?);
    }
    Ok(answer)
}

async fn ask_about(
    requests: &crate::connect::Requests,
    resolver: &Resolver,
    master: &str,
) -> Result<MasterAnswer, Error> {
    let mut questions = pipe();
    questions.cmd("SENTINEL").arg("MASTER").arg(master);
    questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    questions.cmd("SENTINEL").arg("MASTER").arg(master);
    questions.cmd("SENTINEL").arg("CKQUORUM").arg(master);
    questions.cmd("SENTINEL").arg("REPLICAS").arg(master);
    questions.cmd("SENTINEL").arg("SENTINELS").arg(master);
    for _ in 0..TORN_ATTEMPTS {
        let answers = requests.send(&questions).await?;
        let Ok([before, address, after, ckquorum, replicas, sentinels]) =
            <[redis::Value; 6]>::try_from(answers)
        else {
            return Err(Error::Protocol("an answer is missing".into()));
        };
        let (node, epoch, view) = match reply::sandwich(before, address, after)? {
            Sandwich::Unknown => return Ok(MasterAnswer::Unknown),
            Sandwich::Torn => continue,
            Sandwich::Claim { node, epoch, view } => (node, epoch, view),
        };
        let mut known = KnownMaster {
            addr: resolver.resolve(&node.host, node.port).await,
            epoch,
            view,
            ckquorum: checked(ckquorum).map(|value| text(&value).unwrap_or_default().to_owned()),
            replicas: Vec::new(),
            sentinels: reply::peers(sentinels)?,
        };
        for (node, replica) in reply::replicas(replicas)? {
            if let Ok(addr) = resolver.resolve(&node.host, node.port).await {
                known.replicas.push(replica.at(addr));
            }
        }
        return Ok(MasterAnswer::Known(known));
    }
    Ok(MasterAnswer::Changing)
}
