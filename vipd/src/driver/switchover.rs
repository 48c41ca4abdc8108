//! Switchovers, as the driver sees them: one at a time, each in a task of its own that asks for
//! what only the driver can do, and is shown what is served.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use super::Driver;
use crate::clock::Monotonic;
use crate::config::Config;
use crate::connect::SetupError;
use crate::control::{self, Answer, Response};
use crate::failover::{Desired, Event, State};
use crate::model::MasterId;
use crate::resolve::Resolver;
use crate::switchover::{self, Ask, Line, Nodes, Order, Progress, Record, Remote, View};
use crate::timeline::Trigger;

/// One switchover asks for three things.
const ASKS: usize = 8;
/// The longest that one may take to undo what it did, when vipd stops.
const UNDOING: Duration = Duration::from_secs(3);

/// The switchover that is under way, or was.
pub(super) struct Switchovers {
    asks: mpsc::Sender<Ask>,
    /// Held by the one that is under way.
    turn: Arc<Mutex<()>>,
    last: Option<Last>,
    /// Priorities that are to be set back.
    record: Arc<Record>,
}

struct Last {
    master: MasterId,
    view: watch::Sender<View>,
    /// Dropped to end it early.
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Switchovers {
    /// Takes over what an earlier vipd with this control socket has left, and pays it.
    pub(super) fn new(config: &Config) -> Result<(Self, mpsc::Receiver<Ask>), SetupError> {
        let (asks, asked) = mpsc::channel(ASKS);
        let record = Arc::new(Record::open(&config.daemon.control_socket));
        let turn = Arc::<Mutex<()>>::default();
        if !record.owed().is_empty() {
            let nodes = Nodes::new(&config.redis.login, Resolver::default())?;
            let (record, turn) = (Arc::clone(&record), Arc::clone(&turn));
            tokio::spawn(async move { switchover::pay(&record, &nodes, &turn).await });
        }
        Ok((Self { asks, turn, last: None, record }, asked))
    }

    /// Whether one is under way.
    pub(super) fn under_way(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// Lets the one that is under way undo what it did.
    /// Returns whose it was: what it still wants of the core, nobody hears any more.
    pub(super) async fn stop(&mut self) -> Option<MasterId> {
        let Last { master, stop, task, .. } = self.last.take()?;
        drop(stop);
        if timeout(UNDOING, task).await.is_err() {
            warn!("a switchover was cut short: see whether writers are paused");
            for owed in self.record.owed() {
                warn!("{owed}: set it by hand, or the next start of vipd tries to");
            }
        }
        Some(master)
    }

    /// Shows the one that is under way what is served now.
    pub(super) fn show(&self, desired: &[Desired], now: Monotonic) {
        let Some(last) = &self.last else { return };
        let Some(desired) = desired.get(last.master.0) else { return };
        last.view.send_if_modified(|view| {
            let seen = view_of(desired);
            let changed =
                (seen.serves, seen.steady, seen.parked) != (view.serves, view.steady, view.parked);
            if seen.serves != view.serves && seen.serves.is_some() {
                (view.since, view.first_packet) = (now, None);
            }
            (view.serves, view.steady, view.parked) = (seen.serves, seen.steady, seen.parked);
            changed
        });
    }

    /// The first packet went to a new master.
    pub(super) fn first_packet(&self, master: MasterId, at: Monotonic) {
        if let Some(last) = self.last.as_ref().filter(|last| last.master == master) {
            last.view.send_modify(|view| view.first_packet = Some(at));
        }
    }
}

impl Driver {
    /// Begins a switchover, and answers step by step.
    pub(super) fn switch_over(&mut self, order: Order) -> Answer {
        let refused = |why: String| Answer::Now(Response::Error(why));
        let Some(master) = self.knowledge.master(&order.master) else {
            let name = &order.master;
            return refused(format!("this vipd has no service of the master {name:?}"));
        };
        let Ok(turn) = Arc::clone(&self.switchovers.turn).try_lock_owned() else {
            return refused("another switchover is in progress".to_owned());
        };
        let desired = self.failover.desired().get(master.0);
        let view = desired.map(view_of).unwrap_or_default();
        let (view, seen) = watch::channel(view);
        let record = Arc::clone(&self.switchovers.record);
        let line = Line { master, asks: self.switchovers.asks.clone(), view: seen };
        let remote = match Remote::new(&self.config, &order.master, record, line) {
            Ok(remote) => remote,
            Err(error) => return refused(error.to_string()),
        };
        let (stop, mut stopped) = watch::channel(());
        let (heard, steps) = control::steps();
        let task = tokio::spawn(async move {
            let progress = Progress::new(&order.master, heard.clone());
            let stop = async move {
                // Nothing is ever sent: this is that the sender is gone.
                while stopped.changed().await.is_ok() {}
            };
            let last = match switchover::run(&remote, &order, progress, stop).await {
                Ok(Some(switched)) => Response::Switched(Box::new(switched)),
                Ok(None) => Response::Done,
                Err(failure) => Response::Error(failure.to_string()),
            };
            // Whoever has the last answer may ask for another one.
            drop(turn);
            // Whoever asked may be gone.
            let _ = heard.send(last).await;
        });
        self.switchovers.last = Some(Last { master, view, stop, task });
        Answer::Steps(steps)
    }

    /// What a switchover wants of the core.
    pub(super) fn switchover_asks(&mut self, ask: Ask) {
        match ask {
            Ask::Park { master, limit, done } => {
                let why = Trigger::Switchover;
                self.tell(Monotonic::now(), Event::Ordered { master, why, limit });
                // It may have been cut short.
                let _ = done.send(());
            }
            Ask::Taken { master, sentinel } => {
                if let Some(sentinel) = self.knowledge.sentinel(&sentinel) {
                    self.tell(Monotonic::now(), Event::Taken { master, sentinel });
                }
            }
            Ask::Cancel { master } => self.tell(Monotonic::now(), Event::Cancelled { master }),
        }
    }
}

fn view_of(desired: &Desired) -> View {
    View {
        serves: desired.serves(),
        steady: desired.state == State::Serving,
        parked: desired.parked,
        ..View::default()
    }
}
