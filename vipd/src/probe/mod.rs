//! `vipd probe`: what a failover costs clients, measured in packets and milliseconds from a client's
//! place, whatever moves the VIP. No vipd is needed at the other end.
//!
//! Each layer sends by a schedule that never waits for answers, and notes what came back when, by
//! CLOCK_MONOTONIC: single packets in [`packet`], by threads of their own with the kernel's times;
//! real clients in [`clients`]. [`session`] is one run. After it, [`shots`] finds out what that says
//! about the VIP; [`report`] is the document, from which the text and the page are made.

pub mod clients;
pub mod expect;
pub mod figures;
mod layers;
pub mod live;
pub mod moment;
pub mod numbers;
pub mod output;
pub mod packet;
pub mod page;
mod progress;
pub mod report;
pub mod sentinels;
pub mod session;
pub mod settings;
pub mod shots;
mod summary;
mod text;
pub mod trigger;
pub mod vipd_record;
pub mod who_has;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::{oneshot, watch};

use self::clients::{ClientSettings, Target};
use self::expect::Expectations;
use self::layers::Packets;
use self::output::Output;
use self::packet::Capture;
use self::report::Run;
use self::sentinels::Group;
use self::session::Session;
use self::trigger::Ended;
use crate::cli::ProbeFlags;
use crate::resolve::Resolver;

pub use report::{LayerName, Report};
pub use settings::{SourcePorts, TargetFlag};

/// Exit status if it is not as `--expect` says.
const UNEXPECTED: u8 = 3;
/// Exit status if it was interrupted twice: that of a shell for SIGINT.
const ABANDONED: i32 = 130;
/// Longest time for `--restore`.
const RESTORE: Duration = Duration::from_secs(600);

/// Does what the flags say, and reports; `print` writes to standard output. See
/// [`crate::cli::ProbeFlags`].
///
/// # Errors
///
/// It could not measure; what was measured before has been reported.
pub async fn run(flags: &ProbeFlags, print: impl Fn(&str) -> Result<()>) -> Result<ExitCode> {
    let (interrupted, abandoned) = interruption()?;
    tokio::select! {
        outcome = measure_and_report(flags, print, interrupted) => outcome,
        // The other one has been dropped by then, which takes back what it had begun: files, and
        // commands that run. Answers that may still come are not waited for.
        Ok(()) = abandoned => std::process::exit(ABANDONED),
    }
}

async fn measure_and_report(
    flags: &ProbeFlags,
    print: impl Fn(&str) -> Result<()>,
    mut interrupted: watch::Receiver<bool>,
) -> Result<ExitCode> {
    let expectations: Option<Expectations> =
        flags.expect.as_deref().map(str::parse).transpose().context("--expect")?;
    let outputs = Outputs::prepare(flags)?;
    let (session, notes) = prepare(flags).await?;
    if let Some(expectations) = &expectations {
        expectations.validate(&session.layers).context("--expect")?;
    }
    for note in &notes {
        eprintln!("vipd: {note}");
    }
    let capture = match (&outputs.pcap, &session.packets) {
        (Some(output), Some(packets)) => {
            let (ifindex, ours) = packets.captured()?;
            Some(Capture::start(ifindex, ours, output.file()?)?)
        }
        (Some(_), None) => bail!("--pcap: no layer that is probed sends packets"),
        (None, _) => None,
    };
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let (mut runs, outcome) = measure_all(flags, &session, &mut interrupted).await;
    if let Some(run) = runs.first_mut() {
        run.notes.splice(..0, notes);
    }
    // What fails from here on must not keep the rest from being reported.
    let captured = capture.map(Capture::stop).transpose();
    if let (Ok(Some(captured)), Some(run)) = (&captured, runs.last_mut())
        && captured.dropped > 0
    {
        run.notes.push(format!(
            "--pcap: this host was too slow to write {} packets, some of which may have been the \
             probe's",
            captured.dropped
        ));
    }
    if runs.is_empty() {
        outcome?;
        bail!("interrupted before anything was measured");
    }
    let mut report = Report::of(&session.target, started, runs);
    if let Some(expectations) = &expectations {
        report.expectations = expectations.judge(&report.runs);
    }
    let written = outputs.write(&report, print);
    outcome?;
    captured.context("--pcap: packets are missing")?;
    written?;
    let is_whole = report.runs.len() == flags.cause.runs as usize
        && report.runs.iter().all(|run| !run.interrupted);
    if expectations.is_some() && !is_whole {
        bail!("it was interrupted, so that nothing can be said of --expect");
    }
    let missed = report.expectations.iter().any(|it| !it.holds);
    Ok(if missed { ExitCode::from(UNEXPECTED) } else { ExitCode::SUCCESS })
}

/// All runs that there were, and why there are no more.
async fn measure_all(
    flags: &ProbeFlags,
    session: &Session,
    interrupted: &mut watch::Receiver<bool>,
) -> (Vec<Run>, Result<()>) {
    let mut runs = vec![];
    for number in 1..=flags.cause.runs {
        let mut triggered = false;
        let measured = session.measure(number, interrupted, &mut triggered).await;
        // Whatever came of it: what the trigger did is to be undone, and nothing else is.
        let restored = match &flags.cause.restore {
            Some(command) if triggered => {
                trigger::run(command, number, RESTORE, std::future::pending()).await
            }
            _ => Ended::well(),
        };
        let run = match measured {
            Ok(run) => run,
            Err(error) => return (runs, Err(error.context(format!("run {number}")))),
        };
        let (is_last, trigger) = (run.interrupted, run.trigger.clone());
        runs.push(run);
        if !restored.succeeded {
            return (runs, Err(anyhow!("--restore failed: {}", restored.how)));
        }
        if is_last {
            break;
        }
        if let Some(trigger) = trigger.filter(|it| !it.succeeded) {
            return (runs, Err(anyhow!("--trigger failed: {}", trigger.outcome)));
        }
        if number < flags.cause.runs {
            tokio::select! {
                () = tokio::time::sleep(flags.cause.pause) => {}
                // Its sender lives as long as the program.
                _ = interrupted.wait_for(|&it| it) => break,
            }
        }
    }
    (runs, Ok(()))
}

/// Everything that can be found wrong before anything is sent.
async fn prepare(flags: &ProbeFlags) -> Result<(Session, Vec<String>)> {
    let mut notes = vec![];
    let watch = &flags.watch;
    let group = match watch.sentinels.as_slice() {
        [] => None,
        sentinels => Some(Group::find(sentinels, &watch.login(), watch.master.as_deref()).await?),
    };
    let to = match &flags.target {
        Some(TargetFlag(endpoint)) => {
            let address = Resolver::default().resolve(&endpoint.host, endpoint.port).await;
            Some(address.with_context(|| endpoint.host.clone())?)
        }
        None => None,
    };
    let mut layers = settings::layers(flags, to.map(|to| to.ip()))?;
    let packets = match to {
        Some(to) => Some(Packets::prepare(flags, to, &mut layers, &mut notes)?),
        None => None,
    };
    let packets = packets.filter(|packets| !packets.names().is_empty());
    let target = client_target(flags, to, group.as_ref())?;
    let name = flags.target.as_ref().map_or_else(|| target.to_string(), ToString::to_string);
    let is_client = |layer: &LayerName| matches!(layer, LayerName::Redis | LayerName::Idle);
    let clients = layers.iter().any(is_client).then(|| ClientSettings {
        target,
        timeout: flags.timeout,
        connections: flags.load.connections,
        write_rate: flags.load.write_rate,
        fresh_rate: flags.load.fresh_rate,
        idle: flags.load.idle,
    });
    let session = Session {
        target: name,
        packets,
        clients,
        layers,
        group,
        vipd: watch.vipd.clone(),
        service: to,
        duration: flags.duration,
        warm_up: flags.warm_up,
        timeout: flags.timeout,
        trigger: flags.cause.trigger.clone(),
    };
    Ok((session, notes))
}

fn client_target(
    flags: &ProbeFlags,
    to: Option<SocketAddr>,
    group: Option<&Group>,
) -> Result<Target> {
    let login = flags.login.login();
    Ok(match (&flags.target, to, group) {
        (Some(TargetFlag(endpoint)), Some(to), _) => {
            Target::fixed(endpoint, to, &login, flags.timeout)?
        }
        (_, _, Some(group)) => Target::sentinels(group, &login, flags.timeout)?,
        _ => bail!(
            "what shall be probed? Name an address, such as `vipd probe 198.18.0.250:6379`, or, for \
             clients that ask the Sentinels, --sentinel HOST:PORT"
        ),
    })
}

/// The first becomes true at the first SIGINT, SIGTERM or SIGHUP, the other one comes at the second.
fn interruption() -> Result<(watch::Receiver<bool>, oneshot::Receiver<()>)> {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, interrupted) = watch::channel(false);
    let (abandon, abandoned) = oneshot::channel();
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminations = listen(SignalKind::terminate())?;
    let mut hang_ups = listen(SignalKind::hangup())?;
    let mut next = async move || {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
            // The terminal may be gone because of what is measured.
            _ = hang_ups.recv() => {}
        }
    };
    tokio::spawn(async move {
        next().await;
        interrupt.send_replace(true);
        eprintln!("vipd: ending this run, and reading back what was written; once more: give up");
        next().await;
        // Whoever is not there any more has ended.
        let _ = abandon.send(());
        // The first is waited for by others, who trust that it lives as long as the program.
        interrupt.closed().await;
    });
    Ok((interrupted, abandoned))
}

/// The files that are asked for.
struct Outputs {
    json: Option<Output>,
    json_on_stdout: bool,
    html: Option<Output>,
    pcap: Option<Output>,
}

impl Outputs {
    fn prepare(flags: &ProbeFlags) -> Result<Self> {
        let json_on_stdout = flags.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        let prepare =
            |path: &Option<std::path::PathBuf>| path.as_deref().map(Output::prepare).transpose();
        Ok(Self {
            json: if json_on_stdout { None } else { prepare(&flags.json)? },
            json_on_stdout,
            html: prepare(&flags.html)?,
            pcap: prepare(&flags.pcap)?,
        })
    }

    fn write(self, report: &Report, print: impl Fn(&str) -> Result<()>) -> Result<()> {
        let json = format!("{}\n", serde_json::to_string_pretty(report)?);
        // One that can't be written must not keep the others from it.
        let all = [
            print(&if self.json_on_stdout { json.clone() } else { report.to_string() }),
            self.json.map_or(Ok(()), |output| output.write(&json)),
            self.html.map_or(Ok(()), |output| output.write(&page::page(report))),
            self.pcap.map_or(Ok(()), Output::finish),
        ];
        all.into_iter().collect()
    }
}
