//! How a `vipd` ends that ends by itself: `vipd check`, or a `vipd run` that can't start.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_for};

/// What it said, and whether it exited with 0.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit status 0.
    pub success: bool,
    /// Standard output and standard error.
    pub text: String,
}

impl Outcome {
    /// Runs `vipd VERB` with the daemon's configuration.
    pub fn of(daemon: &Daemon, verb: &str) -> Result<Self> {
        let mut command = daemon.command(verb);
        command.arg("--config").arg(daemon.config());
        Self::of_command(daemon, &mut command)
    }

    /// Runs `vipd VERB` with the daemon's configuration changed: in its text the first of each pair
    /// is replaced by the second. The configuration is then as it was.
    pub fn with(daemon: &Daemon, changes: &[(&str, &str)], verb: &str) -> Result<Self> {
        let original = fs::read_to_string(daemon.config())?;
        let mut changed = original.clone();
        for (old, new) in changes {
            ensure!(changed.contains(old), "the configuration has no {old:?}:\n{changed}");
            changed = changed.replace(old, new);
        }
        fs::write(daemon.config(), changed)?;
        let outcome = Self::of(daemon, verb);
        fs::write(daemon.config(), original)?;
        outcome
    }

    /// Runs a command; its output goes to a file beside the daemon's log.
    pub fn of_command(daemon: &Daemon, command: &mut Command) -> Result<Self> {
        let log = daemon.log().with_file_name("outcome.log");
        // What an earlier one said is not this one's.
        fs::write(&log, "")?;
        let mut process = Process::start("vipd", command, &log)?;
        let ended = wait_for("vipd ends by itself", PATIENCE, || process.ended());
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let ended = ended.with_context(|| format!("it said:\n{text}"))?;
        Ok(Self { success: ended.success(), text })
    }

    /// Fails unless it succeeded, and said all of this.
    pub fn must_succeed(&self, said: &[&str]) -> Result<()> {
        ensure!(self.success, "it failed:\n{}", self.text);
        self.must_say(said)
    }

    /// Fails unless it failed, and said all of this.
    pub fn must_fail(&self, said: &[&str]) -> Result<()> {
        ensure!(!self.success, "it succeeded instead of saying {said:?}:\n{}", self.text);
        self.must_say(said)
    }

    fn must_say(&self, said: &[&str]) -> Result<()> {
        for said in said {
            ensure!(self.text.contains(said), "it does not say {said:?}:\n{}", self.text);
        }
        Ok(())
    }
}
