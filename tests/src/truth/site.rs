//! A client and two servers on one link.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::probe::Running;
use crate::address::{Family, Segment};
use crate::daemon;
use crate::host::Host;
use crate::lab;
use crate::namespace::Namespace;
use crate::reaper::{self, Reaper};

/// The service's port.
pub const PORT: u16 = 6379;
/// Half-open connections that a listener keeps at once. Beyond that the kernel answers with cookies,
/// which come as fast.
const BACKLOG: i32 = 4096;

/// The network. Dropping it removes everything, and so does the end of its process.
pub struct Site {
    /// Where the probe runs.
    pub client: Host,
    /// Who may have the VIP.
    pub servers: [Host; 2],
    /// What they hang on.
    pub switch: Namespace,
    name: String,
    binary: PathBuf,
    directory: PathBuf,
    probes: AtomicU32,
    // Last: see `Lab`.
    _reaper: Reaper,
}

impl Site {
    /// Builds it. Nobody has the VIP yet.
    pub fn up() -> Result<Self> {
        reaper::sweep()?;
        let name = lab::unique_name();
        let directory = std::env::temp_dir().join(&name);
        let pins = Path::new("/sys/fs/bpf").join(&name);
        let reaper = Reaper::watch(&name, &directory, &pins)?;
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let switch = Namespace::create(&format!("{name}-switch"))?;
        let bridge = Segment::Front.bridge();
        switch.ip_batch(&format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {bridge} up\n"
        ))?;
        let plug = |host: &str, number| {
            Host::plug(&name, host, number, &switch, Segment::Front, Family::Both)
        };
        let servers = [plug("server1", 101)?, plug("server2", 102)?];
        for server in &servers {
            // As many as the listener says, and every SYN gets one answer: what the probe does not
            // hear, nobody repeats.
            server.namespace.sysctl("net/core/somaxconn", &BACKLOG.to_string())?;
            server.namespace.sysctl("net/ipv4/tcp_max_syn_backlog", &BACKLOG.to_string())?;
            server.namespace.sysctl("net/ipv4/tcp_syncookies", "1")?;
            server.namespace.sysctl("net/ipv4/tcp_synack_retries", "0")?;
        }
        Ok(Self {
            client: plug("client", 10)?,
            servers,
            binary: daemon::binary()?,
            switch,
            name,
            directory,
            probes: AtomicU32::new(0),
            _reaper: reaper,
        })
    }

    /// The VIP of a family.
    pub fn vip(is_v4: bool) -> IpAddr {
        // There is exactly one.
        if is_v4 { Family::V4.vips()[0] } else { Family::V6.vips()[0] }
    }

    /// The name of the site, with which those of its namespaces begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For files of a test; removed with the site.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the VIPs of both families to a server.
    pub fn give_vips(&self, server: usize) -> Result<()> {
        let (v4, v6) = (Self::vip(true), Self::vip(false));
        self.servers[server]
            .namespace
            .ip_batch(&format!("addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n"))
    }

    /// Accepts connections to the VIP of a family on a server, for as long as it is open.
    pub fn listen(&self, server: usize, is_v4: bool) -> Result<TcpListener> {
        let address = SocketAddr::new(Self::vip(is_v4), PORT);
        let listen = || -> io::Result<TcpListener> {
            let listener = TcpListener::bind(address)?;
            // The standard library's own number is too small.
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(BACKLOG)?)?;
            Ok(listener)
        };
        self.servers[server].namespace.run(listen)?.with_context(|| format!("{address}"))
    }

    /// `vipd probe`, to be run on the client.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_by(&[], arguments)
    }

    /// `vipd probe`, to be run on the client by another program, such as setpriv.
    pub fn command_by(&self, by: &[&str], arguments: &[&str]) -> Command {
        let mut command = match by {
            [] => self.client.namespace.command(&self.binary),
            [program, rest @ ..] => {
                let mut command = self.client.namespace.command(program);
                command.args(rest).arg(&self.binary);
                command
            }
        };
        command.arg("probe").args(arguments);
        command
    }

    /// Starts `vipd probe` on the client, with a report.
    pub fn probe(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = self.command(arguments);
        self.start(&mut command)
    }

    /// Starts what [`Self::command`] made, with a report.
    pub fn start(&self, command: &mut Command) -> Result<Running> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let json = self.directory.join(format!("report{number}.json"));
        command.arg("--json").arg(&json);
        Running::start(command, &json, &self.directory.join(format!("probe{number}.log")))
    }
}
