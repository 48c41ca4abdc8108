//! A changed configuration under a daemon that runs.
//!
//! The file is judged completely before anything happens. Then whoever follows and decides is
//! started anew from what the maps hold, as after a restart, while the program, its maps and what
//! is announced stay as they are: the next reconciliation finds the difference between the two
//! files and nothing else.

use std::collections::BTreeSet;
use std::mem;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;
use tracing::{info, warn};

use super::knowledge::Knowledge;
use super::reconcile::Told;
use super::start::{Parts, Sources};
use super::{Driver, host};
use crate::announce::Schedule;
use crate::clock::Monotonic;
use crate::config::{Config, Daemon, Mode};
use crate::control::{Access, Control};
use crate::failover::Desired;
use crate::model::MasterId;
use crate::timeline::FailoverRecord;

/// A record from before a reload: no later one has its number, so it is never amended.
const CLOSED: u64 = 0;

impl Driver {
    /// Reads the file again and applies it.
    ///
    /// # Errors
    ///
    /// Why it can't be used; then nothing was changed.
    pub(super) async fn reload(&mut self, sources: &mut Sources) -> Result<()> {
        let Some(file) = &self.file else {
            bail!("this vipd was started with flags and has no file to read: restart it instead");
        };
        if self.switchovers.under_way() {
            bail!("a switchover is in progress: try again when it is over");
        }
        let config = Config::load(file)?;
        if let Some(why) = unchangeable(&self.config, &config) {
            bail!(why);
        }
        if let Some(why) = host::own_vips(&config, &self.network, &self.actual).next() {
            bail!(why);
        }
        let withdrawn = withdrawn(&self.knowledge, self.failover.desired());
        // The new followers start to ask here; what they hear waits in their queue.
        let heard = |name: &str| self.failover.heard(self.knowledge.master(name)?);
        let (parts, reports) = Parts::new(config, &self.actual, self.lease, &withdrawn, heard)?;
        let hints = self.listen_for_hints(&parts.config.daemon.notify_socket).await?;
        self.attach_added(&parts.config.daemon)?;

        // Nothing fails from here on.
        self.go_over_to(parts);
        *sources = reports;
        if let Some(hints) = hints {
            self.hints = hints;
        }
        let interfaces = &self.config.daemon.interfaces;
        self.detached.retain(|name| interfaces.contains(name));
        self.possession.set_schedule(Schedule::from(&self.config.announce));

        self.reconcile();
        if let Err(error) = self.datapath.detach_others(&self.config.daemon.interfaces) {
            warn!("{:#}", anyhow::Error::from(error));
        }
        self.nodes_changed();
        self.look_at_host();
        // An interface that was added or removed is no cable that was out.
        self.cables = self.cables();
        info!(
            vips = self.topology.vips.len(),
            services = self.topology.services().count(),
            "reloaded"
        );
        Ok(())
    }

    /// Forgets what was heard, and asks everybody again, with the same configuration. The VIPs of
    /// mode `host` are withdrawn until a majority of the Sentinels has spoken.
    ///
    /// # Errors
    ///
    /// A password file or a TLS file can't be used any more.
    pub(super) fn begin_anew(&mut self, sources: &mut Sources) -> Result<()> {
        let config = self.config.clone();
        let hosts = config.vips.iter().filter(|vip| vip.mode == Mode::Host);
        let services = hosts.flat_map(|vip| &vip.services);
        let withdrawn: BTreeSet<&str> = services.map(|service| service.master.as_str()).collect();
        let (parts, reports) =
            Parts::new(config.clone(), &self.actual, self.lease, &withdrawn, |_| None)?;
        self.go_over_to(parts);
        *sources = reports;
        self.reconcile();
        self.nodes_changed();
        Ok(())
    }

    fn go_over_to(&mut self, parts: Parts) {
        let Parts { config, topology, failover, mut knowledge, watchers, followers, mut witness } =
            parts;
        knowledge.inherit(&self.knowledge);
        if let (Some(later), Some(earlier)) = (&mut witness, &self.witness) {
            later.inherit(earlier, |master| knowledge.master(self.knowledge.name(master)));
        }
        self.witness = witness;
        self.failovers = mem::take(&mut self.failovers)
            .into_iter()
            .filter_map(|told| {
                let record = carried(told.record, &self.knowledge, &knowledge)?;
                Some(Told { record, ..told })
            })
            .collect();
        self.requests.renumber(|master| knowledge.master(self.knowledge.name(master)));
        let names = self.settled.iter().map(|master| self.knowledge.name(*master));
        self.settled = names.filter_map(|name| knowledge.master(name)).collect();
        self.unsure_since = Instant::now();
        self.config = config;
        self.topology = topology;
        self.failover = failover;
        self.knowledge = knowledge;
        // One that is under way sees what the core knows now, not what it knew.
        self.switchovers.show(self.failover.desired(), Monotonic::now());
        // The old ones end with their replacement.
        self.watchers = watchers;
        self.followers = followers;
    }

    /// The socket for hints, if it is another one from now on.
    async fn listen_for_hints(&self, path: &Option<PathBuf>) -> Result<Option<Option<Control>>> {
        if *path == self.config.daemon.notify_socket {
            return Ok(None);
        }
        match path {
            Some(path) => {
                let hints = Control::listen(path, Access::Hints, self.ask.clone()).await?;
                Ok(Some(Some(hints)))
            }
            None => Ok(Some(None)),
        }
    }

    /// Puts the program on interfaces that were not configured before; on all or on none.
    fn attach_added(&mut self, wanted: &Daemon) -> Result<()> {
        let present = self.config.daemon.interfaces.clone();
        for name in wanted.interfaces.iter().filter(|name| !present.contains(name)) {
            if let Err(error) = self.datapath.reattach(name) {
                if let Err(left) = self.datapath.detach_others(&present) {
                    warn!("{:#}", anyhow::Error::from(left));
                }
                return Err(error).with_context(|| format!("cannot add the interface {name}"));
            }
        }
        Ok(())
    }
}

/// Why a running daemon can't go over to these settings; `None` if it can.
fn unchangeable(present: &Config, wanted: &Config) -> Option<String> {
    let syns = present.failover.max_pending_syns == wanted.failover.max_pending_syns;
    let (present, wanted) = (&present.daemon, &wanted.daemon);
    // Each is fixed when the maps are made, the program is attached or the socket is bound.
    let keys = [
        ("[daemon] pin_dir", present.pin_dir == wanted.pin_dir),
        ("[daemon] control_socket", present.control_socket == wanted.control_socket),
        ("[daemon] max_connections", present.max_connections == wanted.max_connections),
        ("[daemon] max_half_open", present.max_half_open == wanted.max_half_open),
        ("[daemon] xdp_mode", present.xdp_mode == wanted.xdp_mode),
        ("[failover] max_pending_syns", syns),
    ];
    let changed: Vec<&str> = keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect();
    if changed.is_empty() {
        return None;
    }
    Some(format!(
        "{} can't be changed while vipd runs: put the old value back, or stop vipd, run \
         `vipd detach` and start it again",
        changed.join(", ")
    ))
}

/// Masters that are known and yet not announced: a reload is no reason to trust them again.
fn withdrawn<'a>(knowledge: &'a Knowledge, desired: &[Desired]) -> BTreeSet<&'a str> {
    let withdrawn = desired.iter().enumerate().filter(|(_, it)| !it.announce);
    withdrawn.map(|(id, _)| knowledge.name(MasterId(id))).collect()
}

/// A record under the numbers of a new configuration; none if that has no such master.
fn carried(
    record: FailoverRecord,
    earlier: &Knowledge,
    later: &Knowledge,
) -> Option<FailoverRecord> {
    let master = later.master(earlier.name(record.master))?;
    Some(FailoverRecord { id: CLOSED, master, ..record })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use super::*;
    use crate::failover::State;
    use crate::model::{Epoch, SentinelId};
    use crate::sentinel::Report;
    use crate::timeline::{Outcome, Timeline, Trigger};

    fn config(masters: &[&str], sentinels: &[&str]) -> Config {
        let mut text = format!(
            "[daemon]\ninterfaces = [\"eth1\"]\n[sentinel]\nendpoints = {sentinels:?}\n[[vip]]\n\
             address = \"198.18.0.250\"\n"
        );
        for (master, port) in masters.iter().zip(6379..) {
            text += &format!("[[vip.service]]\nport = {port}\nmaster = {master:?}\n");
        }
        Config::parse(&text, Path::new("test")).unwrap()
    }

    fn node(host: u8) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, host], 8000))
    }

    #[test]
    fn what_is_fixed_at_the_start_is_refused_by_name() {
        let present = config(&["a"], &["198.18.0.101:26379"]);
        assert_eq!(unchangeable(&present, &present), None);
        let mut free = present.clone();
        free.daemon.interfaces = vec!["eth7".into()];
        free.daemon.notify_socket = Some("/n".into());
        free.failover.park_ms += 1;
        assert_eq!(unchangeable(&present, &free), None);
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 6] = [
            ("[daemon] pin_dir", |it| it.daemon.pin_dir = "/p".into()),
            ("[failover] max_pending_syns", |it| it.failover.max_pending_syns += 1),
            ("[daemon] control_socket", |it| it.daemon.control_socket = "/c".into()),
            ("[daemon] max_connections", |it| it.daemon.max_connections += 1),
            ("[daemon] max_half_open", |it| it.daemon.max_half_open += 1),
            ("[daemon] xdp_mode", |it| it.daemon.xdp_mode = crate::config::XdpMode::Generic),
        ];
        for (key, change) in cases {
            let mut wanted = present.clone();
            change(&mut wanted);
            let why = unchangeable(&present, &wanted).unwrap();
            assert!(why.starts_with(&format!("{key} can't")), "{why}");
        }
    }

    #[test]
    fn what_was_heard_goes_with_the_master_s_name_and_the_sentinel_s_endpoint() {
        let (first, second) = ("198.18.0.101:26379", "198.18.0.102:26379");
        let mut earlier = Knowledge::new(&config(&["a", "b"], &[first, second]));
        for (sentinel, master, host) in [(0, 0, 101), (0, 1, 102), (1, 1, 103)] {
            earlier.sentinel_said(&Report::Claim {
                sentinel: SentinelId(sentinel),
                master: MasterId(master),
                addr: node(host),
                epoch: Epoch(1),
                asked: Monotonic(0),
            });
        }
        // `b` comes first now, `a` is gone; the first Sentinel is another one.
        let mut later = Knowledge::new(&config(&["b", "c"], &["198.18.0.109:26379", second]));
        later.inherit(&earlier);
        assert_eq!(later.nodes(&[]), [vec![node(103)], vec![]]);
        assert!(later.sentinels().iter().all(|it| !it.up), "each must answer anew");
    }

    #[test]
    fn failovers_stay_on_record_as_long_as_their_master_is_configured() {
        let sentinels = ["198.18.0.101:26379"];
        let earlier = Knowledge::new(&config(&["a", "b"], &sentinels));
        let later = Knowledge::new(&config(&["c", "b"], &sentinels));
        let record = |id, master| FailoverRecord {
            id,
            master: MasterId(master),
            trigger: Trigger::Claim,
            outcome: Outcome::Confirmed,
            from: None,
            to: node(101),
            epoch: Some(Epoch(1)),
            timeline: Timeline::default(),
            clients: None,
        };
        assert_eq!(carried(record(7, 0), &earlier, &later), None);
        assert_eq!(carried(record(8, 1), &earlier, &later), Some(record(CLOSED, 1)));
    }

    #[test]
    fn who_was_withdrawn_stays_so_over_a_reload() {
        let knowledge = Knowledge::new(&config(&["a", "b"], &["198.18.0.101:26379"]));
        let desired = |announce, state| Desired { announce, state, ..Desired::default() };
        let desired = [desired(true, State::Serving), desired(false, State::Withdrawn)];
        assert_eq!(withdrawn(&knowledge, &desired), BTreeSet::from(["b"]));
    }
}
