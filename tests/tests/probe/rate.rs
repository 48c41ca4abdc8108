//! The schedule: what the probe says of it is what the server's kernel saw.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd::probe::report::{LayerName, Schedule};
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Entry, Rule, Site, Tap};

const RATE: u64 = 10_000;
const SECONDS: u64 = 10;
/// From the sender's device to the server's tap, and what two clocks are told apart by.
const ON_THE_WAY: Duration = Duration::from_millis(1);
/// A probe that is later than this is left out, and counted.
const LEFT_OUT: Duration = Duration::from_millis(100);

#[test]
fn ten_thousand_syns_a_second_are_sent_as_late_as_is_said_and_counted_by_the_server() -> Result<()>
{
    let site = Site::up()?;
    site.give_vips(0)?;
    let _listener = site.listen(0, true)?;
    let syns = Tap::attach(&site.servers[0].namespace, "eth0", &[Rule::syn(true, PORT)])?;
    let answers = Tap::attach(&site.client.namespace, "eth0", &[Rule::syn_ack(true, PORT)])?;
    let target = Site::vip(true).to_string();
    let (rate, duration) = (format!("--syn-rate={RATE}"), format!("--duration={SECONDS}s"));
    let measured =
        site.probe(&[&target, "--layers=syn", "--warm-up=1s", &rate, &duration])?.end()?;

    let layer = measured.layer(LayerName::Syn)?;
    let schedule = layer.schedule.context("no schedule")?;
    println!("{schedule:?}, {:?}", layer.fates);
    ensure!(schedule.planned == RATE * SECONDS, "{} were planned", schedule.planned);
    ensure!(schedule.sent + schedule.skipped == schedule.planned, "{schedule:?}");
    let refused = layer.fates.get("not sent").copied().unwrap_or(0);
    let seen = syns.entries(0)?;
    ensure!(
        seen.len() as u64 == schedule.sent - refused,
        "the server saw {} SYNs of {} ({refused} were not sent)",
        seen.len(),
        schedule.sent
    );
    judge_lateness(&seen, measured.moment(0)?, &schedule)?;

    let told: u64 = ["syn_ack", "too late"].iter().filter_map(|it| layer.fates.get(*it)).sum();
    let came = answers.count(0);
    ensure!(
        told + layer.duplicated == came,
        "{came} answers came back: {:?}, {} duplicated",
        layer.fates,
        layer.duplicated
    );
    ensure!(told + layer.fates.get("silence").copied().unwrap_or(0) + refused >= schedule.sent);
    Ok(())
}

/// Fails unless the packets came as late as `schedule` says.
pub fn judge_lateness(seen: &[Entry], origin: Monotonic, schedule: &Schedule) -> Result<()> {
    let due =
        |number: u64| origin + Duration::from_nanos((number as f64 * 1e9 / schedule.rate) as u64);
    // Those that were left out are nobody's: they were due more than `LEFT_OUT` before the next that
    // came.
    let (mut number, mut left_out, mut late) = (0, 0, vec![]);
    for entry in seen {
        while left_out < schedule.skipped && entry.at.since(due(number)) > LEFT_OUT + ON_THE_WAY {
            number += 1;
            left_out += 1;
        }
        ensure!(
            entry.at + Duration::from_micros(50) >= due(number),
            "packet {number} came {:?} before it was due",
            due(number).since(entry.at)
        );
        late.push(entry.at.since(due(number)));
        number += 1;
    }
    late.sort_unstable();
    let at = |share: f64| late[((late.len() as f64 * share) as usize).min(late.len() - 1)];
    let (p99, max) = (at(0.99), at(1.0));
    println!("at the server: p99 {p99:?}, at most {max:?}");
    // Which were left out is known to within `ON_THE_WAY` only.
    let unsure = if left_out > 0 { ON_THE_WAY } else { Duration::ZERO };
    let told = |ns| Duration::from_nanos(ns) + ON_THE_WAY + unsure;
    ensure!(max <= told(schedule.late_max_ns), "{max:?} late at the server: {schedule:?}");
    ensure!(p99 <= told(schedule.late_p99_ns), "{p99:?} late at the server: {schedule:?}");
    Ok(())
}
