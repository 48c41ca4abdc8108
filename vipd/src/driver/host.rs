//! The host changes under a daemon that runs: interfaces go, come back without the program, or are
//! taken by somebody else, and addresses are added.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracing::{info, warn};

use super::Driver;
use crate::config::Config;
use crate::holding;
use crate::neighbour::Network;
use crate::plan::{Actual, OwnAddresses};

impl Driver {
    /// Puts the program back where it is missing, and finds what else is wrong with the host. An
    /// interface without the program takes no part: nothing is announced on it or forwarded by it.
    pub(super) fn look_at_host(&mut self) {
        // What could not be held is tried again.
        self.holding.try_again();
        self.quiet_held_addresses();
        let mut found: BTreeSet<String> =
            own_vips(&self.config, &self.network, &self.actual).collect();
        for name in self.config.daemon.interfaces.clone() {
            match self.keep_attached(&name) {
                Ok(()) => {
                    self.detached.remove(&name);
                }
                Err(why) => {
                    self.detached.insert(name);
                    found.insert(why);
                }
            }
        }
        for problem in found.difference(&self.host_problems) {
            warn!("{problem}");
        }
        for problem in self.host_problems.difference(&found) {
            info!("no longer: {problem}");
        }
        self.host_problems = found;
    }

    fn keep_attached(&mut self, name: &str) -> Result<(), String> {
        let Some(link) = self.network.link(name) else {
            return Err(format!("interface {name} is gone; it is attached to when it comes back"));
        };
        let program = link.xdp.map(|xdp| xdp.program_id);
        let in_place = self.datapath.interfaces().iter().any(|it| {
            it.name == name && it.ifindex == link.ifindex && Some(it.program_id) == program
        });
        if in_place {
            return Ok(());
        }
        self.datapath.reattach(name).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }
}

/// This host's addresses, as the plan wants to know them.
pub(super) fn own_addresses(config: &Config, network: &Network) -> OwnAddresses {
    let index = |name: &str| network.link(name).map(|link| link.ifindex);
    OwnAddresses {
        addresses: network.addresses.clone(),
        interfaces: config.daemon.interfaces.iter().filter_map(|name| index(name)).collect(),
    }
}

/// A VIP that the host itself holds would be used by its stack as well; one message for each.
/// One that an earlier configuration had put there is taken away by the next plan.
pub(super) fn own_vips(
    config: &Config,
    network: &Network,
    actual: &Actual,
) -> impl Iterator<Item = String> {
    let is_left = |vip: IpAddr| actual.addresses.get(&vip).is_some_and(holding::is_held);
    let vips = config.vips.iter().filter(|vip| !vip.mode.holds_the_address());
    vips.filter(move |vip| !is_left(vip.address)).filter_map(|vip| {
        let own = network.addresses.iter().find(|own| own.address == vip.address)?;
        let name = network.links.get(&own.ifindex).map_or("an interface", |link| &link.name);
        Some(format!(
            "the VIP {vip} is an address of this host, on {name}: vipd answers for it in XDP, so \
             it must not be there; remove it with `ip address del {vip}/{prefix} dev {name}`, or \
             choose another VIP",
            vip = vip.address,
            prefix = own.prefix,
        ))
    })
}
