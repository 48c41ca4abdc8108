//! The probe as a program, and what it reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vipd::clock::Monotonic;
use vipd::probe::Report;
use vipd::probe::report::{Layer, LayerName, Run};

use crate::process::Process;
use crate::wait::{PATIENCE, wait_for};

/// A probe on its way.
#[derive(Debug)]
pub struct Running {
    process: Process,
    json: PathBuf,
}

/// A probe that has ended.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
    /// What it reported, if it did.
    pub report: Option<Report>,
}

impl Running {
    /// Starts `command`, whose report will be in `json`.
    pub fn start(command: &mut Command, json: &Path, log: &Path) -> Result<Self> {
        let process = Process::start("vipd probe", command, log)?;
        Ok(Self { process, json: json.to_owned() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Fails if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        self.process.must_run()
    }

    /// Waits until `look` returns a value, for as long as the probe runs.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        wait_for(what, PATIENCE, || match self.process.must_run() {
            Ok(()) => Ok(look()?.map(Ok)),
            Err(ended) => Ok(Some(Err(ended.context(format!("before {what}"))))),
        })?
    }

    /// [`Self::wait_for`] something that is true or not.
    pub fn wait_until(&mut self, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
        self.wait_for(what, || Ok(look()?.then_some(())))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<Measured> {
        let ended = wait_for("the probe ends", PATIENCE, || self.process.ended());
        let text = String::from_utf8_lossy(&fs::read(self.process.log())?).into_owned();
        let ended = ended.with_context(|| format!("it said:\n{text}"))?;
        let report = match fs::read(&self.json) {
            Ok(json) => Some(serde_json::from_slice(&json).context("the report is no report")?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(self.json.display().to_string()),
        };
        Ok(Measured { status: ended.code(), text, report })
    }
}

impl Measured {
    /// Its only run, if it succeeded.
    pub fn run(&self) -> Result<&Run> {
        ensure!(self.status == Some(0), "it ended with {:?}:\n{}", self.status, self.text);
        let report = self.report.as_ref().context("there is no report")?;
        let [run] = report.runs.as_slice() else {
            anyhow::bail!("there are {} runs", report.runs.len())
        };
        Ok(run)
    }

    /// A layer of its only run.
    pub fn layer(&self, name: LayerName) -> Result<&Layer> {
        let layer = self.run()?.layer(name);
        layer.with_context(|| format!("no layer {}:\n{}", name.name(), self.text))
    }

    /// A moment of its only run, by the clock.
    pub fn moment(&self, at_ns: u64) -> Result<Monotonic> {
        Ok(Monotonic(self.run()?.origin_ns + at_ns))
    }

    /// Fails unless it ended with `status` and said all of this.
    pub fn must_end(&self, status: i32, said: &[&str]) -> Result<()> {
        ensure!(
            self.status == Some(status),
            "it ended with {:?}, not {status}:\n{}",
            self.status,
            self.text
        );
        for said in said {
            ensure!(self.text.contains(said), "it does not say {said:?}:\n{}", self.text);
        }
        Ok(())
    }
}
