//! What the probe's own host lost is not told as the network's.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};
use etherparse::PacketBuilder;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use vipd::probe::report::LayerName;
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

/// More than there is room for, by far.
const FLOOD: u16 = 40_000;
/// One of those that the probe's SYNs come from.
const SOURCE_PORTS: &str = "--source-ports=10000-19999";

#[test]
fn answers_that_there_was_no_room_for_are_told_of() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let _listener = site.listen(0, true)?;
    let answers = Tap::attach(&site.client.namespace, "eth0", &[Rule::syn_ack(true, PORT)])?;
    let target = Site::vip(true).to_string();
    let mut probe = site.probe(&[
        &target,
        "--layers=syn",
        "--duration=60s",
        "--warm-up=100ms",
        "--timeout=200ms",
        SOURCE_PORTS,
    ])?;
    probe.wait_until("it is under way", || Ok(answers.count(0) > 300))?;
    // It can't read while it stands still.
    probe.signal(Signal::SIGSTOP)?;
    site.servers[0].namespace.run(|| flood(&site))??;
    probe.signal(Signal::SIGCONT)?;
    let more = answers.count(0) + 100;
    probe.wait_until("it goes on", || Ok(answers.count(0) > more))?;
    probe.signal(Signal::SIGINT)?;
    let measured = probe.end()?;
    let run = measured.run()?;
    ensure!(measured.layer(LayerName::Syn)?.fates.contains_key("syn_ack"));
    let note = run.notes.iter().find(|it| it.contains("too slow to take"));
    let Some(note) = note else { bail!("nothing of it is told: {:?}", run.notes) };
    let words = note.split_whitespace().filter_map(|it| it.parse::<u64>().ok());
    let dropped: u64 = words.sum();
    println!("{note}");
    ensure!(0 < dropped && dropped < u64::from(FLOOD), "{note}");
    Ok(())
}

/// Answers that nobody asked for, but that look as if the probe had.
fn flood(site: &Site) -> Result<()> {
    let (IpAddr::V4(vip), client) = (Site::vip(true), site.client.address) else {
        bail!("no IPv4")
    };
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let to = SocketAddr::new(client.into(), 0).into();
    for number in 0..FLOOD {
        let mut packet = vec![];
        let answer = PacketBuilder::ipv4(vip.octets(), client.octets(), 64)
            .tcp(PORT, 10_000 + number % 10_000, 1, 1)
            .syn()
            .ack(1);
        answer.write(&mut packet, &[])?;
        raw.send_to(&packet, &to)?;
    }
    Ok(())
}
