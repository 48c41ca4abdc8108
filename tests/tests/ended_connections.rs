//! Mode `host`: a client that only waits learns that its VIP has left the host.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use redis::{RedisResult, Value};
use vipd_tests::redis_node::Role;
use vipd_tests::scenario::{Traffic, scenario};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Family, Lab, Mode, Options};

#[test]
fn the_old_owner_ends_its_connections_long_before_it_is_demoted() {
    scenario(Options::mode(Mode::Host), blocked_clients_are_told);
}

#[test]
fn the_old_owner_ends_its_ipv6_connections_too() {
    scenario(Options::mode(Mode::Host).family(Family::V6), blocked_clients_are_told);
}

#[test]
fn it_leaves_them_alone_if_so_configured() {
    let daemon = "[failover]\nfree_clients = false\n".to_owned();
    scenario(Options { daemon, ..Options::mode(Mode::Host) }, |lab| {
        let old = lab.master()?;
        let mut connection = lab.dialer().connect()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let _: Value = redis::cmd("PING").query(&mut connection)?;
        lab.sentinels[0].fail_over()?;
        let new = lab.wait_failed_over(old)?;
        lab.wait_serving(new)?;
        let log = std::fs::read_to_string(lab.daemons[old].log())?;
        ensure!(!log.contains("connections ended"), "they were ended");

        // Neither are those that are left when a host is back that was away.
        lab.wait_settled()?;
        lab.nodes[new].host().link_down()?;
        let newest = lab.wait_promoted(new)?;
        lab.nodes[new].host().link_up()?;
        lab.wait_serving(newest)?;
        let log = std::fs::read_to_string(lab.daemons[new].log())?;
        ensure!(log.contains("released"), "it has never withdrawn");
        ensure!(!log.contains("connections"), "some were to be ended");
        Ok(())
    });
}

/// Its vipd withdraws for want of a majority, and knows of no other owner: who can be reached is told
/// all the same.
#[test]
fn a_host_that_is_cut_off_tells_the_clients_that_it_can_reach() {
    // As long as it may be, below Sentinel's patience: who was not heard for a third of it is not told.
    let lease = Duration::from_millis(2800);
    scenario(Options::mode(Mode::Host).lease(lease), |lab| {
        let old = lab.master()?;
        let traffic = Traffic::start(lab, old)?;
        let blocked = block(lab, old)?;
        lab.nodes[old].host().cut_off_except(&[&lab.client, &lab.observer])?;
        verify_told(blocked)?;
        let services = lab.daemons[old].status()?.services;
        ensure!(services.iter().all(|it| !it.announcing), "told by somebody else: {services:?}");
        let new = lab.wait_promoted(old)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        lab.nodes[old].host().rejoin()?;
        lab.wait_serving(new)
    });
}

#[test]
fn who_could_not_be_reached_is_told_when_the_old_owner_is_back() {
    for family in [Family::V4, Family::V6] {
        let options = Options::mode(Mode::Host).lease(Duration::from_secs(2)).family(family);
        scenario(options, |lab| {
            let old = lab.master()?;
            let blocked = block(lab, old)?;
            lab.nodes[old].host().link_down()?;
            let new = lab.wait_promoted(old)?;
            wait_until("the host has withdrawn the VIP", PATIENCE, || {
                Ok(lab.daemons[old].status()?.services.iter().all(|it| !it.announcing))
            })?;
            ensure!(blocked.iter().all(|client| !client.is_finished()), "told without a cable");
            lab.nodes[old].host().link_up()?;
            verify_told(blocked)?;
            ensure!(lab.nodes[old].role()? == Role::Master, "only its demotion ended them");
            lab.wait_serving(new)?;
            for service in lab.services() {
                let held = lab.nodes[old].host().has_address(service.ip())?;
                ensure!(!held, "{service} was left on the old host");
            }
            Ok(())
        });
    }
}

fn blocked_clients_are_told(lab: &mut Lab) -> Result<()> {
    let old = lab.master()?;
    let blocked = block(lab, old)?;
    lab.sentinels[0].fail_over()?;
    verify_told(blocked)?;
    // Its demotion, which ends connections as well, comes some 10 s after the promotion.
    ensure!(lab.nodes[old].role()? == Role::Master, "only its demotion ended them");
    let new = lab.wait_failed_over(old)?;
    lab.wait_serving(new)
}

type Blocked = JoinHandle<RedisResult<Value>>;

/// Clients that only wait, on connections through the VIP to node `master`.
fn block(lab: &Lab, master: usize) -> Result<Vec<Blocked>> {
    const CLIENTS: usize = 20;
    let blocked = (0..CLIENTS)
        .map(|_| {
            let mut connection = lab.dialer().connect()?;
            connection.set_read_timeout(Some(PATIENCE))?;
            Ok(thread::spawn(move || {
                redis::cmd("BLPOP").arg("nothing").arg(0).query(&mut connection)
            }))
        })
        .collect::<Result<_>>()?;
    wait_until("all of them wait", PATIENCE, || {
        let clients: String = lab.nodes[master].ask(&["INFO", "clients"])?;
        Ok(clients.contains(&format!("blocked_clients:{CLIENTS}\r\n")))
    })?;
    Ok(blocked)
}

/// Fails unless the connection of each ends.
fn verify_told(blocked: Vec<Blocked>) -> Result<()> {
    for client in blocked {
        match client.join().expect("a client panicked") {
            Ok(answer) => bail!("it was answered: {answer:?}"),
            Err(error) => ensure!(!error.is_timeout(), "nobody told it: {error}"),
        }
    }
    Ok(())
}
