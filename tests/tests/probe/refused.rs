//! Resets and silence.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vipd::clock::Monotonic;
use vipd::probe::report::{LayerName, State};
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

use crate::judge::{Exchange, at, between, outage_at};

/// Places in the client's tap.
const SYN_ACK: usize = 0;
const RESET: usize = 1;

#[test]
fn every_syn_to_a_port_without_a_listener_is_told_to_be_reset() -> Result<()> {
    for is_v4 in [true, false] {
        let site = Site::up()?;
        site.give_vips(0)?;
        let resets = Tap::attach(&site.client.namespace, "eth0", &[Rule::reset(is_v4, PORT)])?;
        let target = Site::vip(is_v4).to_string();
        let layers = ["--layers=icmp,syn", "--duration=700ms", "--warm-up=200ms"];
        let measured = site.probe(&[&[target.as_str()], layers.as_slice()].concat())?.end()?;
        let layer = measured.layer(LayerName::Syn)?;
        let sent = layer.schedule.context("no schedule")?.sent;
        let all: BTreeMap<_, _> = [("rst".to_owned(), sent)].into();
        ensure!(layer.fates == all && layer.errors == all, "{:?}, {:?}", layer.fates, layer.errors);
        ensure!(layer.lost == sent && resets.count(0) == sent, "{} lost of {sent}", layer.lost);
        let blackout = layer.blackout.as_ref().context("no blackout")?;
        ensure!(blackout.to_ns.is_none() && layer.latency.is_none(), "{blackout:?}");
        let notes = &measured.run()?.notes;
        ensure!(notes.iter().any(|it| it.contains("syn never had a good answer")), "{notes:?}");

        // Alone it is not worth a report.
        let alone =
            site.probe(&[&target, "--layers=syn", "--duration=700ms", "--warm-up=200ms"])?;
        let alone = alone.end()?;
        alone.must_end(1, &[&target, "does not answer", "none answered", "refused"])?;
        ensure!(alone.report.is_none(), "{:?}", alone.report);
    }
    Ok(())
}

#[test]
fn a_listener_that_is_gone_for_a_while_is_a_blackout_with_resets() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let listener = site.listen(0, true)?;
    let syns = Tap::attach(&site.servers[0].namespace, "eth0", &[Rule::syn(true, PORT)])?;
    let rules = [Rule::syn_ack(true, PORT), Rule::reset(true, PORT)];
    let answers = Tap::attach(&site.client.namespace, "eth0", &rules)?;
    let target = Site::vip(true).to_string();
    let mut probe = site.probe(&[&target, "--layers=syn", "--duration=60s", "--warm-up=100ms"])?;
    probe.wait_until("it is under way", || Ok(answers.count(SYN_ACK) > 200))?;
    drop(listener);
    probe.wait_until("it is refused", || Ok(answers.count(RESET) > 300))?;
    let _listener = site.listen(0, true)?;
    let before = answers.count(SYN_ACK);
    probe.wait_until("it is answered again", || Ok(answers.count(SYN_ACK) > before + 200))?;
    probe.signal(Signal::SIGINT)?;
    let measured = probe.end()?;

    let (run, layer) = (measured.run()?, measured.layer(LayerName::Syn)?);
    let (good, resets) = (answers.entries(SYN_ACK)?, answers.entries(RESET)?);
    let exchange = Exchange::new(syns.entries(0)?, &good, 1);
    let (first, last) = resets.first().zip(resets.last()).context("never refused")?;
    let middle = Monotonic(first.at.0.midpoint(last.at.0));
    let outage = outage_at(run, layer, middle).context("no outage")?;
    let before = exchange.answered().rfind(|it| it.there < first.at).context("none before")?;
    let after = exchange.answered().find(|it| it.there > last.at).context("none after")?;
    between(before.there, at(run, outage.from_ns), before.back).context("its beginning")?;
    let end = outage.to_ns.context("it has no end")?;
    between(after.there, at(run, end), after.back).context("its end")?;
    println!("{:?}, {} resets", outage, resets.len());

    let fate = |what: &str| layer.fates.get(what).copied().unwrap_or(0);
    let told = (fate("syn_ack"), fate("rst"));
    ensure!(told == (good.len() as u64, resets.len() as u64), "{:?}", layer.fates);
    ensure!(layer.errors.get("rst") == Some(&told.1), "{:?}", layer.errors);
    let lane = layer.lanes.first().context("no lane")?;
    let span =
        lane.spans.iter().find(|it| (at(run, it.from_ns)..at(run, it.to_ns)).contains(&middle));
    ensure!(span.is_some_and(|it| it.state == State::Refused), "{lane:?}");
    Ok(())
}

#[test]
fn a_firewall_that_rejects_is_told_of_by_its_reason_for_every_probe() -> Result<()> {
    for is_v4 in [true, false] {
        let site = Site::up()?;
        site.give_vips(0)?;
        let _listener = site.listen(0, is_v4)?;
        let server = &site.servers[0].namespace;
        // Each gets its error, however many there are.
        for (setting, value) in [
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv4/icmp_msgs_per_sec", "100000"),
            ("net/ipv4/icmp_msgs_burst", "100000"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            server.sysctl(setting, value)?;
        }
        let syns = Tap::attach(server, "eth0", &[Rule::syn(is_v4, PORT)])?;
        let kind = if is_v4 { "icmp" } else { "icmpv6" };
        server.nft(&format!(
            "table inet wall {{
                chain input {{
                    type filter hook input priority 0; policy accept;
                    tcp dport {PORT} reject with {kind} type admin-prohibited
                }}
            }}\n"
        ))?;
        let target = Site::vip(is_v4).to_string();
        let layers = ["--layers=icmp,syn", "--duration=700ms", "--warm-up=200ms"];
        let measured = site.probe(&[&[target.as_str()], layers.as_slice()].concat())?.end()?;
        let layer = measured.layer(LayerName::Syn)?;
        let sent = layer.schedule.context("no schedule")?.sent;
        println!("{sent} sent, {} arrived, {:?}", syns.count(0), layer.fates);
        let all: BTreeMap<_, _> = [("prohibited".to_owned(), sent)].into();
        ensure!(layer.fates == all && layer.errors == all, "{:?}, {:?}", layer.fates, layer.errors);
        ensure!(syns.count(0) == sent, "{} of {sent} arrived", syns.count(0));
        let echo = measured.layer(LayerName::Icmp)?;
        ensure!(echo.lost == 0, "{:?}", echo.fates);
    }
    Ok(())
}

#[test]
fn an_address_that_says_nothing_at_all_is_an_error_that_names_it() -> Result<()> {
    let site = Site::up()?;
    // Somebody is there, and drops everything.
    site.give_vips(0)?;
    let rules = [
        Rule::syn(true, PORT),
        Rule::echo_request(true),
        Rule::arp_request("198.18.0.250".parse()?),
    ];
    let tap = Tap::attach(&site.servers[0].namespace, "eth0", &rules)?;
    site.client.pin_neighbour(Site::vip(true), site.servers[0].mac)?;
    for rule in 0..rules.len() {
        tap.drop_between(rule, &[(Monotonic(0), Monotonic(u64::MAX))])?;
    }
    let target = Site::vip(true).to_string();
    let measured = site
        .probe(&[&target, "--layers=arp,icmp,syn", "--duration=20s", "--warm-up=500ms"])?
        .end()?;
    measured.must_end(
        1,
        &[&target, "does not answer", "arp: ", "icmp: ", "syn: ", "none answered", "firewall"],
    )?;
    ensure!(measured.report.is_none(), "{:?}", measured.report);
    ensure!((0..rules.len()).all(|rule| tap.count(rule) > 0), "it did not try everything");
    Ok(())
}
