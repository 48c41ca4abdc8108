//! `cargo xtask ci`: what must hold before a change lands.

use anyhow::Result;

use crate::test::{self, Lint};

/// `test`, with no check left out.
pub fn run() -> Result<()> {
    test::run_all(Lint::Required, None)
}
