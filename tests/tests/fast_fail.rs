//! `fast_fail = "refused"`: a Redis whose process is gone is replaced long before the Sentinels have
//! noticed, exactly once; and whenever that isn't certain, nothing is done.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::Value;
use vipd_tests::daemon::Daemon;
use vipd_tests::namespace::output;
use vipd_tests::options::Placement;
use vipd_tests::redis_node::{REDIS_PORT, RedisNode, Role};
use vipd_tests::scenario::{Traffic, scenario, verify};
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};
use vipd_tests::{Family, Lab, Mode, Options};

/// So long that whatever happens before is not the Sentinels' doing.
const DOWN_AFTER: Duration = Duration::from_secs(5);
/// What a Sentinel logs when somebody asks it for a failover.
const ASKED: &str = "Executing user requested FAILOVER";
/// … and when it begins one, for whatever reason.
const BEGUN: &str = "+try-failover";

#[test]
fn nat_replaces_a_killed_master_before_any_sentinel_has_noticed() {
    scenario(fast_fail(Mode::Nat), replaced_at_once);
}

#[test]
fn dsr_replaces_a_killed_master_before_any_sentinel_has_noticed() {
    scenario(fast_fail(Mode::Dsr), replaced_at_once);
}

#[test]
fn host_replaces_a_killed_master_before_any_sentinel_has_noticed() {
    scenario(fast_fail(Mode::Host), replaced_at_once);
}

#[test]
fn host_replaces_a_killed_master_on_ipv6() {
    scenario(fast_fail(Mode::Host).family(Family::V6), replaced_at_once);
}

#[test]
fn nat_replaces_a_killed_master_with_a_confirmed_cutover_as_well() {
    let daemon = "fast_fail = \"refused\"\ncutover = \"confirmed\"\n".to_owned();
    scenario(Options { daemon, ..fast_fail(Mode::Nat) }, replaced_at_once);
}

#[test]
fn it_is_the_sentinels_business_when_fast_fail_is_off() {
    scenario(Options { down_after: Duration::from_secs(3), ..Options::default() }, |lab| {
        let old = lab.master()?;
        lab.nodes[old].kill()?;
        lab.wait_failed_over(old)?;
        ensure!(logged(lab, ASKED)? == 0, "vipd asked for it");
        let triggers = triggers(lab, 0)?;
        ensure!(triggers.last().is_some_and(|trigger| trigger == "down"), "{triggers:?}");
        Ok(())
    });
}

#[test]
fn nat_does_nothing_when_redis_restarts_within_the_grace() {
    scenario(patient(Mode::Nat), restarted_within_the_grace);
}

#[test]
fn host_does_nothing_when_redis_restarts_within_the_grace() {
    scenario(patient(Mode::Host), restarted_within_the_grace);
}

#[test]
fn nat_leaves_a_frozen_master_to_the_sentinels() {
    scenario(quick_sentinels(Mode::Nat), |lab| {
        left_to_the_sentinels(lab, |lab, old| lab.nodes[old].freeze())
    });
}

#[test]
fn host_leaves_a_frozen_master_to_the_sentinels() {
    scenario(quick_sentinels(Mode::Host), |lab| {
        left_to_the_sentinels(lab, |lab, old| lab.nodes[old].freeze())
    });
}

#[test]
fn nat_leaves_an_unplugged_master_to_the_sentinels() {
    scenario(quick_sentinels(Mode::Nat), |lab| {
        left_to_the_sentinels(lab, |lab, old| lab.nodes[old].host().link_down())
    });
}

#[test]
fn nothing_is_ordered_without_a_quorum() {
    scenario(fast_fail(Mode::Nat), |lab| {
        // A majority is there; the quorum is not.
        for sentinel in &lab.sentinels {
            sentinel.ask::<Value>(&["SENTINEL", "SET", MASTER_NAME, "quorum", "3"])?;
        }
        lab.sentinels[2].kill()?;
        wait_until("the others miss it", PATIENCE, || {
            let answer = lab.sentinels[0].ask::<Value>(&["SENTINEL", "CKQUORUM", MASTER_NAME]);
            Ok(answer.is_err_and(|error| format!("{error:#}").contains("NOQUORUM")))
        })?;
        dies_in_vain(lab, lab.master()?, "no quorum")
    });
}

#[test]
fn nothing_is_ordered_without_a_majority() {
    scenario(fast_fail(Mode::Nat), |lab| {
        let old = lab.master()?;
        lab.sentinels[1].kill()?;
        lab.sentinels[2].kill()?;
        wait_until("vipd misses them", PATIENCE, || told(lab.daemon(), "lost:", 2))?;
        dies_in_vain(lab, old, "no quorum|no majority")
    });
}

#[test]
fn nothing_is_ordered_in_tilt() {
    let options = Options { sentinels: Placement::Apart, ..fast_fail(Mode::Nat) };
    scenario(options, |lab| {
        // A Sentinel that stood still for more than two seconds goes into TILT for thirty.
        let first = &lab.sentinels[0];
        first.freeze()?;
        wait_until("another Sentinel misses it", PATIENCE, || {
            let peers: Vec<HashMap<String, String>> =
                lab.sentinels[1].ask(&["SENTINEL", "SENTINELS", MASTER_NAME])?;
            Ok(peers.iter().any(|it| it.get("flags").is_some_and(|it| it.contains("s_down"))))
        })?;
        first.thaw()?;
        wait_until("it is in TILT", PATIENCE, || {
            Ok(first.ask::<String>(&["INFO", "sentinel"])?.contains("sentinel_tilt:1"))
        })?;
        dies_in_vain(lab, lab.master()?, "TILT")
    });
}

#[test]
fn nothing_is_ordered_without_a_replica_that_may_be_promoted() {
    scenario(fast_fail(Mode::Nat), |lab| {
        let old = lab.master()?;
        for node in replicas(lab, old) {
            node.ask::<Value>(&["CONFIG", "SET", "replica-priority", "0"])?;
        }
        wait_known(lab, |replica| field(replica, "slave-priority") == "0")?;
        dies_in_vain(lab, old, "priority 0")
    });
}

#[test]
fn nothing_is_ordered_without_a_replica_that_is_fresh() {
    let options = Options { sentinels: Placement::Apart, ..fast_fail(Mode::Nat) };
    scenario(options, |lab| {
        let old = lab.master()?;
        let addresses: Vec<String> =
            replicas(lab, old).map(|node| node.address().ip().to_string()).collect();
        // They stay what they are, with data that grows old.
        lab.nodes[old].host().namespace.nft(&format!(
            "table inet grumpy {{
                chain input {{
                    type filter hook input priority 0; policy accept;
                    ip saddr {{ {} }} tcp dport {REDIS_PORT} drop
                }}
            }}\n",
            addresses.join(", "),
        ))?;
        wait_known(lab, |replica| {
            field(replica, "master-link-down-time").parse().is_ok_and(|down: u64| down > 6_000)
        })?;
        dies_in_vain(lab, old, "no replica")
    });
}

#[test]
fn nothing_is_ordered_without_a_replica_that_bears_witness() {
    scenario(fast_fail(Mode::Nat), |lab| {
        let old = lab.master()?;
        replicas(lab, old).try_for_each(RedisNode::freeze)?;
        dies_in_vain(lab, old, "no replica")?;
        replicas(lab, old).try_for_each(RedisNode::thaw)
    });
}

#[test]
fn a_firewall_that_rejects_vipd_is_no_death() {
    scenario(fast_fail(Mode::Nat), |lab| {
        let old = lab.master()?;
        let director = lab.director().address;
        lab.nodes[old].host().namespace.nft(&format!(
            "table inet grumpy {{
                chain input {{
                    type filter hook input priority 0; policy accept;
                    ip saddr {director} tcp dport {REDIS_PORT} reject with tcp reset
                }}
            }}\n"
        ))?;
        wait_until("vipd says why it does nothing", PATIENCE, || {
            told(lab.daemon(), "is still connected to it", 1)
        })?;
        ensure!(logged(lab, BEGUN)? == 0, "a failover was begun");
        ensure!(lab.master()? == old, "the master has changed");
        Ok(())
    });
}

#[test]
fn the_next_sentinel_is_asked_when_the_first_is_gone() {
    scenario(fast_fail(Mode::Nat), |lab| {
        let old = lab.master()?;
        lab.sentinels[0].kill()?;
        wait_until("vipd misses it", PATIENCE, || told(lab.daemon(), "lost:", 1))?;
        lab.nodes[old].kill()?;
        lab.wait_failed_over(old)?;
        let second = fs::read_to_string(lab.sentinels[1].log())?;
        ensure!(second.matches(ASKED).count() == 1, "the second one was not asked");
        ensure!(logged(lab, ASKED)? == 1, "another one was asked as well");
        Ok(())
    });
}

#[test]
fn the_second_death_within_the_interval_is_left_to_the_sentinels() {
    scenario(Options { down_after: Duration::from_secs(3), ..fast_fail(Mode::Nat) }, |lab| {
        let first = lab.master()?;
        lab.nodes[first].kill()?;
        let second = lab.wait_failed_over(first)?;
        lab.nodes[first].start()?;
        lab.wait_settled()?;
        ensure!(logged(lab, ASKED)? == 1);
        lab.nodes[second].kill()?;
        wait_until("vipd says why it does nothing", PATIENCE, || {
            told(lab.daemon(), "was asked for", 2)
        })?;
        lab.wait_failed_over(second)?;
        ensure!(logged(lab, ASKED)? == 1, "asked twice");
        Ok(())
    });
}

/// Each host's own vipd is the witness, and the second one has ordered nothing.
#[test]
fn host_leaves_a_master_that_dies_soon_after_its_promotion_to_the_sentinels() {
    scenario(Options { down_after: Duration::from_secs(3), ..fast_fail(Mode::Host) }, |lab| {
        let first = lab.master()?;
        lab.nodes[first].kill()?;
        let second = lab.wait_failed_over(first)?;
        lab.nodes[first].start()?;
        lab.wait_settled()?;
        ensure!(logged(lab, ASKED)? == 1);
        lab.nodes[second].kill()?;
        wait_until("its vipd says why it does nothing", PATIENCE, || {
            told(&lab.daemons[second], "its last failover was", 1)
        })?;
        lab.wait_failed_over(second)?;
        ensure!(logged(lab, ASKED)? == 1, "asked twice");
        Ok(())
    });
}

#[test]
fn a_vipd_that_was_just_restarted_leaves_a_death_to_the_sentinels() {
    scenario(Options { down_after: Duration::from_secs(3), ..fast_fail(Mode::Nat) }, |lab| {
        let old = lab.master()?;
        lab.daemon_mut().kill()?;
        lab.daemon_mut().start()?;
        lab.wait_serving(old)?;
        lab.wait_settled()?;
        lab.nodes[old].kill()?;
        wait_until("vipd says why it does nothing", PATIENCE, || {
            told(lab.daemon(), "vipd was restarted", 1)
        })?;
        lab.wait_failed_over(old)?;
        ensure!(logged(lab, ASKED)? == 0, "a Sentinel was asked for a failover");
        Ok(())
    });
}

#[test]
fn nothing_is_ordered_while_any_replica_that_may_be_promoted_is_stale() {
    scenario(fast_fail(Mode::Nat), |lab| {
        let old = lab.master()?;
        // By itself, so that no Sentinel knows yet: it asks a replica every 10 s.
        let stale = replicas(lab, old).next().context("no replica")?.address();
        let node = lab.nodes.iter().find(|it| it.address() == stale).context("gone")?;
        node.ask::<Value>(&["REPLICAOF", "198.18.0.77", "1"])?;
        // vipd asks for its role each second; nobody else does.
        let asked = || -> Result<u64> {
            let statistics: String = node.ask(&["INFO", "commandstats"])?;
            let calls = statistics.split("cmdstat_role:calls=").nth(1);
            Ok(calls.and_then(|it| it.split(',').next()).map_or(Ok(0), str::parse)?)
        };
        let before = asked()?;
        wait_until("vipd has heard of it", PATIENCE, || Ok(asked()? >= before + 2))?;
        dies_in_vain(lab, old, "may be promoted")
    });
}

/// Redis is killed; the VIP leads to another node while no Sentinel knows yet, by one failover.
fn replaced_at_once(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let epoch = lab.sentinels[0].number("config-epoch")?;
    let traffic = Traffic::start(lab, old)?;
    let killed = Instant::now();
    lab.nodes[old].kill()?;
    let new = wait_for("another node takes writes through the VIP", PATIENCE, || {
        let mut nodes = lab.nodes.iter().enumerate().filter(|(number, _)| *number != old);
        Ok(nodes.find_map(|(number, node)| {
            let role = node.role().ok()?;
            (role == Role::Master).then_some(number)
        }))
    })?;
    traffic.wait_served_by(&lab.nodes[new])?;
    let after = killed.elapsed();
    ensure!(after < DOWN_AFTER / 2, "it took {after:?}: the Sentinels need {DOWN_AFTER:?} alone");
    lab.wait_failed_over(old)?;
    verify(lab, &traffic.stop(), new)?;

    ensure!(logged(lab, ASKED)? == 1, "asked {} times", logged(lab, ASKED)?);
    ensure!(logged(lab, BEGUN)? == 1, "begun {} times", logged(lab, BEGUN)?);
    let epochs = lab.sentinels[0].number("config-epoch")? - epoch;
    ensure!(epochs == 1, "{epochs} epochs");
    // In mode `host` that is the dead master's own vipd.
    let witness = if lab.options().mode == Mode::Host { old } else { 0 };
    wait_until("the record says why", PATIENCE, || {
        Ok(triggers(lab, witness)?.iter().any(|trigger| trigger == "fast_fail"))
    })?;
    for (number, daemon) in lab.daemons.iter().enumerate() {
        let orders = count(daemon, "a Sentinel is asked for a failover")?;
        ensure!(orders == usize::from(number == witness), "vipd {number} ordered {orders} times");
    }
    eprintln!("{:?}: served again after {} ms", lab.options().mode, after.as_millis());
    Ok(())
}

fn restarted_within_the_grace(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    lab.nodes[old].kill()?;
    lab.nodes[old].start()?;
    wait_until("vipd has seen both", PATIENCE, || {
        let seen = lab.daemons.iter().map(|it| count(it, "is back: nothing is done"));
        Ok(seen.sum::<Result<usize>>()? >= 1)
    })?;
    lab.wait_settled()?;
    ensure!(lab.master()? == old, "another node is the master");
    ensure!(logged(lab, BEGUN)? == 0, "a failover was begun");
    lab.wait_serving(old)
}

/// Silence: the Sentinels replace the master in the end, and nobody asked them to.
fn left_to_the_sentinels(
    lab: &mut Lab,
    fault: impl FnOnce(&mut Lab, usize) -> Result<()>,
) -> Result<()> {
    let old = lab.master()?;
    fault(lab, old)?;
    lab.wait_promoted(old)?;
    ensure!(logged(lab, ASKED)? == 0, "a Sentinel was asked for a failover");
    for daemon in &lab.daemons {
        let orders = count(daemon, "a Sentinel is asked for a failover")?;
        ensure!(orders == 0, "vipd decided to ask");
    }
    Ok(())
}

/// Redis is killed, vipd says that it does nothing and why (one of the words between `|`), and has
/// done nothing.
fn dies_in_vain(lab: &mut Lab, old: usize, why: &str) -> Result<()> {
    lab.nodes[old].kill()?;
    wait_until("vipd says that it does nothing", PATIENCE, || {
        told(lab.daemon(), "is left to the Sentinels", 1)
    })?;
    let log = fs::read_to_string(lab.daemon().log())?;
    let line = log.lines().find(|line| line.contains("is left to the Sentinels"));
    let line = line.context("it is gone again")?;
    ensure!(why.split('|').any(|why| line.contains(why)), "not because of {why}: {line}");
    ensure!(logged(lab, ASKED)? == 0, "a Sentinel was asked for a failover");
    Ok(())
}

fn replicas(lab: &Lab, master: usize) -> impl Iterator<Item = &RedisNode> {
    lab.nodes.iter().enumerate().filter(move |(number, _)| *number != master).map(|(_, node)| node)
}

/// Waits until the first Sentinel sees every replica so.
fn wait_known(lab: &Lab, seen: impl Fn(&HashMap<String, String>) -> bool) -> Result<()> {
    wait_until("the Sentinel that would be asked knows", PATIENCE, || {
        let replicas: Vec<HashMap<String, String>> =
            lab.sentinels[0].ask(&["SENTINEL", "REPLICAS", MASTER_NAME])?;
        Ok(replicas.iter().all(&seen))
    })
}

fn field<'a>(fields: &'a HashMap<String, String>, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

/// With Sentinels that take long to notice.
fn fast_fail(mode: Mode) -> Options {
    Options {
        down_after: DOWN_AFTER,
        daemon: "fast_fail = \"refused\"\n".to_owned(),
        ..Options::mode(mode)
    }
}

/// With a grace in which Redis restarts easily.
fn patient(mode: Mode) -> Options {
    let daemon = "fast_fail = \"refused\"\n[failover]\nfast_fail_grace_ms = 4000\n".to_owned();
    Options { daemon, ..fast_fail(mode) }
}

fn quick_sentinels(mode: Mode) -> Options {
    Options { down_after: Duration::from_secs(3), ..fast_fail(mode) }
}

/// How often the Sentinels have logged that, all together.
fn logged(lab: &Lab, what: &str) -> Result<usize> {
    let logs = lab.sentinels.iter().map(|sentinel| fs::read_to_string(sentinel.log()));
    logs.map(|log| Ok(log?.matches(what).count())).sum()
}

fn count(daemon: &Daemon, what: &str) -> Result<usize> {
    Ok(fs::read_to_string(daemon.log())?.matches(what).count())
}

fn told(daemon: &Daemon, what: &str, times: usize) -> Result<bool> {
    Ok(count(daemon, what)? >= times)
}

/// What triggered each failover that this vipd tells of.
fn triggers(lab: &Lab, daemon: usize) -> Result<Vec<String>> {
    let daemon = &lab.daemons[daemon];
    let mut command = daemon.command("status");
    let status = output(command.arg("--json").arg("--socket").arg(daemon.socket()))?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let failovers = status["failovers"].as_array().context("no failovers")?;
    let triggers = failovers.iter().filter_map(|it| it["trigger"].as_str());
    Ok(triggers.map(str::to_owned).collect())
}
