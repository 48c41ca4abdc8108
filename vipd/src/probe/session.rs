//! One run: everything begins at once, the trigger is pulled, everything ends, and what was found is
//! put together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::clients::{Addresses, ClientSettings, Idle, Writers};
use super::layers::{Packets, Running};
use super::live::Live;
use super::packet::End;
use super::progress::Progress;
use super::report::{self, Layer, LayerName, Mark, Run, Source};
use super::sentinels::Group;
use super::shots::Window;
use super::trigger::{self, Ended};
use super::{vipd_record, who_has};
use crate::clock::Monotonic;

/// What every run of a session does.
pub struct Session {
    /// What is probed, for people.
    pub target: String,
    /// Layers of packets.
    pub packets: Option<Packets>,
    /// Layers of clients.
    pub clients: Option<ClientSettings>,
    /// Which of both there are.
    pub layers: Vec<LayerName>,
    /// `--sentinel`.
    pub group: Option<Group>,
    /// `--vipd`, and the service to look for there.
    pub vipd: Option<PathBuf>,
    /// Of that service.
    pub service: Option<std::net::SocketAddr>,
    /// `--duration`.
    pub duration: Duration,
    /// `--warm-up`.
    pub warm_up: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--trigger`.
    pub trigger: Option<String>,
}

/// Longer than a layer that is well is without a good answer.
const QUIET: Duration = Duration::from_millis(500);
/// Between the order to begin and the beginning: time for threads to start.
const LEAD: Duration = Duration::from_millis(50);

impl Session {
    /// One run. Turns `interrupted` into its early end, and says in `triggered` whether the trigger was
    /// pulled, whatever comes of it.
    ///
    /// # Errors
    ///
    /// A client can't begin; nobody answers anything; the probe itself fails.
    pub async fn measure(
        &self,
        number: u32,
        interrupted: &mut watch::Receiver<bool>,
        triggered: &mut bool,
    ) -> Result<Run> {
        let mut clients = Clients::open(self).await?;
        let marks = match &self.group {
            Some(group) => Some((group.nodes().await, group.follow().await)),
            None => None,
        };
        let begin = Monotonic::now() + LEAD;
        let end = Arc::new(End::new(begin + self.duration));
        let running = match &self.packets {
            Some(packets) => packets.start(begin, &end, self.timeout)?,
            None => vec![],
        };
        clients.begin(begin)?;
        let lives = lives(&running, &clients);
        let progress = Progress::start(number, &lives, self.duration);

        let cause = self.cause(number, &lives, begin, &end, interrupted, triggered).await;
        progress.stop().await;
        let ended = Window { origin: begin, trigger: None, end: end.at() };
        let (pulled, was_interrupted) = match cause {
            Ok(cause) => cause,
            Err(error) => {
                // What nobody answers needs no reading back.
                end.at_latest(Monotonic::now());
                return Err(error);
            }
        };

        let joined = tokio::task::spawn_blocking(move || {
            running.into_iter().map(|it| (it.name, it.volley.join())).collect::<Vec<_>>()
        });
        let (joined, (written, waited)) = tokio::join!(joined, clients.stop());
        let volleys = joined.map_err(|_| anyhow!("a thread of the probe panicked"))?;

        let window = Window { trigger: pulled.as_ref().map(|it| it.at), ..ended };
        let mut notes = vec![];
        let mut moments = vec![];
        let mut addresses = Addresses::new();
        if let (Some((before, marks)), Some(group)) = (marks, &self.group) {
            addresses = before;
            addresses.extend(group.nodes().await);
            let (seen, unheard) = marks.stop().await;
            moments.extend(seen);
            notes.extend(unheard);
        }
        if let Some(socket) = &self.vipd {
            match vipd_record::moments(socket, &window, self.service).await {
                Ok(record) => moments.extend(record),
                Err(why) => notes.push(why),
            }
        }
        let mut layers: Vec<Layer> = vec![];
        for (name, record) in &volleys {
            let record = match record {
                Ok(record) => record,
                // What the others found stays.
                Err(error) => {
                    notes.push(format!("{} could not be measured: {error:#}", name.name()));
                    continue;
                }
            };
            let mut layer = record.layer(*name, &window, self.timeout);
            if matches!(name, LayerName::Arp | LayerName::Nd) {
                layer.owners = Some(who_has::owners(record, &window));
            }
            if record.dropped > 0 {
                notes.push(format!(
                    "{}: this host was too slow to take {} packets that had arrived: up to as many \
                     probes may have been answered that are told to be lost",
                    name.name(),
                    record.dropped
                ));
            }
            layers.push(layer);
        }
        if let Some(written) = written {
            layers.push(written.layer(&window, &addresses));
            notes.extend(written.notes());
        }
        if let Some(waited) = waited {
            layers.push(waited.layer(&window, &addresses));
            notes.extend(waited.notes());
        }
        layers.sort_by_key(|layer| layer.name);
        let mut marks: Vec<Mark> = moments.into_iter().filter_map(|it| it.mark(&window)).collect();
        let trigger = pulled.map(|pulled| pulled.told(&window));
        if let Some(trigger) = &trigger {
            marks.push(Mark {
                at_ns: trigger.at_ns,
                source: Source::Trigger,
                who: String::new(),
                what: trigger.command.clone(),
            });
            if !trigger.succeeded {
                notes.push(format!("the trigger failed: {}", trigger.outcome));
            }
        }
        marks.sort_by_key(|mark| mark.at_ns);
        notes.extend(silent_layers(&layers));
        Ok(Run {
            number,
            origin_ns: begin.0,
            length_ns: window.length(),
            interrupted: was_interrupted,
            trigger,
            layers,
            marks,
            notes,
        })
    }

    /// The warm-up, the trigger, and the time after it.
    async fn cause(
        &self,
        number: u32,
        lives: &[(LayerName, Arc<Live>)],
        begin: Monotonic,
        end: &End,
        interrupted: &mut watch::Receiver<bool>,
        triggered: &mut bool,
    ) -> Result<(Option<Pulled>, bool)> {
        if !wait(begin + self.warm_up, interrupted).await {
            end.at_latest(Monotonic::now());
            return Ok((None, true));
        }
        if !is_only_listening(lives) && lives.iter().all(|(_, live)| live.read().good == 0) {
            bail!(nobody_answers(&self.target, lives));
        }
        let Some(command) = &self.trigger else {
            let undisturbed = wait(end.at(), interrupted).await;
            end.at_latest(Monotonic::now());
            return Ok((None, !undisturbed));
        };
        let at = Monotonic::now();
        if let Some(why) = unwell(lives, at, at.since(begin)) {
            bail!("the trigger was not pulled, since {} was not well before: {why}", self.target);
        }
        let last = end.at();
        *triggered = true;
        let mut interruption = interrupted.clone();
        let stop = async {
            // The sender lives as long as the program.
            let _ = interruption.wait_for(|&it| it).await;
            // What is measured ends here; the command may take a moment longer.
            end.at_latest(Monotonic::now());
        };
        let ended = trigger::run(command, number, last.since(at), stop).await;
        let ended_at = Monotonic::now();
        let undisturbed = wait(last, interrupted).await;
        end.at_latest(Monotonic::now());
        Ok((Some(Pulled { command: command.clone(), at, ended_at, ended }), !undisturbed))
    }
}

/// A trigger, by the clock.
struct Pulled {
    command: String,
    at: Monotonic,
    ended_at: Monotonic,
    ended: Ended,
}

impl Pulled {
    fn told(self, window: &Window) -> report::Trigger {
        report::Trigger {
            command: self.command,
            at_ns: window.at(self.at),
            ended_ns: Some(window.at(self.ended_at)),
            outcome: self.ended.how,
            succeeded: self.ended.succeeded,
        }
    }
}

/// The layers of clients, of one run.
struct Clients {
    writers: Option<(Writers, Arc<Live>)>,
    idle: Option<(Idle, Arc<Live>)>,
}

impl Clients {
    async fn open(session: &Session) -> Result<Self> {
        let mut clients = Self { writers: None, idle: None };
        let Some(settings) = &session.clients else { return Ok(clients) };
        let live = || Arc::new(Live::default());
        if session.layers.contains(&LayerName::Redis) {
            let live = live();
            let writers = Writers::open(settings, Arc::clone(&live)).await;
            clients.writers = Some((writers.context("layer redis")?, live));
        }
        if session.layers.contains(&LayerName::Idle) {
            let live = live();
            let idle = Idle::start(settings, Arc::clone(&live)).await;
            clients.idle = Some((idle.context("layer idle")?, live));
        }
        Ok(clients)
    }

    fn begin(&mut self, begin: Monotonic) -> Result<()> {
        match &mut self.writers {
            Some((writers, _)) => writers.start(begin),
            None => Ok(()),
        }
    }

    async fn stop(self) -> (Option<super::clients::Written>, Option<super::clients::Waited>) {
        let written = async {
            match self.writers {
                Some((writers, _)) => Some(writers.stop().await),
                None => None,
            }
        };
        let waited = async {
            match self.idle {
                Some((idle, _)) => Some(idle.stop().await),
                None => None,
            }
        };
        tokio::join!(written, waited)
    }
}

fn lives(running: &[Running], clients: &Clients) -> Vec<(LayerName, Arc<Live>)> {
    let mut lives: Vec<_> = running.iter().map(|it| (it.name, Arc::clone(&it.live))).collect();
    if let Some((_, live)) = &clients.writers {
        lives.push((LayerName::Redis, Arc::clone(live)));
    }
    if let Some((_, live)) = &clients.idle {
        lives.push((LayerName::Idle, Arc::clone(live)));
    }
    lives
}

/// Waits until `at`; `false` if it was interrupted before.
async fn wait(at: Monotonic, interrupted: &mut watch::Receiver<bool>) -> bool {
    let left = at.since(Monotonic::now());
    tokio::select! {
        () = sleep_until(Instant::now() + left) => true,
        // The sender lives as long as the program.
        _ = interrupted.wait_for(|&it| it) => false,
    }
}

/// Whoever asks nothing has no answers to miss.
fn is_only_listening(lives: &[(LayerName, Arc<Live>)]) -> bool {
    lives.iter().all(|(_, live)| live.read().sent == 0)
}

/// A layer is well that had a good answer just now. One that never had any is filtered on the way, and
/// told of at the end.
fn unwell(lives: &[(LayerName, Arc<Live>)], now: Monotonic, passed: Duration) -> Option<String> {
    lives.iter().find_map(|(name, live)| {
        let (name, it) = (name.name(), live.read());
        if name == LayerName::Idle.name() {
            let gone = it.bad > 0;
            return gone.then(|| format!("idle: {} connections have ended already", it.bad));
        }
        let interval = passed / u32::try_from(it.sent.max(1)).unwrap_or(u32::MAX);
        let quiet = now.since(it.last_good?);
        let is_long = it.sent > 0 && quiet > QUIET.max(interval * 3);
        is_long.then(|| format!("{name}: no good answer for {:.1} s", quiet.as_secs_f64()))
    })
}

fn nobody_answers(target: &str, lives: &[(LayerName, Arc<Live>)]) -> String {
    let told: Vec<_> = lives
        .iter()
        .map(|(name, live)| {
            let it = live.read();
            let refused = if it.bad > 0 { format!(", {} refused", it.bad) } else { String::new() };
            format!("{}: {} sent, none answered{refused}", name.name(), it.sent)
        })
        .collect();
    format!(
        "{target} does not answer ({}). Is it up, is the address right, and does a firewall let the \
         probe through?",
        told.join("; ")
    )
}

/// Those that said nothing while others did.
fn silent_layers(layers: &[Layer]) -> Vec<String> {
    let never =
        |layer: &&Layer| layer.schedule.is_some_and(|it| it.sent > 0 && layer.lost == it.sent);
    let tell = |layer: &Layer| {
        format!("{} never had a good answer: is it filtered on the way?", layer.name.name())
    };
    layers.iter().filter(never).map(tell).collect()
}
