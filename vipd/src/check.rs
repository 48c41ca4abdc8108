//! `vipd check`: what would work, what would not, and why.

use std::fmt;

use crate::config::Config;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {}

impl Report {
    /// Whether `vipd run` would serve.
    pub fn will_work(&self) -> bool {
        true
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ok")
    }
}

/// Looks at everything `config` names.
pub async fn check(_config: &Config) -> Report {
    Report {}
}
