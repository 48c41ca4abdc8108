//! What clients do with Redis, through the VIP.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::Connection;
use vipd_tests::client::{Dialer, info_field};
use vipd_tests::scenario::scenario;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Mode, Nics, Options};

/// Connections that are open at the same time.
const CROWD: usize = 1000;
/// A value of many segments, windows and retransmission timers.
const LARGE: usize = 64 << 20;

#[test]
fn nat_carries_a_large_value_both_ways() {
    scenario(Options::mode(Mode::Nat), a_large_value);
}

#[test]
fn nat_carries_a_large_value_across_two_nics() {
    scenario(Options { nics: Nics::Two, ..Options::default() }, a_large_value);
}

#[test]
fn dsr_carries_a_large_value_both_ways() {
    scenario(Options::mode(Mode::Dsr), a_large_value);
}

#[test]
fn nat_carries_a_thousand_connections_at_once() {
    scenario(Options::mode(Mode::Nat), a_crowd);
}

#[test]
fn dsr_carries_a_thousand_connections_at_once() {
    scenario(Options::mode(Mode::Dsr), a_crowd);
}

#[test]
fn messages_are_delivered_to_subscribers_behind_the_vip() {
    for mode in [Mode::Nat, Mode::Dsr] {
        scenario(Options::mode(mode), a_subscription);
    }
}

#[test]
fn a_blocking_command_waits_through_the_vip() {
    for mode in [Mode::Nat, Mode::Dsr] {
        scenario(Options::mode(mode), a_blocking_command);
    }
}

#[test]
fn a_subscriber_is_told_by_a_reset_when_its_master_is_gone() {
    scenario(Options::default(), |lab| {
        let old = lab.master()?;
        let mut connection = lab.dialer().connect()?;
        let mut subscription = connection.as_pubsub();
        subscription.subscribe("news")?;
        lab.sentinels[0].fail_over()?;
        lab.wait_failed_over(old)?;
        // It only ever reads; a PING is how such a client finds out.
        wait_until("the subscription ends", PATIENCE, || {
            Ok(subscription.ping::<redis::Value>().is_err())
        })
    });
}

fn a_large_value(lab: &mut Lab) -> Result<()> {
    let value: Vec<u8> = (0..LARGE).map(|index| (index * 7 / 13) as u8).collect();
    let mut connection = patient(lab).connect()?;
    let () = redis::cmd("SET").arg("large").arg(&value).query(&mut connection)?;
    let read: Vec<u8> = redis::cmd("GET").arg("large").query(&mut connection)?;
    ensure!(read == value, "the value came back different");
    Ok(())
}

fn a_crowd(lab: &mut Lab) -> Result<()> {
    let dialer = lab.dialer();
    let connect = || (0..CROWD).map(|_| dialer.connect_here()).collect::<Result<Vec<_>>>();
    let mut crowd = lab.client.namespace.run(connect)??;
    let set = |(number, connection): (usize, &mut Connection)| -> redis::RedisResult<()> {
        redis::cmd("SET").arg(format!("crowd:{number}")).arg(number).query(connection)
    };
    crowd.iter_mut().enumerate().try_for_each(set)?;
    let clients: String = lab.nodes[lab.master()?].ask(&["INFO", "clients"])?;
    let connected: usize = info_field(&clients, "connected_clients").unwrap_or("0").parse()?;
    ensure!(connected >= CROWD, "only {connected} are connected at once");
    for (number, connection) in crowd.iter_mut().enumerate() {
        // Another's key: each connection reaches the same Redis.
        let neighbour = (number + 1) % CROWD;
        let read: usize = redis::cmd("GET").arg(format!("crowd:{neighbour}")).query(connection)?;
        ensure!(read == neighbour, "connection {number} reads {read}");
    }
    Ok(())
}

fn a_subscription(lab: &mut Lab) -> Result<()> {
    let mut subscriber = lab.dialer().connect()?;
    let mut publisher = lab.dialer().connect()?;
    let mut subscription = subscriber.as_pubsub();
    subscription.subscribe("news")?;
    for number in 0..100 {
        let receivers: u32 = redis::cmd("PUBLISH").arg("news").arg(number).query(&mut publisher)?;
        ensure!(receivers == 1, "{receivers} subscribers");
        let message: u32 = subscription.get_message()?.get_payload()?;
        ensure!(message == number, "message {message} instead of {number}");
    }
    Ok(())
}

fn a_blocking_command(lab: &mut Lab) -> Result<()> {
    let mut blocked = patient(lab).connect()?;
    let mut other = lab.dialer().connect()?;
    let master = lab.master()?;
    let (list, value): (String, String) = thread::scope(|scope| {
        let waiting =
            scope.spawn(move || redis::cmd("BLPOP").arg("queue").arg(0).query(&mut blocked));
        wait_until("the client is blocked", PATIENCE, || {
            let clients: String = lab.nodes[master].ask(&["INFO", "clients"])?;
            Ok(info_field(&clients, "blocked_clients") == Some("1"))
        })?;
        let _length: u32 = redis::cmd("RPUSH").arg("queue").arg("job").query(&mut other)?;
        let popped = waiting.join().ok().context("the blocked client panicked")?;
        anyhow::Ok(popped?)
    })?;
    ensure!((list.as_str(), value.as_str()) == ("queue", "job"), "popped {value} from {list}");
    Ok(())
}

/// A client for what takes its time.
fn patient(lab: &Lab) -> Dialer {
    Dialer { reply_timeout: Duration::from_secs(60), ..lab.dialer() }
}
