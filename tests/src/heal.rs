//! After a failover: everybody ready for the next one.
//!
//! Sentinel does all of this by itself, in some 20 s. Here the old master is told whom to follow, and
//! for this time alone the Sentinels ask every node for INFO each second, and not every 10 s.

use anyhow::{Result, bail};
use redis::Value;

use crate::lab::Lab;
use crate::sentinel::MASTER_NAME;
use crate::switchover::wait_replicas_known;
use crate::wait::{PATIENCE, wait_until};

/// `info-period` while the lab heals, and Sentinel's own default.
const OFTEN: &str = "1000";
const USUALLY: &str = "10000";

/// Makes node `old`, which runs and can be reached, a replica of `new`, which the Sentinels made the
/// master, and waits until they are ready to replace that one.
pub fn heal(lab: &Lab, old: usize, new: usize) -> Result<()> {
    let master = lab.nodes[new].address();
    let (ip, port) = (master.ip().to_string(), master.port().to_string());
    lab.nodes[old].ask::<Value>(&["REPLICAOF", &ip, &port])?;
    ask_every(lab, OFTEN)?;
    for sentinel in lab.sentinels.iter().filter(|it| it.is_running()) {
        wait_until(format_args!("{} is done", sentinel.name()), PATIENCE, || {
            let flags: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", MASTER_NAME])?;
            match flags.chunks_exact(2).find(|pair| pair[0] == "flags") {
                Some(pair) if pair[1] == "master" => Ok(sentinel.master()? == master),
                other => bail!("{other:?}"),
            }
        })?;
    }
    wait_ready(lab)?;
    lab.wait_serving(new)
}

/// Waits until every Sentinel knows replicas that are in sync, and how far they are.
pub fn wait_ready(lab: &Lab) -> Result<()> {
    ask_every(lab, OFTEN)?;
    wait_replicas_known(lab)?;
    ask_every(lab, USUALLY)
}

/// Sets how often each Sentinel asks a node for INFO while nothing happens, in milliseconds.
fn ask_every(lab: &Lab, info_period: &str) -> Result<()> {
    for sentinel in lab.sentinels.iter().filter(|it| it.is_running()) {
        sentinel.ask::<Value>(&["SENTINEL", "DEBUG", "INFO-PERIOD", info_period])?;
    }
    Ok(())
}
