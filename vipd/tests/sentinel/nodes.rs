//! The watchers of Redis nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use vipd::config::Login;
use vipd::connect::Error;
use vipd::redis_node::{Report, Role, Watchers, inspect};
use vipd::resolve::Resolver;
use vipd::sentinel;

use crate::lab::{Lab, MASTER, Scratch, Server, dialer, report};

fn watchers() -> (Watchers, mpsc::Receiver<Report>) {
    let (reports, inbox) = mpsc::channel(1024);
    let watchers = Watchers::new(&Login::default(), Resolver::default(), reports).unwrap();
    (watchers, inbox)
}

fn is_master(server: &Server) -> impl Fn(&Report) -> Option<()> {
    let node = server.addr();
    move |report| {
        let master = matches!(report.answer, Ok(Role::Master { .. }));
        (report.node == node && master).then_some(())
    }
}

#[tokio::test]
async fn roles_and_histories_are_reported() {
    let lab = Lab::new(2, 0).await;
    let (mut watchers, mut reports) = watchers();
    let nodes = lab.redis.iter().map(Server::addr).collect::<BTreeSet<_>>();
    assert_eq!(watchers.watch(&nodes), []);
    let (mut master, mut replica) = (None, None);
    report(&mut reports, "both nodes", |report| {
        match &report.answer {
            Ok(Role::Master { replicas: 1, .. }) => master = report.replication.clone(),
            Ok(Role::Replica { of, link_up: true, .. }) => {
                assert_eq!(*of, ("127.0.0.1".into(), lab.redis[0].port));
                replica = report.replication.clone();
            }
            _ => panic!("{report:?}"),
        }
        (master.is_some() && replica.is_some()).then_some(())
    })
    .await;
    let (master, replica) = (master.unwrap(), replica.unwrap());
    assert_eq!(master.id, replica.id);
    assert_eq!(master.silence, None);
    assert!(replica.silence.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_seen_within_milliseconds_though_it_cuts_the_connection() {
    let lab = Lab::new(2, 1).await;
    let (mut watchers, mut reports) = watchers();
    let candidate = &lab.redis[1];
    watchers.watch(&BTreeSet::from([candidate.addr()]));
    report(&mut reports, "a replica", |report| report.answer.is_ok().then_some(())).await;

    lab.sentinels[0].tell(&format!("SENTINEL FAILOVER {MASTER}")).await.unwrap();
    watchers.ask(candidate.addr());
    // A second witness, over another connection that is asked all the time.
    let node = candidate.addr();
    let witness = tokio::spawn(async move {
        let dialer = dialer(&Login::default());
        loop {
            let answer = inspect(&dialer, &Resolver::default(), node).await;
            if matches!(answer, Ok(found) if matches!(found.role, Role::Master { .. })) {
                return Instant::now();
            }
        }
    });
    report(&mut reports, "the new master", is_master(candidate)).await;
    let seen = Instant::now();
    let witnessed = witness.await.unwrap();
    let late = seen.saturating_duration_since(witnessed);
    assert!(late < Duration::from_millis(300), "{late:?} after the witness");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_nobody_asked_about_is_seen_by_the_cut() {
    let lab = Lab::new(2, 1).await;
    let (mut watchers, mut reports) = watchers();
    let candidate = &lab.redis[1];
    watchers.watch(&BTreeSet::from([candidate.addr()]));
    report(&mut reports, "a replica", |report| report.answer.is_ok().then_some(())).await;
    lab.sentinels[0].tell(&format!("SENTINEL FAILOVER {MASTER}")).await.unwrap();
    report(&mut reports, "the new master", is_master(candidate)).await;
}

#[tokio::test]
async fn a_pressed_node_is_asked_every_few_milliseconds_until_it_is_told_to_stop() {
    let lab = Lab::new(2, 0).await;
    let (mut watchers, mut reports) = watchers();
    let replica = lab.redis[1].addr();
    // Not watched yet: asking is enough.
    watchers.ask(replica);
    let mut count = 0;
    let started = Instant::now();
    report(&mut reports, "twenty answers", |_| {
        count += 1;
        (count == 20).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());

    watchers.stop(replica);
    let mut last = Instant::now();
    report(&mut reports, "two answers a second apart", |_| {
        let apart = last.elapsed();
        last = Instant::now();
        (apart > Duration::from_millis(500)).then_some(())
    })
    .await;
    // Asked again after a stop, it is pressed again; as a master it is left alone again.
    lab.redis[1].tell("REPLICAOF NO ONE").await.unwrap();
    watchers.ask(replica);
    report(&mut reports, "the master", is_master(&lab.redis[1])).await;
    watchers.shutdown().await;
    while reports.recv().await.is_some() {}
}

#[tokio::test]
async fn a_node_that_is_gone_says_why_and_comes_back() {
    let scratch = Scratch::new();
    let mut redis = Server::redis(&scratch, "").await;
    let (mut watchers, mut reports) = watchers();
    watchers.watch(&BTreeSet::from([redis.addr()]));
    report(&mut reports, "a master", is_master(&redis)).await;
    redis.kill();
    let error = report(&mut reports, "no answer", |report| report.answer.clone().err()).await;
    assert_eq!(error, Error::Refused);
    redis.restart().await;
    report(&mut reports, "a master", is_master(&redis)).await;
    watchers.watch(&BTreeSet::new());
    drop(watchers);
    while reports.recv().await.is_some() {}
}

#[tokio::test]
async fn a_sentinel_is_no_node_and_a_node_is_no_sentinel() {
    let lab = Lab::new(1, 1).await;
    let (dialer, resolver) = (dialer(&Login::default()), Resolver::default());
    let node = inspect(&dialer, &resolver, lab.sentinels[0].addr()).await.unwrap();
    assert_eq!(node.role, Role::Sentinel);
    let asked = sentinel::inspect(&dialer, &resolver, &lab.redis[0].endpoint(), &[MASTER]).await;
    let error = asked.answer.unwrap_err().to_string();
    assert!(error.contains("a Redis node, not a Sentinel"), "{error}");
    let (_followers, mut reports) = crate::follow(vec![lab.redis[0].endpoint()]);
    let error = report(&mut reports, "its loss", |report| {
        assert!(!matches!(report, sentinel::Report::Up { .. }), "{report:?}");
        crate::lost(0)(report)
    })
    .await
    .to_string();
    assert!(error.contains("unknown command 'SENTINEL'"), "{error}");
}
