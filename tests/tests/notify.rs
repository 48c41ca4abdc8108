//! `vipd notify` where Sentinel's users have their script: a hint, and never an order.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Options};

#[test]
fn sentinel_runs_it_as_its_script_and_a_late_retry_changes_nothing() {
    scenario(Options::default(), |lab| {
        let script = Script::write(lab)?;
        for sentinel in &mut lab.sentinels {
            sentinel.kill()?;
            let config = sentinel.log().with_file_name("sentinel.conf");
            let mut text = fs::read_to_string(&config)?;
            text += &format!(
                "\nsentinel client-reconfig-script {MASTER_NAME} {}\n",
                script.path.display()
            );
            fs::write(&config, text)?;
            sentinel.start()?;
        }
        lab.wait_settled()?;

        let first = lab.master()?;
        let traffic = Traffic::start(lab, first)?;
        lab.nodes[first].kill()?;
        let second = lab.wait_failed_over(first)?;
        traffic.wait_served_by(&lab.nodes[second])?;
        let (from, to) = (lab.nodes[first].address(), lab.nodes[second].address());
        // Each Sentinel runs it once, and is told that it was heard.
        let place = format!("{} {} {} {}", from.ip(), from.port(), to.ip(), to.port());
        let told =
            |line: &&str| line.starts_with(&format!("0 {MASTER_NAME} ")) && line.ends_with(&place);
        wait_until("all three Sentinels have told vipd", PATIENCE, || {
            let said = script.said()?;
            ensure!(said.lines().all(|line| told(&line)), "not heard: {said}");
            Ok(said.lines().count() == lab.sentinels.len())
        })?;

        lab.nodes[first].start()?;
        lab.wait_settled()?;
        lab.sentinels[0].fail_over()?;
        let third = lab.wait_failed_over(second)?;
        traffic.wait_served_by(&lab.nodes[third])?;

        // What the first failover's scripts said comes once more, from each.
        let before = lab.daemon().status()?;
        let failures =
            || -> usize { traffic.ledgers().iter().map(|ledger| ledger.failures.len()).sum() };
        let noticed = failures();
        let (from, to) = (from.ip().to_string(), to.ip().to_string());
        for _ in 0..10 {
            let late = [MASTER_NAME, "leader", "start", &from, "8000", &to, "8000"];
            ensure!(exit_code(&script.link, lab.daemon().socket(), &late)? == 0);
        }
        traffic.wait_served_by(&lab.nodes[third])?;
        let after = lab.daemon().status()?;
        ensure!(after.services[0].generation == before.services[0].generation, "it flipped");
        ensure!(after.services[0].backend == before.services[0].backend, "it moved");
        ensure!(after.failovers.len() == before.failovers.len(), "it is on record");
        ensure!(failures() == noticed, "a client noticed");
        verify_after_failover(lab, &traffic.stop(), third)
    });
}

#[test]
fn its_exit_status_tells_sentinel_whether_to_try_again() {
    // Another user may use this socket, which is in a place that another user can reach.
    let hints = std::env::temp_dir().join(format!("vipd-hints-{}.sock", std::process::id()));
    let daemon = format!("notify_socket = {hints:?}\n");
    scenario(Options { daemon, ..Options::default() }, |lab| {
        let (binary, control) =
            (lab.daemon().binary().to_owned(), lab.daemon().socket().to_owned());
        let notify = |socket: &Path, words: &[&str]| {
            let words = [&["notify"], words].concat();
            exit_code(&binary, socket, &words)
        };
        let to = ["leader", "start", "198.18.0.101", "8000", "198.18.0.102", "8000"];
        let named = |master: &'static str| [&[master], &to[..]].concat();
        for socket in [&control, &hints] {
            ensure!(notify(socket, &named(MASTER_NAME))? == 0, "told");
            ensure!(notify(socket, &named("another"))? == 2, "an unknown master");
            ensure!(notify(socket, &to)? == 2, "six arguments");
        }

        // By its file, as a user who may not use the control socket.
        let link = lab.daemon().log().with_file_name("vipd-notify");
        fs::copy(&binary, &link)?;
        let status = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&link)
            .args(named(MASTER_NAME))
            .env("VIPD_CONFIG", lab.daemon().config())
            .status()?;
        ensure!(status.code() == Some(0), "as another user: {status}");

        lab.daemon_mut().stop()?;
        ensure!(!hints.exists(), "the socket goes with vipd");
        for socket in [&control, &hints] {
            ensure!(notify(socket, &named(MASTER_NAME))? == 1, "nobody hears: try again");
        }
        Ok(())
    });
}

/// What a user would write who wants to see what became of it.
struct Script {
    path: PathBuf,
    /// vipd under the name that needs no argument.
    link: PathBuf,
    said: PathBuf,
}

impl Script {
    fn write(lab: &Lab) -> Result<Self> {
        let beside = |name| lab.daemon().log().with_file_name(name);
        let it = Self {
            path: beside("reconfig.sh"),
            link: beside("vipd-notify"),
            said: beside("notified"),
        };
        std::os::unix::fs::symlink(lab.daemon().binary(), &it.link)?;
        let text = format!(
            "#!/bin/sh\nVIPD_SOCKET={} {} \"$@\"\ncode=$?\necho \"$code $*\" >>{}\nexit $code\n",
            lab.daemon().socket().display(),
            it.link.display(),
            it.said.display()
        );
        fs::write(&it.path, text)?;
        fs::set_permissions(&it.path, fs::Permissions::from_mode(0o755))?;
        Ok(it)
    }

    /// An exit status and seven arguments a line.
    fn said(&self) -> Result<String> {
        fs::read_to_string(&self.said).context("no Sentinel has run the script")
    }
}

fn exit_code(program: &Path, socket: &Path, words: &[&str]) -> Result<i32> {
    let output = Command::new(program).args(words).env("VIPD_SOCKET", socket).output()?;
    output.status.code().with_context(|| format!("{words:?} ended with {}", output.status))
}
