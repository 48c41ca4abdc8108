//! The Redis nodes: their roles, and how each is reached.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, timeout, timeout_at};
use vipd_common::addr::MacAddr;

use super::report::{Finding, Severity};
use super::sentinels::advice;
use crate::config::Config;
use crate::connect::{Dialer, Error, Phase};
use crate::failover::{self, Target};
use crate::model::NextHop;
use crate::neighbour::{self, NextHops, Unreachable};
use crate::plan::{self, Problem};
use crate::redis_node::{self, NodeInspection, Role};
use crate::resolve::Resolver;
use crate::sentinel::{Inspection, MasterAnswer};

/// For all questions to all nodes.
const DEADLINE: Duration = Duration::from_secs(15);
/// Nodes asked at once.
const AT_ONCE: usize = 64;
/// The kernel asks three times for a link-layer address, a second apart.
const RESOLUTION: Duration = Duration::from_millis(3_500);
/// A replica that has heard nothing of its master for this long lags behind.
const SILENCE: Duration = Duration::from_secs(10);

/// What was found about the nodes.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Facts {
    pub(super) answers: BTreeMap<SocketAddr, Result<NodeInspection, Error>>,
    pub(super) next_hops: NextHops,
    /// Why nobody could be asked.
    pub(super) login: Option<String>,
    /// Why next hops are not known.
    pub(super) network: Option<String>,
}

impl Facts {
    /// What the core is told of the answers.
    pub(super) fn roles(&self) -> BTreeMap<SocketAddr, failover::Role> {
        let role = |answer: &Result<NodeInspection, Error>| match answer {
            Ok(NodeInspection { role: Role::Master { .. }, .. }) => {
                failover::Role::Master(failover::Lineage::Unknown)
            }
            Ok(_) => failover::Role::Replica,
            Err(_) => failover::Role::NoAnswer,
        };
        self.answers.iter().map(|(node, answer)| (*node, role(answer))).collect()
    }

    /// Those that are known.
    pub(super) fn reachable(&self) -> HashMap<IpAddr, NextHop> {
        let hop =
            |(node, hop): (&IpAddr, &Result<NextHop, _>)| Some((*node, hop.as_ref().ok()?.clone()));
        self.next_hops.iter().filter_map(hop).collect()
    }

    /// The node with this link-layer address.
    pub(super) fn at(&self, mac: MacAddr) -> Option<IpAddr> {
        let on_link = |hop: &NextHop| hop.mac == mac && hop.router.is_none();
        self.next_hops
            .iter()
            .find(|(_, hop)| hop.as_ref().is_ok_and(on_link))
            .map(|(node, _)| *node)
    }
}

/// By `MasterId`: every node that a Sentinel names for it, and the one that is served.
pub(super) fn named(
    masters: usize,
    sentinels: &[Inspection],
    candidates: &[Option<Target>],
) -> Vec<Vec<SocketAddr>> {
    let of = |master: usize| {
        let mut nodes: BTreeSet<SocketAddr> = sentinels
            .iter()
            .filter_map(|it| it.answer.as_ref().ok()?.masters.get(master))
            .flat_map(|answer| match answer {
                MasterAnswer::Known(known) => {
                    let replicas = known.replicas.iter().map(|replica| replica.addr);
                    known.addr.iter().copied().chain(replicas).collect()
                }
                MasterAnswer::Unknown | MasterAnswer::Changing => Vec::new(),
            })
            .collect();
        nodes.extend(candidates.get(master).copied().flatten().map(|target| target.addr));
        nodes.into_iter().take(redis_node::MAX_NODES).collect()
    };
    (0..masters).map(of).collect()
}

/// Asks every node, and the kernel for the way to each.
pub(super) async fn ask(
    config: &Config,
    resolver: &Resolver,
    nodes: &BTreeSet<SocketAddr>,
) -> Facts {
    let (answers, next_hops) =
        tokio::join!(ask_redis(config, resolver, nodes), find_next_hops(nodes));
    let mut facts = Facts::default();
    match answers {
        Ok(answers) => facts.answers = answers,
        Err(why) => facts.login = Some(why),
    }
    match next_hops {
        Ok(next_hops) => facts.next_hops = next_hops,
        Err(why) => facts.network = Some(super::chain(why)),
    }
    facts
}

async fn ask_redis(
    config: &Config,
    resolver: &Resolver,
    nodes: &BTreeSet<SocketAddr>,
) -> Result<BTreeMap<SocketAddr, Result<NodeInspection, Error>>, String> {
    let dialer = Dialer::new(&config.redis.login, redis_node::DEADLINES).map_err(super::chain)?;
    let dialer = &dialer;
    let deadline = Instant::now() + DEADLINE;
    let late = Error::Timeout { during: Phase::Answer, after: DEADLINE };
    let questions = nodes.iter().map(|&node| {
        let late = late.clone();
        async move {
            let asked = redis_node::inspect(dialer, resolver, node);
            (node, timeout_at(deadline, asked).await.unwrap_or(Err(late)))
        }
    });
    Ok(stream::iter(questions).buffered(AT_ONCE).collect().await)
}

/// Waits until each is found, or certainly not.
async fn find_next_hops(nodes: &BTreeSet<SocketAddr>) -> std::io::Result<NextHops> {
    let nodes: BTreeSet<IpAddr> = nodes.iter().map(SocketAddr::ip).collect();
    let (neighbours, mut network) = neighbour::spawn()?;
    neighbours.track(nodes.iter().copied());
    let settled = network.wait_for(|network| {
        nodes.iter().all(|node| {
            let hop = network.next_hops.get(node);
            hop.is_some_and(|hop| !matches!(hop, Err(Unreachable::Unresolved { .. })))
        })
    });
    // Late or not, what is known by then is what there is.
    let _ = timeout(RESOLUTION, settled).await;
    let found = network.borrow().next_hops.clone();
    Ok(found)
}

/// What the rest of the check knows about the nodes.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    /// By `MasterId`, from [`named`].
    pub(super) named: &'a [Vec<SocketAddr>],
    /// By `MasterId`.
    pub(super) candidates: &'a [Option<Target>],
    /// From [`plan::diff`].
    pub(super) problems: &'a [Problem],
    /// Interface names by index.
    pub(super) interface: &'a dyn Fn(u32) -> String,
}

/// Judges each node.
pub(super) fn judge(facts: &Facts, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = &facts.login {
        findings.push(Finding::fail("redis login", why.as_str()));
    }
    if let Some(why) = &facts.network {
        findings.push(Finding::fail("next hops", why.as_str()));
    }
    let names = context.config.masters();
    for (master, nodes) in context.named.iter().enumerate() {
        let candidate = context.candidates.get(master).copied().flatten();
        for &node in nodes {
            let name = names.get(master).copied().unwrap_or_default();
            let is_master = candidate.is_some_and(|target| target.addr == node);
            let subject = format!("redis {node}");
            findings.push(answer(&subject, facts, name, node, is_master, candidate));
            findings.push(way(&subject, facts, context, node, is_master));
        }
    }
    findings.extend(context.problems.iter().filter_map(|problem| match problem {
        Problem::Unreachable { .. } => None,
        Problem::NoIndex { .. }
        | Problem::NoSlot { .. }
        | Problem::NoLine { .. }
        | Problem::NoGroup { .. } => Some(Finding::fail("tables", problem.to_string())),
        Problem::GroupFull { .. } => Some(Finding::warn("tables", problem.to_string())),
    }));
    findings
}

/// What the node says of itself.
fn answer(
    subject: &str,
    facts: &Facts,
    name: &str,
    node: SocketAddr,
    is_master: bool,
    candidate: Option<Target>,
) -> Finding {
    let bad = severity_of(is_master);
    let expected = if is_master { "master" } else { "replica" };
    let found = match facts.answers.get(&node) {
        None => return Finding::new(bad, subject, format!("{expected} of {name}: not asked")),
        Some(Err(error)) => {
            let text = format!("{expected} of {name}, as Sentinel says: {error}");
            let finding = Finding::new(bad, subject, text);
            return match advice(error, "Redis") {
                Some(advice) => finding.advise(advice),
                None => finding,
            };
        }
        Some(Ok(found)) => found,
    };
    let version = match found.version.as_str() {
        "" => String::new(),
        version => format!(", Redis {version}"),
    };
    match (&found.role, is_master) {
        (Role::Master { offset, replicas }, true) => Finding::ok(
            subject,
            format!("master of {name}{version}, {replicas} replicas connected, offset {offset}"),
        ),
        (Role::Master { .. }, false) => Finding::warn(
            subject,
            format!("calls itself master, and Sentinel has it as a replica of {name}"),
        )
        .advise("Sentinel will make it a replica, which discards what was written to it"),
        (Role::Replica { of: (host, port), .. }, true) => Finding::fail(
            subject,
            format!("is a replica of {host}:{port}, and Sentinel names it as the master of {name}"),
        )
        .advise("wait until a failover is over, or see to the Sentinels"),
        (Role::Replica { link_up: false, of: (host, port), .. }, false) => Finding::warn(
            subject,
            format!("replica of {name}{version}: its link to {host}:{port} is down"),
        )
        .advise("it can't be promoted without loss: see its log"),
        (Role::Replica { offset, .. }, false) => {
            let lag = lag(facts, candidate, *offset);
            let silence = found.replication.as_ref().and_then(|it| it.silence);
            match silence {
                Some(silence) if silence >= SILENCE => Finding::warn(
                    subject,
                    format!(
                        "replica of {name}{version}: nothing from its master for {} s{lag}",
                        silence.as_secs()
                    ),
                ),
                _ => Finding::ok(subject, format!("replica of {name}{version}, link up{lag}")),
            }
        }
        (Role::Sentinel, _) => {
            Finding::new(bad, subject, format!("is a Sentinel, not the {expected} of {name}"))
        }
    }
}

/// `, lag 17 bytes`, if the master has said its offset.
fn lag(facts: &Facts, master: Option<Target>, offset: u64) -> String {
    let master = master.and_then(|target| facts.answers.get(&target.addr));
    match master {
        Some(Ok(NodeInspection { role: Role::Master { offset: ahead, .. }, .. })) => {
            // Asked at the same moment, not in the same: a replica may seem ahead.
            format!(", lag {} bytes", ahead.saturating_sub(offset))
        }
        _ => String::new(),
    }
}

/// How it is reached on the link layer, for every service that leads to it.
fn way(
    subject: &str,
    facts: &Facts,
    context: &Context<'_>,
    node: SocketAddr,
    is_master: bool,
) -> Finding {
    let bad = severity_of(is_master);
    if context.config.vips.iter().any(|vip| vip.address == node.ip()) {
        return Finding::fail(subject, "Sentinel names a VIP as the node's address").advise(
            "have Sentinel monitor the nodes by their own addresses, and drop replica-announce-ip",
        );
    }
    let whys: BTreeSet<plan::Unreachable> = context
        .problems
        .iter()
        .filter_map(|problem| match problem {
            Problem::Unreachable { node: of, why, .. } if *of == node => Some(*why),
            _ => None,
        })
        .collect();
    if let Some(why) = whys.first() {
        return no_way(subject, facts, context, node, bad, *why);
    }
    match facts.next_hops.get(&node.ip()) {
        Some(Ok(hop)) => {
            let by = hop.router.map(|router| format!(" by router {router}")).unwrap_or_default();
            let vlan = if hop.vlan == 0 { String::new() } else { format!(", VLAN {}", hop.vlan) };
            let interface = (context.interface)(hop.ifindex);
            Finding::ok(subject, format!("next hop {}{by} on {interface}{vlan}", hop.mac))
        }
        // A service that XDP would have to forward has found no way to it, which was told above.
        Some(Err(Unreachable::Local)) => Finding::ok(subject, "runs on this host"),
        Some(Err(why)) => Finding::new(bad, subject, format!("no next hop: {why}")),
        None => Finding::new(bad, subject, "no next hop: not found out"),
    }
}

/// Why the plan has no way, with what the kernel's tables know beyond it.
fn no_way(
    subject: &str,
    facts: &Facts,
    context: &Context<'_>,
    node: SocketAddr,
    bad: Severity,
    why: plan::Unreachable,
) -> Finding {
    let kernel = facts.next_hops.get(&node.ip());
    match (why, kernel) {
        (plan::Unreachable::NextHopUnknown, Some(Err(reason))) => {
            let finding = Finding::new(bad, subject, format!("no next hop: {reason}"));
            match reason {
                Unreachable::Local => {
                    finding.advise("run vipd on a host of its own, or use mode \"host\"")
                }
                Unreachable::Unresolved { .. } | Unreachable::NoRoute => {
                    finding.advise("see `ip route get` and `ip neigh`; is its host up?")
                }
                _ => finding,
            }
        }
        (plan::Unreachable::NotAttached { ifindex }, _) => {
            let name = (context.interface)(ifindex);
            Finding::new(bad, subject, format!("is reached by {name}, which is not configured"))
                .advise(format!("add {name:?} to `interfaces`"))
        }
        (why, _) => Finding::new(bad, subject, format!("can't be served: {why}")),
    }
}

/// Without the master nothing is served; without a replica only the failover to it fails.
fn severity_of(is_master: bool) -> Severity {
    if is_master { Severity::Fail } else { Severity::Warn }
}
