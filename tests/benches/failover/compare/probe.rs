//! `vipd probe`, as a program of its own: beside the clients, and beside the observer of ARP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vipd::probe::{LayerName, Report, report};
use vipd_tests::Lab;
use vipd_tests::daemon::binary;
use vipd_tests::host::Host;
use vipd_tests::process::{Process, tail};
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::wait::{PATIENCE, wait_for};

use super::way::Way;

/// How long all must be well before the fault.
const WARM_UP: Duration = Duration::from_secs(1);
/// Questions a second for the VIP's link-layer address.
const ARP_RATE: u32 = 100;
/// The observer's probe is ended when the clients' has ended; never later than this.
const OBSERVED: Duration = Duration::from_secs(120);

/// A running probe.
pub struct Probe {
    process: Process,
    document: PathBuf,
}

impl Probe {
    /// Everything that a client notices. Asking for the VIP by ARP is not part of it: an answer would
    /// repair the cache of the host that the clients are on.
    pub fn of_clients(
        lab: &Lab,
        way: Way,
        directory: &Path,
        trigger: &str,
        watched: Duration,
    ) -> Result<Self> {
        let layers = if way.has_vip() { "icmp,syn,redis,idle" } else { "redis,idle" };
        Self::start("clients", lab, &lab.client, directory, |command| {
            if way.has_vip() {
                command.arg(lab.service().to_string());
            }
            command.args(["--layers", layers, "--trigger", trigger]);
            command.arg("--warm-up").arg(milliseconds(WARM_UP));
            command.arg("--duration").arg(milliseconds(WARM_UP + watched));
            for sentinel in &lab.sentinels {
                command.arg("--sentinel").arg(sentinel.address().to_string());
            }
            command.args(["--master", MASTER_NAME]);
        })
    }

    /// Who answers for the VIP, as a third host sees it.
    pub fn of_owners(lab: &Lab, directory: &Path) -> Result<Self> {
        Self::start("owners", lab, &lab.observer, directory, |command| {
            command.arg(lab.service().ip().to_string());
            command.args(["--layers", "arp", "--arp-rate", &ARP_RATE.to_string()]);
            command.arg("--duration").arg(milliseconds(OBSERVED));
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it found, once it has ended by itself, within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<report::Run> {
        let status = wait_for("vipd probe ends", limit, || self.process.ended())?;
        self.read(status)
    }

    /// Ctrl-C: what it found until now.
    pub fn interrupt(mut self) -> Result<report::Run> {
        self.process.must_run()?;
        self.process.signal(Signal::SIGINT)?;
        let status = wait_for("vipd probe ends after SIGINT", PATIENCE, || self.process.ended())?;
        self.read(status)
    }

    fn start(
        name: &str,
        lab: &Lab,
        host: &Host,
        directory: &Path,
        flags: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let document = directory.join(format!("{name}.json"));
        let mut command = host.namespace.command(binary()?);
        command.arg("probe");
        flags(&mut command);
        command.arg("--json").arg(&document);
        let log = lab.directory().join(format!("probe-{name}.log"));
        let process = Process::start("vipd probe", &mut command, &log)?;
        Ok(Self { process, document })
    }

    fn read(&self, status: ExitStatus) -> Result<report::Run> {
        let said = || format!("vipd probe ended ({status}):\n{}", tail(self.process.log(), 20));
        let text = fs::read_to_string(&self.document).with_context(said)?;
        let report: Report = serde_json::from_str(&text)
            .with_context(|| format!("unexpected document {}", self.document.display()))?;
        ensure!(report.runs.len() == 1, "{} runs instead of one", report.runs.len());
        let run = report.runs.into_iter().next().context("no run")?;
        ensure!(status.success() || run.interrupted, said());
        Ok(run)
    }
}

/// A layer that was asked for.
pub fn layer(run: &report::Run, name: LayerName) -> Result<&report::Layer> {
    run.layer(name).with_context(|| format!("the probe tells nothing of {}", name.name()))
}

/// As the probe's flags have it.
fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}
