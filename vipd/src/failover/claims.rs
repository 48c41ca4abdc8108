//! What each Sentinel says about one master now, and what follows from all of it together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Target;
use crate::clock::Monotonic;
use crate::model::{Epoch, SentinelId};

/// Sentinels heard beyond the configured ones; far above any deployment (three or five is usual).
pub(super) const MAX_DISCOVERED: usize = 256;

/// How many of the configured Sentinels have a live claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Support {
    /// No Sentinel at all, configured or not.
    Nobody,
    /// Some, but not more than half of the configured ones.
    Minority,
    /// More than half of the configured ones.
    Majority,
}

/// Whom the live claims name instead of the present target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Election {
    /// Nobody: they name the present one, or one that is older.
    Unchanged,
    /// This one.
    Successor(Target),
    /// The newest epoch is claimed for several nodes, none of them by a majority.
    Split(Epoch),
}

/// The latest word of each Sentinel.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    configured: usize,
    /// How long a claim counts towards a majority; for as long as its Sentinel is connected if none.
    lease: Option<Duration>,
    /// A majority was heard then, or is believed to have been.
    since: Monotonic,
    voices: BTreeMap<SentinelId, Voice>,
}

/// One Sentinel.
#[derive(Clone, Copy, Default, Debug)]
struct Voice {
    /// None while it is lost or doesn't know the name.
    claim: Option<Target>,
    /// When it was last asked for a claim that it then made.
    heard: Monotonic,
    /// It answers, but doesn't know the name.
    unknown: bool,
    /// The last claim of it that was refused: an operator hears of each once.
    refused: Option<Target>,
}

impl Claims {
    pub(super) fn new(configured: usize, lease: Option<Duration>, since: Monotonic) -> Self {
        Self { configured, lease, since, voices: BTreeMap::new() }
    }

    /// Whether this is the first time that this Sentinel says this.
    pub(super) fn refuse(&mut self, sentinel: SentinelId, claimed: Target) -> bool {
        let Some(voice) = self.voice(sentinel) else { return false };
        voice.refused.replace(claimed) != Some(claimed)
    }

    /// Replaces whatever this Sentinel said before. `asked` is when it was asked.
    pub(super) fn claim(&mut self, sentinel: SentinelId, target: Target, asked: Monotonic) {
        if let Some(voice) = self.voice(sentinel) {
            voice.claim = Some(target);
            voice.heard = voice.heard.max(asked);
            voice.unknown = false;
        }
    }

    /// Withdraws its claim. Returns whether it is news that it doesn't know the name.
    pub(super) fn unknown(&mut self, sentinel: SentinelId) -> bool {
        let Some(voice) = self.voice(sentinel) else { return false };
        voice.claim = None;
        !std::mem::replace(&mut voice.unknown, true)
    }

    /// Withdraws its claim.
    pub(super) fn lost(&mut self, sentinel: SentinelId) {
        if let Some(voice) = self.voices.get_mut(&sentinel) {
            voice.claim = None;
            voice.unknown = false;
        }
    }

    /// How many of the configured Sentinels have a live claim.
    pub(super) fn live(&self, now: Monotonic) -> usize {
        self.counted(|voice| self.lease.is_none_or(|lease| now < voice.heard + lease))
    }

    /// How many of them are a majority.
    pub(super) fn majority(&self) -> usize {
        self.configured / 2 + 1
    }

    pub(super) fn support(&self, now: Monotonic) -> Support {
        if self.live(now) >= self.majority() {
            Support::Majority
        } else if self.targets().next().is_some() {
            Support::Minority
        } else {
            Support::Nobody
        }
    }

    /// When the last majority of the configured Sentinels was asked that answered, whatever became of
    /// their connections.
    pub(super) fn heard(&self) -> Monotonic {
        let configured = self.voices.range(..SentinelId(self.configured));
        let mut heard: Vec<_> = configured.map(|(_, voice)| voice.heard).collect();
        heard.sort_unstable();
        let last = heard.iter().rev().nth(self.majority() - 1).copied();
        last.unwrap_or_default().max(self.since)
    }

    /// Until when that is not longer ago than the lease, as far as is known. None without a lease.
    pub(super) fn heard_until(&self) -> Option<Monotonic> {
        self.lease.map(|lease| self.heard() + lease)
    }

    /// Applies the epoch fence (mastership rule 1) to the live claims.
    ///
    /// The highest epoch names the successor if it is above the present one: an epoch comes from
    /// an election that had a majority, so one Sentinel's word for it is enough. Where it is
    /// claimed for several nodes, or is the present epoch with another node (SENTINEL REMOVE and
    /// MONITOR start again at 0; a fresh deployment stands there), no election vouches for it: a
    /// majority of the configured Sentinels must name the same node.
    pub(super) fn elect(&self, present: Option<Target>) -> Election {
        let Some(epoch) = self.targets().map(|target| target.epoch).max() else {
            return Election::Unchanged;
        };
        if present.is_some_and(|present| epoch < present.epoch) {
            return Election::Unchanged;
        }
        let same_epoch = present.filter(|present| present.epoch == epoch);
        let mut rivals = self.targets().filter(|target| target.epoch == epoch);
        let Some(first) = rivals.next() else { return Election::Unchanged };
        let unanimous = rivals.all(|target| target == first);

        match same_epoch {
            Some(present) if unanimous && first == present => Election::Unchanged,
            None if unanimous => Election::Successor(first),
            Some(_) | None => match self.chosen_by_majority(epoch) {
                Some(addr) if same_epoch.is_some_and(|present| present.addr == addr) => {
                    Election::Unchanged
                }
                Some(addr) => Election::Successor(Target { addr, epoch }),
                None => Election::Split(epoch),
            },
        }
    }

    fn chosen_by_majority(&self, epoch: Epoch) -> Option<SocketAddr> {
        let mut candidates = self.targets().filter(|target| target.epoch == epoch);
        candidates
            .find(|candidate| {
                self.counted(|voice| voice.claim.as_ref() == Some(candidate)) >= self.majority()
            })
            .map(|target| target.addr)
    }

    /// How many configured Sentinels have a live claim for which this holds.
    fn counted(&self, holds: impl Fn(&Voice) -> bool) -> usize {
        let configured = self.voices.range(..SentinelId(self.configured));
        configured.filter(|(_, voice)| voice.claim.is_some() && holds(voice)).count()
    }

    fn targets(&self) -> impl Iterator<Item = Target> {
        self.voices.values().filter_map(|voice| voice.claim)
    }

    /// None where there are too many already.
    fn voice(&mut self, sentinel: SentinelId) -> Option<&mut Voice> {
        let full = self.voices.len() >= self.configured + MAX_DISCOVERED;
        if full && sentinel.0 >= self.configured && !self.voices.contains_key(&sentinel) {
            return None;
        }
        Some(self.voices.entry(sentinel).or_default())
    }
}
