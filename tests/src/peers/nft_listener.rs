//! nftables on a director: the VIP is an address of it, and connections to it are translated to the
//! master's. For each Sentinel a shell script listens for `+switch-master`, changes the rule and makes
//! the kernel forget the connections to the old master, so that their next packet goes to the new
//! one, which resets it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{hold_vip, write_script};
use crate::host::Host;
use crate::process::Process;

/// The rules, and who changes them.
#[derive(Debug)]
pub struct NftListener {
    host: Host,
    service: SocketAddr,
    directory: PathBuf,
    listeners: Vec<Process>,
}

impl NftListener {
    /// On `host`, which gets the VIP, for good.
    pub fn prepare(host: &Host, service: SocketAddr, run_directory: &Path) -> Result<Self> {
        let directory = run_directory.join("nft");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        hold_vip(host, service)?;
        forward(host)?;
        Ok(Self { host: host.clone(), service, directory, listeners: vec![] })
    }

    /// Loads the rules, which lead to `master` at first, and starts to listen to the Sentinels.
    pub fn start(&mut self, master: SocketAddr, sentinels: &[SocketAddr]) -> Result<()> {
        translate(&self.host, self.service, master)?;
        fs::write(self.target(), format!("{master}\n"))?;
        let script = self.directory.join("follow.sh");
        write_script(&script, &follow(self.service, &self.target()))?;
        for sentinel in sentinels {
            let mut command = self.host.namespace.command(&script);
            command.arg(sentinel.ip().to_string()).arg(sentinel.port().to_string());
            self.listeners.push(Process::start("follow.sh", &mut command, &self.log())?);
        }
        Ok(())
    }

    /// What they say.
    pub fn logs(&self) -> Vec<PathBuf> {
        vec![self.log()]
    }

    fn log(&self) -> PathBuf {
        self.directory.join("follow.log")
    }

    /// Where the rules lead to.
    fn target(&self) -> PathBuf {
        self.directory.join("target")
    }
}

/// Makes a host one that sends packets back out of the interface they came in by, and says nothing
/// about it.
pub fn forward(host: &Host) -> Result<()> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
    ] {
        host.namespace.sysctl(key, value)?;
    }
    Ok(())
}

/// What people write for a VIP with nftables on a stick.
pub fn translate(host: &Host, service: SocketAddr, master: SocketAddr) -> Result<()> {
    let (vip, port) = (service.ip(), service.port());
    host.namespace.nft(&format!(
        "table ip vip {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                ip daddr {vip} tcp dport {port} dnat to {master}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ct status dnat masquerade
            }}
        }}\n"
    ))
}

/// Arguments: address and port of a Sentinel. All three Sentinels announce the same failover; the
/// first is obeyed. When its Sentinel cuts it off it starts again, as a service manager would see to.
fn follow(service: SocketAddr, target: &Path) -> String {
    format!(
        "#!/bin/sh
while :; do
    redis-cli -h \"$1\" -p \"$2\" psubscribe +switch-master |
    while read -r master old_ip old_port new_ip new_port; do
        [ \"$new_port\" ] || continue
        [ \"$(cat {target})\" != \"$new_ip:$new_port\" ] || continue
        echo \"$new_ip:$new_port\" >{target}
        nft -f - <<RULES
flush chain ip vip prerouting
add rule ip vip prerouting ip daddr {vip} tcp dport {port} dnat to $new_ip:$new_port
RULES
        conntrack -D -p tcp --orig-dst {vip}
    done
    sleep 0.1
done
",
        target = target.display(),
        vip = service.ip(),
        port = service.port(),
    )
}
