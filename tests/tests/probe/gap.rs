//! Gaps of known length: from one moment to another, the server's kernel drops what comes.

use std::time::Duration;

use anyhow::{Result, ensure};
use vipd::clock::Monotonic;
use vipd::probe::report::LayerName;
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

use crate::judge::Exchange;

#[test]
fn gaps_of_known_length_are_measured_over_ipv4() -> Result<()> {
    gaps(true)
}

#[test]
fn gaps_of_known_length_are_measured_over_ipv6() -> Result<()> {
    gaps(false)
}

const MS: Duration = Duration::from_millis(1);
/// After the probe is under way, and how long.
const GAPS: [(u32, u32); 3] = [(150, 30), (350, 150), (700, 700)];
/// Places in the taps.
const SYN: usize = 0;
const ECHO: usize = 1;

fn gaps(is_v4: bool) -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let _listener = site.listen(0, is_v4)?;
    let probes = [Rule::syn(is_v4, PORT), Rule::echo_request(is_v4)];
    let probes = Tap::attach(&site.servers[0].namespace, "eth0", &probes)?;
    let answers = [Rule::syn_ack(is_v4, PORT), Rule::echo_reply(is_v4)];
    let answers = Tap::attach(&site.client.namespace, "eth0", &answers)?;

    let target = Site::vip(is_v4).to_string();
    let mut probe = site.probe(&[
        &target,
        "--layers=icmp,syn",
        "--icmp-rate=1000",
        "--duration=3s",
        "--warm-up=500ms",
    ])?;
    probe.wait_until("both layers are under way", || {
        Ok([SYN, ECHO].into_iter().all(|rule| answers.count(rule) > 200))
    })?;
    let now = Monotonic::now();
    let gaps = GAPS.map(|(after, length)| (now + MS * after, now + MS * (after + length)));
    probes.drop_between(SYN, &gaps)?;
    probes.drop_between(ECHO, &gaps)?;
    ensure!(Monotonic::now() < gaps[0].0, "the gaps were told of too late");
    let measured = probe.end()?;

    let run = measured.run()?;
    for (layer, rule, step) in [(LayerName::Syn, SYN, 1), (LayerName::Icmp, ECHO, 0)] {
        let layer = measured.layer(layer)?;
        let exchange = Exchange::new(probes.entries(rule)?, &answers.entries(rule)?, step);
        exchange.judge_gaps(&measured, layer, &gaps)?;
        exchange.judge_outages(run, layer)?;
        let longest = layer.outages.iter().max_by_key(|it| it.length_ns);
        ensure!(layer.blackout.as_ref() == longest, "another outage is longer: {layer:?}");
        let dropped = exchange.probes.iter().filter(|it| !it.passed).count() as u64;
        ensure!(
            layer.lost == dropped && layer.fates.get("silence") == Some(&dropped),
            "{dropped} were dropped: {} lost, {:?}",
            layer.lost,
            layer.fates
        );
    }
    Ok(())
}
