//! A read-only service: new connections are spread over the healthy replicas.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use redis::Connection;
use vipd_tests::client::{self, Dialer};
use vipd_tests::outcome::Outcome;
use vipd_tests::scenario::{Traffic, scenario};
use vipd_tests::sentinel::MASTER_NAME;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Options};

/// Of the read-only service, on the same VIP.
const PORT: u16 = 6380;
/// Clients that keep a connection each.
const READERS: usize = 16;

#[test]
fn readers_are_spread_over_the_replicas_and_only_those_of_a_dead_one_notice() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        let [first, second] = others(master);
        let traffic = Traffic::start(lab, master)?;
        serve_readers(lab)?;
        wait_read_from(lab, &[first, second])?;

        // Both have some of the new connections, and nobody else has.
        let mut readers = connect(lab, READERS)?;
        let served: BTreeSet<usize> = readers.iter().map(|it| it.node).collect();
        ensure!(served == BTreeSet::from([first, second]), "they are on {served:?}");
        verify(lab, &mut readers)?;

        // One dies: its clients are cut off and find the other, whose clients see nothing.
        lab.nodes[first].kill()?;
        wait_read_from(lab, &[second])?;
        let (mut cut, mut kept): (Vec<_>, Vec<_>) =
            readers.into_iter().partition(|reader| reader.node == first);
        for reader in &mut cut {
            wait_until("a reader of the dead replica is cut off", PATIENCE, || {
                Ok(reader.run_id().is_err())
            })?;
        }
        verify(lab, &mut kept)?;
        let mut again = connect(lab, cut.len())?;
        ensure!(again.iter().all(|it| it.node == second), "not all are on the other replica");

        // No replica at all: the master serves.
        lab.nodes[second].kill()?;
        wait_read_from(lab, &[master])?;
        let mut on_master = connect(lab, 4)?;
        ensure!(on_master.iter().all(|it| it.node == master), "not all are on the master");
        for reader in again.iter_mut().chain(&mut kept) {
            wait_until("a reader of the dead replica is cut off", PATIENCE, || {
                Ok(reader.run_id().is_err())
            })?;
        }

        // They come back, and whoever is on the master stays there.
        lab.nodes[first].start()?;
        lab.nodes[second].start()?;
        wait_read_from(lab, &[first, second])?;
        let back = connect(lab, READERS)?;
        let served: BTreeSet<usize> = back.iter().map(|it| it.node).collect();
        ensure!(served == BTreeSet::from([first, second]), "they are on {served:?}");
        verify(lab, &mut on_master)?;

        // The writers of the master's own service have seen nothing of all this.
        for ledger in traffic.stop() {
            ensure!(ledger.failures.is_empty(), "{}: {:?}", ledger.client, ledger.failures);
        }
        Ok(())
    });
}

#[test]
fn readers_of_a_replica_whose_host_vanished_are_reset() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        let [first, second] = others(master);
        serve_readers(lab)?;
        wait_read_from(lab, &[first, second])?;
        let readers = connect(lab, READERS)?;
        let (mut cut, mut kept): (Vec<_>, Vec<_>) =
            readers.into_iter().partition(|reader| reader.node == first);
        // Nobody at all is left there to reset anybody.
        lab.nodes[first].host().link_down()?;
        wait_read_from(lab, &[second])?;
        for reader in &mut cut {
            let error = reader.run_id().err().context("its replica is out of reach")?;
            ensure!(error.is_connection_dropped(), "it was not reset: {error}");
        }
        verify(lab, &mut kept)
    });
}

#[test]
fn no_reader_notices_a_restart_of_vipd_and_a_failover_moves_them_to_the_other_replica() {
    scenario(Options::default(), |lab| {
        let old = lab.master()?;
        let [first, second] = others(old);
        serve_readers(lab)?;
        wait_read_from(lab, &[first, second])?;
        let mut readers = connect(lab, READERS)?;
        lab.daemon_mut().kill()?;
        verify(lab, &mut readers)?;
        lab.daemon_mut().start()?;
        wait_read_from(lab, &[first, second])?;
        verify(lab, &mut readers)?;

        // Sentinel itself cuts the clients of every node that it gives another master. When they
        // come back, the replica that is left has them all.
        lab.nodes[old].kill()?;
        wait_until("another node is master", PATIENCE, || Ok(lab.master()? != old))?;
        let new = lab.master()?;
        let other = if new == first { second } else { first };
        wait_read_from(lab, &[other])?;
        let readers = connect(lab, READERS)?;
        ensure!(readers.iter().all(|it| it.node == other), "not all are on the other replica");
        Ok(())
    });
}

/// One client with its connection, and the node that it is on.
struct Reader {
    connection: Connection,
    node: usize,
    run_id: String,
}

impl Reader {
    fn run_id(&mut self) -> redis::RedisResult<String> {
        client::run_id(&mut self.connection)
    }
}

fn others(master: usize) -> [usize; 2] {
    [(master + 1) % 3, (master + 2) % 3]
}

/// Adds the service to the running vipd.
fn serve_readers(lab: &Lab) -> Result<()> {
    let config = lab.daemon().config();
    let text = fs::read_to_string(config)?;
    let service =
        format!("[[vip.service]]\nport = {PORT}\nmaster = \"{MASTER_NAME}\"\nrole = \"replica\"\n");
    fs::write(config, format!("{text}{service}"))?;
    let mut command = lab.daemon().command("reload");
    let command = command.arg("--socket").arg(lab.daemon().socket());
    Outcome::of_command(lab.daemon(), command)?.must_succeed(&[])
}

/// Waits until exactly these nodes get new connections.
fn wait_read_from(lab: &Lab, nodes: &[usize]) -> Result<()> {
    let expected: BTreeSet<SocketAddr> =
        nodes.iter().map(|node| lab.nodes[*node].address()).collect();
    wait_until(format_args!("readers go to {expected:?}"), PATIENCE, || {
        let mut command = lab.daemon().command("status");
        let output = command.arg("--json").arg("--socket").arg(lab.daemon().socket()).output()?;
        let status: vipd::status::Status = serde_json::from_slice(&output.stdout)?;
        let service = status.services.iter().find(|it| it.port == PORT);
        let members = &service.context("the service is not there")?.members;
        let serving = members.iter().filter(|it| it.serving).map(|it| it.addr);
        let serving: BTreeSet<SocketAddr> = serving.collect();
        ensure!(serving == expected, "they go to {serving:?}");
        Ok(true)
    })
}

fn connect(lab: &Lab, count: usize) -> Result<Vec<Reader>> {
    let dialer = lab.dialer();
    let dialer = Dialer { to: SocketAddr::new(dialer.to.ip(), PORT), ..dialer };
    (0..count)
        .map(|_| {
            let mut connection = dialer.connect()?;
            let run_id = client::run_id(&mut connection)?;
            let node = lab.nodes.iter().position(|node| node.run_id() == run_id);
            let node = node.context("an unknown Redis answers")?;
            Ok(Reader { connection, node, run_id })
        })
        .collect()
}

/// Fails unless each still reads from where it was.
fn verify(lab: &Lab, readers: &mut [Reader]) -> Result<()> {
    for reader in readers {
        let name = lab.nodes[reader.node].name();
        let run_id = reader.run_id().with_context(|| format!("a reader of {name} noticed"))?;
        ensure!(run_id == reader.run_id, "a reader of {name} is elsewhere");
    }
    Ok(())
}
