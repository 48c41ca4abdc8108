//! What must hold in every story in which the VIP moves between hosts, whatever happens in it: the
//! promises are kept, and the VIP is in one place.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use vipd::clock::Monotonic;
use vipd_common::addr::MacAddr;

use crate::daemon::Mode;
use crate::lab::Lab;
use crate::ledger::{self, Ledger, Write};
use crate::options::Options;
use crate::recorder::{Record, Recorder, owner_at};
use crate::redis_node::RedisNode;
use crate::scenario::{Traffic, scenario, verify};

/// `lease_ms` where the configuration says nothing else.
pub const LEASE: Duration = Duration::from_secs(3);

/// [`scenario`] with clients that write and recorders that ask throughout. `story` returns the
/// number of the node that is the master at its end; then everything is judged, see
/// [`Findings::judge`].
///
/// # Panics
///
/// If the lab cannot be built, `story` fails, or the judgement is bad.
pub fn witnessed(options: Options, story: impl FnOnce(&mut Lab, &Witness) -> Result<usize>) {
    witnessed_for(LEASE, options, story);
}

/// [`witnessed`] with a configured lease.
///
/// # Panics
///
/// See [`witnessed`].
pub fn witnessed_for(
    lease: Duration,
    options: Options,
    story: impl FnOnce(&mut Lab, &Witness) -> Result<usize>,
) {
    scenario(options, |lab| {
        let witness = Witness::start(lab)?;
        let master = story(lab, &witness)?;
        witness.wait_served_by(lab, master)?;
        let findings = witness.stop(lab)?;
        println!("{findings}");
        verify(lab, &findings.ledgers, master)?;
        findings.judge(lab, master, lease)
    });
}

/// Clients and recorders at work.
pub struct Witness {
    traffic: Traffic,
    recorders: Vec<(SocketAddr, Recorder)>,
}

impl Witness {
    /// Starts them, and waits until the present master has acknowledged writes.
    pub fn start(lab: &Lab) -> Result<Self> {
        let hosts: Vec<_> = lab.nodes.iter().map(|node| node.host().mac).collect();
        let record = |service: SocketAddr| {
            let recorder = Recorder::start(&lab.observer, service.ip(), &hosts)?;
            anyhow::Ok((service, recorder))
        };
        let recorders = lab.services().into_iter().map(record).collect::<Result<Vec<_>>>()?;
        let master = lab.master()?;
        for (_, recorder) in &recorders {
            let owner = match lab.options().mode {
                Mode::Host => lab.nodes[master].host().mac,
                Mode::Nat | Mode::Dsr => lab.director().mac,
            };
            recorder.wait_answered_by(owner)?;
        }
        Ok(Self { traffic: Traffic::start(lab, master)?, recorders })
    }

    /// The clients.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The recorders, one for each VIP.
    pub fn recorders(&self) -> impl Iterator<Item = &Recorder> {
        self.recorders.iter().map(|(_, recorder)| recorder)
    }

    /// Waits until node `node` acknowledges writes of each client that are sent from now on.
    pub fn wait_served_by(&self, lab: &Lab, node: usize) -> Result<()> {
        self.traffic.wait_served_by(&lab.nodes[node])
    }

    /// Waits until the host of node `node` answers for each VIP.
    pub fn wait_answered_by(&self, lab: &Lab, node: usize) -> Result<()> {
        let mac = lab.nodes[node].host().mac;
        self.recorders().try_for_each(|recorder| recorder.wait_answered_by(mac))
    }

    /// Waits until nobody has answered for a while, for each VIP.
    pub fn wait_unanswered(&self) -> Result<()> {
        self.recorders().try_for_each(|recorder| recorder.wait_unanswered(20))
    }

    /// Fails if the host of node `node` answered for a VIP after `moment`.
    pub fn verify_no_answer_since(&self, lab: &Lab, node: usize, moment: Monotonic) -> Result<()> {
        let mac = lab.nodes[node].host().mac;
        for recorder in self.recorders() {
            let last = recorder.record().last_answer(mac);
            let late = last.filter(|&last| last > moment);
            ensure!(late.is_none(), "{} answered again: {late:?}", lab.nodes[node].name());
        }
        Ok(())
    }

    /// Ends them.
    pub fn stop(self, lab: &Lab) -> Result<Findings> {
        let ledgers = self.traffic.stop();
        let find = |(service, recorder): (SocketAddr, Recorder)| {
            let record = recorder.stop()?;
            let late = match lab.options().mode {
                Mode::Host => late_writes(&record, &ledgers, service, &lab.nodes),
                Mode::Nat | Mode::Dsr => vec![],
            };
            Ok(Finding { service, record, late })
        };
        let findings = self.recorders.into_iter().map(find).collect::<Result<_>>()?;
        Ok(Findings { ledgers, findings })
    }
}

/// What was seen in a story.
pub struct Findings {
    /// Of each client.
    pub ledgers: Vec<Ledger>,
    /// Of each VIP.
    pub findings: Vec<Finding>,
}

/// What was seen of one VIP.
pub struct Finding {
    /// The VIP with its port.
    pub service: SocketAddr,
    /// Who said that he has it.
    pub record: Record,
    /// Writes that one node acknowledged although another had announced that it has the VIP.
    pub late: Vec<Write>,
}

impl Findings {
    /// Fails if two hosts both answered for longer than the lease, if one that isn't the owner did
    /// so later than a lease after the owner's announcement, if a write was acknowledged by a node
    /// after another was promoted and had announced that it has the VIP, or if the host of node
    /// `master` is not the last owner.
    pub fn judge(&self, lab: &Lab, master: usize, lease: Duration) -> Result<()> {
        for Finding { service, record, late } in &self.findings {
            if let Some(overlap) = record.overlap() {
                ensure!(overlap.time <= lease, "two hosts answered for {service}: {overlap:?}");
            }
            let strays = record.strays(lease);
            ensure!(strays.is_empty(), "not the owners of {service}: {strays:?}");
            let owners = record.owners();
            ensure!(
                late.is_empty(),
                "{} writes through {service} were acknowledged late, such as {:?}; owners were \
                 {owners:?}",
                late.len(),
                late[0]
            );
            let owner = match lab.options().mode {
                Mode::Host => lab.nodes[master].host().mac,
                Mode::Nat | Mode::Dsr => lab.director().mac,
            };
            let last = owners.last().map(|&(_, mac)| mac);
            ensure!(last == Some(owner), "{service} is not with the master: {owners:?}");
        }
        Ok(())
    }

    /// See [`ledger::blackout`].
    pub fn blackout(&self, run_id: &str) -> Option<Duration> {
        ledger::blackout(&self.ledgers, run_id)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { service, record, late } in &self.findings {
            writeln!(
                f,
                "{service}: {} owners in turn; two hosts answered for {:?} at most; nobody for \
                 {:?} at most; {} writes acknowledged by a node after another had announced; {} \
                 questions, {} frames heard",
                record.owners().len(),
                record.overlap().map(|overlap| overlap.time).unwrap_or_default(),
                record.longest_silence(),
                late.len(),
                record.asked.len(),
                record.sightings.len(),
            )?;
        }
        let failures: usize = self.ledgers.iter().map(|ledger| ledger.failures.len()).sum();
        let writes: usize = self.ledgers.iter().map(|ledger| ledger.writes.len()).sum();
        write!(f, "{writes} writes acknowledged, {failures} attempts failed")
    }
}

/// Writes through `service` that were sent after a host had announced that it has the VIP, and that
/// the node of another host acknowledged. vipd announces after the promotion only.
fn late_writes(
    record: &Record,
    ledgers: &[Ledger],
    service: SocketAddr,
    nodes: &[RedisNode],
) -> Vec<Write> {
    let host_of = |run_id: &str| -> Option<MacAddr> {
        nodes.iter().find(|node| node.was(run_id)).map(|node| node.host().mac)
    };
    let owners = record.owners();
    let is_late = |write: &&Write| {
        let owner = owner_at(&owners, write.sent).map(|(_, mac)| mac);
        owner.is_some() && host_of(&write.by) != owner
    };
    let through = ledgers.iter().filter(|ledger| ledger.to == Some(service));
    through.flat_map(|ledger| &ledger.writes).filter(is_late).cloned().collect()
}
