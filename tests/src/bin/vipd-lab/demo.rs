//! One failover, told to somebody who has never seen this project.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, Value, json};
use vipd::clock::Monotonic;
use vipd_tests::ledger::{self, Ledger};
use vipd_tests::scenario::{Traffic, verify_after_failover};
use vipd_tests::status::{Failover, Status};
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};
use vipd_tests::{Lab, Mode, Options};

/// Writes before the master is killed, and by the new one before the curtain falls.
const ENOUGH_WRITES: usize = 300;

/// The leading Sentinel announces the new master some 2 s after a promotion.
const ANNOUNCED_BY: Duration = Duration::from_secs(6);

/// Builds a lab, kills its master, and tells what happened; as one JSON object with `json`.
pub fn run(options: Options, json: bool) -> Result<()> {
    let mode = options.mode;
    let tell = Narrator { silent: json };
    tell.introduction(mode);

    let started = Instant::now();
    tell.step("Building the network, starting 3 Redis, 3 Sentinels");
    let mut lab = Lab::up(options)?;
    tell.done(started.elapsed());
    let old = lab.master()?;

    let act = play(&mut lab, old, &tell).inspect_err(|_| eprintln!("\n{}", lab.report()))?;
    if json {
        println!("{:#}", act.to_json(&lab, mode));
    } else {
        act.tell(&lab);
    }
    drop(lab);
    tell.line("Everything is removed again: namespaces, processes, the XDP program.");
    Ok(())
}

fn play(lab: &mut Lab, old: usize, tell: &Narrator) -> Result<Act> {
    let started = Instant::now();
    tell.step("Starting vipd");
    lab.serve()?;
    tell.done(started.elapsed());
    let before = lab.daemon().status()?;
    tell.who_serves(lab, old, &before);

    let traffic = Traffic::start(lab, old)?;
    wait_writes(&traffic, lab.nodes[old].run_id())?;
    tell.line(&format!(
        "Two clients write through {}, and {} acknowledges.\n\n>>> kill -9 {}\n",
        lab.service(),
        lab.nodes[old].name(),
        lab.nodes[old].name()
    ));

    let killed = Monotonic::now();
    lab.nodes[old].kill()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    wait_writes(&traffic, lab.nodes[new].run_id())?;
    let failover = complete_failover(lab, new)?;
    let ledgers = traffic.stop();
    verify_after_failover(lab, &ledgers, new)?;
    Ok(Act { old, new, killed, failover, ledgers })
}

/// What vipd tells of the failover, once Sentinel's own announcement, which comes last, is part of
/// it. A Sentinel that never makes one shall not spoil the story.
fn complete_failover(lab: &Lab, new: usize) -> Result<Failover> {
    let told = || {
        let failovers = lab.daemon().status()?.failovers;
        Ok(failovers.into_iter().rfind(|it| it.to == lab.nodes[new].address()))
    };
    let complete = wait_for("Sentinel has announced the new master", ANNOUNCED_BY, || {
        Ok(told()?.filter(|it| it.timeline.switch_master_ns.is_some()))
    });
    complete.or_else(|_| wait_for("vipd tells of the failover", PATIENCE, told))
}

fn wait_writes(traffic: &Traffic, run_id: &str) -> Result<()> {
    wait_until("there are enough writes", PATIENCE, || {
        let ledgers = traffic.ledgers();
        Ok(ledgers.iter().all(|ledger| ledger.acknowledged_by(run_id).count() >= ENOUGH_WRITES))
    })
}

/// What happened.
struct Act {
    old: usize,
    new: usize,
    killed: Monotonic,
    failover: Failover,
    ledgers: Vec<Ledger>,
}

impl Act {
    fn tell(&self, lab: &Lab) {
        let (old, new) = (&lab.nodes[self.old], &lab.nodes[self.new]);
        println!("{:>10}  {} is killed", "0.0 ms", old.name());
        for (what, at) in self.moments() {
            println!("{:>7.1} ms  {what}", milliseconds(at.since(self.killed)));
        }
        let blackout = self.blackout(new.run_id()).map_or(f64::NAN, milliseconds);
        println!(
            "\nBlackout: {blackout:.1} ms between the last write on {} and the first on {}.",
            old.name(),
            new.name()
        );
        for ledger in &self.ledgers {
            println!(
                "The {} client never changed its address: {} writes acknowledged by {}, then {} \
                 by {}; {} attempts failed in between.",
                ledger.client,
                ledger.acknowledged_by(old.run_id()).count(),
                old.name(),
                ledger.acknowledged_by(new.run_id()).count(),
                new.name(),
                ledger.failures.len(),
            );
        }
        println!("Every write that {} acknowledged is there.\n", new.name());
    }

    fn to_json(&self, lab: &Lab, mode: Mode) -> Value {
        let (old, new) = (&lab.nodes[self.old], &lab.nodes[self.new]);
        let timeline = &self.failover.timeline;
        let seen = [
            ("sdown_ms", timeline.sdown_ns),
            ("odown_ms", timeline.odown_ns),
            ("selected_ms", timeline.selected_ns),
            ("switch_master_ms", timeline.switch_master_ns),
            ("role_confirmed_ms", timeline.role_confirmed_ns),
            ("flip_ms", timeline.flip_ns),
            ("first_packet_ms", timeline.first_packet_ns),
        ];
        let since_kill = seen.map(|(name, at)| {
            let at = at.map(|at| milliseconds(Monotonic(at).since(self.killed)));
            (name.to_owned(), json!(at))
        });
        let clients = self.ledgers.iter().map(|ledger| {
            json!({
                "client": ledger.client,
                "acknowledged_by_old": ledger.acknowledged_by(old.run_id()).count(),
                "acknowledged_by_new": ledger.acknowledged_by(new.run_id()).count(),
                "failed_attempts": ledger.failures.len(),
                "connections": ledger.connections,
            })
        });
        json!({
            "mode": mode.name(),
            "service": lab.service(),
            "from": old.address(),
            "to": new.address(),
            "epoch": self.failover.epoch,
            "since_kill": Value::Object(Map::from_iter(since_kill)),
            "blackout_ms": self.blackout(new.run_id()).map(milliseconds),
            "clients": clients.collect::<Vec<_>>(),
        })
    }

    /// What was seen after the kill, in order of time.
    fn moments(&self) -> Vec<(&'static str, Monotonic)> {
        let seen = self.failover.timeline.moments();
        let mut moments: Vec<_> =
            seen.into_iter().filter_map(|(what, at)| Some((what, Monotonic(at?)))).collect();
        moments.sort_by_key(|&(_, at)| at);
        moments
    }

    fn blackout(&self, new_run_id: &str) -> Option<Duration> {
        ledger::blackout(&self.ledgers, new_run_id)
    }
}

/// Says what happens while it happens.
struct Narrator {
    silent: bool,
}

impl Narrator {
    fn introduction(&self, mode: Mode) {
        let way = match mode {
            Mode::Nat => "nat: vipd's XDP program translates addresses and ports, both ways",
            Mode::Dsr => "dsr: vipd's XDP program steers packets; replies bypass it",
            Mode::Host => "host: vipd runs on every Redis host, and the master's has the VIP",
        };
        self.line(&format!(
            "A Redis master with two replicas, watched by three Sentinels. The applications know\n\
             one virtual IP (VIP), which vipd keeps on whichever node is the master now.\n\
             All are real programs on \"hosts\" made of network namespaces.\n\
             Mode {way}.\n"
        ));
    }

    fn who_serves(&self, lab: &Lab, master: usize, status: &Status) {
        for node in &lab.nodes {
            let role =
                if node.address() == lab.nodes[master].address() { "master" } else { "replica" };
            self.line(&format!("  {} {:<20} {role}", node.name(), node.address()));
        }
        for interface in &status.interfaces {
            self.line(&format!(
                "  vipd   {:<20} process {}, XDP on {} ({})",
                lab.director().address.to_string(),
                status.pid,
                interface.name,
                interface.xdp_mode
            ));
        }
        self.line(&format!(
            "  VIP    {:<20} -> {}\n",
            lab.service().to_string(),
            lab.nodes[master].name()
        ));
    }

    fn step(&self, what: &str) {
        if !self.silent {
            print!("{what} ... ");
            // Cosmetic: the line is complete with `done`.
            let _unflushed = std::io::stdout().flush();
        }
    }

    fn done(&self, took: Duration) {
        self.line(&format!("done ({:.1} s)", took.as_secs_f64()));
    }

    fn line(&self, text: &str) {
        if !self.silent {
            println!("{text}");
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
