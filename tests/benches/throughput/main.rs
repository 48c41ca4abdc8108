//! `cargo xtask bench throughput`: redis-benchmark through vipd, and by the other ways to Redis.

mod cpu;
mod load;
mod site;
mod table;
mod ways;
mod xdp;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vipd_tests::namespace::output;

use cpu::Meter;
use load::{CONNECTIONS, Load};
use site::Site;
use table::Samples;
use ways::Way;

/// Everything is measured by redis-benchmark, in rounds that take each way in turn.
#[derive(Parser)]
struct Arguments {
    /// Seconds that the rounds may take.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Milliseconds of one run, of the direct way.
    #[arg(long, default_value_t = 250)]
    run_ms: u64,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const LOADS: [Load; 8] = [
    load("set", 1, 3),
    load("get", 1, 3),
    load("set", 1, 1024),
    load("get", 1, 1024),
    load("set", 16, 3),
    load("get", 16, 3),
    load("set", 16, 1024),
    load("get", 16, 1024),
];
/// Requests of the first run of all, which tells how many make a run.
const FIRST_REQUESTS: u64 = 20_000;

const EXPLANATION: &str = "
of direct, of routed: median of the ratios of each round. routed: a box that only forwards, without
a firewall. CPU µs: what one request costs redis-benchmark, Redis, the proxy and the kernel below
them; extra: beyond the direct way. Here all hosts share the machine's CPUs and every hop through
the switch costs CPU as well, so each box in between slows the client and Redis down by just that.
With hosts of their own that work would be the box's and the switch's; this does not measure that.
The XDP program's ns include what the kernel's own time-keeping takes.
";

const fn load(command: &'static str, pipeline: u32, size: u32) -> Load {
    Load { command, pipeline, size }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut site = Site::up()?;
    let ways = ways::all(&mut site)?;
    site.set_receive_offload(&ways)?;
    let meter = Meter::new(&site, &ways)?;
    introduce()?;

    let run = Duration::from_millis(arguments.run_ms);
    let requests = LOADS.map(|load| calibrate(&site, &meter, &ways, load, run));
    let requests = requests.into_iter().collect::<Result<Vec<_>>>()?;
    let mut samples = Samples::new(&ways);
    let start = Instant::now();
    let limit = Duration::from_secs(arguments.seconds);
    let mut rounds = 0;
    // Another round only if it will be over in time.
    while rounds == 0 || start.elapsed() / rounds * (rounds + 1) < limit {
        for (load, &requests) in LOADS.iter().zip(&requests) {
            samples.add_round(*load, |way| load.run(&site, &meter, &ways[way], requests))?;
        }
        rounds += 1;
    }
    println!("{rounds} rounds in {} s\n", start.elapsed().as_secs());
    samples.print(&LOADS);
    xdp::print_shares(&site, &meter, &ways, &LOADS, &requests)?;
    println!("{}", EXPLANATION.trim_end());
    Ok(())
}

/// How many requests take `run` by the direct way. Also sees that the others pass their boxes.
fn calibrate(site: &Site, meter: &Meter, ways: &[Way], load: Load, run: Duration) -> Result<u64> {
    let mut rate = 0.0;
    for way in ways {
        let before = way.packets()?;
        let outcome = load.run(site, meter, way, FIRST_REQUESTS)?;
        let passed = way.packets()? - before;
        if way.host.is_none() {
            rate = outcome.requests_per_second;
        } else {
            let enough = FIRST_REQUESTS / u64::from(load.pipeline);
            ensure!(passed >= enough, "{}: only {passed} packets came by", way.name);
        }
    }
    ensure!(rate > 0.0, "no way is direct");
    Ok((rate * run.as_secs_f64()) as u64)
}

fn introduce() -> Result<()> {
    let first_line = |program: &str, argument: &str| {
        let text = output(Command::new(program).arg(argument))
            .with_context(|| format!("{program} is missing: run `cargo xtask setup --bench`"))?;
        anyhow::Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "Linux {}, {cores} CPUs for everything, load {}",
        output(Command::new("uname").arg("-r"))?.trim(),
        load.split(' ').next().unwrap_or_default()
    );
    for (program, argument) in [
        ("redis-server", "--version"),
        ("redis-benchmark", "--version"),
        ("nft", "--version"),
        ("haproxy", "-v"),
    ] {
        println!("{}", first_line(program, argument)?);
    }
    println!("vipd {}, XDP in native mode", env!("CARGO_PKG_VERSION"));
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    println!(
        "{CONNECTIONS} connections, {}. On every way GRO is on at the hosts and off in the switch, \
         and\nTSO and checksum offload are off at the hosts: XDP on veth needs the latter.",
        congestion.trim()
    );
    Ok(())
}
