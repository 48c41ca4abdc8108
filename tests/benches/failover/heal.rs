//! After a failover: as it was before, but with another master.
//!
//! Sentinel would do all of it by itself, in some 20 s; here its replicas are told, and for this time
//! alone it asks them more often than every 10 s.

use anyhow::{Result, bail};
use redis::Value;
use vipd_tests::Lab;
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::switchover::wait_replicas_known;
use vipd_tests::wait::{PATIENCE, wait_until};

use crate::cell::Scenario;
use crate::run::Run;

/// `info-period` while the lab heals, and Sentinel's own default.
const OFTEN: &str = "1000";
const USUALLY: &str = "10000";

/// Undoes what was done to the old master, and waits until everybody is ready for the next failover.
pub fn heal(lab: &mut Lab, scenario: Scenario, run: &Run) -> Result<()> {
    match scenario {
        Scenario::Kill => lab.nodes[run.old].start()?,
        Scenario::Gone => lab.nodes[run.old].host().link_up()?,
        Scenario::Stop => lab.nodes[run.old].thaw()?,
        Scenario::Planned | Scenario::Switchover => {}
    }
    let master = lab.nodes[run.new].address();
    let (ip, port) = (master.ip().to_string(), master.port().to_string());
    lab.nodes[run.old].ask::<Value>(&["REPLICAOF", &ip, &port])?;
    ask_every(lab, OFTEN)?;
    for sentinel in &lab.sentinels {
        wait_until(format_args!("{} is done", sentinel.name()), PATIENCE, || {
            let flags: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", MASTER_NAME])?;
            let flags = flags.chunks_exact(2).find(|pair| pair[0] == "flags");
            match flags {
                Some(pair) if pair[1] == "master" => Ok(sentinel.master()? == master),
                other => bail!("{other:?}"),
            }
        })?;
    }
    wait_ready(lab)?;
    lab.wait_serving(run.new)
}

/// Waits until every Sentinel knows replicas that are in sync.
pub fn wait_ready(lab: &Lab) -> Result<()> {
    ask_every(lab, OFTEN)?;
    wait_replicas_known(lab)?;
    ask_every(lab, USUALLY)
}

/// Sets how often each Sentinel asks a node for INFO while nothing happens, in milliseconds.
fn ask_every(lab: &Lab, info_period: &str) -> Result<()> {
    for sentinel in &lab.sentinels {
        sentinel.ask::<Value>(&["SENTINEL", "DEBUG", "INFO-PERIOD", info_period])?;
    }
    Ok(())
}
