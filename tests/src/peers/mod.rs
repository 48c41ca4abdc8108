//! What people use today where vipd would be, each as real programs of its own, configured as their
//! users do it and tuned to be as quick as it goes. vipd is measured against them.
//!
//! Those that give the VIP to the new master's host live on the Redis hosts; the others on a director.

pub mod haproxy;
pub mod keepalived;
pub mod nft_listener;
pub mod script;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::client::{self, Dialer};
use crate::host::Host;
use crate::network::{NODES, Network};
use crate::options::Mover;
use crate::process::tail;
use crate::redis_node::RedisNode;
use crate::wait::{PATIENCE, wait_until};

use haproxy::HaProxy;
use keepalived::Keepalived;
use nft_listener::NftListener;
use script::ScriptRecipe;

/// Who moves the VIP of a lab, if that isn't vipd.
#[derive(Debug)]
pub enum Peer {
    /// Sentinel's own hook.
    Script(ScriptRecipe),
    /// VRRP.
    Keepalived(Keepalived),
    /// A proxy with role checks.
    HaProxy(HaProxy),
    /// DNAT that follows the Sentinels.
    NftListener(NftListener),
    /// There is no VIP.
    Nobody,
}

/// Connections that must reach the same node: HAProxy takes nodes in turn, and all of them until it has
/// checked them.
const IN_A_ROW: usize = 2 * NODES;

impl Peer {
    /// Prepares it in the lab's network; `service` is the VIP with its port. `None` if vipd moves the
    /// VIP.
    pub fn prepare(
        mover: Mover,
        network: &Network,
        service: SocketAddr,
        run_directory: &Path,
    ) -> Result<Option<Self>> {
        let redis = &network.redis;
        let director = || network.director.as_ref().context("this lab has no director");
        Ok(Some(match mover {
            Mover::Vipd => return Ok(None),
            Mover::Script => Self::Script(ScriptRecipe::prepare(redis, run_directory)?),
            Mover::Keepalived => {
                Self::Keepalived(Keepalived::prepare(redis, service.ip(), run_directory)?)
            }
            Mover::HaProxy => Self::HaProxy(HaProxy::prepare(director()?, service, run_directory)?),
            Mover::NftListener => {
                Self::NftListener(NftListener::prepare(director()?, service, run_directory)?)
            }
            Mover::Nobody => Self::Nobody,
        }))
    }

    /// What the Sentinel number `number`, from 0 on, runs when it sees a failover.
    pub fn sentinel_script(&self, number: usize) -> Option<&Path> {
        match self {
            Self::Script(recipe) => Some(recipe.script(number)),
            Self::Keepalived(_) | Self::HaProxy(_) | Self::NftListener(_) | Self::Nobody => None,
        }
    }

    /// Starts it while `nodes[master]` is the master, and does what it leaves to the administrator.
    pub fn start(
        &mut self,
        nodes: &[RedisNode],
        master: usize,
        sentinels: &[SocketAddr],
    ) -> Result<()> {
        match self {
            Self::Script(_) => ScriptRecipe::bind_by_hand(nodes[master].host()),
            Self::Keepalived(keepalived) => keepalived.start(),
            Self::HaProxy(haproxy) => {
                let servers: Vec<_> = nodes.iter().map(RedisNode::address).collect();
                haproxy.start(&servers)
            }
            Self::NftListener(listener) => listener.start(nodes[master].address(), sentinels),
            Self::Nobody => Ok(()),
        }
    }

    /// Waits until the VIP leads to `node`: its host has it, or whoever connects as `client` says is
    /// connected to it.
    pub fn wait_serving(&self, node: &RedisNode, client: &Dialer) -> Result<()> {
        match self {
            Self::Script(_) | Self::Keepalived(_) => {
                let what = format_args!("{}'s host has the VIP", node.name());
                let vip = client.to.ip();
                wait_until(what, PATIENCE, || node.host().has_address(vip))
            }
            Self::HaProxy(_) | Self::NftListener(_) => {
                wait_until(format_args!("the VIP leads to {} alone", node.name()), PATIENCE, || {
                    for _ in 0..IN_A_ROW {
                        if client::run_id(&mut client.connect()?)? != node.run_id() {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })
            }
            Self::Nobody => Ok(()),
        }
    }

    /// The ends of what its programs said.
    pub fn report(&self) -> String {
        let logs: Vec<PathBuf> = match self {
            Self::Keepalived(keepalived) => keepalived.logs(),
            Self::HaProxy(haproxy) => haproxy.logs(),
            Self::NftListener(listener) => listener.logs(),
            Self::Script(_) | Self::Nobody => vec![],
        };
        let show = |log: &PathBuf| format!("-- end of {}\n{}\n", log.display(), tail(log, 30));
        logs.iter().map(show).collect()
    }
}

/// Writes a script that can be run.
fn write_script(path: &Path, text: &str) -> Result<()> {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Gives a director the VIP, for good.
fn hold_vip(director: &Host, service: SocketAddr) -> Result<()> {
    director.namespace.ip_batch(&format!("addr add {}/24 dev eth0\n", service.ip()))
}
