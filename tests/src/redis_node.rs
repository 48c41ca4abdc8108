//! One real Redis.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use redis::{Connection, FromRedisValue, Value};
use vipd::clock::Monotonic;

use crate::client::{self, Dialer};
use crate::host::Host;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_for};

/// Port of every Redis of the lab.
pub const REDIS_PORT: u16 = 8000;

/// A Redis with a directory of its own, running or not.
#[derive(Debug)]
pub struct RedisNode {
    name: String,
    host: Host,
    directory: PathBuf,
    password: Option<String>,
    process: Option<Process>,
    run_ids: Vec<String>,
}

/// What a node says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It takes writes.
    Master,
    /// It follows another, and is in sync with it or not.
    Replica {
        /// The link to its master works and the first copy is there.
        in_sync: bool,
    },
}

impl RedisNode {
    /// Prepares a node on `host`; `master` is whom it follows from its first start on.
    pub fn prepare(
        name: &str,
        host: &Host,
        run_directory: &Path,
        password: Option<&str>,
        master: Option<SocketAddr>,
    ) -> Result<Self> {
        let directory = run_directory.join(name);
        fs::create_dir_all(&directory)?;
        // Bound to every address, so that a node reached by `dsr` serves the VIP as well.
        let mut config = format!(
            "port {REDIS_PORT}\n\
             bind * -::*\n\
             protected-mode no\n\
             dir {}\n\
             save \"\"\n\
             appendonly yes\n\
             auto-aof-rewrite-percentage 0\n\
             repl-diskless-sync-delay 0\n\
             repl-ping-replica-period 1\n\
             repl-timeout 5\n",
            directory.display()
        );
        if let Some(master) = master {
            config += &format!("replicaof {} {}\n", master.ip(), master.port());
        }
        if let Some(password) = password {
            config += &format!("requirepass {password}\nmasterauth {password}\n");
        }
        fs::write(directory.join("redis.conf"), config)
            .with_context(|| format!("cannot write {name}'s configuration"))?;
        Ok(Self {
            name: name.to_owned(),
            host: host.clone(),
            directory,
            password: password.map(str::to_owned),
            process: None,
            run_ids: vec![],
        })
    }

    /// Its name, such as `redis1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it serves, as Sentinel says it.
    pub fn address(&self) -> SocketAddr {
        (self.host.service_address(), REDIS_PORT).into()
    }

    /// Tells this start of it from all other Redis processes.
    pub fn run_id(&self) -> &str {
        self.run_ids.last().map_or("", String::as_str)
    }

    /// Whether this or an earlier start of it had that `run_id`.
    pub fn was(&self, run_id: &str) -> bool {
        self.run_ids.iter().any(|it| it == run_id)
    }

    /// Starts it, with the data and the configuration that its last run left behind, and waits
    /// until it answers.
    pub fn start(&mut self) -> Result<()> {
        let log = self.directory.join("redis.log");
        let mut command = self.host.namespace.command("redis-server");
        command.arg(self.directory.join("redis.conf"));
        let mut process = Process::start(&self.name, &mut command, &log)?;
        let answers = wait_for(format_args!("{} answers", self.name), PATIENCE, || {
            if let Err(ended) = process.must_run() {
                return Ok(Some(Err(ended)));
            }
            let mut connection = self.connect()?;
            let run_id = client::run_id(&mut connection)?;
            let _ready: Value = redis::cmd("PING").query(&mut connection)?;
            Ok(Some(Ok(run_id)))
        });
        self.run_ids.push(answers??);
        self.process = Some(process);
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.running()?.pid())
    }

    /// SIGKILL: its port answers with resets from then on.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?;
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// SHUTDOWN NOSAVE, as an administrator does; waits for its end.
    pub fn shut_down(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it is not running")?;
        // Its end is the answer.
        let _cut_off = self.ask::<Value>(&["SHUTDOWN", "NOSAVE"]);
        wait_for(format_args!("{} ends", self.name), PATIENCE, || process.ended()).map(drop)
    }

    /// SIGSTOP: it freezes; its host still accepts connections for it.
    pub fn freeze(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)
    }

    /// A connection that doesn't cross the lab's network.
    pub fn connect(&self) -> Result<Connection> {
        let local = SocketAddr::from(([127, 0, 0, 1], REDIS_PORT));
        Dialer::new(&self.host.namespace, local, self.password.as_deref()).connect()
    }

    /// What it answers to a command.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let answer = redis::Cmd::new().arg(words).query(&mut self.connect()?);
        answer.with_context(|| format!("{}: {}", self.name, words.join(" ")))
    }

    /// What it answers to INFO replication.
    pub fn role(&self) -> Result<Role> {
        let info: String = self.ask(&["INFO", "replication"])?;
        Ok(match client::info_field(&info, "role") {
            Some("master") => Role::Master,
            _ => Role::Replica {
                in_sync: client::info_field(&info, "master_link_status") == Some("up"),
            },
        })
    }

    /// When it last became a master, as its log says, to the millisecond. `None` if it did not in
    /// the last quarter of an hour.
    pub fn promoted(&self) -> Result<Option<Monotonic>> {
        let log = fs::read(self.directory.join("redis.log"))?;
        let log = String::from_utf8_lossy(&log);
        let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let line = log.lines().rfind(|line| line.contains("MASTER MODE enabled"));
        let age = line.and_then(|line| age_of(line, wall_clock));
        Ok(age.map(|age| Monotonic(Monotonic::now().0.saturating_sub(age.as_nanos() as u64))))
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} is not running", self.name))
    }
}

/// How old a line of Redis's log is, such as `1:M 22 Nov 2026 20:09:26.123 * …`. It has the local
/// time of some zone, which may be off by whole quarters of an hour only.
fn age_of(line: &str, wall_clock: Duration) -> Option<Duration> {
    const ZONE_STEP: i64 = 15 * 60 * 1000;
    let time = line.split_whitespace().nth(4)?;
    let (clock, milliseconds) = time.split_once('.')?;
    let mut parts = clock.split(':').skip(1).map(str::parse::<i64>);
    let (minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?);
    let logged = (minutes * 60 + seconds) * 1000 + milliseconds.parse::<i64>().ok()?;
    let now = i64::try_from(wall_clock.as_millis()).ok()?;
    let age = (now - logged).rem_euclid(ZONE_STEP);
    u64::try_from(age).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_as_old_as_its_clock_says_in_any_zone() {
        let wall_clock = Duration::from_millis(7 * 3_600_000 + 10 * 60_000 + 5_250);
        for zone in ["07", "12", "23"] {
            let line = format!("1:M 22 Nov 2026 {zone}:10:05.200 * MASTER MODE enabled");
            assert_eq!(age_of(&line, wall_clock), Some(Duration::from_millis(50)));
        }
        let before_the_quarter = "1:M 22 Nov 2026 12:29:59.000 * MASTER MODE enabled";
        assert_eq!(age_of(before_the_quarter, wall_clock), Some(Duration::from_millis(606_250)));
        assert_eq!(age_of("# a banner", wall_clock), None);
    }
}
