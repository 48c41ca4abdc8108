//! A world in which one thing goes wrong.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::clock::Monotonic;
use crate::config::Endpoint;
use crate::connect::{Error, Phase};
use crate::model::Epoch;
use crate::order::{Accepted, Ready, Refusal};
use crate::redis_node::Role;
use crate::sentinel::reply::Candidate;
use crate::sentinel::{Answer, Inspection, KnownMaster, MasterAnswer, Replica, View as Sees};
use crate::switchover::record::Owed;
use crate::switchover::site::{Lost, NodeFacts, Priorities, Site, View};
use crate::switchover::{Failure, Order, Progress, Switched, run};

pub(super) const OLD: u8 = 101;

pub(super) fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

/// What is done to the world, in the order of its doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Unpause,
    Pause,
    Kill,
    Park,
    Cancel,
    Order,
    Taken,
    Demote,
    Priority(u8, u32),
}

/// What comes of the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Promotion {
    Prompt,
    After(Duration),
    /// The driver ends the park.
    Aborted,
    Never,
}

/// How the world is, and what goes wrong in it.
pub(super) struct World {
    pub(super) deeds: Vec<Deed>,
    pub(super) paused: bool,
    pub(super) parked: bool,
    pub(super) promoted: bool,
    pub(super) priorities: BTreeMap<u8, u32>,
    /// This deed fails; whether it is done all the same.
    pub(super) fails: Option<(Deed, bool)>,
    /// This deed never ends, though it is done.
    pub(super) hangs: Option<Deed>,
    pub(super) promotion: Promotion,
    pub(super) refusal: Option<Refusal>,
    /// A replica that stands still once the master is paused.
    pub(super) stuck: Option<u8>,
    /// Sentinels that hear of the promotion.
    pub(super) hearing: usize,
    /// They hear of priorities.
    pub(super) obedient: bool,
    /// What is on disk; whether it can be written.
    pub(super) record: BTreeMap<u8, Owed>,
    pub(super) full: bool,
    /// Priorities that were changed without being noted before.
    pub(super) unnoted: Vec<u8>,
    /// The driver parks nobody.
    pub(super) deaf: bool,
    /// This Sentinel leads a failover from the moment the master is paused.
    pub(super) foreign: Option<usize>,
    /// So long the Sentinels take to answer, once the new master is served.
    pub(super) slow: Duration,
    /// The pause ended: when, and whether by itself.
    pub(super) pause_began: Option<Instant>,
    pub(super) pause_lasted: Option<Duration>,
    /// The master says no.
    pub(super) refuses_pause: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            deeds: vec![],
            paused: false,
            parked: false,
            promoted: false,
            priorities: BTreeMap::from([(102, 100), (103, 100)]),
            fails: None,
            hangs: None,
            promotion: Promotion::Prompt,
            refusal: None,
            stuck: None,
            hearing: 3,
            obedient: true,
            record: BTreeMap::new(),
            full: false,
            unnoted: vec![],
            deaf: false,
            foreign: None,
            slow: Duration::ZERO,
            pause_began: None,
            pause_lasted: None,
            refuses_pause: false,
        }
    }
}

/// The world behind the seam.
pub(super) struct Fake {
    world: Mutex<World>,
    view: watch::Sender<View>,
    /// Tells that a deed hangs.
    hanging: watch::Sender<bool>,
}

impl Fake {
    pub(super) fn new(world: World) -> Self {
        let view = View { serves: Some(node(OLD)), steady: true, ..View::default() };
        Self {
            world: Mutex::new(world),
            view: watch::Sender::new(view),
            hanging: watch::Sender::new(false),
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(change);
    }

    /// A switchover, which is told to stop once a deed hangs.
    pub(super) async fn switch_over(&self, order: &Order) -> Result<Option<Switched>, Failure> {
        let (heard, _steps) = mpsc::channel(1);
        let mut hanging = self.hanging.subscribe();
        let stop = async move {
            let _ = hanging.wait_for(|hangs| *hangs).await;
        };
        run(self, order, Progress::new("mymaster", heard), stop).await
    }

    async fn does(&self, deed: Deed, act: impl FnOnce(&mut World)) -> Result<(), Error> {
        let (fails, hangs) = {
            let mut world = self.world();
            world.deeds.push(deed);
            let fails = world.fails.filter(|(failing, _)| *failing == deed);
            if fails.is_none_or(|(_, done)| done) {
                act(&mut world);
            }
            // Once: undoing it works.
            let hangs = world.hangs.take_if(|hanging| *hanging == deed).is_some();
            (fails.is_some(), hangs)
        };
        if hangs {
            self.hanging.send_replace(true);
            std::future::pending::<()>().await;
        }
        let after = Duration::from_secs(1);
        if fails { Err(Error::Timeout { during: Phase::Answer, after }) } else { Ok(()) }
    }

    fn names(&self, sentinel: usize) -> SocketAddr {
        let world = self.world();
        if world.promoted && sentinel < world.hearing { node(102) } else { node(OLD) }
    }

    fn replicas(&self) -> Vec<Replica> {
        let world = self.world();
        let of = |(&host, &priority): (&u8, &u32)| Replica {
            addr: node(host),
            down: false,
            link_up: true,
            priority: if world.obedient { priority } else { 100 },
            offset: 1000,
        };
        world.priorities.iter().map(of).collect()
    }
}

fn sees() -> Sees {
    Sees {
        quorum: 2,
        replicas: 2,
        other_sentinels: 2,
        down_after: Duration::from_secs(3),
        flags: "master".to_owned(),
    }
}

impl Priorities for Fake {
    async fn priority(&self, node: SocketAddr) -> Result<u32, Error> {
        Ok(self.world().priorities[&host(node)])
    }

    async fn set_priority(&self, node: SocketAddr, priority: u32, _: bool) -> Result<(), Error> {
        let host = host(node);
        let set = |world: &mut World| {
            world.priorities.insert(host, priority);
            if priority != 100 && !world.record.contains_key(&host) {
                world.unnoted.push(host);
            }
        };
        self.does(Deed::Priority(host, priority), set).await
    }
}

impl Site for Fake {
    async fn ready(&self, _: SocketAddr) -> Result<Ready, Refusal> {
        let candidate = |replica| Candidate {
            replica,
            link_down: Some(Duration::ZERO),
            info_age: Duration::from_secs(1),
        };
        Ok(Ready {
            sentinel: "198.18.0.101:26379".parse().unwrap(),
            epoch: Epoch(1),
            view: sees(),
            quorum: "OK".to_owned(),
            reachable: Vec::new(),
            replicas: self.replicas().into_iter().map(candidate).collect(),
        })
    }

    async fn sentinels(&self, within: Duration) -> Vec<Inspection> {
        let slow = if self.world().promoted { self.world().slow } else { Duration::ZERO };
        sleep(slow.min(within)).await;
        let inspection = |number| {
            let leads = self.world().paused && self.world().foreign == Some(number);
            let flags = if leads { "master,failover_in_progress" } else { "master" };
            let known = KnownMaster {
                addr: Ok(self.names(number)),
                epoch: Epoch(1),
                view: Sees { flags: flags.to_owned(), ..sees() },
                ckquorum: Ok("OK".to_owned()),
                replicas: self.replicas(),
                sentinels: vec![],
            };
            Inspection {
                endpoint: format!("198.18.0.{}:26379", 101 + number).parse().unwrap(),
                addr: None,
                answer: Ok(Answer {
                    run_id: String::new(),
                    version: String::new(),
                    tilt: false,
                    failover: Ok(()),
                    masters: vec![MasterAnswer::Known(known)],
                }),
            }
        };
        (0..3).map(inspection).collect()
    }

    async fn inspect(&self, node: SocketAddr) -> Result<NodeFacts, Error> {
        Ok(NodeFacts { role: self.role(node).await?, version: "7.0.15".to_owned() })
    }

    async fn may_pause(&self, _: SocketAddr) -> Result<(), Error> {
        Ok(())
    }

    async fn pause(&self, _: SocketAddr, _: Duration) -> Result<u64, Error> {
        if self.world().refuses_pause {
            self.world().deeds.push(Deed::Pause);
            return Err(Error::NoPerm("client|pause".into()));
        }
        self.does(Deed::Pause, |world| {
            world.paused = true;
            world.pause_began = Some(Instant::now());
        })
        .await
        .map(|()| 1000)
    }

    async fn unpause(&self, _: SocketAddr) -> Result<(), Error> {
        self.does(Deed::Unpause, |world| {
            world.paused = false;
            world.pause_lasted = world.pause_began.map(|began| began.elapsed());
        })
        .await
    }

    async fn kill_clients(&self, _: SocketAddr) -> Result<(), Error> {
        self.does(Deed::Kill, |_| ()).await
    }

    async fn role(&self, asked: SocketAddr) -> Result<Role, Error> {
        // Time passes, or else nothing would ever be late.
        sleep(Duration::from_millis(1)).await;
        let world = self.world();
        if asked == node(OLD) {
            return Ok(Role::Master { offset: 1000, replicas: 2 });
        }
        let stands_still = world.paused && world.stuck.map(node) == Some(asked);
        let offset = if stands_still { 900 } else { 1000 };
        Ok(Role::Replica { of: ("198.18.0.101".to_owned(), 8000), link_up: true, offset })
    }

    fn owed(&self) -> Vec<Owed> {
        self.world().record.values().copied().collect()
    }

    fn owe(&self, owed: &[Owed]) -> io::Result<()> {
        if self.world().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.world().record.extend(owed.iter().map(|it| (host(it.node), *it)));
        Ok(())
    }

    fn settled(&self, node: SocketAddr) {
        self.world().record.remove(&host(node));
    }

    async fn demote(&self, _: SocketAddr, _: SocketAddr) -> Result<(), Error> {
        self.does(Deed::Demote, |_| ()).await
    }

    async fn order(&self, _: SocketAddr) -> Result<Accepted, Refusal> {
        let sentinel = || "198.18.0.101:26379".parse().unwrap();
        let refusal = self.world().refusal.clone();
        if let Some(refusal) = refusal {
            self.world().deeds.push(Deed::Order);
            return Err(refusal);
        }
        self.does(Deed::Order, |_| ()).await.map_err(|it| Refusal::Unclear(sentinel(), it))?;
        let promotion = self.world().promotion;
        let after = match promotion {
            Promotion::Prompt => Duration::ZERO,
            Promotion::After(after) => after,
            Promotion::Aborted => {
                self.show(|view| (view.parked, view.steady) = (false, true));
                Duration::MAX
            }
            Promotion::Never => Duration::MAX,
        };
        if after < Duration::MAX {
            let view = self.view.clone();
            tokio::spawn(async move {
                sleep(after).await;
                view.send_modify(|view| {
                    (view.serves, view.parked, view.steady) = (Some(node(102)), false, false);
                });
            });
            self.world().promoted = true;
        }
        let now = Monotonic::now();
        Ok(Accepted { sentinel: sentinel(), coordinated: false, asked: now, answered: now })
    }

    async fn park(&self, _: Duration) -> Result<(), Lost> {
        let done = self.does(Deed::Park, |world| world.parked = !world.deaf).await;
        let parks = !self.world().deaf;
        self.show(|view| (view.parked, view.steady) = (parks, !parks));
        done.map_err(|_| Lost)
    }

    fn taken(&self, _: &Endpoint) {
        self.world().deeds.push(Deed::Taken);
    }

    fn cancel(&self) {
        self.world().deeds.push(Deed::Cancel);
        self.world().parked = false;
        self.show(|view| (view.parked, view.steady) = (false, true));
    }

    fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }
}

fn host(node: SocketAddr) -> u8 {
    (101..=103).find(|&host| self::node(host) == node).unwrap()
}

pub(super) fn order() -> Order {
    Order { master: "mymaster".to_owned(), to: None, timeout_ms: 5000, dry_run: false }
}

/// For how long a switchover took, in paused time.
pub(super) struct Watch(Instant);

impl Watch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
