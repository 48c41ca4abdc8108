//! The ways from the client to Redis that are compared. Each has a box of its own, cabled alike,
//! so that none pays for what another needs: an XDP program, connection tracking.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use vipd_tests::Mode;
use vipd_tests::client::{Dialer, run_id};
use vipd_tests::daemon::Daemon;
use vipd_tests::host::Host;
use vipd_tests::peers::haproxy::HaProxy;
use vipd_tests::peers::nft_listener;
use vipd_tests::redis_node::REDIS_PORT;
use vipd_tests::wait::{PATIENCE, wait_until};

use crate::site::{ROUTED_REDIS, Site};

/// The port on the VIPs of those that can translate it.
const VIP_PORT: u16 = 6379;

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
    HaProxy(HaProxy),
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
    nft_listener::forward(&host)?;
    site.route_through(&host)?;
    let to = (ROUTED_REDIS, REDIS_PORT).into();
    Ok(Way { name: "routed", to, host: Some(host), program: Program::None })
}

/// What people write for a VIP with nftables on a stick.
fn nftables(site: &Site) -> Result<Way> {
    let host = site.plug("nft", 53)?;
    nft_listener::forward(&host)?;
    let to = vip(252, VIP_PORT);
    host.namespace.ip_batch(&format!("addr add {}/24 dev eth0\n", to.ip()))?;
    nft_listener::translate(&host, to, site.redis.address())?;
    Ok(Way { name: "nftables", to, host: Some(host), program: Program::None })
}

/// A TCP proxy with the usual role check.
fn haproxy(site: &Site) -> Result<Way> {
    let host = site.plug("haproxy", 54)?;
    let to = vip(253, VIP_PORT);
    let mut haproxy = HaProxy::prepare(&host, to, &site.directory)?;
    haproxy.start(&[site.redis.address()])?;
    Ok(Way { name: "haproxy", to, host: Some(host), program: Program::HaProxy(haproxy) })
}

impl Way {
    /// The process through which its bytes go, if they go through one.
    pub fn process(&self) -> Option<u32> {
        match &self.program {
            Program::HaProxy(haproxy) => haproxy.pid(),
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
