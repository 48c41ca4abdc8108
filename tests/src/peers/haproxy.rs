//! HAProxy on a director: a TCP proxy at the VIP that sends everybody to the node whose check says
//! `role:master`.
//!
//! Tuned: a check of each node every 100 ms, which the first answer decides, and open connections to
//! a node that is no master any more are ended.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::hold_vip;
use crate::host::Host;
use crate::process::Process;

/// A HAProxy, running or not.
#[derive(Debug)]
pub struct HaProxy {
    host: Host,
    service: SocketAddr,
    directory: PathBuf,
    process: Option<Process>,
}

impl HaProxy {
    /// On `host`, which gets the VIP, for good.
    pub fn prepare(host: &Host, service: SocketAddr, run_directory: &Path) -> Result<Self> {
        let directory = run_directory.join("haproxy");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        hold_vip(host, service)?;
        Ok(Self { host: host.clone(), service, directory, process: None })
    }

    /// Starts it before these Redis nodes.
    pub fn start(&mut self, servers: &[SocketAddr]) -> Result<()> {
        let file = self.directory.join("haproxy.cfg");
        fs::write(&file, config(self.service, servers))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = self.host.namespace.command("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        self.process = Some(Process::start("haproxy", &mut command, &self.log())?);
        Ok(())
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it says.
    pub fn logs(&self) -> Vec<PathBuf> {
        vec![self.log()]
    }

    fn log(&self) -> PathBuf {
        self.directory.join("haproxy.log")
    }
}

fn config(service: SocketAddr, servers: &[SocketAddr]) -> String {
    let servers = servers.iter().zip(1..).map(|(address, number)| {
        format!("    server redis{number} {address} check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions\n")
    });
    format!(
        "global
    maxconn 4096
defaults
    mode tcp
    timeout connect 500ms
    timeout check 500ms
    timeout client 1h
    timeout server 1h
listen redis
    bind {service}
    option tcp-check
    tcp-check connect
    tcp-check send info\\ replication\\r\\n
    tcp-check expect string role:master
{}",
        servers.collect::<String>()
    )
}
