//! A probe that is interrupted, its triggers, and what it leaves behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vipd::probe::report::LayerName;
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Measured, Rule, Site, Tap};
use vipd_tests::wait::{PATIENCE, wait_until};

#[test]
fn whoever_is_interrupted_reports_what_was_measured() -> Result<()> {
    let served = Served::up()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut probe = served.probe(&["--duration=60s"])?;
        let more = served.answers.count(0) + 500;
        probe.wait_until("it is under way", || Ok(served.answers.count(0) > more))?;
        probe.signal(signal)?;
        let measured = probe.end()?;
        let (run, layer) = (measured.run()?, measured.layer(LayerName::Syn)?);
        ensure!(run.interrupted, "{signal}: {run:?}");
        let sent = layer.schedule.context("no schedule")?.sent;
        ensure!((500..60_000).contains(&sent), "{signal}: {sent} sent");
        ensure!(layer.fates.get("syn_ack") == Some(&sent) && layer.lost == 0, "{layer:?}");
        ensure!(layer.blackout.is_none() || layer.lost == 0, "its end is no outage");
        let length = Duration::from_nanos(run.length_ns);
        ensure!(length < Duration::from_secs(30), "{signal}: it took {length:?}");
    }
    served.nothing_left()
}

#[test]
fn whoever_is_interrupted_in_the_warm_up_reports_too() -> Result<()> {
    let served = Served::up()?;
    let mut probe = served.probe(&["--duration=60s", "--warm-up=50s", "--trigger=exit 1"])?;
    probe.wait_until("it is under way", || Ok(served.answers.count(0) > 100))?;
    probe.signal(Signal::SIGINT)?;
    let measured = probe.end()?;
    let run = measured.run()?;
    ensure!(run.interrupted && run.trigger.is_none(), "{run:?}");
    served.nothing_left()
}

#[test]
fn whoever_is_interrupted_twice_leaves_nothing_behind() -> Result<()> {
    let served = Served::up()?;
    let pids = served.site.directory().join("pids");
    let restore = format!("--restore=sleep 1000 & echo $! $$ >{}; sleep 1000", pids.display());
    let mut probe = served.probe(&["--duration=500ms", "--trigger=true", &restore])?;
    probe.wait_until("it is restoring", || written(&pids))?;
    probe.signal(Signal::SIGINT)?;
    probe.signal(Signal::SIGTERM)?;
    let measured = probe.end()?;
    measured.must_end(130, &[])?;
    ensure!(measured.report.is_none(), "{:?}", measured.report);
    gone(&pids)?;
    served.nothing_left()
}

#[test]
fn a_trigger_that_fails_is_an_error_and_what_was_measured_is_reported() -> Result<()> {
    let served = Served::up()?;
    let probe = served.probe(&[
        "--duration=1s",
        "--runs=3",
        "--trigger=echo the switch is on fire >&2; exit 7",
    ])?;
    let measured = probe.end()?;
    measured.must_end(1, &["--trigger failed", "7", "the switch is on fire"])?;
    let report = measured.report.context("no report")?;
    let [run] = report.runs.as_slice() else {
        anyhow::bail!("it went on: {} runs", report.runs.len())
    };
    let trigger = run.trigger.as_ref().context("no trigger")?;
    ensure!(!trigger.succeeded && trigger.outcome.contains("on fire"), "{trigger:?}");
    ensure!(run.notes.iter().any(|it| it.contains("on fire")), "{:?}", run.notes);
    let layer = run.layer(LayerName::Syn).context("no layer")?;
    ensure!(layer.fates.get("syn_ack").is_some_and(|&it| it > 500), "{layer:?}");
    served.nothing_left()
}

#[test]
fn a_trigger_that_never_ends_is_killed_with_its_children() -> Result<()> {
    let served = Served::up()?;
    let pids = served.site.directory().join("pids");
    let script = format!(
        "trap '' TERM INT; (trap '' TERM INT; sleep 1000) & echo $! $$ >{}; sleep 1000",
        pids.display()
    );
    let probe = served.probe(&["--duration=1s", &format!("--trigger={script}")])?;
    let measured = probe.end()?;
    measured.must_end(1, &["--trigger failed: ended from outside"])?;
    ensure!(measured.report.is_some(), "there is no report");
    gone(&pids)?;

    // The same if somebody interrupts it.
    fs::remove_file(&pids)?;
    let mut probe = served.probe(&["--duration=60s", &format!("--trigger={script}")])?;
    probe.wait_until("the trigger is under way", || written(&pids))?;
    probe.signal(Signal::SIGINT)?;
    let measured = probe.end()?;
    let report = measured.report.context("there is no report")?;
    let trigger = report.runs[0].trigger.as_ref().context("no trigger")?;
    ensure!(report.runs[0].interrupted && !trigger.succeeded, "{trigger:?}");
    ensure!(trigger.outcome.contains("interrupted"), "{trigger:?}");
    gone(&pids)?;
    served.nothing_left()
}

#[test]
fn runs_are_triggered_and_restored_in_turn() -> Result<()> {
    let served = Served::up()?;
    let story = served.site.directory().join("story");
    let tell = |what: &str| format!("echo {what} $VIPD_PROBE_RUN >>{}", story.display());
    let probe = served.probe(&[
        "--duration=700ms",
        "--runs=2",
        "--pause=0s",
        &format!("--trigger={}", tell("trigger")),
        &format!("--restore={}", tell("restore")),
    ])?;
    let measured = probe.end()?;
    measured.must_end(0, &[])?;
    let report = measured.report.context("no report")?;
    let told = fs::read_to_string(&story)?;
    ensure!(told == "trigger 1\nrestore 1\ntrigger 2\nrestore 2\n", "{told}");
    ensure!(report.runs.iter().map(|it| it.number).eq([1, 2]), "{report:?}");
    for run in &report.runs {
        let trigger = run.trigger.as_ref().context("no trigger")?;
        ensure!(trigger.succeeded && trigger.at_ns >= 200_000_000, "{trigger:?}");
        ensure!(trigger.ended_ns.is_some_and(|it| it >= trigger.at_ns), "{trigger:?}");
        ensure!(run.marks.iter().any(|it| it.at_ns == trigger.at_ns), "{:?}", run.marks);
    }
    let [one, two] = [0, 1].map(|it| report.runs[it].origin_ns);
    ensure!(one + report.runs[0].length_ns <= two, "the runs overlap");
    let figure = report.summary.iter().find(|it| it.layer == LayerName::Syn && it.name == "p50");
    ensure!(figure.is_some_and(|it| it.values.len() == 2), "{:?}", report.summary);
    served.nothing_left()
}

#[test]
fn a_restore_that_fails_ends_it_with_a_report() -> Result<()> {
    let served = Served::up()?;
    let probe = served.probe(&[
        "--duration=600ms",
        "--runs=2",
        "--pause=0s",
        "--trigger=true",
        "--restore=echo too late >&2; false",
    ])?;
    let measured: Measured = probe.end()?;
    measured.must_end(1, &["--restore failed", "too late"])?;
    ensure!(measured.report.is_some_and(|it| it.runs.len() == 1), "not one run");
    served.nothing_left()
}

/// A site with a listener.
struct Served {
    site: Site,
    answers: Tap,
    _listener: std::net::TcpListener,
}

impl Served {
    fn up() -> Result<Self> {
        let site = Site::up()?;
        site.give_vips(0)?;
        let listener = site.listen(0, true)?;
        let answers = Tap::attach(&site.client.namespace, "eth0", &[Rule::syn_ack(true, PORT)])?;
        Ok(Self { site, answers, _listener: listener })
    }

    fn probe(&self, arguments: &[&str]) -> Result<vipd_tests::truth::Running> {
        let target = Site::vip(true).to_string();
        // What is given twice is refused, so no more than every test needs.
        let warm_up = arguments.iter().any(|it| it.starts_with("--warm-up"));
        let common: &[&str] = &[&target, "--layers=syn", "--timeout=300ms", "--warm-up=200ms"]
            [..4 - usize::from(warm_up)];
        self.site.probe(&[common, arguments].concat())
    }

    /// Nothing runs on the client, and no file is half written.
    fn nothing_left(&self) -> Result<()> {
        let client = self.site.client.namespace.name();
        wait_until("nothing runs on the client", PATIENCE, || {
            let mut ip = std::process::Command::new("ip");
            let pids = vipd_tests::namespace::output(ip.args(["netns", "pids", client]))?;
            ensure!(pids.trim().is_empty(), "{pids} still run");
            Ok(true)
        })?;
        for entry in fs::read_dir(self.site.directory())? {
            let name = entry?.file_name();
            ensure!(!name.to_string_lossy().ends_with(".part"), "{name:?} is left");
        }
        Ok(())
    }
}

fn written(pids: &Path) -> Result<bool> {
    Ok(fs::read_to_string(pids).is_ok_and(|it| it.ends_with('\n')))
}

/// Waits until the processes of which the file tells are gone.
fn gone(pids: &Path) -> Result<()> {
    let told = fs::read_to_string(pids)?;
    ensure!(told.split_whitespace().count() == 2, "{told}");
    for pid in told.split_whitespace() {
        let is_gone = || {
            let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
            // A zombie is nobody's any more, until somebody reaps it.
            Ok(stat.map_or(true, |it| it.rsplit(')').next().is_some_and(|it| it.starts_with(" Z"))))
        };
        wait_until(format_args!("process {pid} of the trigger is gone"), PATIENCE, is_gone)?;
    }
    Ok(())
}
