//! The ways from the client to Redis that are compared. Each has a box of its own, cabled alike,
//! so that none pays for what another needs: an XDP program, connection tracking.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd_tests::Mode;
use vipd_tests::client::{Dialer, run_id};
use vipd_tests::daemon::Daemon;
use vipd_tests::host::Host;
use vipd_tests::process::Process;
use vipd_tests::redis_node::REDIS_PORT;
use vipd_tests::wait::{PATIENCE, wait_until};

use crate::site::{ROUTED_REDIS, Site};

/// The port on the VIPs of those that can translate it.
const VIP_PORT: u16 = 6379;
/// Time between two of HAProxy's role checks.
const CHECK: Duration = Duration::from_millis(100);

/// Number of the way that has no box in between.
pub const DIRECT: usize = 0;
/// Number of the way that any box in between can at best equal, if it does its work as packets come
/// and in the kernel's usual way: nothing but forwarding.
pub const ROUTED: usize = 1;

/// One way to Redis.
pub struct Way {
    pub name: &'static str,
    /// What the client connects to.
    pub to: SocketAddr,
    /// The box in between.
    pub host: Option<Host>,
    /// What runs there, kept alive.
    program: Program,
}

/// What carries a way.
enum Program {
    None,
    Vipd(Daemon),
    Other(Process),
}

/// Sets every way up and sees that each leads to Redis. See [`DIRECT`] and [`ROUTED`].
pub fn all(site: &mut Site) -> Result<Vec<Way>> {
    let ways = vec![
        direct(site),
        routed(site)?,
        nftables(site)?,
        vipd(site, "vipd nat", Mode::Nat, 50, vip(250, VIP_PORT))?,
        vipd(site, "vipd dsr", Mode::Dsr, 51, vip(251, REDIS_PORT))?,
        haproxy(site)?,
    ];
    for way in &ways {
        way.wait_open(site)?;
    }
    Ok(ways)
}

fn vip(host: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(198, 18, 0, host), port).into()
}

fn direct(site: &Site) -> Way {
    Way { name: "direct", to: site.redis.address(), host: None, program: Program::None }
}

fn vipd(
    site: &mut Site,
    name: &'static str,
    mode: Mode,
    number: u8,
    to: SocketAddr,
) -> Result<Way> {
    let host = site.plug(mode.name(), number)?;
    let daemon = site.start_vipd(&host, mode, to)?;
    let status = daemon.status()?;
    ensure!(
        status.interfaces.iter().all(|it| it.xdp_mode == "native"),
        "XDP is not in native mode: {:?}",
        status.interfaces
    );
    Ok(Way { name, to, host: Some(host), program: Program::Vipd(daemon) })
}

/// Forwarding by the kernel and nothing else.
fn routed(site: &Site) -> Result<Way> {
    let host = site.plug("router", 52)?;
    forward(&host)?;
    site.route_through(&host)?;
    let to = (ROUTED_REDIS, REDIS_PORT).into();
    Ok(Way { name: "routed", to, host: Some(host), program: Program::None })
}

/// What people write for a VIP with nftables on a stick.
fn nftables(site: &Site) -> Result<Way> {
    let host = site.plug("nft", 53)?;
    forward(&host)?;
    let (to, redis) = (vip(252, VIP_PORT), site.redis.address());
    host.namespace.ip_batch(&format!("addr add {}/24 dev eth0\n", to.ip()))?;
    host.namespace.nft(&format!(
        "table ip vip {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                ip daddr {} tcp dport {} dnat to {redis}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ct status dnat masquerade
            }}
        }}\n",
        to.ip(),
        to.port()
    ))?;
    Ok(Way { name: "nftables", to, host: Some(host), program: Program::None })
}

/// A TCP proxy with the usual role check.
fn haproxy(site: &Site) -> Result<Way> {
    let host = site.plug("haproxy", 54)?;
    let to = vip(253, VIP_PORT);
    host.namespace.ip_batch(&format!("addr add {}/24 dev eth0\n", to.ip()))?;
    let config = site.directory.join("haproxy.cfg");
    let text = format!(
        "global\n    \
             maxconn 4096\n\
         defaults\n    \
             mode tcp\n    \
             timeout connect 1s\n    \
             timeout client 1h\n    \
             timeout server 1h\n\
         listen redis\n    \
             bind {to}\n    \
             option tcp-check\n    \
             tcp-check send info\\ replication\\r\\n\n    \
             tcp-check expect string role:master\n    \
             server redis1 {} check inter {}ms\n",
        site.redis.address(),
        CHECK.as_millis()
    );
    fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let mut command = host.namespace.command("haproxy");
    command.arg("-db").arg("-f").arg(&config);
    let process = Process::start("haproxy", &mut command, &site.directory.join("haproxy.log"))?;
    let program = Program::Other(process);
    Ok(Way { name: "haproxy", to, host: Some(host), program })
}

/// A box that sends packets back out of the interface they came in by, and says nothing about it.
fn forward(host: &Host) -> Result<()> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
    ] {
        host.namespace.sysctl(key, value)?;
    }
    Ok(())
}

impl Way {
    /// The process through which its bytes go, if they go through one.
    pub fn process(&self) -> Option<u32> {
        match &self.program {
            Program::Other(process) => Some(process.pid()),
            Program::None | Program::Vipd(_) => None,
        }
    }

    /// vipd's XDP program, if that is what carries it.
    pub fn xdp_program(&self) -> Result<Option<u32>> {
        let Program::Vipd(daemon) = &self.program else { return Ok(None) };
        let status = daemon.status()?;
        Ok(status.interfaces.first().map(|interface| interface.program_id))
    }

    /// Packets that its box has received so far.
    pub fn packets(&self) -> Result<u64> {
        let Some(host) = &self.host else { return Ok(0) };
        let table = host.namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
        let packets = line.and_then(|line| line.split_whitespace().nth(1));
        packets.context("no eth0 in /proc/net/dev")?.parse().context("not a number of packets")
    }

    /// Waits until Redis itself answers there.
    fn wait_open(&self, site: &Site) -> Result<()> {
        wait_until(format_args!("{} leads to Redis", self.name), PATIENCE, || {
            let mut connection = Dialer::new(&site.client.namespace, self.to, None).connect()?;
            Ok(run_id(&mut connection)? == site.redis.run_id())
        })
    }
}
