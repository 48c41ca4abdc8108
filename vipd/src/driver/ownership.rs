//! Which VIPs are this host's to announce, and which are among its addresses.

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::net::IpAddr;

use tokio::time::Instant;
use tracing::{error, info, warn};
use vipd_common::maps::Address;

use super::Driver;
use super::rounds::Question;
use super::start::Sources;
use crate::announce::Port;
use crate::clock::Monotonic;
use crate::config::Mode;
use crate::failover::{Desired, State};
use crate::holding::is_held;
use crate::netdev::HostAddress;
use crate::plan::{Service, Step, Vip};
use crate::sock_diag::{self, Destroyed, Whose};

/// Ending connections may take this part of a lease, which must not run out meanwhile: some 10 to 20
/// microseconds each, so that it is enough for some 40,000 with the default lease.
const ENDING: u32 = 4;
/// The lease is renewed this many times before it would run out.
const RENEWALS: u32 = 8;
/// A host that is cut off notices it after more than half of a lease, also if the last answer before
/// was lost: who was heard in this part of it can be reached still.
const HEARD: u32 = 3;
/// The driver turns much more often than this in a lease, unless it stands still.
const STANDSTILL: u32 = 2;

impl Driver {
    /// VIPs that have something to announce from here: in mode `host`, those whose master is this
    /// host.
    pub(super) fn claimed(&self) -> BTreeSet<IpAddr> {
        self.topology
            .services()
            .filter(|(vip, service)| self.is_claimed(vip, service))
            .map(|(vip, _)| vip.addr)
            .collect()
    }

    fn is_claimed(&self, vip: &Vip, service: &Service) -> bool {
        let Some(desired) = self.failover.desired().get(service.master.0) else { return false };
        let Some(node) = desired.serves() else { return false };
        desired.announce && (vip.mode != Mode::Host || self.is_own(node.ip()))
    }

    /// VIPs that need no question whether somebody else has them, now or when it is our turn. In
    /// mode `host` Sentinel decides whose they are, and whoever had them before knows: only at the
    /// very first start somebody may be found there who has nothing to do with it.
    pub(super) fn granted(&self, claimed: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        self.topology
            .services()
            .filter(|(vip, service)| {
                let settled = self.settled.contains(&service.master);
                let claimed = claimed.contains(&vip.addr) && self.is_own(vip.addr);
                vip.mode == Mode::Host && (settled || claimed)
            })
            .map(|(vip, _)| vip.addr)
            .collect()
    }

    /// Whether this is an address of this host.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.network.addresses.iter().any(|own| own.address == ip)
    }

    /// What is to be asked from time to time about the VIPs of mode `host`.
    pub(super) fn questions(&self) -> BTreeSet<Question> {
        let services = self.topology.services().filter(|(vip, _)| vip.mode == Mode::Host);
        services.filter_map(|(vip, service)| self.question(vip, service)).collect()
    }

    fn question(&self, vip: &Vip, service: &Service) -> Option<Question> {
        if self.is_own(vip.addr) {
            return Some(Question::LocalRedis(vip.key(service)));
        }
        // The answer to an IPv6 probe goes to everybody (RFC 4862), and one of a host that is no
        // longer the owner would lead all clients there.
        if vip.addr.is_ipv6() {
            return None;
        }
        // While a new master is on its way, or no Sentinel is heard, there is nothing to expect.
        let desired = self.failover.desired().get(service.master.0)?;
        let master = desired.target.filter(|_| desired.state == State::Serving)?.addr;
        let hop = self.next_hops.get(&master.ip())?;
        let port = self.ports().into_iter().find(|port| port.ifindex == hop.ifindex)?;
        Some(Question::Owner { vip: vip.addr, master, mac: hop.mac, port })
    }

    /// What has happened to our cables so far: for each interface, whether it can send and how often
    /// its carrier has changed.
    pub(super) fn cables(&self) -> Vec<(Port, bool, u32)> {
        let cable = |port: Port| {
            let link = self.network.links.get(&port.ifindex)?;
            Some((port, link.running, link.carrier_changes))
        };
        self.ports().into_iter().filter_map(cable).collect()
    }

    /// A host that was cut off may find that another one has its VIPs by now: it gives them up at
    /// once, and begins anew as after a restart.
    pub(super) fn look_at_cables(&mut self, sources: &mut Sources) {
        let cables = self.cables();
        if cables == self.cables {
            return;
        }
        self.cables = cables;
        if self.is_a_redis_host() {
            warn!("an interface lost its carrier, or has it again");
            self.end_lease();
            self.keep_lease(sources);
        }
    }

    fn is_a_redis_host(&self) -> bool {
        self.topology.vips.iter().any(|vip| vip.mode == Mode::Host)
    }

    /// Gives this host the VIPs that it must have; false if any was refused.
    pub(super) fn hold(&mut self, vips: &[HostAddress]) -> bool {
        if !self.may_hold {
            return true;
        }
        let mut all = true;
        for vip in vips {
            if self.holding.hold(vip) {
                // rtnetlink will say so as well, later.
                self.network.addresses.push(*vip);
            } else {
                all = false;
            }
        }
        all
    }

    /// Takes from it those that it must not have. Where another host serves one, its connections end
    /// first. One of mode `host` that is withdrawn may come back or not: its clients are told now if
    /// they can be reached, the others when another host serves it ([`Self::end_abandoned`]), and if
    /// none ever does, they go on. `claimed`: a VIP that is only on the wrong interface stays.
    pub(super) fn release(&mut self, vips: &[HostAddress], claimed: &BTreeSet<IpAddr>) {
        let deadline = self.deadline_to_end();
        let heard = Whose::HeardWithin(self.config.daemon.lease() / HEARD);
        let sure = self.is_sure();
        for vip in vips {
            if self.is_elsewhere(vip.address) {
                self.let_go(vip, Some(Whose::Everybodys), deadline);
            } else if self.is_of_mode_host(vip.address) && !claimed.contains(&vip.address) {
                self.let_go(vip, sure.then_some(heard), deadline);
                if self.config.failover.free_clients {
                    self.abandoned.insert(vip.address, vip.ifindex);
                }
            } else {
                self.let_go(vip, None, deadline);
            }
        }
    }

    /// Ends what is left of the connections to VIPs that were withdrawn and that another host serves
    /// by now. They become addresses of this host for that moment; nobody is led here by it, since the
    /// program doesn't answer for them, and passes on or drops what comes: to be called only when
    /// the maps say so.
    pub(super) fn end_abandoned(&mut self) {
        let mut abandoned = mem::take(&mut self.abandoned);
        abandoned.retain(|vip, _| self.is_of_mode_host(*vip) && !self.is_own(*vip));
        let (moved, waiting): (Vec<_>, Vec<_>) =
            abandoned.into_iter().partition(|(vip, _)| self.is_elsewhere(*vip));
        self.abandoned.extend(waiting);
        let deadline = self.deadline_to_end();
        for (vip, ifindex) in moved {
            info!(%vip, "another host has it: the connections that are left here end");
            let vip = HostAddress::alone(vip, ifindex);
            if self.holding.hold(&vip) {
                self.let_go(&vip, Some(Whose::Everybodys), deadline);
            }
        }
    }

    /// Whether what this vipd knows is neither new nor old.
    fn is_sure(&self) -> bool {
        let lease = self.config.daemon.lease();
        !self.stood_still() && self.unsure_since.elapsed() > lease
    }

    /// Whether nothing was done for longer than there is a reason for. After that, everything is ready
    /// at once, and the lease need not be the first that is looked at.
    fn stood_still(&self) -> bool {
        self.lease_kept.elapsed() > self.config.daemon.lease() / STANDSTILL
    }

    fn is_of_mode_host(&self, vip: IpAddr) -> bool {
        self.topology.vips.iter().any(|it| it.addr == vip && it.mode == Mode::Host)
    }

    /// Whether another node is served for this VIP, or nobody any more.
    fn is_elsewhere(&self, vip: IpAddr) -> bool {
        let mut services = self.topology.services().filter(|(it, _)| it.addr == vip).peekable();
        if services.peek().is_none() {
            return true;
        }
        services.any(|(_, service)| {
            let desired = self.failover.desired().get(service.master.0);
            desired.and_then(Desired::serves).is_some_and(|node| !self.is_own(node.ip()))
        })
    }

    /// Connections end with a reset to the client, before the address leaves: without it the kernel
    /// could send none.
    fn let_go(&mut self, vip: &HostAddress, whose: Option<Whose>, deadline: std::time::Instant) {
        if let Some(whose) = whose.filter(|_| self.config.failover.free_clients) {
            end_connections(vip.address, whose, deadline);
        }
        self.holding.release(vip);
        self.network.addresses.retain(|own| own != vip);
    }

    fn deadline_to_end(&self) -> std::time::Instant {
        std::time::Instant::now() + self.config.daemon.lease() / ENDING
    }

    /// What the held addresses ask of the kernel, where there are any.
    pub(super) fn quiet_held_addresses(&mut self) {
        let vips = &self.topology.vips;
        if vips.iter().any(|vip| vip.mode.holds_the_address() && vip.addr.is_ipv4()) {
            let interfaces: Vec<u32> = self.ports().iter().map(|port| port.ifindex).collect();
            self.holding.quiet(&interfaces);
        } else {
            self.holding.restore();
        }
    }

    /// When [`Self::keep_lease`] is to be called.
    pub(super) fn renewal(&self) -> Instant {
        self.lease_kept + self.config.daemon.lease() / RENEWALS
    }

    /// Lets the kernel answer for the addresses of mode `host` for another while.
    ///
    /// A lease that ran out meanwhile is not just renewed: this process stood still, and what it
    /// knows is old. It begins anew, as after a restart: nothing is announced until a majority of
    /// the Sentinels has spoken.
    pub(super) fn keep_lease(&mut self, sources: &mut Sources) {
        if self.stood_still() {
            self.unsure_since = Instant::now();
        }
        self.lease_kept = Instant::now();
        if self.lease < Monotonic::now() && self.is_a_redis_host() {
            warn!("the lease has run out: nothing is announced until the Sentinels have spoken");
            if let Err(why) = self.begin_anew(sources) {
                error!("the VIPs of mode \"host\" are not answered for: {why:#}");
                return;
            }
        }
        self.renew_lease();
    }

    /// Lets the kernel answer from now on, for the length of the lease.
    pub(super) fn renew_lease(&mut self) {
        self.lease_kept = Instant::now();
        self.set_lease(Monotonic::now() + self.config.daemon.lease());
    }

    fn end_lease(&mut self) {
        self.set_lease(Monotonic(0));
    }

    fn set_lease(&mut self, until: Monotonic) {
        match self.datapath.renew_lease(until) {
            Ok(()) => {
                self.possession.lease(until);
                self.lease = until;
            }
            Err(why) => error!("{:#}", anyhow::Error::from(why)),
        }
    }

    /// Nobody is told to come here any more, and then no VIP is an address of this host any more.
    ///
    /// # Errors
    ///
    /// A map could not be written; the rest is done all the same.
    pub(super) fn give_everything_up(&mut self) -> anyhow::Result<()> {
        let held = self.actual.addresses.iter().filter(|(_, address)| is_held(address));
        let held: Vec<(IpAddr, Address)> = held.map(|(vip, address)| (*vip, *address)).collect();
        let mut silenced = Ok(());
        for &(addr, address) in &held {
            let address = Address { flags: address.flags & !Address::ANNOUNCE, ..address };
            silenced = silenced.and(self.datapath.apply(&Step::PutAddress { addr, address }));
        }
        let is_vip = |own: &&HostAddress| held.iter().any(|(vip, _)| *vip == own.address);
        let own: Vec<HostAddress> = self.network.addresses.iter().filter(is_vip).copied().collect();
        let deadline = self.deadline_to_end();
        for vip in &own {
            self.let_go(vip, Some(Whose::Everybodys), deadline);
        }
        self.holding.restore();
        Ok(silenced?)
    }
}

/// Ends connections of this host to a VIP, as far as the time allows.
fn end_connections(vip: IpAddr, whose: Whose, deadline: std::time::Instant) {
    match sock_diag::destroy(vip, whose, deadline) {
        Ok(Destroyed { sockets: 0, kept: 0, left: 0, more: false }) => {}
        Ok(Destroyed { sockets, kept, left: 0, more: false }) => {
            info!(%vip, sockets, kept, "connections ended");
        }
        Ok(Destroyed { sockets, kept, left, more }) => {
            warn!(%vip, sockets, kept, left, more, "not all connections could be ended in time");
        }
        Err(error) => warn!(
            "the connections to the VIP {vip} can't be ended, and who only waits on one will not \
             notice that it has left this host: {error}{}",
            hint(&error)
        ),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; it takes CAP_NET_ADMIN",
        Some(libc::EOPNOTSUPP) => "; the kernel was built without CONFIG_INET_DIAG_DESTROY",
        _ => "",
    }
}
