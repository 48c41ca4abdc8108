//! `cargo xtask ci`: what `.ci/run` runs.

use anyhow::Result;

/// Everything that must hold before a change lands.
pub fn run() -> Result<()> {
    crate::test::run(&crate::test::Arguments::default())
}
