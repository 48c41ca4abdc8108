//! The followers of Sentinels and the watchers of nodes, against real ones on loopback.

mod lab;
mod login;
mod nodes;
mod orders;
mod probe;
mod refresh;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vipd::config::{
    Announce, Config, Endpoint, Login, Mode, Redis, Sentinel, Service, ServiceRole, Source, Vip,
};
use vipd::connect::{Error, Phase};
use vipd::model::{Epoch, MasterId, SentinelId};
use vipd::resolve::Resolver;
use vipd::sentinel::reply::{Sandwich, sandwich};
use vipd::sentinel::{Followers, MasterAnswer, Report, Sighting, inspect};

use lab::{Lab, MASTER, Scratch, Server, dialer, report, until};

/// A configuration with these Sentinels and master names.
fn config(endpoints: Vec<Endpoint>, login: Login, masters: &[&str]) -> Config {
    let services = (6379..).zip(masters).map(|(port, master)| Service {
        port,
        master: (*master).to_owned(),
        role: ServiceRole::Master,
        backend_port: None,
    });
    Config {
        daemon: Default::default(),
        sentinel: Sentinel { endpoints, login },
        redis: Redis::default(),
        announce: Announce::default(),
        failover: vipd::config::Acceleration::default(),
        vips: vec![Vip {
            address: "198.18.0.250".parse().unwrap(),
            mode: Mode::Nat,
            source: Source::Auto,
            services: services.collect(),
        }],
    }
}

fn follow(endpoints: Vec<Endpoint>) -> (Followers, mpsc::Receiver<Report>) {
    follow_with(&config(endpoints, Login::default(), &[MASTER]))
}

fn follow_with(config: &Config) -> (Followers, mpsc::Receiver<Report>) {
    let (reports, inbox) = mpsc::channel(1024);
    let followers = Followers::spawn(config, Resolver::default(), reports).unwrap();
    (followers, inbox)
}

/// A claim of this Sentinel.
fn claim_of(sentinel: usize) -> impl Fn(&Report) -> Option<(SocketAddr, Epoch)> {
    move |report| match report {
        Report::Claim { sentinel: from, master: MasterId(0), addr, epoch, .. }
            if from.0 == sentinel =>
        {
            Some((*addr, *epoch))
        }
        _ => None,
    }
}

fn lost(sentinel: usize) -> impl Fn(&Report) -> Option<Error> {
    move |report| match report {
        Report::Lost { sentinel: from, error } if from.0 == sentinel => Some(error.clone()),
        _ => None,
    }
}

/// Reads claims as fast as one Sentinel answers, over its own connection, until stopped.
async fn poll_claims(sentinel: SocketAddr, claims: mpsc::Sender<(Epoch, SocketAddr)>) {
    let dialer = dialer(&Login::default());
    let link = dialer.requests("127.0.0.1", sentinel).await.unwrap();
    let mut questions = redis::pipe();
    questions.cmd("SENTINEL").arg("MASTER").arg(MASTER);
    questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER);
    questions.cmd("SENTINEL").arg("MASTER").arg(MASTER);
    loop {
        let answers = link.requests().send(&questions).await.unwrap();
        let [before, address, after] = <[redis::Value; 3]>::try_from(answers).unwrap();
        if let Sandwich::Claim { node, epoch, .. } = sandwich(before, address, after).unwrap() {
            let addr = format!("{}:{}", node.host, node.port).parse().unwrap();
            if claims.send((epoch, addr)).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_epoch_never_comes_with_the_old_address() {
    let lab = Lab::new(3, 3).await;
    let old = lab.redis[0].addr();
    let endpoints = lab.sentinels.iter().map(Server::endpoint).collect();
    let (followers, mut reports) = follow(endpoints);
    for sentinel in 0..3 {
        assert_eq!(report(&mut reports, "a claim", claim_of(sentinel)).await.0, old);
    }

    let (claims, mut polled) = mpsc::channel(1 << 16);
    let pollers: Vec<_> = lab
        .sentinels
        .iter()
        .map(|sentinel| tokio::spawn(poll_claims(sentinel.addr(), claims.clone())))
        .collect();
    drop(claims);

    // Twice, so that the second time the old address is one that was promoted before.
    let mut addresses: BTreeMap<Epoch, SocketAddr> = BTreeMap::from([(Epoch(0), old)]);
    let mut sightings = Vec::new();
    for _ in 0..2 {
        let (epoch, from) = addresses.last_key_value().map(|(e, a)| (*e, *a)).unwrap();
        until("a failover starts", || async {
            lab.sentinels[0].tell(&format!("SENTINEL FAILOVER {MASTER}")).await.ok()
        })
        .await;
        let mut behind = vec![0, 1, 2];
        let (new_epoch, to) = report(&mut reports, "three new claims", |report| {
            match report {
                Report::Seen { what, sentinel, .. } => sightings.push((*sentinel, *what)),
                Report::Claim { sentinel, addr, epoch: claimed, .. } => {
                    if *claimed == epoch {
                        assert_eq!(*addr, from, "{report:?}");
                        return None;
                    }
                    assert!(*claimed > epoch && *addr != from, "{report:?}");
                    assert_eq!(*addresses.entry(*claimed).or_insert(*addr), *addr, "{report:?}");
                    behind.retain(|id| *id != sentinel.0);
                    return behind.is_empty().then_some((*claimed, *addr));
                }
                Report::Lost { .. } => panic!("{report:?}"),
                _ => {}
            }
            None
        })
        .await;
        assert_eq!(addresses.get(&new_epoch), Some(&to));
        // Sentinel refuses the next failover while the last one goes on.
        report(&mut reports, "+switch-master", |report| match report {
            Report::Seen { what: Sighting::SwitchMaster, sentinel: SentinelId(0), .. } => Some(()),
            _ if sightings.contains(&(SentinelId(0), Sighting::SwitchMaster)) => Some(()),
            _ => None,
        })
        .await;
        assert!(sightings.iter().any(|(_, what)| *what == Sighting::Selected(Some(to))));
        assert!(sightings.iter().any(|(_, what)| *what == Sighting::Promoted(Some(to))));
        sightings.clear();
        until("the replicas are known again", || async {
            let ckquorum = lab.sentinels[0].tell(&format!("SENTINEL CKQUORUM {MASTER}")).await;
            let replicas = inspect(
                &dialer(&Login::default()),
                &Resolver::default(),
                &lab.sentinels[0].endpoint(),
                &[MASTER],
            )
            .await;
            let [MasterAnswer::Known(known)] = &replicas.answer.ok()?.masters[..] else {
                return None;
            };
            let ready = known.replicas.iter().filter(|replica| replica.link_up).count();
            (ckquorum.is_ok() && ready >= 1).then_some(())
        })
        .await;
    }

    for poller in pollers {
        poller.abort();
    }
    let mut count = 0;
    while let Some((epoch, addr)) = polled.recv().await {
        count += 1;
        assert_eq!(addresses.get(&epoch), Some(&addr), "epoch {epoch} came with {addr}");
    }
    assert!(count > 1000, "only {count} claims were polled");
    followers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_claim_follows_the_promotion_at_once() {
    let lab = Lab::new(2, 1).await;
    let new = lab.redis[1].addr();
    let (_followers, mut reports) = follow(vec![lab.sentinels[0].endpoint()]);
    report(&mut reports, "a claim", claim_of(0)).await;
    lab.sentinels[0].tell(&format!("SENTINEL FAILOVER {MASTER}")).await.unwrap();
    let promoted = report(&mut reports, "+promoted-slave", |report| match report {
        Report::Seen { what: Sighting::Promoted(_), .. } => Some(Instant::now()),
        Report::Claim { addr, .. } => {
            assert_ne!(*addr, new, "the claim came before the event that it is read at");
            None
        }
        _ => None,
    })
    .await;
    report(&mut reports, "the new claim", |report| {
        claim_of(0)(report).filter(|(addr, _)| *addr == new)
    })
    .await;
    // Far below the second that the periodic reading would take, far above the 0.6 ms measured.
    assert!(promoted.elapsed() < Duration::from_millis(200), "{:?}", promoted.elapsed());
}

#[tokio::test]
async fn replicas_and_views_are_reported() {
    let lab = Lab::new(3, 1).await;
    let (_followers, mut reports) = follow(vec![lab.sentinels[0].endpoint()]);
    let mut expected = vec![lab.redis[1].addr(), lab.redis[2].addr()];
    expected.sort();
    report(&mut reports, "both replicas", |report| match report {
        Report::Nodes { replicas, .. } => {
            let mut addrs: Vec<_> = replicas.iter().map(|replica| replica.addr).collect();
            addrs.sort();
            (addrs == expected).then_some(())
        }
        _ => None,
    })
    .await;
    let (_followers, mut reports) = follow(vec![lab.sentinels[0].endpoint()]);
    let view = report(&mut reports, "a view", |report| match report {
        Report::View { view, .. } => Some(view.clone()),
        _ => None,
    })
    .await;
    assert_eq!((view.quorum, view.replicas, view.other_sentinels), (1, 2, 0));
    assert_eq!(view.down_after, Duration::from_secs(2));
}

#[tokio::test]
async fn an_unknown_name_is_said_and_the_others_are_claimed() {
    let lab = Lab::new(1, 1).await;
    let config = config(vec![lab.sentinels[0].endpoint()], Login::default(), &["nobody", MASTER]);
    let (_followers, mut reports) = follow_with(&config);
    let (mut unknown, mut claimed) = (false, false);
    report(&mut reports, "both answers", |report| {
        match report {
            Report::UnknownMaster { master: MasterId(0), .. } => unknown = true,
            Report::Claim { master: MasterId(1), addr, .. } => {
                claimed = *addr == lab.redis[0].addr();
            }
            Report::Claim { .. } | Report::UnknownMaster { .. } | Report::Lost { .. } => {
                panic!("{report:?}")
            }
            _ => {}
        }
        (unknown && claimed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_that_restarts_is_followed_again_and_read_again() {
    let mut lab = Lab::new(1, 1).await;
    let (_followers, mut reports) = follow(vec![lab.sentinels[0].endpoint()]);
    let before = report(&mut reports, "a claim", claim_of(0)).await;
    lab.sentinels[0].restart().await;
    report(&mut reports, "its loss", lost(0)).await;
    report(&mut reports, "its return", |report| matches!(report, Report::Up { .. }).then_some(()))
        .await;
    assert_eq!(report(&mut reports, "a claim", claim_of(0)).await, before);
}

#[tokio::test]
async fn a_sentinel_that_is_frozen_is_lost_and_comes_back() {
    let lab = Lab::new(1, 1).await;
    let (_followers, mut reports) = follow(vec![lab.sentinels[0].endpoint()]);
    report(&mut reports, "a claim", claim_of(0)).await;
    lab.sentinels[0].signal(libc::SIGSTOP);
    let frozen = Instant::now();
    let error = report(&mut reports, "its loss", lost(0)).await;
    assert!(matches!(error, Error::Timeout { during: Phase::Answer, .. }), "{error}");
    assert!(frozen.elapsed() < Duration::from_secs(6), "{:?}", frozen.elapsed());
    lab.sentinels[0].signal(libc::SIGCONT);
    report(&mut reports, "a claim", claim_of(0)).await;
}

#[tokio::test]
async fn a_sentinel_that_accepts_and_never_answers_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Connections are held open, and nothing is ever said.
    let mute = tokio::spawn(async move {
        let mut held = Vec::new();
        while held.len() < 64 {
            held.push(listener.accept().await);
        }
    });
    let started = Instant::now();
    let (_followers, mut reports) = follow(vec![Endpoint { host: "127.0.0.1".into(), port }]);
    let error = report(&mut reports, "its loss", lost(0)).await;
    assert!(matches!(error, Error::Timeout { during: Phase::Login, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    mute.abort();
}

#[tokio::test]
async fn a_sentinel_that_is_not_there_is_refused_until_it_is() {
    let scratch = Scratch::new();
    let redis = Server::redis(&scratch, "").await;
    let port = lab::free_port();
    let (_followers, mut reports) = follow(vec![Endpoint { host: "127.0.0.1".into(), port }]);
    assert_eq!(report(&mut reports, "its loss", lost(0)).await, Error::Refused);
    let lines = format!("port {port}");
    let at = ("127.0.0.1", redis.port);
    let _sentinel = Server::sentinel_at(&scratch, port, at, 1, &lines, &Login::default()).await;
    assert_eq!(report(&mut reports, "a claim", claim_of(0)).await.0, redis.addr());
}

#[tokio::test]
async fn other_sentinels_are_found_followed_and_forgotten() {
    let mut lab = Lab::new(1, 3).await;
    let (_followers, mut reports) = follow(vec![lab.sentinels[0].endpoint()]);
    let mut found = BTreeMap::new();
    let mut claims = BTreeMap::new();
    report(&mut reports, "claims of all three", |report| {
        match report {
            Report::Found { sentinel, endpoint } => {
                assert_eq!(found.insert(*sentinel, endpoint.clone()), None);
            }
            Report::Claim { sentinel, addr, .. } => {
                claims.insert(*sentinel, *addr);
            }
            Report::Forgotten { .. } => panic!("{report:?}"),
            _ => {}
        }
        (claims.len() == 3).then_some(())
    })
    .await;
    let mut expected = vec![lab.sentinels[1].endpoint(), lab.sentinels[2].endpoint()];
    expected.sort();
    let mut endpoints: Vec<_> = found.values().cloned().collect();
    endpoints.sort();
    assert_eq!(endpoints, expected);
    assert!(found.keys().eq(&[SentinelId(1), SentinelId(2)]), "{found:?}");
    assert!(claims.values().all(|addr| *addr == lab.redis[0].addr()));

    // Nobody names the third one any more once it is gone and the others were reset.
    lab.sentinels[2].kill();
    let gone = lab.sentinels[2].endpoint();
    for sentinel in &lab.sentinels[..2] {
        sentinel.tell(&format!("SENTINEL RESET {MASTER}")).await.unwrap();
    }
    report(&mut reports, "it to be forgotten", |report| match report {
        Report::Forgotten { sentinel } => (found.get(sentinel) == Some(&gone)).then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn one_sentinel_by_two_names_is_counted_once() {
    let lab = Lab::new(1, 1).await;
    let by_name = Endpoint { host: "localhost".into(), port: lab.sentinels[0].port };
    let by_address = lab.sentinels[0].endpoint();
    let (_followers, mut reports) = follow(vec![by_address.clone(), by_name]);
    let error = report(&mut reports, "one of them to be refused", |report| {
        lost(0)(report).or_else(|| lost(1)(report))
    })
    .await;
    assert!(matches!(error, Error::SameAs(_)), "{error}");
}

#[tokio::test]
async fn announced_host_names_are_resolved() {
    let scratch = Scratch::new();
    let redis = Server::redis(&scratch, "replica-announce-ip localhost").await;
    let port = lab::free_port();
    let lines = format!(
        "port {port}\nsentinel resolve-hostnames yes\nsentinel announce-hostnames yes\nsentinel \
         announce-ip localhost"
    );
    let at = ("localhost", redis.port);
    let sentinel = Server::sentinel_at(&scratch, port, at, 1, &lines, &Login::default()).await;
    let replica = Server::redis(
        &scratch,
        &format!("replicaof 127.0.0.1 {}\nreplica-announce-ip localhost", redis.port),
    )
    .await;
    let (_followers, mut reports) = follow(vec![sentinel.endpoint()]);
    assert_eq!(report(&mut reports, "a claim", claim_of(0)).await.0, redis.addr());
    report(&mut reports, "the replica", |report| match report {
        Report::Nodes { replicas, .. } => {
            replicas.iter().any(|node| node.addr == replica.addr()).then_some(())
        }
        _ => None,
    })
    .await;
    let inspection = inspect(
        &dialer(&Login::default()),
        &Resolver::default(),
        &sentinel.endpoint(),
        &[MASTER, "nobody"],
    )
    .await;
    let answer = inspection.answer.unwrap();
    let [MasterAnswer::Known(known), MasterAnswer::Unknown] = &answer.masters[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(known.addr, Ok(redis.addr()));
    assert!(known.ckquorum.is_ok() && answer.version.starts_with(char::is_numeric), "{answer:?}");
}
