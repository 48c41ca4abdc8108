//! `vipd switchover`: nothing is lost when it works, and nothing is changed when it doesn't.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redis::Value;
use vipd_tests::client::Dialer;
use vipd_tests::daemon::Daemon;
use vipd_tests::redis_node::RedisNode;
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::switchover::{Ended, Proof, begin, ended, lost, switch_over, wait_replicas_known};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Habit, Lab, Mode, Options, Writer};

#[test]
fn nat_switches_over_under_load_and_loses_nothing() {
    scenario(Options::mode(Mode::Nat), nothing_is_lost);
}

#[test]
fn dsr_switches_over_under_load_and_loses_nothing() {
    scenario(Options::mode(Mode::Dsr), nothing_is_lost);
}

#[test]
fn host_switches_over_under_load_and_loses_nothing() {
    scenario(Options::mode(Mode::Host), nothing_is_lost);
}

#[test]
fn who_writes_to_the_old_master_without_the_vip_loses_nothing_either() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let old = lab.master()?;
        let node = &lab.nodes[old];
        let dialer = Dialer::new(&lab.client.namespace, node.address(), None);
        let direct = Writer::start("direct", Habit::Persistent, &dialer);
        direct.wait_acknowledged_by(node.run_id())?;
        let done = switch_over(asked(lab)?, &[])?;
        ensure!(done.success, "{}", done.text);
        let new = lab.wait_failed_over(old)?;
        let ledgers = [direct.stop()];
        let lost = lost(&ledgers, &lab.nodes[new])?;
        ensure!(lost.is_empty(), "of {} writes, lost: {lost:?}", ledgers[0].writes.len());
        ensure!(ledgers[0].writes.iter().all(|it| &*it.by == node.run_id()));
        ensure!(done.text.contains("is a replica of"), "{}", done.text);
        Ok(())
    });
}

#[test]
fn the_preferred_replica_is_promoted_and_every_priority_is_as_it_was() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        // Sentinel would select the other one: its priority is lower.
        let (to, other) = (&lab.nodes[2], &lab.nodes[1]);
        set_priority(other, 50)?;
        wait_until("the Sentinels know the priority", PATIENCE, || {
            let known = lab.sentinels.iter().map(|sentinel| -> Result<bool> {
                let replicas: Vec<std::collections::HashMap<String, String>> =
                    sentinel.ask(&["SENTINEL", "REPLICAS", MASTER_NAME])?;
                Ok(replicas.iter().any(|it| it.get("slave-priority").is_some_and(|it| it == "50")))
            });
            known.collect::<Result<Vec<_>>>().map(|known| known.iter().all(|it| *it))
        })?;
        let done = switch_over(asked(lab)?, &["--to", &to.address().ip().to_string()])?;
        ensure!(done.success, "{}", done.text);
        ensure!(lab.wait_failed_over(old)? == 2, "another one was promoted:\n{}", done.text);
        ensure!(priority(to)? == 100 && priority(other)? == 50, "{}", done.text);
        traffic.wait_served_by(to)?;
        verify_after_failover(lab, &traffic.stop(), 2)
    });
}

#[test]
fn a_refusal_leaves_everything_as_it_was() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let master = lab.master()?;
        let traffic = Traffic::start(lab, master)?;

        let unknown = {
            let mut command = lab.daemon().command("switchover");
            command.arg("nobody").arg("--socket").arg(lab.daemon().socket());
            command.output()?
        };
        ensure!(!unknown.status.success());
        let text = String::from_utf8_lossy(&unknown.stderr).into_owned();
        ensure!(text.contains("no service of the master"), "{text}");

        refused(lab, &["--to", "198.18.0.77"], "198.18.0.77 is not among the replicas")?;

        let () = lab.nodes[master].ask(&["ACL", "SETUSER", "default", "-client|pause"])?;
        refused(lab, &[], "+client|pause")?;
        let () = lab.nodes[master].ask(&["ACL", "SETUSER", "default", "+client|pause"])?;
        let () = lab.nodes[master].ask(&["ACL", "SETUSER", "default", "-client|unpause"])?;
        refused(lab, &[], "+client|unpause")?;
        let () = lab.nodes[master].ask(&["ACL", "SETUSER", "default", "+client|unpause"])?;

        // Refused by Sentinel itself, when everybody is paused and parked.
        for sentinel in &lab.sentinels {
            let () = sentinel.ask(&["ACL", "SETUSER", "default", "-sentinel|failover"])?;
        }
        let denied = refused(lab, &[], "sentinel|failover")?;
        ensure!(denied.text.contains("the pause is over"), "{}", denied.text);
        for sentinel in &lab.sentinels {
            let () = sentinel.ask(&["ACL", "SETUSER", "default", "+sentinel|failover"])?;
        }

        // Sentinel will take some time to notice, and may select it until then.
        lab.nodes[1].freeze()?;
        let frozen = switch_over(asked(lab)?, &["--timeout", "1"])?;
        lab.nodes[1].thaw()?;
        ensure!(!frozen.success && frozen.text.contains("198.18.0.102:8000"), "{}", frozen.text);
        ensure!(!frozen.text.contains("are paused, at"), "{}", frozen.text);

        traffic.wait_served_by(&lab.nodes[master])?;
        for ledger in traffic.stop() {
            ledger.verify_on(&lab.nodes[master])?;
            ensure!(ledger.writes.iter().all(|it| &*it.by == lab.nodes[master].run_id()));
        }
        Ok(())
    });
}

#[test]
fn a_failover_in_progress_and_a_lost_quorum_are_refused() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let old = lab.master()?;
        lab.sentinels[1].fail_over()?;
        let busy = switch_over(asked(lab)?, &[])?;
        ensure!(!busy.success, "{}", busy.text);
        let new = lab.wait_failed_over(old)?;
        wait_replicas_known(lab)?;

        lab.sentinels[1].freeze()?;
        lab.sentinels[2].freeze()?;
        wait_until("the quorum is known to be lost", PATIENCE, || {
            let answer: Result<Value> =
                lab.sentinels[0].ask(&["SENTINEL", "CKQUORUM", MASTER_NAME]);
            Ok(answer.is_err())
        })?;
        let alone = switch_over(lab.daemon(), &[])?;
        ensure!(!alone.success && alone.text.contains("no quorum"), "{}", alone.text);
        takes_writes_at_once(&lab.nodes[new])?;
        lab.sentinels[1].thaw()?;
        lab.sentinels[2].thaw()
    });
}

#[test]
fn a_replica_that_lags_is_found_out_before_anybody_is_paused() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let master = lab.master()?;
        let traffic = Traffic::start(lab, master)?;
        // It answers everybody, and hears nothing of its master.
        let deaf = &lab.nodes[2];
        let rule = format!("ip saddr {} tcp sport 8000 drop", lab.nodes[master].address().ip());
        let deafness = format!(
            "table inet lag {{\nchain input {{\ntype filter hook input priority 0;\n{rule}\n}}\n}}\n"
        );
        deaf.host().namespace.nft(&deafness)?;
        let late = refused(lab, &["--timeout", "1"], "198.18.0.103:8000 is")?;
        ensure!(late.text.contains("bytes behind"), "{}", late.text);
        ensure!(!late.text.contains("are paused, at"), "{}", late.text);
        deaf.host().namespace.nft("delete table inet lag\n")?;
        traffic.wait_served_by(&lab.nodes[master])?;
        drop(traffic.stop());
        Ok(())
    });
}

#[test]
fn it_goes_on_without_whoever_asked_and_one_at_a_time() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        // The hint takes Sentinel some seconds.
        let mut first = begin(asked(lab)?, &["--to", "198.18.0.103:8000"])?;
        wait_for_line(&mut first, "replica-priority of")?;
        let second = switch_over(asked(lab)?, &[])?;
        ensure!(!second.success && second.text.contains("another switchover"), "{}", second.text);
        let reload =
            lab.daemon().command("reload").arg("--socket").arg(lab.daemon().socket()).output()?;
        ensure!(!reload.status.success(), "a reload would have forgotten it");
        first.kill()?;
        first.wait()?;
        ensure!(lab.wait_failed_over(old)? == 2);
        traffic.wait_served_by(&lab.nodes[2])?;
        wait_until("the priority is as it was", PATIENCE, || Ok(priority(&lab.nodes[2])? == 100))?;
        verify_after_failover(lab, &traffic.stop(), 2)
    });
}

#[test]
fn a_vipd_that_is_stopped_undoes_what_it_has_begun() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let master = lab.master()?;
        let mut child = begin(asked(lab)?, &["--to", "198.18.0.103:8000"])?;
        wait_for_line(&mut child, "replica-priority of")?;
        lab.daemon_mut().stop()?;
        let told = ended(child)?;
        ensure!(!told.success, "{}", told.text);
        ensure!(priority(&lab.nodes[2])? == 100, "{}", told.text);
        takes_writes_at_once(&lab.nodes[master])
    });
}

#[test]
fn a_vipd_that_is_killed_restores_priorities_at_its_next_start() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let mut child = begin(asked(lab)?, &["--to", "198.18.0.103:8000"])?;
        wait_for_line(&mut child, "replica-priority of")?;
        lab.daemon_mut().kill()?;
        let told = ended(child)?;
        ensure!(!told.success, "{}", told.text);
        ensure!(priority(&lab.nodes[2])? == 1, "{}", told.text);
        lab.daemon_mut().start()?;
        wait_until("the priority is as it was", PATIENCE, || Ok(priority(&lab.nodes[2])? == 100))
    });
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    scenario(Options::mode(Mode::Nat), |lab| {
        wait_replicas_known(lab)?;
        let master = lab.master()?;
        let told = switch_over(asked(lab)?, &["--dry-run", "--to", "198.18.0.103"])?;
        ensure!(told.success, "{}", told.text);
        for part in ["prefer 198.18.0.103:8000", "would pause writers", "would order a failover"] {
            ensure!(told.text.contains(part), "{part}: {}", told.text);
        }
        ensure!(lab.master()? == master && priority(&lab.nodes[2])? == 100);

        // An operator's own pause is not ended by asking whether vipd might end one.
        let () = lab.nodes[master].ask(&["CLIENT", "PAUSE", "2000", "WRITE"])?;
        let told = switch_over(asked(lab)?, &["--dry-run"])?;
        ensure!(told.success, "{}", told.text);
        ensure!(takes_writes_at_once(&lab.nodes[master]).is_err(), "the pause was ended");
        Ok(())
    });
}

/// `VIPD_SWITCHOVERS=20` for figures.
fn nothing_is_lost(lab: &mut Lab) -> Result<()> {
    let runs = std::env::var("VIPD_SWITCHOVERS").map_or(Ok(3), |runs| runs.parse())?;
    let proof = Proof::run(lab, runs)?;
    eprintln!("{:?}:\n{proof}", lab.options().mode);
    let lost: Vec<_> = proof.runs.iter().flat_map(|run| &run.lost).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}

/// The vipd to ask: the master's own in mode `host`.
fn asked(lab: &Lab) -> Result<&Daemon> {
    let master = lab.master()?;
    Ok(lab.daemons.get(master).unwrap_or_else(|| lab.daemon()))
}

/// It fails, says why, and nothing has changed.
fn refused(lab: &Lab, arguments: &[&str], why: &str) -> Result<Ended> {
    let master = lab.master()?;
    let priorities = lab.nodes.iter().map(priority).collect::<Result<Vec<_>>>();
    let told = switch_over(asked(lab)?, arguments)?;
    ensure!(!told.success, "it was to be refused:\n{}", told.text);
    ensure!(told.text.contains(why), "{why:?} is not said:\n{}", told.text);
    ensure!(told.text.contains("everything is as it was"), "{}", told.text);
    takes_writes_at_once(&lab.nodes[master]).with_context(|| told.text.clone())?;
    lab.wait_serving(master)?;
    if let Ok(before) = priorities {
        let after = lab.nodes.iter().map(priority).collect::<Result<Vec<_>>>()?;
        ensure!(before == after, "priorities: {before:?}, {after:?}");
    }
    Ok(told)
}

/// Nobody is paused any more.
fn takes_writes_at_once(node: &RedisNode) -> Result<()> {
    let mut connection = node.connect()?;
    connection.set_read_timeout(Some(Duration::from_millis(300)))?;
    redis::cmd("SET").arg("at-once").arg(1).query::<()>(&mut connection).context("still paused")
}

fn priority(node: &RedisNode) -> Result<u32> {
    let pair: Vec<String> = node.ask(&["CONFIG", "GET", "replica-priority"])?;
    Ok(pair.get(1).context("no replica-priority")?.parse()?)
}

fn set_priority(node: &RedisNode, priority: u32) -> Result<()> {
    node.ask(&["CONFIG", "SET", "replica-priority", &priority.to_string()])
}

/// Reads what a switchover prints up to a line with `part`.
fn wait_for_line(child: &mut std::process::Child, part: &str) -> Result<()> {
    let output = child.stdout.as_mut().context("no output")?;
    for line in BufReader::new(output).lines() {
        if line?.contains(part) {
            return Ok(());
        }
    }
    anyhow::bail!("it ended without {part:?}")
}
