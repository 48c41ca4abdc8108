//! One real Sentinel.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use redis::{Connection, FromRedisValue, Value};

use crate::client::Dialer;
use crate::host::Host;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_for};

/// Port of every Sentinel of the lab.
pub const SENTINEL_PORT: u16 = 26379;
/// What the Sentinels call the deployment.
pub const MASTER_NAME: &str = "mymaster";
/// Sentinels that must agree that the master is down.
pub const QUORUM: u32 = 2;

/// A Sentinel with a directory of its own, running or not.
#[derive(Debug)]
pub struct Sentinel {
    name: String,
    host: Host,
    directory: PathBuf,
    password: Option<String>,
    process: Option<Process>,
}

/// What a Sentinel watches, and how.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The first master.
    pub master: SocketAddr,
    /// Silence after which it calls a node down.
    pub down_after: Duration,
    /// Limit for each step of a failover.
    pub failover_timeout: Duration,
    /// Of Redis and Sentinels alike.
    pub password: Option<String>,
}

impl Sentinel {
    /// Prepares a Sentinel on `host`, which runs `script` when it sees a failover.
    pub fn prepare(
        name: &str,
        host: &Host,
        run_directory: &Path,
        watch: &Watch,
        script: Option<&Path>,
    ) -> Result<Self> {
        let directory = run_directory.join(name);
        fs::create_dir_all(&directory)?;
        let mut config = format!(
            "port {SENTINEL_PORT}\n\
             bind * -::*\n\
             protected-mode no\n\
             dir {}\n\
             sentinel monitor {MASTER_NAME} {} {} {QUORUM}\n\
             sentinel down-after-milliseconds {MASTER_NAME} {}\n\
             sentinel failover-timeout {MASTER_NAME} {}\n\
             sentinel parallel-syncs {MASTER_NAME} 2\n",
            directory.display(),
            watch.master.ip(),
            watch.master.port(),
            watch.down_after.as_millis(),
            watch.failover_timeout.as_millis(),
        );
        if let Some(password) = &watch.password {
            config += &format!(
                "requirepass {password}\n\
                 sentinel sentinel-pass {password}\n\
                 sentinel auth-pass {MASTER_NAME} {password}\n"
            );
        }
        if let Some(script) = script {
            let script = script.display();
            config += &format!("sentinel client-reconfig-script {MASTER_NAME} {script}\n");
        }
        fs::write(directory.join("sentinel.conf"), config)
            .with_context(|| format!("cannot write {name}'s configuration"))?;
        Ok(Self {
            name: name.to_owned(),
            host: host.clone(),
            directory,
            password: watch.password.clone(),
            process: None,
        })
    }

    /// Its name, such as `sentinel1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        (self.host.service_address(), SENTINEL_PORT).into()
    }

    /// Starts it, with the state that its last run left behind, and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let log = self.log();
        let mut command = self.host.namespace.command("redis-sentinel");
        command.arg(self.directory.join("sentinel.conf"));
        let mut process = Process::start(&self.name, &mut command, &log)?;
        wait_for(format_args!("{} answers", self.name), PATIENCE, || {
            if let Err(ended) = process.must_run() {
                return Ok(Some(Err(ended)));
            }
            self.ask::<Value>(&["PING"]).map(|_pong| Some(Ok(())))
        })??;
        self.process = Some(process);
        Ok(())
    }

    /// The file that has its output.
    pub fn log(&self) -> PathBuf {
        self.directory.join("sentinel.log")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?;
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// SIGSTOP: its connections stay open and silent.
    pub fn freeze(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)
    }

    /// A connection that doesn't cross the lab's network.
    pub fn connect(&self) -> Result<Connection> {
        let local = SocketAddr::from(([127, 0, 0, 1], SENTINEL_PORT));
        Dialer::new(&self.host.namespace, local, self.password.as_deref()).connect()
    }

    /// What it answers to a command.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let answer = redis::Cmd::new().arg(words).query(&mut self.connect()?);
        answer.with_context(|| format!("{}: {}", self.name, words.join(" ")))
    }

    /// Whom it believes to be the master.
    pub fn master(&self) -> Result<SocketAddr> {
        let (address, port): (String, u16) =
            self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME])?;
        Ok(SocketAddr::new(address.parse()?, port))
    }

    /// A number from its SENTINEL MASTER, such as `config-epoch` or `num-slaves`.
    pub fn number(&self, field: &str) -> Result<u64> {
        let pairs: Vec<String> = self.ask(&["SENTINEL", "MASTER", MASTER_NAME])?;
        let value = pairs.chunks_exact(2).find(|pair| pair[0] == field);
        let value = value.with_context(|| format!("{} does not say its {field}", self.name))?;
        Ok(value[1].parse()?)
    }

    /// Orders a planned failover.
    pub fn fail_over(&self) -> Result<()> {
        self.ask::<Value>(&["SENTINEL", "FAILOVER", MASTER_NAME]).map(drop)
    }

    /// Whether this process is there.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} is not running", self.name))
    }
}
