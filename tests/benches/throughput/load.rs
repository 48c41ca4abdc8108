//! One run of redis-benchmark.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd_tests::process::{Process, tail};
use vipd_tests::wait::wait_for;

use crate::cpu::Meter;
use crate::site::Site;
use crate::ways::Way;

/// Connections at a time.
pub const CONNECTIONS: u32 = 50;
/// A run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// What is asked of Redis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// As redis-benchmark names it.
    pub command: &'static str,
    /// Requests in flight on a connection.
    pub pipeline: u32,
    /// Bytes of the value.
    pub size: u32,
}

/// What one run shows.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub requests_per_second: f64,
    /// CPU time a request, of all that it passes.
    pub cpu_us: f64,
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { command, pipeline, size } = self;
        write!(f, "{} of {size} bytes, pipeline {pipeline}", command.to_uppercase())
    }
}

impl Load {
    /// Makes `requests` by `way`, from the client's place.
    pub fn run(&self, site: &Site, meter: &Meter, way: &Way, requests: u64) -> Result<Outcome> {
        let log = site.directory.join("redis-benchmark.csv");
        fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = site.client.namespace.command("redis-benchmark");
        let number = |number: u64| number.to_string();
        command.args(["--csv", "-t", self.command, "-h", &way.to.ip().to_string()]);
        command.args(["-p", &number(way.to.port().into()), "-c", &number(CONNECTIONS.into())]);
        command.args(["-P", &number(self.pipeline.into()), "-d", &number(self.size.into())]);
        command.args(["-n", &number(requests)]);
        let before = meter.read()?;
        let mut process = Process::start("redis-benchmark", &mut command, &log)?;
        let waited =
            wait_for(format_args!("redis-benchmark ends: {}", way.name), LIMIT, || process.ended());
        let status = waited.with_context(|| tail(&log, 5))?;
        ensure!(status.success(), "redis-benchmark: {status}: {}", tail(&log, 5));
        let cpu = meter.read()? - before;
        Ok(Outcome {
            requests_per_second: rate(&fs::read_to_string(&log)?, self.command)?,
            cpu_us: cpu.as_secs_f64() * 1e6 / requests as f64,
        })
    }
}

/// Reads lines such as `"SET","52631.58","0.5",…`.
fn rate(csv: &str, command: &str) -> Result<f64> {
    let fields = csv.lines().find_map(|line| {
        let mut fields = line.split(',').map(|field| field.trim_matches('"'));
        fields.next().filter(|name| name.eq_ignore_ascii_case(command))?;
        fields.next()
    });
    let rate = fields.with_context(|| format!("redis-benchmark says nothing of use: {csv}"))?;
    rate.parse().context("not a rate")
}
