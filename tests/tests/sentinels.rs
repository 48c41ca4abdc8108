//! Sentinels that are wrong, gone, or not there yet.

use std::time::Duration;

use anyhow::{Result, ensure};
use vipd_tests::client::Dialer;
use vipd_tests::ledger;
use vipd_tests::redis_node::Role;
use vipd_tests::scenario::{Traffic, scenario, verify, verify_after_failover};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Options, Placement};

#[test]
fn a_sentinel_that_was_cut_off_does_not_lead_the_vip_back() {
    let options = Options { sentinels: Placement::Apart, ..Options::default() };
    scenario(options, |lab| {
        let old = lab.master()?;
        let view = lab.nodes[old].address();
        let traffic = Traffic::start(lab, old)?;
        // vipd goes on hearing it, and it goes on naming the old master.
        lab.sentinels[2].host().cut_off_except(&[lab.director()])?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        ensure!(lab.sentinels[2].master()? == view, "it was to keep its view");

        // The old master says that it is one, and a Sentinel agrees with it. vipd, when it starts
        // with nothing in memory but what is pinned, hears them too.
        lab.nodes[old].start()?;
        ensure!(lab.nodes[old].role()? == Role::Master, "it was to come back as a master");
        lab.daemon_mut().kill()?;
        lab.daemon_mut().start()?;
        traffic.wait_served_by(&lab.nodes[new])?;
        verify(lab, &traffic.ledgers(), new)?;

        lab.sentinels[2].host().rejoin()?;
        wait_until(
            "the Sentinel has learned",
            PATIENCE,
            || Ok(lab.sentinels[2].master()? != view),
        )?;
        traffic.wait_served_by(&lab.nodes[new])?;
        let ledgers = traffic.stop();
        verify(lab, &ledgers, new)?;
        ledger::verify_one_master_after(&ledgers, lab.nodes[new].run_id())
    });
}

#[test]
fn a_vipd_without_memory_does_not_believe_a_minority() {
    let options = Options { sentinels: Placement::Apart, ..Options::default() };
    scenario(options, |lab| {
        let old = lab.master()?;
        lab.sentinels[2].host().cut_off_except(&[lab.director()])?;
        lab.nodes[old].kill()?;
        let new = lab.wait_failed_over(old)?;
        lab.nodes[old].start()?;
        lab.daemon_mut().kill()?;
        lab.daemon().detach()?;
        lab.serve()?;
        verify(lab, &[], new)
    });
}

#[test]
fn traffic_flows_on_while_all_sentinels_are_gone() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        let traffic = Traffic::start(lab, master)?;
        for sentinel in &mut lab.sentinels {
            sentinel.kill()?;
        }
        traffic.wait_served_by(&lab.nodes[master])?;
        let service = &lab.daemon().status()?.services[0];
        ensure!(service.announcing && service.backend == Some(lab.nodes[master].address()));
        for sentinel in &mut lab.sentinels {
            sentinel.start()?;
        }
        lab.wait_settled()?;
        traffic.wait_served_by(&lab.nodes[master])?;
        let failures = traffic.ledgers().into_iter().flat_map(|it| it.failures);
        ensure!(failures.count() == 0, "a client noticed");

        // vipd listens to them again.
        lab.sentinels[0].fail_over()?;
        let new = lab.wait_failed_over(master)?;
        traffic.wait_served_by(&lab.nodes[new])?;
        verify_after_failover(lab, &traffic.stop(), new)
    });
}

#[test]
fn the_vip_is_withdrawn_without_sentinels_if_so_configured() {
    let daemon = "on_sentinel_loss = \"withdraw\"".to_owned();
    scenario(Options { daemon, ..Options::default() }, |lab| {
        let master = lab.master()?;
        for sentinel in &mut lab.sentinels {
            sentinel.kill()?;
        }
        wait_until("the VIP is not announced", PATIENCE, || Ok(!is_announced(lab)?))?;
        for sentinel in &mut lab.sentinels {
            sentinel.start()?;
        }
        lab.daemon().wait_serving(lab.nodes[master].address())?;
        verify(lab, &[], master)
    });
}

#[test]
fn the_vip_is_not_announced_before_a_majority_of_the_sentinels_answers() {
    scenario(Options::default(), |lab| {
        let master = lab.master()?;
        lab.daemon_mut().stop()?;
        lab.sentinels[0].kill()?;
        lab.sentinels[1].kill()?;
        lab.daemon_mut().start()?;
        // A client in a hurry gives vipd some time to do the wrong thing.
        let hurry = Dialer { connect_timeout: Duration::from_secs(1), ..lab.dialer() };
        ensure!(hurry.connect().is_err(), "the VIP answers");
        ensure!(!is_announced(lab)?, "the VIP is announced");
        lab.sentinels[0].start()?;
        lab.daemon().wait_serving(lab.nodes[master].address())?;
        verify_reached(lab, master)
    });
}

fn is_announced(lab: &Lab) -> Result<bool> {
    Ok(lab.daemon().status()?.services.iter().any(|service| service.announcing))
}

/// [`verify`] without a majority's word: of the two Sentinels here one is new.
fn verify_reached(lab: &Lab, master: usize) -> Result<()> {
    let mut connection = lab.dialer().connect()?;
    let run_id = vipd_tests::client::run_id(&mut connection)?;
    ensure!(run_id == lab.nodes[master].run_id(), "the VIP leads elsewhere");
    Ok(())
}
