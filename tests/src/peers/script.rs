//! The recipe that vipd replaces, as people have it: Sentinel's `client-reconfig-script` adds the
//! VIP to the new master's host and announces it with `arping`, and removes it from every other.
//!
//! The first master gets the VIP by hand. `arping` has another syntax in other packages: this is
//! iputils'.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::write_script;
use crate::address::Family;
use crate::host::Host;

/// The scripts, one for each host.
#[derive(Debug)]
pub struct ScriptRecipe {
    scripts: Vec<PathBuf>,
}

impl ScriptRecipe {
    /// Writes a script for each host.
    pub fn prepare(hosts: &[Host], run_directory: &Path) -> Result<Self> {
        let write = |(host, number): (&Host, u32)| {
            let path = run_directory.join(format!("notify{number}.sh"));
            write_script(&path, &script(host))?;
            Ok(path)
        };
        Ok(Self { scripts: hosts.iter().zip(1..).map(write).collect::<Result<_>>()? })
    }

    /// The one of host number `number`, from 0 on.
    pub fn script(&self, number: usize) -> &Path {
        &self.scripts[number]
    }

    /// What the recipe leaves to the administrator: the first master's address.
    pub fn bind_by_hand(host: &Host) -> Result<()> {
        host.namespace.ip_batch(&format!("addr add {}/24 dev eth0\n", vip()))
    }
}

fn vip() -> IpAddr {
    Family::V4.vips()[0]
}

/// Arguments: master role state from-ip from-port to-ip to-port.
fn script(host: &Host) -> String {
    format!(
        "#!/bin/sh\n\
         VIP={vip}\n\
         if [ \"$6\" = {own} ]; then\n    \
             ip addr add $VIP/24 dev eth0\n    \
             arping -q -c 3 -A $VIP -I eth0\n\
         else\n    \
             ip addr del $VIP/24 dev eth0\n\
         fi\n\
         exit 0\n",
        vip = vip(),
        own = host.address,
    )
}
