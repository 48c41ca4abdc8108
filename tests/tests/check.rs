//! `vipd check` against a real deployment.

use anyhow::Result;
use vipd_tests::{Lab, Options};

#[test]
fn dbg_all_well() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    println!("{}", lab.daemon.check()?);
    Ok(())
}
