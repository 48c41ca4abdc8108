//! `--pcap`: the probe's own packets, all of them and nobody else's.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vipd::probe::report::LayerName;
use vipd_tests::namespace::output;
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

use crate::judge::EXACT;

#[test]
fn tcpdump_reads_every_probe_and_every_answer_over_ipv4() -> Result<()> {
    capture(true)
}

#[test]
fn tcpdump_reads_every_probe_and_every_answer_over_ipv6() -> Result<()> {
    capture(false)
}

fn capture(is_v4: bool) -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let _listener = site.listen(0, is_v4)?;
    let rules = [Rule::syn_ack(is_v4, PORT), Rule::echo_reply(is_v4)];
    let answers = Tap::attach(&site.client.namespace, "eth0", &rules)?;
    let target = Site::vip(is_v4).to_string();
    // Others on this host talk to the VIP as well: a client, and somebody else who pings it.
    let mut ping = site.probe(&[&target, "--layers=icmp", "--duration=60s"])?;
    ping.wait_until("somebody pings", || Ok(answers.count(1) > 10))?;
    let talk = || std::net::TcpStream::connect((Site::vip(is_v4), PORT));
    let _client = site.client.namespace.run(talk)??;

    let file = site.directory().join("probe.pcap");
    let pcap = format!("--pcap={}", file.display());
    let layers = if is_v4 { "--layers=arp,icmp,syn" } else { "--layers=nd,icmp,syn" };
    let begun = answers.count(1);
    let mut probe = site.probe(&[
        &target,
        layers,
        "--icmp-rate=200",
        "--arp-rate=50",
        "--duration=20s",
        "--warm-up=100ms",
        "--timeout=300ms",
        &pcap,
    ])?;
    probe.wait_until("it is under way", || {
        Ok(answers.count(0) > 800 && answers.count(1) > begun + 300)
    })?;
    probe.signal(Signal::SIGINT)?;
    let measured = probe.end()?;
    let run = measured.run()?;
    ping.signal(Signal::SIGINT)?;
    let other = ping.end()?;
    let other = other.layer(LayerName::Icmp)?;
    ensure!(other.lost == 0 && other.duplicated == 0, "{other:?}");
    let dump = |filter: &str| -> Result<Vec<String>> {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-nn", "-tt", "--nano", "-r"]).arg(&file).arg(filter);
        Ok(output(&mut tcpdump)?.lines().map(str::to_owned).collect())
    };
    let all = dump("")?;
    let (icmp, tcp) = if is_v4 { ("icmp", "tcp[13]") } else { ("icmp6", "ip6[53]") };
    let kind = if is_v4 { "icmp[0]" } else { "ip6[40]" };
    let protocol = if is_v4 { "tcp" } else { "ip6 proto 6" };
    let (request, reply) = if is_v4 { (8, 0) } else { (128, 129) };
    let syn = measured.layer(LayerName::Syn)?;
    let echo = measured.layer(LayerName::Icmp)?;
    let who = measured.layer(if is_v4 { LayerName::Arp } else { LayerName::Nd })?;
    let sent = |layer: &vipd::probe::report::Layer| {
        Ok::<_, anyhow::Error>(layer.schedule.context("no schedule")?.sent)
    };
    let fate = |layer: &vipd::probe::report::Layer, what: &str| {
        layer.fates.get(what).copied().unwrap_or(0)
    };
    let stamp = |line: &String| -> Result<f64> {
        Ok(line.split_whitespace().next().context("an empty line")?.parse()?)
    };
    let mut told = 0;
    for (what, filter, count) in [
        ("SYNs", format!("{protocol} and {tcp} = 2"), sent(syn)?),
        ("SYN-ACKs", format!("{protocol} and {tcp} = 18"), fate(syn, "syn_ack")),
        // The client's kernel takes back what it knows nothing of.
        ("resets", format!("{protocol} and {tcp} = 4"), fate(syn, "syn_ack")),
        ("echoes", format!("{icmp} and {kind} = {request}"), sent(echo)?),
        ("replies", format!("{icmp} and {kind} = {reply}"), fate(echo, "echo_reply")),
    ] {
        let captured = dump(&filter)?.len() as u64;
        println!("{what}: {captured} captured, {count} told");
        ensure!(captured == count, "{what}: {captured} are in the file, {count} are told");
        told += captured;
    }
    // The host's own questions and answers about the VIP are there too: they say who had it.
    let questions = if is_v4 { "arp".into() } else { format!("{icmp} and {kind} >= 135") };
    let captured = dump(&questions)?.len() as u64;
    ensure!(captured >= sent(who)? + fate(who, "answer"), "{captured} of {questions}");
    ensure!(told + captured == all.len() as u64, "others' packets are in the file");

    // By the kernel's times: what the file and the tap say differs by the clocks alone.
    let filter = format!("{protocol} and {tcp} = 18");
    let written = dump(&filter)?.iter().map(stamp).collect::<Result<Vec<_>>>()?;
    let seen = answers.entries(0)?;
    // The tap has seen the client's connection as well.
    let seen = &seen[seen.len() - written.len()..];
    let apart = written.iter().zip(seen).map(|(written, seen)| written - seen.at.0 as f64 / 1e9);
    let (least, most) =
        apart.fold((f64::MAX, f64::MIN), |(least, most), it| (least.min(it), most.max(it)));
    println!("the file and the tap are apart by {least} to {most}");
    ensure!(most - least < EXACT.as_secs_f64(), "stamps differ by {} s", most - least);

    // By the wall clock, while the run lasted.
    let (first, last) = all.first().zip(all.last()).context("it is empty")?;
    let length = run.length_ns as f64 / 1e9;
    let (first, last) = (stamp(first)?, stamp(last)?);
    ensure!((length - 0.1..length + 1.0).contains(&(last - first)), "{first} to {last}: {length}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    ensure!(last < now && now - last < 90.0, "{last} is not now, {now}");
    Ok(())
}
