//! vipd itself, as a process on the director or on a Redis host.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::namespace::{Namespace, output};
use crate::process::{Process, tail};
use crate::sentinel::MASTER_NAME;
use crate::status::Status;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// How the VIP's traffic is carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Full NAT.
    Nat,
    /// The reply goes straight to the client.
    Dsr,
    /// vipd runs on the Redis hosts, and the master's has the VIP.
    Host,
}

impl Mode {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Host => "host",
        }
    }
}

/// What goes into vipd's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Those that it answers on.
    pub interfaces: Vec<String>,
    /// Every Sentinel.
    pub sentinels: Vec<SocketAddr>,
    /// The virtual addresses.
    pub vips: Vec<IpAddr>,
    /// The port on each.
    pub port: u16,
    /// How it is carried.
    pub mode: Mode,
    /// It is not the director's but a real server's: it holds the VIPs and never answers for them.
    pub real_server: bool,
    /// Of Redis and Sentinels alike.
    pub password: Option<String>,
    /// In bpffs, of this lab only.
    pub pin_directory: PathBuf,
    /// More lines for `[daemon]`, such as `on_stop = "keep"`.
    pub more: String,
    /// Addresses that belong to one Redis node each: a node of one family can serve a VIP of the
    /// other only where these say how.
    pub same_host: Vec<Vec<IpAddr>>,
}

/// A vipd with its configuration, running or not.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    namespace: Namespace,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    frozen: bool,
}

impl Daemon {
    /// Writes the configuration into `directory`, which is this vipd's own.
    pub fn prepare(namespace: &Namespace, directory: &Path, settings: &Settings) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let config = directory.join("vipd.toml");
        let socket = directory.join("vipd.sock");
        let password_file = directory.join("password");
        if let Some(password) = &settings.password {
            fs::write(&password_file, format!("{password}\n"))?;
        }
        fs::write(&config, toml(settings, &socket, &password_file))
            .with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Self {
            binary: binary()?,
            namespace: namespace.clone(),
            config,
            socket,
            log: directory.join("vipd.log"),
            process: None,
            frozen: false,
        })
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The program.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The file that has its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// `vipd run`; waits until it answers `vipd status`, which may be before it serves.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.command("run");
        command.arg("--config").arg(&self.config);
        let mut process = Process::start("vipd", &mut command, &self.log)?;
        let pid = process.pid();
        wait_for("vipd answers `vipd status`", PATIENCE, || {
            if let Err(ended) = process.must_run() {
                return Ok(Some(Err(ended)));
            }
            Ok((self.status()?.pid == pid).then_some(Ok(())))
        })??;
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL: it gets no chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?;
        self.frozen = false;
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// SIGSTOP: it does nothing any more, while what it put into the kernel works on.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)?;
        self.frozen = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)?;
        self.frozen = false;
        Ok(())
    }

    /// Whether it runs and isn't frozen.
    pub fn is_alive(&self) -> bool {
        self.process.is_some() && !self.frozen
    }

    /// SIGTERM; waits for its end, which must be a success.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGTERM)?;
        let mut process = self.process.take().context("vipd is not running")?;
        let status = wait_for("vipd ends after SIGTERM", PATIENCE, || process.ended())?;
        if !status.success() {
            bail!("vipd ended with {status} after SIGTERM:\n{}", tail(&self.log, 20));
        }
        Ok(())
    }

    /// `vipd detach`.
    pub fn detach(&self) -> Result<()> {
        let mut command = self.command("detach");
        output(command.arg("--config").arg(&self.config)).map(drop)
    }

    /// `vipd check`: what it prints, or an error with what it says.
    pub fn check(&self) -> Result<String> {
        let mut command = self.command("check");
        output(command.arg("--config").arg(&self.config))
    }

    /// `vipd status --json`.
    pub fn status(&self) -> Result<Status> {
        let mut command = self.command("status");
        let answer = output(command.arg("--json").arg("--socket").arg(&self.socket))?;
        serde_json::from_str(&answer).with_context(|| format!("unexpected status: {answer}"))
    }

    /// `vipd status`, for a person.
    pub fn status_text(&self) -> Result<String> {
        output(self.command("status").arg("--socket").arg(&self.socket))
    }

    /// Waits until every service goes to `backend` and is announced.
    pub fn wait_serving(&self, backend: SocketAddr) -> Result<()> {
        wait_until(format_args!("vipd serves {backend}"), PATIENCE, || {
            let status = self.status()?;
            if status.serves(backend) {
                return Ok(true);
            }
            bail!("it says: {:?}", status.services)
        })
    }

    /// Mode `host`: waits until this host leaves the VIP to the one with the node `owner`.
    pub fn wait_leaving_to(&self, owner: SocketAddr) -> Result<()> {
        wait_until(format_args!("vipd leaves the VIP to {owner}"), PATIENCE, || {
            let status = self.status()?;
            if status.leaves_to(owner) {
                return Ok(true);
            }
            bail!("it says: {:?}", status.services)
        })
    }

    /// `vipd VERB` on its host, without further arguments.
    pub fn command(&self, verb: &str) -> std::process::Command {
        let mut command = self.namespace.command(&self.binary);
        command.arg(verb);
        command
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("vipd is not running")
    }
}

/// The vipd beside this program, or the one that `VIPD_BIN` names.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("VIPD_BIN") {
        return Ok(named.into());
    }
    // Tests are in target/<profile>/deps, other programs one level above.
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let found = this.ancestors().skip(1).take(2).map(|it| it.join("vipd")).find(|it| it.is_file());
    found.context("no vipd beside this program: run `cargo build --package vipd`")
}

fn toml(settings: &Settings, socket: &Path, password_file: &Path) -> String {
    let sentinels: Vec<_> = settings.sentinels.iter().map(SocketAddr::to_string).collect();
    let login = match &settings.password {
        Some(_) => format!("password_file = {password_file:?}\n"),
        None => String::new(),
    };
    let same_host = match settings.same_host.as_slice() {
        [] => String::new(),
        nodes => {
            let node = |addresses: &Vec<IpAddr>| {
                addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
            };
            format!("same_host = {:?}\n", nodes.iter().map(node).collect::<Vec<_>>())
        }
    };
    let vips = settings.vips.iter().map(|vip| {
        if settings.real_server {
            return format!("[[vip]]\naddress = \"{vip}\"\nmode = \"real\"\n");
        }
        format!(
            "[[vip]]\n\
             address = \"{vip}\"\n\
             mode = \"{mode}\"\n\
             [[vip.service]]\n\
             port = {port}\n\
             master = \"{MASTER_NAME}\"\n",
            mode = settings.mode.name(),
            port = settings.port,
        )
    });
    format!(
        "[daemon]\n\
         interfaces = {interfaces:?}\n\
         pin_dir = {pin_directory:?}\n\
         control_socket = {socket:?}\n\
         {more}\n\
         [sentinel]\n\
         endpoints = {sentinels:?}\n\
         {login}\
         [redis]\n\
         {login}\
         {same_host}\
         {vips}",
        interfaces = settings.interfaces,
        pin_directory = settings.pin_directory,
        more = settings.more,
        vips = vips.collect::<String>(),
    )
}
