//! Mode `host`: a client that only waits learns that its VIP has left the host.

use std::thread;

use anyhow::{Result, ensure};
use redis::Value;
use vipd_tests::redis_node::Role;
use vipd_tests::scenario::scenario;
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
        Ok(())
    });
}

fn blocked_clients_are_told(lab: &mut Lab) -> Result<()> {
    const CLIENTS: usize = 20;
    let old = lab.master()?;
    let blocked: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut connection = lab.dialer().connect()?;
            connection.set_read_timeout(Some(PATIENCE))?;
            Ok(thread::spawn(move || {
                redis::cmd("BLPOP").arg("nothing").arg(0).query::<Value>(&mut connection)
            }))
        })
        .collect::<Result<_>>()?;
    wait_until("all of them wait", PATIENCE, || {
        let clients: String = lab.nodes[old].ask(&["INFO", "clients"])?;
        Ok(clients.contains(&format!("blocked_clients:{CLIENTS}\r\n")))
    })?;
    lab.sentinels[0].fail_over()?;
    for client in blocked {
        let answer = client.join().expect("a client panicked");
        ensure!(answer.is_err(), "it was answered: {answer:?}");
    }
    // Its demotion, which ends connections as well, comes some 10 s after the promotion.
    ensure!(lab.nodes[old].role()? == Role::Master, "only its demotion ended them");
    let new = lab.wait_failed_over(old)?;
    lab.wait_serving(new)
}
