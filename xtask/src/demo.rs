//! `cargo xtask demo`

use anyhow::{Result, bail};

/// Watch a failover: real Redis and Sentinels in namespaces, vipd, and a client that writes.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<()> {
    bail!("not yet")
}
