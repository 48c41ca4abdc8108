//! The layer `idle`.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::{Addresses, ClientSettings, blank};
use crate::probe::live::Live;
use crate::probe::report::{Layer, LayerName};
use crate::probe::shots::Window;

/// Clients that wait. They end when this is dropped.
#[derive(Debug)]
pub struct Idle {}

/// What they found.
#[derive(Debug)]
pub struct Waited {}

impl Idle {
    /// Returns when each of them waits.
    ///
    /// # Errors
    ///
    /// One of them can't; says why, and what to do about it.
    pub async fn start(_settings: &ClientSettings, _live: Arc<Live>) -> Result<Self> {
        bail!("not yet")
    }

    /// Ends them, and finds out where the target leads now (some seconds at most).
    pub async fn stop(self) -> Waited {
        Waited {}
    }
}

impl Waited {
    /// As the report has it.
    pub fn layer(&self, _window: &Window, _addresses: &Addresses) -> Layer {
        blank(LayerName::Idle)
    }

    /// What one must know to read the figures.
    pub fn notes(&self) -> Vec<String> {
        vec![]
    }
}
