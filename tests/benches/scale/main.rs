//! `cargo xtask bench scale`: a thousand services over fifty masters in one vipd, one of which
//! dies; and a vipd with one service of the same master beside it.

mod daemon;
mod memory;
mod plan;
mod site;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use vipd::probe::figures::Spread;
use vipd_tests::namespace::output;
use vipd_tests::wait::{PATIENCE, wait_until};

use daemon::{Measured, Vipd};
use site::{MASTERS, Site};

/// VIPs of the big vipd; each has one service for every master.
pub const VIPS: usize = 20;

/// Everything is real: Redis, Sentinels, network namespaces, the failovers.
#[derive(Parser)]
struct Arguments {
    /// Failovers of the same master.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds for which both vipds are watched doing nothing.
    #[arg(long, default_value_t = 5)]
    rest: u64,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const EXPLANATION: &str = "
Median of the rounds. ROLE: the new master has said that it is one, to each vipd by a connection of
its own. plan: finding out what to write, before the first write. The two vipds, Redis and the
Sentinels share this machine's CPUs, and both vipds are woken by the same events.
";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    introduce()?;
    plan::print()?;

    let begun = Instant::now();
    let mut site = Site::up()?;
    eprintln!("{} Redis and 3 Sentinels: {} s", 2 * MASTERS, begun.elapsed().as_secs());
    let mut many = Vipd::many(&site)?;
    let mut one = Vipd::one(&site)?;
    let started = [many.start()?, one.start()?];
    let rest = Duration::from_secs(arguments.rest);
    let at_rest = [&many, &one].map(|vipd| vipd.cpu_over(rest));
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..arguments.rounds {
        let old = site.master()?;
        let killed = site.kill(old)?;
        let new = site.other(old);
        for (vipd, measured) in [&many, &one].into_iter().zip(&mut rounds) {
            wait_until(format_args!("vipd serves {new}"), PATIENCE, || {
                Ok(vipd.failover_to(new, killed)?.map(|it| measured.push(it)).is_some())
            })?;
        }
        eprintln!("round {}: failed over", round + 1);
        site.restart(old)?;
        site.wait_settled()?;
    }
    let memory = [&many, &one].map(Vipd::memory);

    let header = format!("{} services", VIPS * MASTERS);
    println!("{:<48}{header:>16}{:>16}", "", "one service");
    line("services of the master that died", &rounds, |it| it.services.to_string());
    let ms = |it: f64| format!("{it:.1} ms");
    let us = |it: f64| format!("{it:.1} µs");
    figures("SIGKILL of the master to the first flip", &rounds, |it| it.to_first_flip, 1e3, ms);
    figures("ROLE = master to the first flip", &rounds, |it| it.role_to_flip, 1e6, us);
    figures("  of that: the plan", &rounds, |it| it.planned, 1e6, us);
    figures("first flip to the last", &rounds, |it| it.first_to_last, 1e6, us);
    let [many, one] = started.map(|it| format!("{:.1} s", it.as_secs_f64()));
    row("start to all services served", &many, &one);
    let [many, one] = at_rest.map(|cpu| cpu.map(|cpu| format!("{:.2} %", cpu * 100.0)));
    row("CPU while nothing happens, of one CPU", &many?, &one?);
    let [many, one] = memory;
    let (many, one) = (many?, one?);
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    row("memory of the daemon (RSS)", &mib(many.resident), &mib(one.resident));
    row("memory of the maps in the kernel", &mib(many.maps), &mib(one.maps));
    row("  of that: the connection tables", &mib(many.connections), &mib(one.connections));
    println!("{}", EXPLANATION.trim_end());
    Ok(())
}

fn introduce() -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "Linux {}, {cores} CPUs for everything, load {}",
        output(Command::new("uname").arg("-r"))?.trim(),
        load.split(' ').next().unwrap_or_default()
    );
    let redis = output(Command::new("redis-server").arg("--version"))
        .context("redis-server is missing: run `cargo xtask setup`")?;
    print!("{redis}");
    println!(
        "{MASTERS} masters with a replica each, 3 Sentinels that watch all of them; {VIPS} VIPs with \
         {MASTERS} services each\n"
    );
    Ok(())
}

fn row(what: &str, many: &str, one: &str) {
    // `µ` is two bytes and one column.
    println!("{what:<48}{many:>16}{one:>16}");
}

fn line(what: &str, rounds: &[Vec<Measured>; 2], show: impl Fn(&Measured) -> String) {
    let [many, one] = rounds.each_ref().map(|rounds| rounds.last().map(&show).unwrap_or_default());
    row(what, &many, &one);
}

fn figures(
    what: &str,
    rounds: &[Vec<Measured>; 2],
    figure: impl Fn(&Measured) -> Option<Duration>,
    unit: f64,
    show: impl Fn(f64) -> String,
) {
    let [many, one] = rounds.each_ref().map(|rounds| {
        let found = rounds.iter().map(|it| figure(it).map(|it| it.as_secs_f64() * unit));
        Spread::of(found).map_or_else(|| "not seen".to_owned(), |it| show(it.median))
    });
    row(what, &many, &one);
}
