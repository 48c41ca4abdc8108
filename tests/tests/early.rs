//! Early cutover: the VIP follows when the new master is one, and not when the Sentinels say so. And
//! whatever goes wrong on that way, in the end it is where the Sentinels have their master.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd_tests::heal;
use vipd_tests::host::Host;
use vipd_tests::scenario::{Traffic, scenario, verify, verify_after_failover};
use vipd_tests::status::Failover;
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};
use vipd_tests::{Family, Lab, Mode, Options, Placement};

#[test]
fn nat_follows_before_any_sentinel_announces_the_new_master() {
    scenario(Options::mode(Mode::Nat), followed_early);
}

#[test]
fn dsr_follows_before_any_sentinel_announces_the_new_master() {
    scenario(Options::mode(Mode::Dsr), followed_early);
}

#[test]
fn host_follows_before_any_sentinel_announces_the_new_master() {
    scenario(Options::mode(Mode::Host), followed_early);
}

#[test]
fn ipv6_is_followed_before_any_sentinel_announces_the_new_master() {
    for mode in [Mode::Nat, Mode::Host] {
        scenario(Options::mode(mode).family(Family::V6), followed_early);
    }
}

#[test]
fn with_cutover_confirmed_nothing_happens_before_the_leader_has_found_the_new_master() {
    let daemon = "cutover = \"confirmed\"".to_owned();
    for mode in [Mode::Nat, Mode::Host] {
        scenario(Options { daemon: daemon.clone(), ..Options::mode(mode) }, |lab| {
            let failover = planned(lab)?;
            let timeline = &failover.timeline;
            ensure!(timeline.parked_ns.is_none(), "it was parked: {failover:?}");
            // The leader may be asked after that, and before it announces it to the others.
            let found = timeline.promoted_ns.or(timeline.switch_master_ns);
            ensure!(found.is_some() && timeline.flip_ns > found, "it was early: {failover:?}");
            Ok(())
        });
    }
}

#[test]
fn one_sentinel_is_enough_to_follow_early_and_a_majority_confirms_it() {
    let options = Options { sentinels: Placement::Apart, ..Options::default() };
    scenario(options, |lab| {
        heal::wait_ready(lab)?;
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        // vipd hears of the leader only.
        let mut friends: Vec<&Host> = lab.nodes.iter().map(|node| node.host()).collect();
        friends.push(lab.sentinels[0].host());
        lab.director().cut_off_except(&friends)?;
        lab.sentinels[0].fail_over()?;
        let new = lab.wait_promoted(old)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        let failover = told(lab, new)?;
        let announced = failover.timeline.switch_master_ns;
        ensure!(
            announced.is_none_or(|at| failover.timeline.flip_ns < Some(at)),
            "it was not early: {failover:?}"
        );
        lab.director().rejoin()?;
        wait_confirmed(lab, new)?;
        verify_after_failover(lab, &traffic.stop(), new)
    });
}

#[test]
fn one_failover_after_another_is_followed_with_no_pause() {
    for mode in [Mode::Nat, Mode::Host] {
        scenario(Options::mode(mode), |lab| {
            heal::wait_ready(lab)?;
            let first = lab.master()?;
            let traffic = Traffic::start(lab, first)?;
            lab.sentinels[0].fail_over()?;
            // Another Sentinel, which has not heard of the first yet, is told the same: two leaders.
            lab.sentinels[1].fail_over()?;
            let last = wait_agreed(lab)?;
            traffic.wait_served_by(&lab.nodes[last])?;
            // Both may have promoted one, so what the first of the two acknowledged may be gone.
            drop(traffic.stop());
            verify(lab, &[], last)?;

            // A second one as soon as Sentinel takes the order. It may lead back to the first master,
            // so this is traffic of its own.
            let traffic = Traffic::start(lab, last)?;
            wait_until("Sentinel takes the next order", PATIENCE, || {
                Ok(lab.sentinels[2].fail_over().is_ok())
            })?;
            let next = wait_agreed(lab)?;
            traffic.wait_served_by(&lab.nodes[next])?;
            let ledgers = traffic.stop();
            if next == last {
                // Another Sentinel, which read the old master last as a master, has told it to be a
                // replica again (+convert-to-slave), and the leader has given up. That is rare and
                // Sentinel's; the VIP must be back, and the master that stayed has lost nothing.
                return verify(lab, &ledgers, last);
            }
            verify_after_failover(lab, &ledgers, next)
        });
    }
}

#[test]
fn a_leader_that_dies_after_the_promotion_and_before_announcing_it_leaves_nobody_without_a_master()
{
    for mode in [Mode::Nat, Mode::Host] {
        scenario(Options::mode(mode), |lab| {
            heal::wait_ready(lab)?;
            let old = lab.master()?;
            let traffic = Traffic::start(lab, old)?;
            let leader = (old + 1) % lab.sentinels.len();
            lab.sentinels[leader].fail_over()?;
            wait_until("a replica is promoted", PATIENCE, || {
                Ok(newly_promoted(lab, old)?.is_some())
            })?;
            lab.sentinels[leader].kill()?;
            // The others have never heard of it: for them the old master is the master, if the dead
            // one did not tell them at the last moment.
            let master = wait_agreed(lab)?;
            traffic.wait_served_by(&lab.nodes[master])?;
            lab.sentinels[leader].start()?;
            let master = wait_agreed(lab)?;
            traffic.wait_served_by(&lab.nodes[master])?;
            drop(traffic.stop());
            verify(lab, &[], master)
        });
    }
}

#[test]
fn a_failover_that_is_given_up_returns_to_the_old_master() {
    for mode in [Mode::Nat, Mode::Host] {
        scenario(quick_to_give_up(mode), |lab| {
            heal::wait_ready(lab)?;
            let old = lab.master()?;
            let traffic = Traffic::start(lab, old)?;
            let replicas: Vec<_> = (0..lab.nodes.len()).filter(|&it| it != old).collect();
            // Whichever is selected never hears of its promotion.
            for &replica in &replicas {
                lab.nodes[replica].freeze()?;
            }
            lab.sentinels[0].fail_over()?;
            let attempt = wait_for("vipd tells of the attempt", PATIENCE, || {
                let failovers = lab.daemons[0].status()?.failovers;
                Ok(failovers.into_iter().rfind(|it| it.outcome == "abandoned"))
            })?;
            let (parked, unparked) = (attempt.timeline.parked_ns, attempt.timeline.unparked_ns);
            ensure!(parked.is_some() && parked < unparked, "it was never parked: {attempt:?}");
            traffic.wait_served_by(&lab.nodes[old])?;
            lab.wait_serving(old)?;
            // It hears of it now, and is a master for a while; nobody may be led there.
            for &replica in &replicas {
                lab.nodes[replica].thaw()?;
            }
            lab.wait_settled()?;
            let master = wait_agreed(lab)?;
            traffic.wait_served_by(&lab.nodes[master])?;
            verify(lab, &traffic.stop(), master)
        });
    }
}

fn quick_to_give_up(mode: Mode) -> Options {
    Options { failover_timeout: Duration::from_millis(1500), ..Options::mode(mode) }
}

fn followed_early(lab: &mut Lab) -> Result<()> {
    let failover = planned(lab)?;
    let timeline = &failover.timeline;
    let announced = timeline.switch_master_ns.context("nobody announced it")?;
    ensure!(timeline.flip_ns < Some(announced), "it was not early: {failover:?}");
    ensure!(timeline.parked_ns < timeline.flip_ns, "it was not parked before: {failover:?}");
    ensure!(failover.trigger == "planned", "{failover:?}");
    Ok(())
}

/// A planned failover, and what vipd tells of it when it is over.
fn planned(lab: &mut Lab) -> Result<Failover> {
    heal::wait_ready(lab)?;
    let old = lab.master()?;
    let traffic = Traffic::start(lab, old)?;
    lab.sentinels[0].fail_over()?;
    let new = lab.wait_failed_over(old)?;
    traffic.wait_served_by(&lab.nodes[new])?;
    let failover = wait_confirmed(lab, new)?;
    verify_after_failover(lab, &traffic.stop(), new)?;
    Ok(failover)
}

/// Waits until the vipd that serves `new` tells that an epoch confirmed it, and when that was
/// announced.
fn wait_confirmed(lab: &Lab, new: usize) -> Result<Failover> {
    wait_for("the failover is confirmed", PATIENCE, || {
        let failover = told(lab, new)?;
        ensure!(failover.outcome == "confirmed", "{failover:?}");
        Ok(failover.timeline.switch_master_ns.is_some().then_some(failover))
    })
}

/// The last failover to `new`, by the director's vipd or that of its host.
fn told(lab: &Lab, new: usize) -> Result<Failover> {
    let daemon = if lab.options().mode == Mode::Host { new } else { 0 };
    let to = lab.nodes[new].address();
    let failovers = lab.daemons[daemon].status()?.failovers;
    failovers.into_iter().rfind(|it| it.to == to).context("vipd does not tell of it")
}

/// A node other than `old` that calls itself master.
fn newly_promoted(lab: &Lab, old: usize) -> Result<Option<usize>> {
    for (number, node) in lab.nodes.iter().enumerate().filter(|(number, _)| *number != old) {
        let role: Vec<redis::Value> = node.ask(&["ROLE"])?;
        if role.first() == Some(&redis::Value::BulkString(b"master".to_vec())) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Waits until all running Sentinels name one master, the nodes are what those say, and nothing is on
/// its way any more.
fn wait_agreed(lab: &Lab) -> Result<usize> {
    wait_until("the Sentinels and the nodes agree", PATIENCE, || {
        let master = lab.master()?;
        let address = lab.nodes[master].address();
        for sentinel in lab.sentinels.iter().filter(|it| it.is_running()) {
            ensure!(sentinel.master()? == address, "{} disagrees", sentinel.name());
            let flags: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", "mymaster"])?;
            let flags = flags.chunks_exact(2).find(|pair| pair[0] == "flags");
            ensure!(flags.is_some_and(|pair| pair[1] == "master"), "not at rest: {flags:?}");
        }
        for (number, node) in lab.nodes.iter().enumerate() {
            let is_master = node.role()? == vipd_tests::redis_node::Role::Master;
            ensure!(is_master == (number == master), "{} is something else", node.name());
        }
        Ok(true)
    })?;
    lab.master()
}
