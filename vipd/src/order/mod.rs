//! Asking a Sentinel for a failover, for a master whose process is gone and for a planned
//! switchover.
//!
//! **One Sentinel.** `SENTINEL FAILOVER` needs no election: whoever is asked leads at once. Two that
//! are asked would lead two failovers. So the Sentinels are tried in the configured order, the next
//! one only when the one before can't be reached; a refusal is final, and once the order was sent
//! nobody else is asked, whether or not an answer comes.
//!
//! **What Sentinel itself does not look at.** `SENTINEL FAILOVER` (sentinel.c) refuses while a
//! failover is in progress (`-INPROG`) and without a replica that could be promoted
//! (`-NOGOODSLAVE`), and nothing else: it accepts without a quorum, in TILT (where nothing follows
//! until TILT is over), while the Sentinels elect a leader for a failover of their own (and then there
//! are two), and, asked late, it would replace the new master. All of that is looked at first, on the
//! connection that then carries the order; and every Sentinel that can be reached is asked whether it
//! leads a failover, which the others don't know.
//!
//! **Permissions.** An ACL user needs `+ping +info +sentinel|master +sentinel|replicas
//! +sentinel|get-master-addr-by-name +sentinel|ckquorum +sentinel|failover`.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Value, pipe};
use tokio::time::{Instant, timeout};

use crate::clock::Monotonic;
use crate::config::{Config, Endpoint};
use crate::connect::{Deadlines, Dialer, Error, Link, SetupError, checked, info_field, text};
use crate::model::Epoch;
use crate::resolve::Resolver;
use crate::sentinel::View;
use crate::sentinel::reply::{self, Candidate, Sandwich};

/// How long one Sentinel may take. Short: clients wait meanwhile, and there are others.
pub const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_millis(250),
    login: Duration::from_millis(500),
    answer: Duration::from_millis(500),
};
/// No other Sentinel is tried after this long.
const SEARCH: Duration = Duration::from_secs(2);
/// A replica that has lost its master for longer is not fresh. Sentinel sees it in whole seconds.
const FRESH: Duration = Duration::from_secs(5);
/// Sentinel promotes nobody whose INFO is older (`sentinelSelectSlave`: three periods of 10 s).
const INFO_AGE: Duration = Duration::from_secs(30);
/// An answer that something slipped into is asked for again this often.
const TORN_ATTEMPTS: usize = 3;
/// A Sentinel that takes longer to say whether it leads a failover is not waited for.
const SURVEY: Duration = DEADLINES.connect;
/// Among the flags of `SENTINEL MASTER`, on the Sentinel that leads it only.
const IN_PROGRESS: &str = "failover_in_progress";

/// Whom to ask, and how to log in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    dialer: Dialer,
    resolver: Resolver,
    endpoints: Vec<Endpoint>,
}

/// How Sentinel is to do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// A replica is promoted, whatever the master does: the only way if that is dead.
    Forced,
    /// `COORDINATED`: the master hands over (Valkey 9). Where a server has no such thing, as
    /// [`Manner::Forced`].
    Coordinated,
}

/// Everything is as it must be for a failover.
#[derive(Clone, PartialEq, Debug)]
pub struct Ready {
    /// Who says so, and would be asked.
    pub sentinel: Endpoint,
    /// The config-epoch as it is.
    pub epoch: Epoch,
    /// Quorum and flags.
    pub view: View,
    /// What CKQUORUM answers, in words.
    pub quorum: String,
    /// All replicas that it knows. At least one [`is_fit`].
    pub replicas: Vec<Candidate>,
    /// All Sentinels that could be reached, that one included.
    pub reachable: Vec<Endpoint>,
}

/// The order was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// By whom.
    pub sentinel: Endpoint,
    /// The master hands over.
    pub coordinated: bool,
    /// Just before it was sent.
    pub asked: Monotonic,
    /// When the answer was there.
    pub answered: Monotonic,
}

/// Why there is no failover. Reads on after "no failover of mymaster: ".
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Refusal {
    /// None can be reached.
    #[error("no Sentinel can be reached{}", list(.0))]
    NoSentinel(Vec<(Endpoint, Error)>),
    /// It doesn't let vipd ask.
    #[error("the Sentinel {0} {1}")]
    Denied(Endpoint, Error),
    /// It is in TILT, and would do nothing.
    #[error("the Sentinel {0} is in TILT")]
    Tilt(Endpoint),
    /// It doesn't know the name.
    #[error("the Sentinel {0} knows no master of that name")]
    Unknown(Endpoint),
    /// It names another node as the master already, or is just about to.
    #[error("the Sentinel {0} has {node} as the master", node = .1.map_or("another node".to_owned(), |it| it.to_string()))]
    Moved(Endpoint, Option<SocketAddr>),
    /// It has found the master down itself: one of its own, or of another Sentinel, is about to begin,
    /// and a second one beside it would help nobody.
    #[error("the Sentinel {0} has found it down itself, and will see to it")]
    Down(Endpoint),
    /// It has no quorum or no majority.
    #[error("the Sentinel {0} has no quorum: {1}")]
    NoQuorum(Endpoint, String),
    /// One is under way.
    #[error("the Sentinel {0} has a failover in progress")]
    InProgress(Endpoint),
    /// No replica is connected and fresh.
    #[error("no replica is fit to take over, says the Sentinel {0}: {1}")]
    NoReplica(Endpoint, String),
    /// The order was sent and no answer came: it may be under way.
    #[error("the Sentinel {0} was asked and has not answered: it {1}")]
    Unclear(Endpoint, Error),
}

impl Refusal {
    /// Whether a failover may be under way all the same, so that whoever is parked for it should
    /// stay so for a while.
    pub fn may_be_under_way(&self) -> bool {
        match self {
            Self::InProgress(_) | Self::Unclear(..) | Self::Moved(..) => true,
            Self::NoSentinel(_)
            | Self::Denied(..)
            | Self::Down(_)
            | Self::Tilt(_)
            | Self::Unknown(_)
            | Self::NoQuorum(..)
            | Self::NoReplica(..) => false,
        }
    }
}

impl Orders {
    /// Asks the configured Sentinels. `resolver` is the daemon's own, which knows the names.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn new(config: &Config, resolver: Resolver) -> Result<Self, SetupError> {
        let dialer = Dialer::new(&config.sentinel.login, DEADLINES)?;
        Ok(Self { dialer, resolver, endpoints: config.sentinel.endpoints.clone() })
    }

    /// The same among these alone: the others could not be reached a moment ago, and would only cost
    /// time again.
    pub fn only(mut self, reachable: &[Endpoint]) -> Self {
        self.endpoints.retain(|it| reachable.contains(it));
        self
    }
}

/// Whether a failover of `master`, which is `node` now, could be asked for. Changes nothing.
///
/// # Errors
///
/// Why not.
pub async fn preconditions(
    orders: &Orders,
    master: &str,
    node: SocketAddr,
) -> Result<Ready, Refusal> {
    survey(orders, master, node).await.map(|(_, ready)| ready)
}

/// Looks at the same again, and asks for a failover of `master`, which is `node` now.
///
/// # Errors
///
/// Why it was not asked for, or what was answered; see [`Refusal::may_be_under_way`].
pub async fn failover(
    orders: &Orders,
    master: &str,
    node: SocketAddr,
    manner: Manner,
) -> Result<Accepted, Refusal> {
    let (link, Ready { sentinel, .. }) = survey(orders, master, node).await?;
    let asked = Monotonic::now();
    let mut coordinated = manner == Manner::Coordinated;
    let mut answer = ask(&link, master, coordinated).await;
    if coordinated && answer.as_ref().is_err_and(is_unsupported) {
        coordinated = false;
        answer = ask(&link, master, coordinated).await;
    }
    match answer {
        Ok(_) => Ok(Accepted { sentinel, coordinated, asked, answered: Monotonic::now() }),
        Err(error) => Err(refused(sentinel, error)),
    }
}

/// Whether a replica may be promoted: Sentinel reaches it, its operator allows it, and it has, or
/// had until just now, its master's data.
pub fn is_fit(candidate: &Candidate) -> bool {
    let Candidate { replica, link_down, info_age } = candidate;
    !replica.down
        && replica.priority > 0
        && *info_age <= INFO_AGE
        && link_down.is_some_and(|down| down <= FRESH)
}

/// Whether Sentinel may select this replica now or in a moment, be it fit or not: what it knows of its
/// link to the master is old.
pub fn is_electable(candidate: &Candidate) -> bool {
    !candidate.replica.down && candidate.replica.priority > 0
}

/// Why one Sentinel will not do.
enum Obstacle {
    /// The next one may.
    Unreachable(Error),
    /// Nobody else is asked.
    Final(Refusal),
}

/// Looks for the Sentinel that would be asked, and meanwhile at what all of them are doing: only the
/// one that leads a failover knows of it.
async fn survey(orders: &Orders, master: &str, node: SocketAddr) -> Result<(Link, Ready), Refusal> {
    let busy = orders.endpoints.iter().map(|it| is_busy(orders, it, master));
    let (found, busy) = tokio::join!(find(orders, master, node), join_all(busy));
    let (link, mut ready) = found?;
    for (sentinel, busy) in orders.endpoints.iter().zip(busy) {
        match busy {
            Some(true) => return Err(Refusal::InProgress(sentinel.clone())),
            Some(false) => ready.reachable.push(sentinel.clone()),
            None => {}
        }
    }
    if !ready.reachable.contains(&ready.sentinel) {
        ready.reachable.push(ready.sentinel.clone());
    }
    Ok((link, ready))
}

/// Whether this Sentinel has a failover of that master in progress; `None` if it can't be reached.
async fn is_busy(orders: &Orders, sentinel: &Endpoint, master: &str) -> Option<bool> {
    let answer = async {
        let addr = orders.resolver.resolve(&sentinel.host, sentinel.port).await?;
        let link = orders.dialer.requests(&sentinel.host, addr).await?;
        let mut question = pipe();
        question.cmd("SENTINEL").arg("MASTER").arg(master);
        let answer = link.requests().send(&question).await?.into_iter().next();
        reply::master(answer.unwrap_or(Value::Nil))
    };
    match timeout(SURVEY, answer).await {
        Ok(Ok(found)) => Some(found.is_some_and(|it| has_flag(&it.view, IN_PROGRESS))),
        // What it says is nothing to go by; that it is there is.
        Ok(Err(Error::Server(_) | Error::NoPerm(_) | Error::Protocol(_))) => Some(false),
        Ok(Err(_)) | Err(_) => None,
    }
}

async fn find(orders: &Orders, master: &str, node: SocketAddr) -> Result<(Link, Ready), Refusal> {
    let begun = Instant::now();
    let mut unreachable = Vec::new();
    for sentinel in &orders.endpoints {
        if begun.elapsed() >= SEARCH {
            break;
        }
        match examine(orders, sentinel, master, node).await {
            Ok(found) => return Ok(found),
            Err(Obstacle::Unreachable(error)) => unreachable.push((sentinel.clone(), error)),
            Err(Obstacle::Final(refusal)) => return Err(refusal),
        }
    }
    Err(Refusal::NoSentinel(unreachable))
}

async fn examine(
    orders: &Orders,
    sentinel: &Endpoint,
    master: &str,
    node: SocketAddr,
) -> Result<(Link, Ready), Obstacle> {
    let failed = |error| obstacle(sentinel, error);
    let addr = orders.resolver.resolve(&sentinel.host, sentinel.port).await.map_err(failed)?;
    let link = orders.dialer.requests(&sentinel.host, addr).await.map_err(failed)?;
    let mut questions = pipe();
    questions.cmd("INFO").arg("sentinel");
    questions.cmd("SENTINEL").arg("MASTER").arg(master);
    questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    questions.cmd("SENTINEL").arg("MASTER").arg(master);
    questions.cmd("SENTINEL").arg("CKQUORUM").arg(master);
    questions.cmd("SENTINEL").arg("REPLICAS").arg(master);
    for _ in 0..TORN_ATTEMPTS {
        let answers = link.requests().send(&questions).await.map_err(failed)?;
        let Ok([info, before, address, after, quorum, replicas]) = <[Value; 6]>::try_from(answers)
        else {
            return Err(failed(Error::Protocol("an answer is missing".into())));
        };
        let info = checked(info).map_err(failed)?;
        if text(&info).and_then(|info| info_field(info, "sentinel_tilt")) != Some("0") {
            return Err(Obstacle::Final(Refusal::Tilt(sentinel.clone())));
        }
        let (named, epoch, view) = match reply::sandwich(before, address, after).map_err(failed)? {
            Sandwich::Torn => continue,
            Sandwich::Unknown => {
                return Err(Obstacle::Final(Refusal::Unknown(sentinel.clone())));
            }
            Sandwich::Claim { node, epoch, view } => (node, epoch, view),
        };
        let is_now = orders.resolver.resolve(&named.host, named.port).await.map_err(failed)?;
        let found = Found {
            is_now,
            view: &view,
            quorum: checked(quorum).map(|value| text(&value).unwrap_or_default().to_owned()),
            replicas: candidates(orders, replicas).await.map_err(failed)?,
        };
        let (quorum, replicas) = judge(sentinel, node, found).map_err(Obstacle::Final)?;
        return Ok((
            link,
            Ready {
                sentinel: sentinel.clone(),
                epoch,
                view,
                quorum,
                replicas,
                reachable: Vec::new(),
            },
        ));
    }
    // Its configuration changes while it is asked.
    Err(Obstacle::Final(Refusal::Moved(sentinel.clone(), None)))
}

/// What one Sentinel has answered.
struct Found<'a> {
    is_now: SocketAddr,
    view: &'a View,
    quorum: Result<String, Error>,
    replicas: Vec<Candidate>,
}

fn judge(
    sentinel: &Endpoint,
    node: SocketAddr,
    found: Found<'_>,
) -> Result<(String, Vec<Candidate>), Refusal> {
    let Found { is_now, view, quorum, replicas } = found;
    let sentinel = || sentinel.clone();
    if is_now != node {
        return Err(Refusal::Moved(sentinel(), Some(is_now)));
    }
    if has_flag(view, IN_PROGRESS) {
        return Err(Refusal::InProgress(sentinel()));
    }
    if has_flag(view, "s_down") || has_flag(view, "o_down") {
        return Err(Refusal::Down(sentinel()));
    }
    let quorum = quorum.map_err(|error| match error {
        Error::Server(why) => Refusal::NoQuorum(sentinel(), why),
        other => Refusal::Denied(sentinel(), other),
    })?;
    if !replicas.iter().any(is_fit) {
        return Err(Refusal::NoReplica(sentinel(), describe(&replicas)));
    }
    Ok((quorum, replicas))
}

fn has_flag(view: &View, flag: &str) -> bool {
    view.flags.split(',').any(|it| it == flag)
}

async fn candidates(orders: &Orders, value: Value) -> Result<Vec<Candidate>, Error> {
    let mut candidates = Vec::new();
    for (named, unplaced) in reply::candidates(value)? {
        // One without an address can't be watched, and is no help.
        if let Ok(addr) = orders.resolver.resolve(&named.host, named.port).await {
            candidates.push(unplaced.at(addr));
        }
    }
    Ok(candidates)
}

/// Why none of them is fit.
fn describe(replicas: &[Candidate]) -> String {
    if replicas.is_empty() {
        return "it knows none".to_owned();
    }
    let each = replicas.iter().map(|Candidate { replica, link_down, .. }| {
        let why = if replica.down {
            "down".to_owned()
        } else if replica.priority == 0 {
            "has priority 0".to_owned()
        } else {
            match link_down {
                None => "was never in sync".to_owned(),
                Some(down) if *down > FRESH => format!("out of sync for {} s", down.as_secs()),
                Some(_) => "not heard of for long".to_owned(),
            }
        };
        format!("{} {why}", replica.addr)
    });
    each.collect::<Vec<_>>().join(", ")
}

async fn ask(link: &Link, master: &str, coordinated: bool) -> Result<Value, Error> {
    let mut order = pipe();
    let command = order.cmd("SENTINEL").arg("FAILOVER").arg(master);
    if coordinated {
        command.arg("COORDINATED");
    }
    let answer = link.requests().send(&order).await?.into_iter().next();
    checked(answer.ok_or_else(|| Error::Protocol("an answer is missing".into()))?)
}

/// Whether this refuses the word COORDINATED, and not the failover: Redis and Valkey before 9 have
/// no such argument, and a master before 9 can't hand over.
fn is_unsupported(error: &Error) -> bool {
    let Error::Server(text) = error else { return false };
    let text = text.to_ascii_lowercase();
    text.starts_with("nogoodprimary")
        || text.contains("number of arguments")
        || text.contains("unknown failover option")
}

fn obstacle(sentinel: &Endpoint, error: Error) -> Obstacle {
    match error {
        Error::Resolve(_)
        | Error::Refused
        | Error::Unreachable(_)
        | Error::Timeout { .. }
        | Error::Closed(_)
        | Error::TooManyClients => Obstacle::Unreachable(error),
        Error::Tls(_)
        | Error::NoAuth
        | Error::WrongPassword
        | Error::PasswordUnexpected
        | Error::Password(_)
        | Error::NoPerm(_)
        | Error::ProtectedMode
        | Error::Server(_)
        | Error::Protocol(_)
        | Error::SameAs(_) => Obstacle::Final(Refusal::Denied(sentinel.clone(), error)),
    }
}

/// An answer to the order itself.
fn refused(sentinel: Endpoint, error: Error) -> Refusal {
    match error {
        Error::Server(text) if text.starts_with("INPROG") => Refusal::InProgress(sentinel),
        Error::Server(text) if text.starts_with("NOGOODSLAVE") => {
            Refusal::NoReplica(sentinel, text)
        }
        Error::Server(_) | Error::NoPerm(_) => Refusal::Denied(sentinel, error),
        // It may have arrived.
        other => Refusal::Unclear(sentinel, other),
    }
}

fn list(errors: &[(Endpoint, Error)]) -> String {
    let each = errors.iter().map(|(endpoint, error)| format!("{endpoint} {error}"));
    let list = each.collect::<Vec<_>>().join("; ");
    if list.is_empty() { list } else { format!(": {list}") }
}
