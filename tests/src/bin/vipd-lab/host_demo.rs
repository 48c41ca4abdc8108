//! The classic walkthrough on three hosts, with vipd and then with the script recipe.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use vipd::clock::Monotonic;
use vipd_tests::ledger;
use vipd_tests::redis_node::Role;
use vipd_tests::scenario::verify;
use vipd_tests::status::Failover;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::witness::{Findings, Terms, Witness};
use vipd_tests::{Family, Lab, Mover, Options};

use crate::story::{
    Narrator, clients_to_json, complete_failover, milliseconds, moments, tell_clients, tell_moment,
    timeline_to_json, wait_writes,
};

/// Plays the walkthrough with vipd and with the script recipe, and tells what happened; as one JSON
/// object with `json`.
pub fn run(options: Options, json: bool) -> Result<()> {
    let tell = Narrator { silent: json };
    tell.line(
        "Three hosts, each with a Redis, a Sentinel and vipd, and no other box. The applications\n\
         know one virtual IP (VIP), which is on the host of the master. All are real programs on\n\
         \"hosts\" made of network namespaces.\n",
    );
    let script = Options { mover: Mover::Script, ..options.clone() };
    let (vipd, lab) = play(options, &tell)?;
    if !json {
        vipd.tell(&lab);
    }
    let mut result = vipd.to_json(&lab);
    drop(lab);
    if script.family != Family::V4 {
        // Its script knows IPv4 only.
        if json {
            println!("{result:#}");
        }
        return Ok(());
    }

    tell.line(
        "\nNow the same without vipd: Sentinel's client-reconfig-script runs `ip addr add` and\n\
         `arping -q -c 3 -A` on the new master's host, `ip addr del` on the others.\n",
    );
    let (recipe, lab) = play(script, &tell)?;
    if json {
        result["script_recipe"] = recipe.to_json(&lab);
        println!("{result:#}");
    } else {
        recipe.tell(&lab);
        compare(&vipd, &recipe);
    }
    drop(lab);
    tell.line("Everything is removed again: namespaces, processes, the XDP programs.");
    Ok(())
}

/// The walkthrough, with whoever moves the VIP.
fn play(options: Options, tell: &Narrator) -> Result<(Act, Lab)> {
    let mut lab =
        tell.step("Building the network, starting 3 Redis, 3 Sentinels", || Lab::up(options))?;
    let act = walk(&mut lab, tell).inspect_err(|_| eprintln!("\n{}", lab.report()))?;
    Ok((act, lab))
}

fn walk(lab: &mut Lab, tell: &Narrator) -> Result<Act> {
    let with_vipd = lab.options().mover == Mover::Vipd;
    let what =
        if with_vipd { "Starting vipd on each host" } else { "Binding the first VIP by hand" };
    tell.step(what, || lab.serve())?;
    let old = lab.master()?;
    who_serves(tell, lab, old)?;

    let witness = Witness::start(lab)?;
    wait_writes(witness.traffic(), &lab.nodes[old])?;
    let name = lab.nodes[old].name().to_owned();
    tell.line(&format!(
        "Two clients write through {}, and {name} acknowledges.\n\n>>> redis-cli -h {name} \
         SHUTDOWN NOSAVE\n",
        lab.service(),
    ));
    let gone = Monotonic::now();
    lab.nodes[old].shut_down()?;
    let new = lab.wait_failed_over(old)?;
    witness.wait_served_by(lab, new)?;
    wait_writes(witness.traffic(), &lab.nodes[new])?;
    let failover = if with_vipd { Some(complete_failover(lab, new, new)?) } else { None };

    if with_vipd {
        let back = Monotonic::now();
        lab.nodes[old].start()?;
        wait_until("the old master is a replica", PATIENCE, || {
            Ok(lab.nodes[old].role()? == Role::Replica { in_sync: true })
        })?;
        witness.wait_served_by(lab, new)?;
        witness.verify_no_answer_since(lab, old, back)?;
    }
    let findings = witness.stop(lab)?;
    verify(lab, &findings.ledgers, new)?;
    if with_vipd {
        findings.judge(lab, new, Terms::default())?;
    }
    let blackout = findings.blackout(lab.nodes[new].run_id());
    let first_write = ledger::first_by(&findings.ledgers, lab.nodes[new].run_id());
    let promoted = lab.nodes[new].promoted()?;
    Ok(Act { old, new, gone, failover, findings, blackout, promoted, first_write })
}

/// What happened.
struct Act {
    old: usize,
    new: usize,
    gone: Monotonic,
    failover: Option<Failover>,
    findings: Findings,
    blackout: Option<Duration>,
    /// By the new master's own log.
    promoted: Option<Monotonic>,
    /// The first acknowledgement by the new master.
    first_write: Option<Monotonic>,
}

impl Act {
    /// The part of the blackout that is due to who moves the VIP: Sentinel's is over.
    fn after_promotion(&self) -> Option<Duration> {
        Some(self.first_write?.since(self.promoted?))
    }

    /// When the new host first announced that it has the VIP; the first if there are several.
    fn announced(&self, lab: &Lab) -> Option<Monotonic> {
        let record = &self.findings.findings[0].record;
        record.announced(lab.nodes[self.new].host().mac, self.gone)
    }

    fn tell(&self, lab: &Lab) {
        let (old, new) = (&lab.nodes[self.old], &lab.nodes[self.new]);
        let mut told: Vec<_> = self.failover.iter().flat_map(|it| moments(&it.timeline)).collect();
        told.extend(self.promoted.map(|at| ("the new master is promoted, by its own log", at)));
        told.extend(self.announced(lab).map(|at| ("the new host announces the VIP (ARP)", at)));
        told.sort_by_key(|&(_, at)| at);
        println!("{:>10}  {} is shut down", "0.0 ms", old.name());
        for (what, at) in told {
            tell_moment(at.since(self.gone), what);
        }
        println!(
            "\nBlackout: {:.1} ms between the last write on {} and the first on {}.",
            self.blackout.map_or(f64::NAN, milliseconds),
            old.name(),
            new.name()
        );
        tell_clients(&self.findings.ledgers, old, new);
        if self.failover.is_some() {
            println!("{} came back as a replica and never answered for the VIP again.", old.name());
        }
        println!("{}", self.findings);
    }

    fn to_json(&self, lab: &Lab) -> Value {
        let (old, new) = (&lab.nodes[self.old], &lab.nodes[self.new]);
        let finding = &self.findings.findings[0];
        let announced = self.announced(lab).map(|at| milliseconds(at.since(self.gone)));
        let timeline =
            self.failover.as_ref().map(|failover| timeline_to_json(&failover.timeline, self.gone));
        let overlap = finding.record.overlap().map(|overlap| overlap.time).unwrap_or_default();
        json!({
            "mode": lab.options().mode.name(),
            "service": lab.service(),
            "from": old.address(),
            "to": new.address(),
            "epoch": self.failover.as_ref().map(|failover| failover.epoch),
            "since_shutdown": timeline,
            "announced_ms": announced,
            "promoted_ms": self.promoted.map(|at| milliseconds(at.since(self.gone))),
            "blackout_ms": self.blackout.map(milliseconds),
            "blackout_after_promotion_ms": self.after_promotion().map(milliseconds),
            "two_hosts_answered_ms": milliseconds(overlap),
            "late_writes": finding.late.len(),
            "clients": clients_to_json(&self.findings.ledgers, old, new),
        })
    }
}

/// Sentinel's part of a blackout differs from one failover to the next, whoever moves the VIP.
fn compare(vipd: &Act, recipe: &Act) {
    let row = |what: &str, of: fn(&Act) -> Option<Duration>| {
        let [ours, theirs] = [vipd, recipe].map(|act| of(act).map_or(f64::NAN, milliseconds));
        println!("{what:<44} {ours:>9.1} ms {theirs:>12.1} ms");
    };
    println!("{:<44} {:>12} {:>15}", "", "vipd", "script recipe");
    row("Blackout", |act| act.blackout);
    row("  of it after the new master's promotion", Act::after_promotion);
    println!();
}

fn who_serves(tell: &Narrator, lab: &Lab, master: usize) -> Result<()> {
    for (number, node) in lab.nodes.iter().enumerate() {
        let role = if number == master { "master, has the VIP" } else { "replica" };
        let vipd = match lab.daemons.get(number) {
            Some(daemon) => format!("vipd is process {}", daemon.status()?.pid),
            None => String::new(),
        };
        tell.line(&format!("  {} {:<20} {role:<20} {vipd}", node.name(), node.address()));
    }
    tell.line(&format!("  VIP    {}\n", lab.service()));
    Ok(())
}
