//! One failover, and what everybody noticed of it.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd_tests::client::Dialer;
use vipd_tests::crowd::{Arrivals, Attempt, Blocked, Fate, How, Patient, Waiter};
use vipd_tests::ledger::{self, Ledger};
use vipd_tests::recorder::Recorder;
use vipd_tests::status::Failover;
use vipd_tests::switchover;
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};
use vipd_tests::{Habit, Lab, Mode, Writer};

use super::cell::Cell;
use vipd::probe::figures::milliseconds;

/// Clients of each kind.
const CROWD: usize = 200;
const PERSISTENT: usize = 4;
/// Between two clients that come one after another.
const PACE: Duration = Duration::from_millis(2);
/// Such a client gives up after this.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// Writes of each before it happens.
const ENOUGH_WRITES: usize = 100;
/// Patience of those that are [`Patient`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Who knows nothing so long after the first write by the new master hangs.
const HANGS_AFTER: Duration = Duration::from_secs(2);
/// Sentinel announces the new master some 2 s after its promotion.
const ANNOUNCED_BY: Duration = Duration::from_secs(6);
/// Between two looks at what takes seconds: looking takes CPU time from what is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// One failover.
pub struct Run {
    /// Numbers of the nodes.
    pub old: usize,
    pub new: usize,
    /// Just before it was done.
    pub fault: Monotonic,
    /// The new master's log says that it is one.
    pub role: Option<Monotonic>,
    /// The first write that it acknowledged.
    pub first_write: Monotonic,
    pub blackout: Option<Duration>,
    /// What vipd tells: the director's, or that of the new owner.
    pub failover: Failover,
    pub waiters: Vec<Waiter>,
    pub attempts: Vec<Attempt>,
    /// Writes acknowledged through the VIP, and those of them that the new master doesn't have.
    pub writes: usize,
    pub lost: usize,
    /// Those of the lost that were sent after vipd had parked the service or, if it never did, moved
    /// it.
    pub unfenced: usize,
    /// Writes that were sent after the new master's first acknowledgement, and acknowledged by
    /// another.
    pub late: usize,
    /// Mode `host`: the longest time in which two hosts answered for the VIP.
    pub two_owners: Option<Duration>,
}

/// Makes the master go, and watches until everybody has found the new one or given up.
pub fn measure(lab: &mut Lab, cell: &Cell, number: usize) -> Result<Run> {
    let old = lab.master()?;
    let crowd = Crowd::gather(lab, old, number)?;
    let fault = Monotonic::now();
    let ordered = cell.scenario.strike(lab, old)?;
    let patient = Dialer { connect_timeout: CONNECT_TIMEOUT, ..lab.dialer() };
    let patient = Patient::start(&patient, CROWD, cell.gap())?;

    let new = crowd.wait_served_by_another(lab, old)?;
    let first_seen = Monotonic::now();
    patient.wait_all_over(CONNECT_TIMEOUT + PATIENCE)?;
    while crowd.blocked.last().1 > 0 && Monotonic::now().since(first_seen) < HANGS_AFTER {
        thread::sleep(GLANCE);
    }
    if let Some(command) = ordered {
        let ended = switchover::ended(command)?;
        ensure!(ended.success, "vipd switchover: {}", ended.text);
    }
    let failover = told(lab, new, fault)?;
    let waiters = crowd.blocked.waiters();
    let (ledgers, two_owners) = crowd.dismiss()?;

    let node = &lab.nodes[new];
    let first_write = ledger::first_by(&ledgers, node.run_id());
    let first_write = first_write.context("the new master has acknowledged nothing")?;
    let fenced = failover.timeline.parked_ns.or(failover.timeline.flip_ns).map(Monotonic);
    let (mut lost, mut unfenced, mut late) = (0, 0, 0);
    for ledger in &ledgers {
        let missing = ledger.lost(node)?;
        lost += missing.len();
        unfenced += missing.iter().filter(|it| fenced.is_some_and(|at| it.sent > at)).count();
        let writes = ledger.writes.iter().filter(|it| it.sent > first_write);
        late += writes.filter(|it| &*it.by != node.run_id()).count();
    }
    Ok(Run {
        old,
        new,
        fault,
        role: node.promoted()?.filter(|&at| at + Duration::from_millis(1) >= fault),
        first_write,
        blackout: ledger::blackout(&ledgers, node.run_id()),
        failover,
        waiters,
        attempts: patient.attempts(),
        writes: ledgers.iter().map(|ledger| ledger.writes.len()).sum(),
        lost,
        unfenced,
        late,
        two_owners,
    })
}

/// Waits until so much time has passed since `moment`.
pub fn wait_since(moment: Monotonic, time: Duration) {
    thread::sleep(time.saturating_sub(Monotonic::now().since(moment)));
}

/// Those who are there when it happens.
struct Crowd {
    arrivals: Arrivals,
    writers: Vec<Writer>,
    blocked: Blocked,
    recorder: Option<Recorder>,
}

impl Crowd {
    fn gather(lab: &Lab, master: usize, number: usize) -> Result<Self> {
        let hosts: Vec<_> = lab.nodes.iter().map(|node| node.host().mac).collect();
        let record = || Recorder::start(&lab.observer, lab.service().ip(), &hosts);
        let recorder = (lab.options().mode == Mode::Host).then(record).transpose()?;
        let blocked = Blocked::start(&lab.dialer(), CROWD)?;
        let writer = |which| {
            let name = format!("run{number}-persistent{which}");
            lab.writer(&name, Habit::Persistent, lab.service())
        };
        let writers: Vec<_> = (0..PERSISTENT).map(writer).collect();
        let visitor = Dialer { connect_timeout: IMPATIENCE, ..lab.dialer() };
        let arrivals = Arrivals::start(&format!("run{number}-arrivals"), &visitor, PACE)?;
        let node = &lab.nodes[master];
        arrivals.wait_served_by(node)?;
        wait_until("the load is what it will be", PATIENCE, || {
            let written = writers.iter().map(Writer::acknowledged).chain([arrivals.acknowledged()]);
            Ok(written.min() >= Some(ENOUGH_WRITES))
        })?;
        writers.iter().try_for_each(|writer| writer.wait_acknowledged_by(node.run_id()))?;
        let gone = blocked.waiters().iter().any(|it| it.ended.is_some());
        ensure!(!gone, "a waiting client was cut off before anything happened");
        Ok(Self { arrivals, writers, blocked, recorder })
    }

    /// Without asking anybody: only by what the clients are told.
    fn wait_served_by_another(&self, lab: &Lab, old: usize) -> Result<usize> {
        wait_for("another node acknowledges writes", PATIENCE, || {
            let Some(by) = self.arrivals.last_acknowledged_by() else { return Ok(None) };
            Ok(lab.nodes.iter().position(|node| node.run_id() == &*by).filter(|&it| it != old))
        })
    }

    fn dismiss(self) -> Result<(Vec<Ledger>, Option<Duration>)> {
        let mut ledgers: Vec<_> = self.writers.into_iter().map(Writer::stop).collect();
        ledgers.push(self.arrivals.stop());
        let record = self.recorder.map(Recorder::stop).transpose()?;
        let overlap =
            |it: vipd_tests::recorder::Record| it.overlap().map(|it| it.time).unwrap_or_default();
        Ok((ledgers, record.map(overlap)))
    }
}

/// What vipd tells of the failover, once all that belongs to it has been seen. Some of it may never
/// be.
fn told(lab: &Lab, new: usize, fault: Monotonic) -> Result<Failover> {
    let daemon = if lab.options().mode == Mode::Host { new } else { 0 };
    let to = lab.nodes[new].address();
    let told = || {
        let failovers = lab.daemons[daemon].status()?.failovers;
        let is_it =
            |it: &Failover| it.to == to && it.timeline.flip_ns.is_some_and(|at| at > fault.0);
        Ok(failovers.into_iter().rfind(is_it))
    };
    let complete = wait_for("Sentinel has announced the new master", ANNOUNCED_BY, || {
        let found = told()?.filter(|it| it.timeline.switch_master_ns.is_some());
        if found.is_none() {
            thread::sleep(GLANCE);
        }
        Ok(found)
    });
    complete.or_else(|_| wait_for("vipd tells of the failover", PATIENCE, told))
}

impl Run {
    pub fn flip(&self) -> Option<Monotonic> {
        self.failover.timeline.flip_ns.map(Monotonic)
    }

    /// The last waiting client that learned of it, against the flip: negative is before.
    pub fn last_freed(&self) -> Option<f64> {
        let last = self.waiters.iter().filter_map(|it| it.ended).map(|it| it.at).max()?;
        Some(signed(self.flip()?, last))
    }

    pub fn hung(&self) -> usize {
        self.waiters.iter().filter(|it| it.ended.is_none()).count()
    }

    /// How the waiting clients learned of it.
    pub fn learned(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for waiter in &self.waiters {
            let how = match waiter.ended.map(|it| it.how) {
                Some(How::Reset) => "reset",
                Some(How::Closed) => "closed",
                Some(How::TimedOut) => "timed out",
                Some(How::Told) => "told by Redis",
                Some(How::Other) => "other",
                None => "hangs",
            };
            *counts.entry(how).or_default() += 1;
        }
        counts
    }

    /// Those patient clients that began before the flip.
    pub fn in_the_gap(&self) -> impl Iterator<Item = &Attempt> {
        let flip = self.flip();
        self.attempts.iter().filter(move |it| flip.is_none_or(|flip| it.begun < flip))
    }

    /// The last of [`Self::in_the_gap`] to connect, against the flip. Whoever connected before it
    /// never was in a gap.
    pub fn last_connected(&self) -> Option<f64> {
        let last = self.in_the_gap().filter_map(Attempt::established).max()?;
        Some(signed(self.flip()?, last))
    }

    pub fn attempts_that(&self, fate: Fate) -> usize {
        self.attempts.iter().filter(|it| it.fate.is_some_and(|(_, it)| it == fate)).count()
    }

    pub fn role_to_first_write(&self) -> Option<f64> {
        Some(signed(self.role?, self.first_write))
    }

    pub fn role_to_flip(&self) -> Option<f64> {
        Some(signed(self.role?, self.flip()?))
    }

    /// How long before the first `+switch-master` the flip was; negative is after.
    pub fn ahead(&self) -> Option<f64> {
        let announced = self.failover.timeline.switch_master_ns.map(Monotonic)?;
        Some(signed(self.flip()?, announced))
    }

    pub fn since_fault(&self, at: Option<Monotonic>) -> Option<f64> {
        Some(signed(self.fault, at?))
    }
}

/// Milliseconds from one moment to the other.
fn signed(from: Monotonic, to: Monotonic) -> f64 {
    if to >= from { milliseconds(to.since(from)) } else { -milliseconds(from.since(to)) }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |it: Option<f64>| it.map_or("?".to_owned(), |it| format!("{it:.1}"));
        write!(
            f,
            "blackout {}, ROLE to first write {}, freed {} ({} hang), connected {}, {} lost",
            shown(self.blackout.map(milliseconds)),
            shown(self.role_to_first_write()),
            shown(self.last_freed()),
            self.hung(),
            shown(self.last_connected()),
            self.lost
        )
    }
}
