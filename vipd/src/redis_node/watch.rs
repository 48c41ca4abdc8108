//! One node, watched for as long as the task lives.

use std::net::SocketAddr;
use std::time::Duration;

use redis::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{DEADLINES, Replication, Report, Role, Urgency, reply};
use crate::clock::Monotonic;
use crate::connect::{Backoff, Deadlines, Dialer, Error, Link, checked, text};
use crate::resolve::Resolver;

/// A node that isn't pressed is asked this often.
const ROUTINE: Duration = Duration::from_secs(1);
/// Delays between questions, and between attempts to connect, while pressed.
const PRESSING: Backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(100));
/// The same while it is suspected to be gone: not to be slowed down while the grace runs.
const SUSPECTED: Backoff = Backoff::new(Duration::from_millis(4), Duration::from_millis(4));
/// Delays between attempts to connect otherwise.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// Delays after a connection that was cut and one that was cut at once: a process that dies closes
/// its connections first, and the socket it listens on last. A moment later it is known which it is.
const DYING: Backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(20));
/// A connection that is cut after a shorter time is not reconnected at once.
const SETTLED: Duration = Duration::from_millis(100);
/// While pressed, a handshake that takes longer is better begun anew: its SYN may have been sent
/// before the node was back, and would be repeated only after a second.
const PRESSING_CONNECT: Duration = Duration::from_millis(250);

/// Watches one node. Returns only when nobody listens any more.
pub(super) async fn run(
    node: SocketAddr,
    dialer: Dialer,
    resolver: Resolver,
    reports: mpsc::Sender<Report>,
    urgency: watch::Receiver<Urgency>,
) {
    let pressing = Deadlines { connect: PRESSING_CONNECT, ..DEADLINES };
    let watcher = Watch {
        node,
        resolver,
        pressing_dialer: dialer.with_deadlines(pressing),
        dialer,
        reports,
        urgency,
        answered: None,
        pace: PRESSING,
    };
    // The only way out is that nobody listens.
    let Err(Unheard) = watcher.forever().await;
}

struct Watch {
    node: SocketAddr,
    /// Knows the name that Sentinel announced for the address, if any.
    resolver: Resolver,
    dialer: Dialer,
    pressing_dialer: Dialer,
    reports: mpsc::Sender<Report>,
    urgency: watch::Receiver<Urgency>,
    /// The request to press that the node has answered as master.
    answered: Option<u64>,
    /// Of questions while pressed.
    pace: Backoff,
}

struct Unheard;

enum Never {}

impl Watch {
    async fn forever(mut self) -> Result<Never, Unheard> {
        let mut routine = RECONNECT;
        let mut dying = DYING;
        let mut cut = None;
        loop {
            let mut is_dying = false;
            match self.connect().await {
                Some(Ok(mut link)) => {
                    let since = Instant::now();
                    self.ask_until_lost(&mut link).await?;
                    // Cut: that is how a promotion looks. Reconnect without a delay, unless the
                    // node does this all the time.
                    if since.elapsed() >= SETTLED {
                        routine.reset();
                        dying.reset();
                        cut = Some(Instant::now());
                        continue;
                    }
                }
                Some(Err(error)) => {
                    is_dying = matches!(error, Error::Closed(_))
                        && cut.is_some_and(|cut: Instant| cut.elapsed() < SETTLED);
                    self.report(Err(error), None, Monotonic::now()).await?;
                }
                // Pressed in between.
                None => {
                    self.pace = self.anew();
                    continue;
                }
            }
            let delay = if self.is_pressed() {
                self.pace.delay()
            } else if is_dying {
                dying.delay()
            } else {
                routine.delay()
            };
            tokio::select! {
                () = sleep(delay) => {}
                result = pressed_anew(&mut self.urgency) => { result?; self.pace = self.anew(); }
            }
        }
    }

    /// Connects; `None` if a new request to press came in between, which begins anew.
    async fn connect(&mut self) -> Option<Result<Link, Error>> {
        let ip = self.node.ip();
        let host = self.resolver.name_of(ip).unwrap_or_else(|| ip.to_string());
        let dialer = if self.is_pressed() { &self.pressing_dialer } else { &self.dialer };
        tokio::select! {
            link = dialer.requests(&host, self.node) => Some(link),
            Ok(()) = pressed_anew(&mut self.urgency) => None,
        }
    }

    /// Asks at once, then as often as is wanted, until the connection is lost.
    async fn ask_until_lost(&mut self, link: &mut Link) -> Result<(), Unheard> {
        let mut next_routine = Instant::now();
        loop {
            let full = Instant::now() >= next_routine;
            let (answer, replication) = tokio::select! {
                answered = question(link, full) => answered,
                () = self.reports.closed() => return Err(Unheard),
            };
            let at = Monotonic::now();
            if matches!(answer, Err(Error::Closed(_))) {
                // The next connection tells more than the loss of this one.
                return Ok(());
            }
            let lost = matches!(answer, Err(Error::Timeout { .. } | Error::Unreachable(_)));
            self.report(answer, replication, at).await?;
            if lost {
                return Ok(());
            }
            if full {
                next_routine = Instant::now() + ROUTINE;
            }
            let next = if self.is_pressed() {
                (Instant::now() + self.pace.delay()).min(next_routine)
            } else {
                next_routine
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = link.closed() => return Ok(()),
                result = pressed_anew(&mut self.urgency) => { result?; self.pace = self.anew(); }
            }
        }
    }

    async fn report(
        &mut self,
        answer: Result<Role, Error>,
        replication: Option<Replication>,
        at: Monotonic,
    ) -> Result<(), Unheard> {
        if let (Ok(Role::Master { .. }), Urgency::Pressing(request)) =
            (&answer, *self.urgency.borrow())
        {
            self.answered = Some(request);
        }
        let report = Report { node: self.node, answer, replication, at };
        self.reports.send(report).await.map_err(|_| Unheard)
    }

    fn is_pressed(&self) -> bool {
        match *self.urgency.borrow() {
            Urgency::Routine => false,
            Urgency::Pressing(request) => self.answered != Some(request),
            Urgency::Suspected(_) => true,
        }
    }

    /// The pace of a request that has just come.
    fn anew(&self) -> Backoff {
        match *self.urgency.borrow() {
            Urgency::Routine | Urgency::Pressing(_) => PRESSING,
            Urgency::Suspected(_) => SUSPECTED,
        }
    }
}

/// Asks for the role, and with `full` for INFO replication as well.
async fn question(link: &Link, full: bool) -> (Result<Role, Error>, Option<Replication>) {
    let mut questions = pipe();
    questions.cmd("ROLE");
    if full {
        questions.cmd("INFO").arg("replication");
    }
    let mut answers = match link.requests().send(&questions).await {
        Ok(answers) => answers.into_iter(),
        Err(error) => return (Err(error), None),
    };
    let role = match answers.next().map(checked) {
        Some(value) => value.and_then(|value| reply::role(&value)),
        None => Err(Error::Protocol("an answer is missing".into())),
    };
    // INFO may be forbidden; it is not needed.
    let info = answers.next().and_then(|value| checked(value).ok());
    (role, info.as_ref().and_then(text).map(reply::replication))
}

/// Returns when the node is to be pressed by a request that came after the last one seen.
async fn pressed_anew(urgency: &mut watch::Receiver<Urgency>) -> Result<(), Unheard> {
    loop {
        urgency.changed().await.map_err(|_| Unheard)?;
        match *urgency.borrow_and_update() {
            Urgency::Pressing(_) | Urgency::Suspected(_) => return Ok(()),
            Urgency::Routine => {}
        }
    }
}
