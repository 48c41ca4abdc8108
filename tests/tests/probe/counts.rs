//! Losses and duplicates, counted by somebody else.

use anyhow::{Context, Result, ensure};
use vipd::probe::report::LayerName;
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

/// Places in the taps.
const SYN: usize = 0;
const ECHO: usize = 1;

#[test]
fn every_answer_that_is_dropped_is_lost_and_no_other() -> Result<()> {
    const EVERY: [u64; 2] = [7, 5];
    for is_v4 in [true, false] {
        let site = Site::up()?;
        site.give_vips(0)?;
        let _listener = site.listen(0, is_v4)?;
        let rules = [Rule::syn_ack(is_v4, PORT), Rule::echo_reply(is_v4)];
        let answers = Tap::attach(&site.client.namespace, "eth0", &rules)?;
        for rule in [SYN, ECHO] {
            answers.drop_every(rule, EVERY[rule]);
        }
        let target = Site::vip(is_v4).to_string();
        let rates = ["--icmp-rate=500", "--duration=1s", "--warm-up=200ms", "--layers=icmp,syn"];
        let measured = site.probe(&[&[target.as_str()], rates.as_slice()].concat())?.end()?;
        for (name, rule) in [(LayerName::Syn, SYN), (LayerName::Icmp, ECHO)] {
            let layer = measured.layer(name)?;
            let sent = layer.schedule.context("no schedule")?.sent;
            let entries = answers.entries(rule)?;
            let dropped = entries.iter().filter(|it| !it.passed).count() as u64;
            println!("{}: {sent} sent, {dropped} dropped, {:?}", name.name(), layer.fates);
            ensure!(entries.len() as u64 == sent, "{} answers to {sent}", entries.len());
            ensure!(dropped == sent / EVERY[rule], "{dropped} of {sent}");
            ensure!(layer.lost == dropped && layer.fates["silence"] == dropped, "{layer:?}");
            ensure!(layer.duplicated == 0, "{} duplicated", layer.duplicated);
            let latency = layer.latency.as_ref().context("no latency")?;
            let held: u64 = latency.histogram.iter().map(|it| it.count).sum();
            // What was due in an outage is none of the steady ones.
            ensure!(held == latency.count && held <= sent - dropped, "{latency:?}");
        }
    }
    Ok(())
}

#[test]
fn every_answer_that_comes_twice_is_duplicated_and_no_other() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let _listener = site.listen(0, true)?;
    let answers = [Rule::syn_ack(true, PORT), Rule::echo_reply(true)];
    let answers = Tap::attach(&site.client.namespace, "eth0", &answers)?;
    // The switch sends some of them to the client once more than it would.
    site.switch.nft(&format!(
        "table netdev twice {{
            chain ingress {{
                type filter hook ingress device {} priority 0; policy accept;
                ip saddr {vip} tcp flags & (syn | ack) == syn | ack numgen inc mod 4 0 dup to {port}
                ip saddr {vip} icmp type echo-reply numgen inc mod 3 0 dup to {port}
            }}
        }}\n",
        site.servers[0].port(),
        vip = Site::vip(true),
        port = site.client.port()
    ))?;
    let target = Site::vip(true).to_string();
    let measured = site
        .probe(&[
            &target,
            "--layers=icmp,syn",
            "--icmp-rate=500",
            "--duration=1s",
            "--warm-up=200ms",
        ])?
        .end()?;
    for (name, rule, every) in [(LayerName::Syn, SYN, 4), (LayerName::Icmp, ECHO, 3)] {
        let layer = measured.layer(name)?;
        let sent = layer.schedule.context("no schedule")?.sent;
        let came = answers.count(rule);
        println!("{}: {sent} sent, {came} answers, {}", name.name(), layer.duplicated);
        ensure!(came - sent == sent.div_ceil(every), "{came} answers to {sent}");
        ensure!(layer.duplicated == came - sent, "{} duplicated", layer.duplicated);
        ensure!(layer.lost == 0, "{} lost", layer.lost);
    }
    Ok(())
}
