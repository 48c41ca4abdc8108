//! Who has the VIP by right: the node that was promoted last, from its host's first announcement on.
//! And who claims it without.

use std::time::Duration;

use anyhow::Result;
use vipd::clock::Monotonic;
use vipd_common::addr::MacAddr;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::ledger::Write;
use crate::recorder::{Kind, Record, Sighting};
use crate::redis_node::RedisNode;

/// A node is not promoted twice within this time, and every vipd hears of it within this time.
const ONE_FAILOVER: Duration = Duration::from_secs(5);

/// A node that was promoted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promotion {
    /// Its host.
    pub mac: MacAddr,
    /// When the first vipd heard from it that it is a master.
    pub confirmed: Monotonic,
}

/// A host that has the VIP by right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The host.
    pub mac: MacAddr,
    /// See [`Promotion`].
    pub confirmed: Monotonic,
    /// Its first announcement after that.
    pub announced: Monotonic,
}

/// The owners of one VIP in turn, never empty.
#[derive(Clone, Debug)]
pub struct Owners(Vec<Owner>);

/// Every promotion that a vipd knows of, in order of time. Without vipd, the last one of each node, by
/// the nodes' logs.
pub fn promotions(lab: &Lab) -> Result<Vec<Promotion>> {
    if lab.daemons.is_empty() {
        return promotions_by_log(lab);
    }
    let mut promotions: Vec<Promotion> = Vec::new();
    for daemon in lab.daemons.iter().filter(|daemon| Daemon::is_alive(daemon)) {
        for failover in daemon.status()?.failovers {
            let node = lab.nodes.iter().find(|node| node.address() == failover.to);
            let (Some(node), Some(flip)) = (node, failover.timeline.flip_ns) else { continue };
            let told = Promotion {
                mac: node.host().mac,
                confirmed: Monotonic(failover.timeline.role_confirmed_ns.unwrap_or(flip)),
            };
            // An epoch need not be known yet: the same promotion is what others tell of that time.
            match promotions.iter_mut().find(|it| it.is_also(&told)) {
                Some(known) => known.confirmed = known.confirmed.min(told.confirmed),
                None => promotions.push(told),
            }
        }
    }
    promotions.sort_by_key(|promotion| promotion.confirmed);
    Ok(promotions)
}

impl Promotion {
    /// Whether another vipd tells of the same.
    fn is_also(&self, other: &Self) -> bool {
        let (first, last) =
            (self.confirmed.min(other.confirmed), self.confirmed.max(other.confirmed));
        self.mac == other.mac && last.since(first) < ONE_FAILOVER
    }
}

fn promotions_by_log(lab: &Lab) -> Result<Vec<Promotion>> {
    let promotion = |node: &RedisNode| {
        let promoted = node.promoted()?;
        let mac = node.host().mac;
        Ok(promoted.map(|at| Promotion { mac, confirmed: at }))
    };
    let promotions = lab.nodes.iter().map(promotion).collect::<Result<Vec<_>>>()?;
    let mut promotions: Vec<_> = promotions.into_iter().flatten().collect();
    promotions.sort_by_key(|promotion| promotion.confirmed);
    Ok(promotions)
}

impl Owners {
    /// The owners from the beginning of a record on, when `first` had the VIP.
    pub fn new(first: MacAddr, promotions: &[Promotion], record: &Record) -> Self {
        let beginning = Monotonic(0);
        let mut owners = vec![Owner { mac: first, confirmed: beginning, announced: beginning }];
        for &Promotion { mac, confirmed } in promotions {
            if owners.last().is_some_and(|owner| owner.mac == mac) {
                continue;
            }
            if let Some(announced) = record.announced(mac, confirmed) {
                owners.push(Owner { mac, confirmed, announced });
            }
        }
        Self(owners)
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The last.
    pub fn last(&self) -> Owner {
        self.0[self.0.len() - 1]
    }

    /// Whether a write that was acknowledged by the node on `host` was late: another had been
    /// promoted, and had announced that it has the VIP, before it was sent. A node that has been
    /// promoted is never late: it may be reached before it announces.
    pub fn is_late(&self, write: &Write, host: MacAddr) -> bool {
        !self.may_claim(host, write.sent, write.acknowledged)
    }

    /// How long after the owner's announcement it was at `moment`.
    pub fn since_announced(&self, moment: Monotonic) -> Duration {
        moment.since(self.at(moment).announced)
    }

    /// Frames by which a host claims the VIP that is not the owner, later than `grace` after the
    /// owner's announcement.
    pub fn false_claims(&self, record: &Record, grace: Duration) -> Vec<Sighting> {
        let is_false = |it: &&Sighting| {
            !self.may_claim(it.mac, it.at, it.at) && it.at > self.at(it.at).announced + grace
        };
        record.sightings.iter().filter(is_false).copied().collect()
    }

    /// Announcements among [`Self::false_claims`] without any grace: each takes clients away from
    /// the owner.
    pub fn false_announcements(&self, record: &Record) -> usize {
        let claims = self.false_claims(record, Duration::ZERO);
        claims.iter().filter(|claim| claim.kind == Kind::Announcement).count()
    }

    fn at(&self, moment: Monotonic) -> Owner {
        let before = self.0.partition_point(|owner| owner.announced <= moment);
        self.0[before.max(1) - 1]
    }

    /// Whether `host` is the owner at `from`, or is promoted by `until` and will announce that.
    fn may_claim(&self, host: MacAddr, from: Monotonic, until: Monotonic) -> bool {
        let upcoming =
            |owner: &Owner| owner.mac == host && owner.announced > from && owner.confirmed <= until;
        self.at(from).mac == host || self.0.iter().any(upcoming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn record(sightings: &[(u64, MacAddr, Kind)]) -> Record {
        let sighting = |&(at, mac, kind)| Sighting { at: Monotonic(at), mac, kind };
        Record { asked: vec![], sightings: sightings.iter().map(sighting).collect() }
    }

    /// A has it at first; B is promoted at 20 and announces at 30; A is promoted again at 70.
    fn owners(record: &Record) -> Owners {
        let promotion = |(mac, confirmed)| Promotion { mac, confirmed: Monotonic(confirmed) };
        Owners::new(A, &[(A, 0), (B, 20), (A, 70)].map(promotion), record)
    }

    fn story() -> Record {
        record(&[
            (1, A, Kind::Answer),
            (25, A, Kind::Answer),
            (30, B, Kind::Announcement),
            (40, A, Kind::Announcement),
            (50, A, Kind::Answer),
            (60, B, Kind::Answer),
            (80, A, Kind::Announcement),
        ])
    }

    fn is_late(sent: u64, acknowledged: u64, host: MacAddr) -> bool {
        let (sent, acknowledged) = (Monotonic(sent), Monotonic(acknowledged));
        let write = Write { number: 0, sent, acknowledged, by: "".into() };
        owners(&story()).is_late(&write, host)
    }

    #[test]
    fn only_a_promoted_host_takes_over_by_announcing() {
        let announced: Vec<_> =
            owners(&story()).0.iter().map(|owner| (owner.announced.0, owner.mac)).collect();
        assert_eq!(announced, [(0, A), (30, B), (80, A)]);
        assert_eq!(owners(&story()).last().mac, A);
    }

    #[test]
    fn a_write_is_late_when_it_is_sent_after_the_new_owner_announced() {
        assert!(!is_late(10, 35, A), "it was under way");
        assert!(is_late(31, 35, A));
        assert!(!is_late(31, 35, B));
    }

    #[test]
    fn a_promoted_node_may_be_reached_before_it_announces() {
        assert!(!is_late(22, 23, B));
        assert!(is_late(10, 15, B), "it was not promoted yet");
        assert!(!is_late(72, 75, A));
    }

    #[test]
    fn a_claim_of_the_old_owner_is_false_after_the_grace() {
        let false_claims = |grace| {
            let record = story();
            let claims = owners(&record).false_claims(&record, Duration::from_nanos(grace));
            claims.iter().map(|claim| claim.at.0).collect::<Vec<_>>()
        };
        assert_eq!(false_claims(0), [40, 50]);
        assert_eq!(false_claims(15), [50]);
        assert_eq!(owners(&story()).false_announcements(&story()), 1);
    }
}
