//! The layer `redis`.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::{Addresses, ClientSettings, blank};
use crate::clock::Monotonic;
use crate::probe::live::Live;
use crate::probe::report::{Layer, LayerName};
use crate::probe::shots::Window;

/// Clients that write, of one run. They end when this is dropped.
#[derive(Debug)]
pub struct Writers {}

/// What they found.
#[derive(Debug)]
pub struct Written {}

impl Writers {
    /// Opens the persistent connections, and tries everything once that will be done.
    ///
    /// # Errors
    ///
    /// A client can't connect, log in or write; says why, and what to do about it.
    pub async fn open(_settings: &ClientSettings, _live: Arc<Live>) -> Result<Self> {
        bail!("not yet")
    }

    /// Writes from `begin` on. To be called once.
    ///
    /// # Errors
    ///
    /// The kernel has no timer left.
    pub fn start(&mut self, _begin: Monotonic) -> Result<()> {
        bail!("not yet")
    }

    /// Begins no more writes, waits for the answers to those under way (at most the time-out), reads
    /// the numbers back (some seconds at most), and removes them.
    pub async fn stop(self) -> Written {
        Written {}
    }
}

impl Written {
    /// As the report has it.
    pub fn layer(&self, _window: &Window, _addresses: &Addresses) -> Layer {
        blank(LayerName::Redis)
    }

    /// What one must know to read the figures.
    pub fn notes(&self) -> Vec<String> {
        vec![]
    }
}
