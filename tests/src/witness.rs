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
use crate::ownership::{Owners, promotions};
use crate::recorder::{Record, Recorder};
use crate::scenario::{Traffic, scenario, verify};

/// What a story is held to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// `lease_ms` of the configuration.
    pub lease: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lease: Duration::from_secs(3) }
    }
}

/// [`scenario`] with clients that write and recorders that ask throughout. `story` returns the
/// number of the node that is the master at its end; then everything is judged, see
/// [`Findings::judge`].
///
/// # Panics
///
/// If the lab cannot be built, `story` fails, or the judgement is bad.
pub fn witnessed(options: Options, story: impl FnOnce(&mut Lab, &Witness) -> Result<usize>) {
    witnessed_on(Terms::default(), options, story);
}

/// [`witnessed`] on other terms.
///
/// # Panics
///
/// See [`witnessed`].
pub fn witnessed_on(
    terms: Terms,
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
        findings.judge(lab, master, terms)
    });
}

/// Clients and recorders at work.
pub struct Witness {
    traffic: Traffic,
    recorders: Vec<(SocketAddr, Recorder)>,
    /// Who has the VIPs at the beginning.
    first: MacAddr,
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
        let first = owner(lab, master);
        for (_, recorder) in &recorders {
            recorder.wait_answered_by(first)?;
        }
        Ok(Self { traffic: Traffic::start(lab, master)?, recorders, first })
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
            let answered = recorder.record().answered(mac, moment);
            ensure!(answered.is_none(), "{} answered again: {answered:?}", lab.nodes[node].name());
        }
        Ok(())
    }

    /// Ends them.
    pub fn stop(self, lab: &Lab) -> Result<Findings> {
        let ledgers = self.traffic.stop();
        let host_mode = lab.options().mode == Mode::Host;
        let promotions = if host_mode { promotions(lab)? } else { vec![] };
        let find = |(service, recorder): (SocketAddr, Recorder)| {
            let record = recorder.stop()?;
            let owners = Owners::new(self.first, &promotions, &record);
            let through = ledgers.iter().filter(|ledger| ledger.to == Some(service));
            let host_of = |write: &Write| {
                let node = lab.nodes.iter().find(|node| node.was(&write.by));
                node.map_or(MacAddr::ZERO, |node| node.host().mac)
            };
            let writes = through.flat_map(|ledger| &ledger.writes).filter(|_| host_mode);
            let late: Vec<_> =
                writes.filter(|it| owners.is_late(it, host_of(it))).cloned().collect();
            Ok(Finding { service, record, owners, late })
        };
        let findings = self.recorders.into_iter().map(find).collect::<Result<_>>()?;
        Ok(Findings { ledgers, findings })
    }
}

/// The host that is to answer for the VIPs while node `master` is the master.
fn owner(lab: &Lab, master: usize) -> MacAddr {
    match lab.options().mode {
        Mode::Host => lab.nodes[master].host().mac,
        Mode::Nat | Mode::Dsr => lab.director().mac,
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
    /// Who had it by right.
    pub owners: Owners,
    /// Writes that one node acknowledged after another was promoted and had announced that it has
    /// the VIP.
    pub late: Vec<Write>,
}

impl Findings {
    /// Fails if two hosts both answered for longer than the lease, if one that isn't the owner did
    /// so later than a lease after the owner's announcement, if a write was acknowledged by a node
    /// after another was promoted and had announced that it has the VIP, or if the host of node
    /// `master` is not the last owner.
    pub fn judge(&self, lab: &Lab, master: usize, terms: Terms) -> Result<()> {
        let Terms { lease } = terms;
        for Finding { service, record, owners, late } in &self.findings {
            if let Some(overlap) = record.overlap() {
                ensure!(overlap.time <= lease, "two hosts answered for {service}: {overlap:?}");
            }
            let false_claims = owners.false_claims(record, lease);
            ensure!(
                false_claims.is_empty(),
                "not the owners of {service}: {false_claims:?}; those were {owners:?}"
            );
            ensure!(
                late.is_empty(),
                "{} writes through {service} were acknowledged late, such as {:?}; owners were \
                 {owners:?}, and it was claimed by {:?}",
                late.len(),
                late[0],
                record.claims()
            );
            let claims = record.claims();
            let last = claims.last().map(|&(_, mac)| mac);
            ensure!(last == Some(owner(lab, master)), "{service} is elsewhere: {claims:?}");
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
        for Finding { service, record, owners, late, .. } in &self.findings {
            let last = late.iter().map(|write| owners.since_announced(write.sent)).max();
            writeln!(
                f,
                "{service}: {} moves, {} writes acknowledged by a node after another was promoted \
                 and had announced{}; two hosts answered for {:?} at most, nobody for {:?} at most; \
                 {} announcements by a host that was not the owner; {} questions, {} frames heard",
                owners.count() - 1,
                late.len(),
                last.map_or(String::new(), |after| format!(" (the last {after:?} after that)")),
                record.overlap().map(|overlap| overlap.time).unwrap_or_default(),
                record.longest_silence(),
                owners.false_announcements(record),
                record.asked.len(),
                record.sightings.len(),
            )?;
        }
        let failures: usize = self.ledgers.iter().map(|ledger| ledger.failures.len()).sum();
        let writes: usize = self.ledgers.iter().map(|ledger| ledger.writes.len()).sum();
        write!(f, "{writes} writes acknowledged, {failures} attempts failed")
    }
}
