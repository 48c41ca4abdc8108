//! A changed configuration under a vipd that runs: what is not concerned sees nothing of it.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use vipd_tests::client::Dialer;
use vipd_tests::daemon::Daemon;
use vipd_tests::outcome::Outcome;
use vipd_tests::process::tail;
use vipd_tests::scenario::{Traffic, scenario, verify_after_failover};
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::status::Service;
use vipd_tests::wait::{PATIENCE, wait_for, wait_until};
use vipd_tests::{Lab, Options};

/// Another VIP, and another name for the same master.
const SECOND: &str = "198.18.0.251";
const OTHER_NAME: &str = "another";

#[test]
fn vips_come_change_and_go_and_the_clients_of_another_notice_nothing() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        let backend = lab.nodes[master].address();
        let original = fs::read_to_string(lab.daemon().config())?;
        let with_second = |name: &str| {
            let vip = format!("[[vip]]\naddress = \"{SECOND}\"\n[[vip.service]]\nport = 7000\n");
            format!("{original}{vip}master = \"{name}\"\n")
        };
        let traffic = Traffic::start(lab, master)?;
        let before = lab.daemon().status()?;

        // One more, which is served beside the first.
        reload(lab.daemon(), &with_second(MASTER_NAME))?;
        lab.daemon().wait_serving(backend)?;
        let second = Dialer { to: format!("{SECOND}:7000").parse()?, ..lab.dialer() };
        ensure!(second.connect().is_ok(), "the new VIP leads nowhere");
        traffic.wait_served_by(&lab.nodes[master])?;

        // The same VIP under another name of the master.
        for sentinel in &lab.sentinels {
            let (ip, port) = (backend.ip().to_string(), backend.port().to_string());
            let () = sentinel.ask(&["SENTINEL", "MONITOR", OTHER_NAME, &ip, &port, "2"])?;
        }
        reload(lab.daemon(), &with_second(OTHER_NAME))?;
        wait_until("the VIP is served under the other name", PATIENCE, || {
            let service = service(lab.daemon(), SECOND)?.context("it is gone")?;
            Ok(service.master == OTHER_NAME && service.backend == Some(backend))
        })?;
        lab.daemon().wait_serving(backend)?;
        ensure!(second.connect().is_ok(), "the renamed VIP leads nowhere");
        traffic.wait_served_by(&lab.nodes[master])?;

        // Gone again, this time by SIGHUP.
        fs::write(lab.daemon().config(), &original)?;
        hang_up(lab.daemon())?;
        wait_until("the VIP is gone", PATIENCE, || Ok(service(lab.daemon(), SECOND)?.is_none()))?;
        ensure!(second.connect().is_err(), "the VIP still answers");
        traffic.wait_served_by(&lab.nodes[master])?;

        // Of all that, the first one saw nothing, and it is as it was.
        for ledger in traffic.ledgers() {
            ensure!(ledger.failures.is_empty(), "{}: {:?}", ledger.client, ledger.failures);
        }
        ensure!(traffic.ledgers()[0].connections == 1, "the kept connection was not kept");
        let after = lab.daemon().status()?;
        ensure!(after.pid == before.pid, "vipd was restarted");
        ensure!(after.services[0].generation == before.services[0].generation, "it flipped");
        ensure!(after.failovers.len() == before.failovers.len(), "the record was not kept");

        // And vipd does what it did before. (Sentinels vote by address: with two names for one of them,
        // each name can get a leader, and each leader promotes whom it likes.)
        for sentinel in &lab.sentinels {
            let () = sentinel.ask(&["SENTINEL", "REMOVE", OTHER_NAME])?;
        }
        lab.nodes[master].kill()?;
        let new = lab.wait_failed_over(master)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        verify_after_failover(lab, &traffic.stop(), new)
    });
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        let original = fs::read_to_string(lab.daemon().config())?;
        let traffic = Traffic::start(lab, master)?;
        let before = lab.daemon().status()?;
        let socket = format!("control_socket = {:?}", lab.daemon().socket());
        for (old, new, said) in [
            ("mode = \"nat\"", "mode = \"natt\"", "is not a mode"),
            ("[daemon]", "[demon]", "unknown field `demon`"),
            (&socket, "control_socket = \"/run/x.sock\"", "control_socket can't be changed"),
            ("[daemon]", "[daemon]\nmax_connections = 128", "max_connections can't be changed"),
            ("[\"eth0\"]", "[\"eth0\", \"eth9\"]", "cannot add the interface eth9"),
            ("198.18.0.250", "198.18.0.50", "is an address of this host"),
            ("[redis]", "[redis]\npassword_file = \"/nonexistent\"", "/nonexistent"),
        ] {
            ensure!(original.contains(old), "the configuration has no {old:?}");
            let outcome = changed(lab.daemon(), &original.replacen(old, new, 1))?;
            outcome.must_fail(&["nothing was changed", said])?;
        }
        fs::write(lab.daemon().config(), "nonsense")?;
        hang_up(lab.daemon())?;
        wait_for("the log says why", PATIENCE, || {
            let log = tail(lab.daemon().log(), 40);
            Ok(log.contains("nothing was changed").then_some(()))
        })?;

        traffic.wait_served_by(&lab.nodes[master])?;
        for ledger in traffic.stop() {
            ensure!(ledger.failures.is_empty(), "{}: {:?}", ledger.client, ledger.failures);
        }
        let after = lab.daemon().status()?;
        ensure!(after.services[0].generation == before.services[0].generation, "it flipped");
        // The file that it runs by is still good.
        reload(lab.daemon(), &original)
    });
}

#[test]
fn an_interface_can_be_added_and_taken_away() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        let original = fs::read_to_string(lab.daemon().config())?;
        let traffic = Traffic::start(lab, master)?;
        lab.director().plug_second(50, vipd_tests::address::Segment::Back)?;
        let both = original.replacen("[\"eth0\"]", "[\"eth0\", \"eth1\"]", 1);
        reload(lab.daemon(), &both)?;
        ensure!(has_xdp(lab, "eth1")?, "the program is not on the new interface");
        let status = lab.daemon().status()?;
        ensure!(status.interfaces.len() == 2, "{:?}", status.interfaces);

        reload(lab.daemon(), &original)?;
        ensure!(!has_xdp(lab, "eth1")?, "the program is still there");
        ensure!(has_xdp(lab, "eth0")?, "and the other one's is gone");
        traffic.wait_served_by(&lab.nodes[master])?;
        for ledger in traffic.stop() {
            ensure!(ledger.failures.is_empty(), "{}: {:?}", ledger.client, ledger.failures);
        }
        Ok(())
    });
}

/// Writes the file and reloads, which must succeed.
fn reload(daemon: &Daemon, config: &str) -> Result<()> {
    changed(daemon, config)?.must_succeed(&[])
}

/// Writes the file; what `vipd reload` says to it.
fn changed(daemon: &Daemon, config: &str) -> Result<Outcome> {
    fs::write(daemon.config(), config)?;
    let mut command = daemon.command("reload");
    Outcome::of_command(daemon, command.arg("--socket").arg(daemon.socket()))
}

fn hang_up(daemon: &Daemon) -> Result<()> {
    let pid = i32::try_from(daemon.status()?.pid)?;
    let signal = nix::sys::signal::Signal::SIGHUP;
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)?)
}

fn service(daemon: &Daemon, vip: &str) -> Result<Option<Service>> {
    Ok(daemon.status()?.services.into_iter().find(|service| service.vip == vip))
}

fn has_xdp(lab: &Lab, interface: &str) -> Result<bool> {
    let mut command = lab.director().namespace.command("ip");
    let output = command.args(["link", "show", "dev", interface]).output()?;
    if !output.status.success() {
        bail!("the director has no {interface}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).contains("prog/xdp"))
}
