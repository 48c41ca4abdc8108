//! keepalived on every Redis host: VRRP gives the VIP to a host whose check says that its Redis is
//! the master.
//!
//! Tuned: a check each second, which is as often as keepalived can, that believes the first answer;
//! VRRP version 3 with the shortest interval between advertisements, so that a host that may have the
//! VIP takes it after some 40 ms. A host whose check fails is in state FAULT and never takes it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::write_script;
use crate::host::Host;
use crate::process::Process;
use crate::redis_node::REDIS_PORT;

/// One keepalived for each host.
#[derive(Debug)]
pub struct Keepalived {
    routers: Vec<Router>,
}

/// A keepalived, running or not.
#[derive(Debug)]
struct Router {
    host: Host,
    directory: PathBuf,
    process: Option<Process>,
}

/// Priority of the first host; each other has one less.
const HIGHEST_PRIORITY: usize = 103;

impl Keepalived {
    /// Writes a configuration for each host.
    pub fn prepare(hosts: &[Host], vip: IpAddr, run_directory: &Path) -> Result<Self> {
        let prepare = |(number, host): (usize, &Host)| {
            let directory = run_directory.join(format!("keepalived{}", number + 1));
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            let script = directory.join("is_master.sh");
            write_script(&script, &check())?;
            fs::write(config_in(&directory), config(&script, vip, HIGHEST_PRIORITY - number))
                .context("cannot write keepalived's configuration")?;
            Ok(Router { host: host.clone(), directory, process: None })
        };
        Ok(Self { routers: hosts.iter().enumerate().map(prepare).collect::<Result<_>>()? })
    }

    /// Starts them all.
    pub fn start(&mut self) -> Result<()> {
        for router in &mut self.routers {
            let mut command = router.host.namespace.command("keepalived");
            set_options(&mut command, &router.directory);
            let log = router.log();
            router.process = Some(Process::start("keepalived", &mut command, &log)?);
        }
        Ok(())
    }

    /// What they say.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.routers.iter().map(Router::log).collect()
    }
}

impl Router {
    fn log(&self) -> PathBuf {
        self.directory.join("keepalived.log")
    }
}

fn config_in(directory: &Path) -> PathBuf {
    directory.join("keepalived.conf")
}

/// VRRP only, in the foreground, with files of its own where it would use those of the machine.
fn set_options(command: &mut Command, directory: &Path) {
    command.args(["--dont-fork", "--log-console", "--log-detail", "--no-syslog", "--vrrp"]);
    command.arg("--use-file").arg(config_in(directory));
    command.arg("--pid").arg(directory.join("keepalived.pid"));
    command.arg("--vrrp_pid").arg(directory.join("vrrp.pid"));
}

/// A frozen Redis doesn't answer: without a limit of its own, the check would end only after the
/// shortest `timeout` that keepalived knows.
fn check() -> String {
    format!(
        "#!/bin/sh\n\
         [ \"$(timeout 0.2 redis-cli -p {REDIS_PORT} role | head -n 1)\" = master ]\n"
    )
}

/// The lab's directory is below /tmp, which `enable_script_security` would not have.
fn config(script: &Path, vip: IpAddr, priority: usize) -> String {
    format!(
        "global_defs {{
    vrrp_version 3
    script_user root
}}
vrrp_script is_master {{
    script {script:?}
    interval 1
    timeout 1
    rise 1
    fall 1
    init_fail
}}
vrrp_instance redis {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.01
    garp_master_delay 1
    garp_master_repeat 5
    garp_master_refresh 5
    virtual_ipaddress {{
        {vip}/24 dev eth0
    }}
    track_script {{
        is_master
    }}
}}
"
    )
}
