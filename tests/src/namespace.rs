//! Network namespaces: one is a host of the lab.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace (`ip netns`). Cloning it clones the handle. It is removed by the
/// lab's [`Reaper`](crate::reaper::Reaper), not by dropping this.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    handle: Arc<File>,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up.
    pub fn create(name: &str) -> Result<Self> {
        output(Command::new("ip").args(["netns", "add", name]))?;
        let path = Path::new("/run/netns").join(name);
        let handle =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let namespace = Self { name: name.into(), handle: Arc::new(handle) };
        namespace.ip_batch("link set lo up\n")?;
        Ok(namespace)
    }

    /// The calling thread's own. It has no name.
    pub fn own() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let handle = File::open(path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { name: "".into(), handle: Arc::new(handle) })
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside. Sockets made there stay in the namespace,
    /// whichever thread uses them afterwards.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let outcome = thread::scope(|scope| {
            let inside = || self.enter().map(|()| work());
            scope.spawn(inside).join()
        });
        outcome.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&*self.handle, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the network namespace {}", self.name))
    }

    /// A program that will run inside. Only its network is the namespace's: unlike with `ip netns
    /// exec`, /sys is the machine's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = Arc::clone(&self.handle);
        let enter = move || {
            // SAFETY: setns is a plain system call on a descriptor that `handle` keeps open.
            if unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        };
        // SAFETY: between fork and exec `enter` makes a system call and reads errno, nothing else.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        input(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines)
            .with_context(|| format!("in {}: {lines}", self.name))
    }

    /// Loads lines of `nft -f` inside.
    pub fn nft(&self, rules: &str) -> Result<()> {
        input(self.command("nft").args(["-f", "-"]), rules)
            .with_context(|| format!("in {}: {rules}", self.name))
    }

    /// Writes a setting below /proc/sys, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("cannot write {value} to {} in {}", path.display(), self.name))
    }
}

/// What `command` prints; an error with what it says unless it exits with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn input(command: &mut Command, text: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}", output.status, said.trim());
    }
    written.transpose().with_context(|| format!("cannot write to {command:?}"))?;
    Ok(())
}
