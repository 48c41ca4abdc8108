//! One failover behind a director, told to somebody who has never seen this project.

use anyhow::Result;
use serde_json::{Value, json};
use vipd::clock::Monotonic;
use vipd_tests::ledger::{self, Ledger};
use vipd_tests::scenario::{Traffic, verify_after_failover};
use vipd_tests::status::{Failover, Status};
use vipd_tests::{Lab, Mode, Options};

use crate::story::{
    Narrator, clients_to_json, complete_failover, milliseconds, moments, tell_clients, tell_moment,
    timeline_to_json, wait_writes,
};

/// Builds a lab, kills its master, and tells what happened; as one JSON object with `json`.
pub fn run(options: Options, json: bool) -> Result<()> {
    let mode = options.mode;
    let tell = Narrator { silent: json };
    introduce(&tell, mode);
    let mut lab =
        tell.step("Building the network, starting 3 Redis, 3 Sentinels", || Lab::up(options))?;
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
    tell.step("Starting vipd", || lab.serve())?;
    let before = lab.daemon().status()?;
    who_serves(tell, lab, old, &before);

    let traffic = Traffic::start(lab, old)?;
    wait_writes(&traffic, &lab.nodes[old])?;
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
    wait_writes(&traffic, &lab.nodes[new])?;
    let failover = complete_failover(lab, 0, new)?;
    let ledgers = traffic.stop();
    verify_after_failover(lab, &ledgers, new)?;
    Ok(Act { old, new, killed, failover, ledgers })
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
        for (what, at) in moments(&self.failover.timeline) {
            tell_moment(at.since(self.killed), what);
        }
        let blackout = ledger::blackout(&self.ledgers, new.run_id());
        println!(
            "\nBlackout: {:.1} ms between the last write on {} and the first on {}.",
            blackout.map_or(f64::NAN, milliseconds),
            old.name(),
            new.name()
        );
        tell_clients(&self.ledgers, old, new);
        println!("Every write that {} acknowledged is there.\n", new.name());
    }

    fn to_json(&self, lab: &Lab, mode: Mode) -> Value {
        let (old, new) = (&lab.nodes[self.old], &lab.nodes[self.new]);
        json!({
            "mode": mode.name(),
            "service": lab.service(),
            "from": old.address(),
            "to": new.address(),
            "epoch": self.failover.epoch,
            "since_kill": timeline_to_json(&self.failover.timeline, self.killed),
            "blackout_ms": ledger::blackout(&self.ledgers, new.run_id()).map(milliseconds),
            "clients": clients_to_json(&self.ledgers, old, new),
        })
    }
}

fn introduce(tell: &Narrator, mode: Mode) {
    let way = match mode {
        Mode::Nat => "nat: vipd's XDP program translates addresses and ports, both ways",
        Mode::Dsr => "dsr: vipd's XDP program steers packets; replies bypass it",
        Mode::Host => "host: vipd runs on every Redis host, and the master's has the VIP",
    };
    tell.line(&format!(
        "A Redis master with two replicas, watched by three Sentinels. The applications know\n\
         one virtual IP (VIP), which vipd keeps on whichever node is the master now.\n\
         All are real programs on \"hosts\" made of network namespaces.\n\
         Mode {way}.\n"
    ));
}

fn who_serves(tell: &Narrator, lab: &Lab, master: usize, status: &Status) {
    for (number, node) in lab.nodes.iter().enumerate() {
        let role = if number == master { "master" } else { "replica" };
        tell.line(&format!("  {} {:<20} {role}", node.name(), node.address()));
    }
    for interface in &status.interfaces {
        tell.line(&format!(
            "  vipd   {:<20} process {}, XDP on {} ({})",
            lab.director().address.to_string(),
            status.pid,
            interface.name,
            interface.xdp_mode
        ));
    }
    tell.line(&format!(
        "  VIP    {:<20} -> {}\n",
        lab.service().to_string(),
        lab.nodes[master].name()
    ));
}
