//! What was heard of Sentinels and Redis nodes: which nodes matter, and what status shows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Monotonic;
use crate::config::{Config, Endpoint};
use crate::connect::Error;
use crate::failover::{Desired, Lineage};
use crate::fast_fail;
use crate::model::{MasterId, SentinelId};
use crate::plan::{Health, Replicas};
use crate::redis_node;
use crate::sentinel::Report;
use crate::status;

/// A node that is silent for so long is dead for its readers, who are then reset.
const DEAD_AFTER: Duration = Duration::from_secs(3);

/// Everything heard that the core does not keep.
#[derive(Debug)]
pub struct Knowledge {
    names: Vec<String>,
    sentinels: BTreeMap<SentinelId, Sentinel>,
    nodes: BTreeMap<SocketAddr, Heard>,
    /// Which node is being asked for ROLE on behalf of which master.
    pub asking: BTreeMap<MasterId, SocketAddr>,
}

/// What a node said last.
#[derive(Clone, Debug)]
struct Heard {
    answer: Result<redis_node::Role, Error>,
    /// The first of the failures in a row that this is one of.
    failing_since: Option<Monotonic>,
    /// The replication history that it was on, as far as it has told (`master_replid`).
    history: Option<String>,
}

#[derive(Debug, Default)]
struct Sentinel {
    endpoint: String,
    configured: bool,
    up: bool,
    tilt: bool,
    lost: Option<String>,
    masters: BTreeMap<MasterId, SocketAddr>,
    replicas: BTreeMap<MasterId, Vec<SocketAddr>>,
}

impl Knowledge {
    /// Nothing heard yet.
    pub fn new(config: &Config) -> Self {
        let sentinels = config.sentinel.endpoints.iter().enumerate().map(|(id, endpoint)| {
            let sentinel = Sentinel {
                endpoint: endpoint.to_string(),
                configured: true,
                ..Sentinel::default()
            };
            (SentinelId(id), sentinel)
        });
        Self {
            names: config.masters().into_iter().map(str::to_owned).collect(),
            sentinels: sentinels.collect(),
            nodes: BTreeMap::new(),
            asking: BTreeMap::new(),
        }
    }

    /// Goes on from what was heard under another configuration: masters are the same by name,
    /// Sentinels by endpoint. Each still has to answer anew.
    pub fn inherit(&mut self, earlier: &Self) {
        let same = |master: &MasterId| self.names.iter().position(|it| it == earlier.name(*master));
        for it in self.sentinels.values_mut() {
            let Some(old) = earlier.sentinels.values().find(|old| old.endpoint == it.endpoint)
            else {
                continue;
            };
            it.tilt = old.tilt;
            it.masters = translate(&old.masters, same);
            it.replicas = translate(&old.replicas, same);
        }
        self.nodes.clone_from(&earlier.nodes);
    }

    /// A master's name.
    pub fn name(&self, master: MasterId) -> &str {
        self.names.get(master.0).map_or("?", String::as_str)
    }

    /// The master of this name.
    pub fn master(&self, name: &str) -> Option<MasterId> {
        self.names.iter().position(|known| known == name).map(MasterId)
    }

    /// A Sentinel's endpoint.
    pub fn endpoint(&self, sentinel: SentinelId) -> &str {
        self.sentinels.get(&sentinel).map_or("?", |it| it.endpoint.as_str())
    }

    /// The configured Sentinel at this endpoint.
    pub fn sentinel(&self, endpoint: &Endpoint) -> Option<SentinelId> {
        let text = endpoint.to_string();
        self.sentinels.iter().find(|(_, it)| it.endpoint == text).map(|(id, _)| *id)
    }

    /// Keeps what a Sentinel said. Returns whether the set of nodes may have changed.
    pub fn sentinel_said(&mut self, report: &Report) -> bool {
        match report {
            Report::Up { sentinel, .. } => {
                self.with(*sentinel, |it| (it.up, it.lost) = (true, None));
                false
            }
            Report::Lost { sentinel, error } => {
                // Its nodes are kept: whom it knew is still worth knowing.
                self.with(*sentinel, |it| (it.up, it.lost) = (false, Some(error.to_string())));
                false
            }
            Report::Tilt { sentinel, tilt } => {
                self.with(*sentinel, |it| it.tilt = *tilt);
                false
            }
            Report::Found { sentinel, endpoint } => {
                let endpoint = endpoint.to_string();
                self.sentinels.insert(*sentinel, Sentinel { endpoint, ..Sentinel::default() });
                false
            }
            Report::Forgotten { sentinel } => {
                self.sentinels.remove(sentinel);
                true
            }
            Report::Claim { sentinel, master, addr, .. } => {
                let known = self.sentinels.get_mut(sentinel);
                known.is_some_and(|it| it.masters.insert(*master, *addr) != Some(*addr))
            }
            Report::Nodes { sentinel, master, replicas } => {
                let replicas = replicas.iter().map(|replica| replica.addr).collect();
                self.with(*sentinel, |it| {
                    it.replicas.insert(*master, replicas);
                });
                true
            }
            Report::UnknownMaster { .. }
            | Report::Unresolvable { .. }
            | Report::Seen { .. }
            | Report::View { .. } => false,
        }
    }

    /// Keeps what a node said.
    pub fn node_said(&mut self, report: &redis_node::Report) {
        let before = self.nodes.remove(&report.node);
        let failing_since = before.as_ref().and_then(|heard| heard.failing_since);
        let failing_since = report.answer.is_err().then(|| failing_since.unwrap_or(report.at));
        let answer = report.answer.clone();
        let history = report.replication.as_ref().map(|it| it.id.clone());
        let history = history.or_else(|| before.and_then(|heard| heard.history));
        self.nodes.insert(report.node, Heard { answer, failing_since, history });
    }

    /// How a node that calls itself master became one. To be asked before its report is kept.
    pub fn lineage(&self, report: &redis_node::Report) -> Lineage {
        let Some(replication) = &report.replication else { return Lineage::Unknown };
        let mut histories = self.nodes.values().filter_map(|heard| heard.history.as_ref());
        if histories.any(|history| *history == replication.previous_id) {
            return Lineage::Heir;
        }
        let own = self.nodes.get(&report.node).and_then(|heard| heard.history.as_ref());
        if own.is_some() { Lineage::Stranger } else { Lineage::Unknown }
    }

    /// Whether any Sentinel names this node as a replica of this master.
    pub fn is_replica(&self, master: MasterId, node: SocketAddr) -> bool {
        let mut lists = self.sentinels.values().filter_map(|it| it.replicas.get(&master));
        lists.any(|replicas| replicas.contains(&node))
    }

    /// By master: every node that any Sentinel names for it, and its present target.
    pub fn nodes(&self, desired: &[Desired]) -> Vec<Vec<SocketAddr>> {
        (0..self.names.len())
            .map(|id| {
                let served = desired.get(id).into_iter();
                let target = served.flat_map(|it| [it.serves(), it.target.map(|it| it.addr)]);
                let named = self.sentinels.values().flat_map(|it| {
                    let replicas = it.replicas.get(&MasterId(id)).into_iter().flatten();
                    replicas.chain(it.masters.get(&MasterId(id)))
                });
                let nodes: BTreeSet<_> = named.copied().chain(target.flatten()).collect();
                nodes.into_iter().collect()
            })
            .collect()
    }

    /// What the configured Sentinels are good for.
    pub fn readiness(&self) -> fast_fail::Sentinels {
        let configured = || self.sentinels.values().filter(|it| it.configured);
        let up = || configured().filter(|it| it.up);
        if up().any(|it| it.tilt) {
            fast_fail::Sentinels::Tilt
        } else if up().count() > configured().count() / 2 {
            fast_fail::Sentinels::Ready
        } else {
            fast_fail::Sentinels::Minority
        }
    }

    /// For status.
    pub fn sentinels(&self) -> Vec<status::Sentinel> {
        let tilt = || "in TILT: takes no part in failovers".to_owned();
        self.sentinels
            .values()
            .map(|it| status::Sentinel {
                endpoint: it.endpoint.clone(),
                configured: it.configured,
                up: it.up,
                note: it.lost.clone().or_else(|| it.tilt.then(tilt)),
            })
            .collect()
    }

    /// What this node answered last.
    pub fn role(&self, node: SocketAddr) -> Option<&Result<redis_node::Role, Error>> {
        self.nodes.get(&node).map(|heard| &heard.answer)
    }

    /// By master: its nodes as readers'.
    pub fn replicas(&self, named: &[Vec<SocketAddr>], now: Monotonic) -> Vec<Replicas> {
        let of = |(id, nodes): (usize, &Vec<SocketAddr>)| Replicas {
            known: self.sentinels.values().any(|it| it.replicas.contains_key(&MasterId(id))),
            health: nodes.iter().map(|node| (*node, self.health(*node, now))).collect(),
        };
        named.iter().enumerate().map(of).collect()
    }

    /// How a node is, as a reader's.
    pub fn health(&self, node: SocketAddr, now: Monotonic) -> Health {
        let Some(heard) = self.nodes.get(&node) else { return Health::Unknown };
        match &heard.answer {
            Ok(redis_node::Role::Replica { link_up: true, .. }) => Health::Fit,
            Ok(redis_node::Role::Replica { link_up: false, .. }) => Health::Stale,
            Ok(_) => Health::Unfit,
            // Its process is gone, and with it every connection.
            Err(Error::Refused) => Health::Dead,
            Err(Error::Unreachable(_) | Error::Timeout { .. } | Error::Closed(_)) => {
                match heard.failing_since {
                    Some(since) if now.since(since) >= DEAD_AFTER => Health::Dead,
                    Some(_) | None => Health::Unfit,
                }
            }
            // It answers somebody else, perhaps.
            Err(_) => Health::Unfit,
        }
    }

    /// Forgets the answers of nodes that nobody names any more.
    pub fn keep_only(&mut self, nodes: &BTreeSet<SocketAddr>) {
        self.nodes.retain(|node, _| nodes.contains(node));
    }

    fn with(&mut self, sentinel: SentinelId, change: impl FnOnce(&mut Sentinel)) {
        if let Some(it) = self.sentinels.get_mut(&sentinel) {
            change(it);
        }
    }
}

fn translate<T: Clone>(
    old: &BTreeMap<MasterId, T>,
    same: impl Fn(&MasterId) -> Option<usize>,
) -> BTreeMap<MasterId, T> {
    old.iter().filter_map(|(id, value)| Some((MasterId(same(id)?), value.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::Phase;
    use crate::redis_node::Role;

    fn health_after(answers: &[(u64, Result<Role, Error>)]) -> Health {
        let node = SocketAddr::from(([198, 18, 0, 101], 8000));
        let mut knowledge = Knowledge::new(&Config::parse("", "test".as_ref()).unwrap());
        let mut now = Monotonic(0);
        for (second, answer) in answers {
            now = Monotonic(second * 1_000_000_000);
            let answer = answer.clone();
            let replication = None;
            knowledge.node_said(&redis_node::Report { node, answer, replication, at: now });
        }
        knowledge.health(node, now)
    }

    #[test]
    fn a_node_is_dead_for_its_readers_when_it_is_gone_and_not_when_it_is_slow() {
        let replica = |link_up| Ok(Role::Replica { of: (String::new(), 0), link_up, offset: 0 });
        let master = || Ok(Role::Master { offset: 0, replicas: 0 });
        let silent = || {
            let after = Duration::from_secs(1);
            Err(Error::Timeout { during: Phase::Answer, after })
        };
        for (answers, expected) in [
            (vec![], Health::Unknown),
            (vec![(0, replica(true))], Health::Fit),
            (vec![(0, replica(false))], Health::Stale),
            (vec![(0, master())], Health::Unfit),
            (vec![(0, replica(true)), (1, silent())], Health::Unfit),
            (vec![(0, replica(true)), (1, silent()), (3, silent())], Health::Unfit),
            (vec![(0, replica(true)), (1, silent()), (4, silent())], Health::Dead),
            // In between it was there.
            (vec![(1, silent()), (3, replica(true)), (4, silent())], Health::Unfit),
            (vec![(1, silent()), (4, silent()), (5, replica(true))], Health::Fit),
            (vec![(0, replica(true)), (1, Err(Error::Refused))], Health::Dead),
            // It is vipd that may not ask.
            (vec![(0, Err(Error::NoAuth)), (9, Err(Error::NoAuth))], Health::Unfit),
        ] {
            assert_eq!(health_after(&answers), expected, "{answers:?}");
        }
    }
}
