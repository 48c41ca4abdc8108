//! What happened in a failover, and when: sightings from Sentinels, the confirmation, the flip, the
//! first packet and what was done for the clients on one axis (CLOCK_MONOTONIC). Only for people;
//! nothing is decided from it.

mod track;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::track::{AMENDABLE, ECHO, FORGOTTEN_AFTER, Timelines};

use crate::clock::Monotonic;
use crate::model::{Epoch, MasterId};

/// One change of the node that a master name's services point at, or an attempt at one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailoverRecord {
    /// Unique while this daemon runs, rising; a record that comes again with the same id replaces
    /// the earlier one.
    pub id: u64,
    /// Which master name.
    pub master: MasterId,
    /// Why it came about.
    pub trigger: Trigger,
    /// What has become of it so far.
    pub outcome: Outcome,
    /// The node before; none at the first start.
    pub from: Option<SocketAddr>,
    /// The node now; the same if nothing came of it.
    pub to: SocketAddr,
    /// The config-epoch that named it; none while no Sentinel has confirmed it.
    pub epoch: Option<Epoch>,
    /// When.
    pub timeline: Timeline,
    /// What was done for the clients, as soon as it is.
    pub clients: Option<Clients>,
}

/// Why a failover came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Sentinels found the master unreachable.
    Down,
    /// Somebody asked a Sentinel for it (`SENTINEL FAILOVER`): no Sentinel had found it unreachable.
    Planned,
    /// vipd did, because the master's host refused connections.
    FastFail,
    /// vipd did, for `vipd switchover`.
    Switchover,
    /// Only its result was seen: another master in the Sentinels' claims.
    Claim,
    /// Back to the master before, which the Sentinels have never replaced.
    Revert,
}

impl Trigger {
    /// In a word, as `vipd status` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Planned => "planned",
            Self::FastFail => "fast_fail",
            Self::Switchover => "switchover",
            Self::Claim => "claim",
            Self::Revert => "revert",
        }
    }
}

/// What has become of a failover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The new master is served, by its own word; no epoch has confirmed it yet.
    Provisional,
    /// An epoch has.
    Confirmed,
    /// None ever did: the master before is served again.
    Reverted,
    /// No replica was promoted: the services were parked for nothing.
    Abandoned,
}

impl Outcome {
    /// In a word, as `vipd status` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Provisional => "provisional",
            Self::Confirmed => "confirmed",
            Self::Reverted => "reverted",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What was done for the clients of a service that points elsewhere now, or is no longer parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clients {
    /// SYNs that were sent on to the new master in their senders' name.
    pub syns_replayed: u32,
    /// When the last of them was.
    pub replayed: Option<Monotonic>,
    /// Connections of the old master that were reset.
    pub freed: u32,
    /// When the last of them was.
    pub freed_at: Option<Monotonic>,
}

/// The moments of a failover, in the order in which they usually come. What was not seen is
/// `None`: a planned failover has no `sdown`, and a switch can be read before it is announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeline {
    /// vipd asked for it, or was about to.
    pub ordered: Option<Monotonic>,
    /// First `+sdown` of the master: one Sentinel finds it unreachable.
    pub sdown: Option<Monotonic>,
    /// First `+odown`: a quorum does.
    pub odown: Option<Monotonic>,
    /// `+selected-slave`: the leader has chosen a replica.
    pub selected: Option<Monotonic>,
    /// Nothing reaches the old master from here on.
    pub parked: Option<Monotonic>,
    /// `+failover-state-wait-promotion`: the leader has told the replica to be master.
    pub promoting: Option<Monotonic>,
    /// The node answered ROLE = master.
    pub role_confirmed: Option<Monotonic>,
    /// ACTIVE was written.
    pub flip: Option<Monotonic>,
    /// The kernel sent the first packet to the new master (its time, not the daemon's).
    pub first_packet: Option<Monotonic>,
    /// The park ended, without a flip.
    pub unparked: Option<Monotonic>,
    /// `+promoted-slave`: the leader has seen that it is master.
    pub promoted: Option<Monotonic>,
    /// First `+switch-master`.
    pub switch_master: Option<Monotonic>,
    /// An epoch names it.
    pub confirmed: Option<Monotonic>,
}

/// All moments by name, those that were seen, in order of time.
pub fn moments(timeline: &Timeline, clients: &Clients) -> Vec<(&'static str, Monotonic)> {
    let all = [
        ("failover asked for", timeline.ordered),
        ("+sdown", timeline.sdown),
        ("+odown", timeline.odown),
        ("+selected-slave", timeline.selected),
        ("parked", timeline.parked),
        ("told to be master", timeline.promoting),
        ("ROLE = master", timeline.role_confirmed),
        ("flip", timeline.flip),
        ("first packet", timeline.first_packet),
        ("SYNs replayed", clients.replayed),
        ("old clients reset", clients.freed_at),
        ("unparked", timeline.unparked),
        ("+promoted-slave", timeline.promoted),
        ("+switch-master", timeline.switch_master),
        ("epoch confirmed", timeline.confirmed),
    ];
    let mut seen: Vec<_> = all.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    seen.sort_by_key(|(_, at)| *at);
    seen
}

impl Timeline {
    /// How long nothing reached any master.
    pub fn parked_for(&self) -> Option<Duration> {
        let end = self.flip.or(self.unparked)?;
        self.parked.map(|begin| end.since(begin))
    }

    /// How long the flip was before the first `+switch-master`; none if it wasn't.
    pub fn ahead(&self) -> Option<Duration> {
        let (flip, switch_master) = (self.flip?, self.switch_master?);
        (flip <= switch_master).then(|| switch_master.since(flip))
    }
}

/// One line: milliseconds since the first moment.
impl fmt::Display for FailoverRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.trigger.name(), self.outcome.name())?;
        let moments = moments(&self.timeline, &self.clients.unwrap_or_default());
        let Some((_, start)) = moments.first().copied() else { return f.write_str("nothing seen") };
        for (index, (name, at)) in moments.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {:.3} ms", at.since(start).as_secs_f64() * 1e3)?;
        }
        if let Some(clients) = self.clients {
            write!(
                f,
                "; {} SYNs replayed, {} clients reset",
                clients.syns_replayed, clients.freed
            )?;
        }
        Ok(())
    }
}

/// What a Sentinel's event says has happened to a master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sighting {
    /// `+sdown master`: that Sentinel can't reach it.
    Sdown,
    /// `+odown`: a quorum can't.
    Odown,
    /// `+selected-slave`: the leader has chosen this replica.
    Selected(Option<SocketAddr>),
    /// `+failover-state-wait-promotion`: SLAVEOF NO ONE was sent to this replica.
    Promoting(Option<SocketAddr>),
    /// `+promoted-slave`: the leader has seen the replica call itself master.
    Promoted(Option<SocketAddr>),
    /// `+switch-master`: that Sentinel's configuration has changed.
    SwitchMaster,
    /// `+failover-end`, also by timeout: the replicas follow the new master.
    End,
    /// `-failover-abort-*`: there will be no new master from this attempt.
    Aborted,
}
