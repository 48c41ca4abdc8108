//! The recorder hears what real hosts say: here the kernel answers, for addresses that are put on
//! its interfaces.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd_tests::host::Host;
use vipd_tests::namespace::output;
use vipd_tests::recorder::{Kind, Recorder};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Family, Lab, Options};

#[test]
fn it_sees_which_host_answers_since_when_and_that_two_do() -> Result<()> {
    let lab = Lab::up(Options::default().family(Family::Both))?;
    let hosts = [lab.nodes[0].host(), lab.nodes[1].host()];
    for service in lab.services() {
        moves_by_hand(&lab, service.ip(), hosts).with_context(|| format!("{service}"))?;
    }
    Ok(())
}

fn moves_by_hand(lab: &Lab, vip: IpAddr, [one, other]: [&Host; 2]) -> Result<()> {
    let recorder = Recorder::start(&lab.observer, vip, &[one.mac, other.mac])?;
    recorder.wait_unanswered(5)?;
    address("add", vip, one)?;
    recorder.wait_answered_by(one.mac)?;
    address("del", vip, one)?;
    recorder.wait_unanswered(20)?;
    address("add", vip, other)?;
    recorder.wait_answered_by(other.mac)?;
    let record = recorder.record();
    ensure!(record.overlap().is_none(), "one after the other: {:?}", record.overlap());
    let hosts: Vec<_> = record.intervals().iter().map(|interval| interval.mac).collect();
    ensure!(hosts == [one.mac, other.mac], "{:?}", record.intervals());

    let both = Monotonic::now();
    address("add", vip, one)?;
    recorder.wait_answered_by(one.mac)?;
    recorder.wait_answered_by(other.mac)?;
    if vip.is_ipv4() {
        let arping = ["-q", "-c", "1", "-A", &vip.to_string(), "-I", "eth0"];
        output(one.namespace.command("arping").args(arping))?;
        wait_until("the announcement is heard", PATIENCE, || {
            Ok(recorder.record().announced(one.mac, both).is_some())
        })?;
        ensure!(recorder.record().announced(other.mac, Monotonic(0)).is_none());
    }
    let record = recorder.stop()?;
    let overlap = record.overlap().context("both answer, and it has not seen that")?;
    ensure!(overlap.time > Duration::ZERO, "{overlap:?}");
    for kind in [Kind::Answer, Kind::DirectAnswer] {
        let heard = record.sightings.iter().any(|it| it.mac == other.mac && it.kind == kind);
        ensure!(heard, "no {kind:?} was heard");
    }
    address("del", vip, one)?;
    address("del", vip, other)
}

fn address(verb: &str, vip: IpAddr, host: &Host) -> Result<()> {
    let (prefix, flags) = if vip.is_ipv4() { (24, "") } else { (64, "nodad") };
    let flags = if verb == "add" { flags } else { "" };
    host.namespace.ip_batch(&format!("addr {verb} {vip}/{prefix} dev eth0 {flags}\n"))
}
