//! Real Sentinels are asked for failovers.

use std::net::SocketAddr;
use std::time::Duration;

use vipd::config::{Config, Endpoint, Login};
use vipd::connect::Error;
use vipd::order::{self, Manner, Orders, Refusal};
use vipd::resolve::Resolver;
use vipd::sentinel::inspect;

use crate::config;
use crate::lab::{self, Lab, MASTER, Scratch, Server, dialer, until};

fn orders(sentinels: Vec<Endpoint>, login: Login) -> Orders {
    let config: Config = config(sentinels, login, &[MASTER]);
    Orders::new(&config, Resolver::default()).expect("the login's files are there")
}

fn endpoints(lab: &Lab) -> Vec<Endpoint> {
    lab.sentinels.iter().map(Server::endpoint).collect()
}

async fn epoch(lab: &Lab, sentinel: usize) -> Option<(SocketAddr, u64)> {
    let (dialer, resolver) = (dialer(&Login::default()), Resolver::default());
    let endpoint = lab.sentinels[sentinel].endpoint();
    let answer = inspect(&dialer, &resolver, &endpoint, &[MASTER]).await.answer.ok()?;
    match &answer.masters[..] {
        [vipd::sentinel::MasterAnswer::Known(known)] => {
            Some((known.addr.clone().ok()?, known.epoch.0))
        }
        _ => None,
    }
}

#[tokio::test]
async fn a_failover_is_asked_for_once_and_then_it_is_another_master() {
    let lab = Lab::new(2, 3).await;
    let master = lab.redis[0].addr();
    let orders = orders(endpoints(&lab), Login::default());
    let ready = order::preconditions(&orders, MASTER, master).await.expect("all is well");
    assert_eq!(ready.sentinel, lab.sentinels[0].endpoint());
    assert!(ready.replicas.iter().all(order::is_fit), "{ready:?}");
    assert_eq!(epoch(&lab, 0).await, Some((master, 0)), "looking changes nothing");

    // Redis 7 has no coordinated failover; it is a forced one then.
    let accepted = order::failover(&orders, MASTER, master, Manner::Coordinated).await;
    let accepted = accepted.expect("it is accepted");
    assert_eq!(accepted.sentinel, lab.sentinels[0].endpoint());
    assert!(!accepted.coordinated && accepted.answered >= accepted.asked);

    // Another one, a moment later, is for a master that is going.
    let again = order::failover(&orders, MASTER, master, Manner::Forced).await.unwrap_err();
    assert!(matches!(again, Refusal::InProgress(_) | Refusal::Moved(..)), "{again:?}");
    assert!(again.may_be_under_way());
    let other = lab.redis[1].addr();
    until("every Sentinel has the other master", || async {
        for sentinel in 0..3 {
            if epoch(&lab, sentinel).await? != (other, 1) {
                return None;
            }
        }
        Some(())
    })
    .await;
    let late = order::failover(&orders, MASTER, master, Manner::Forced).await.unwrap_err();
    assert_eq!(late, Refusal::Moved(lab.sentinels[0].endpoint(), Some(other)));
}

#[tokio::test]
async fn the_next_one_is_asked_only_when_one_is_unreachable() {
    let mut lab = Lab::new(2, 3).await;
    let master = lab.redis[0].addr();
    let nobody = Endpoint { host: "127.0.0.1".into(), port: lab::free_port() };
    lab.sentinels[0].signal(libc::SIGSTOP);
    let [frozen, second] = [0, 1].map(|number| lab.sentinels[number].endpoint());
    let orders = orders(vec![nobody.clone(), frozen.clone(), second.clone()], Login::default());
    let ready = order::preconditions(&orders, MASTER, master).await;
    assert_eq!(ready.expect("the third one answers").sentinel, second);

    lab.sentinels[1].kill();
    let refusal = order::failover(&orders, MASTER, master, Manner::Forced).await.unwrap_err();
    let Refusal::NoSentinel(errors) = refusal else { panic!("{refusal:?}") };
    let asked: Vec<&Endpoint> = errors.iter().map(|(endpoint, _)| endpoint).collect();
    assert_eq!(asked, [&nobody, &frozen, &second]);
    lab.sentinels[0].signal(libc::SIGCONT);
}

#[tokio::test]
async fn it_is_not_asked_for_without_quorum_replica_name_or_permission() {
    let scratch = Scratch::new();
    let redis = Server::redis(&scratch, "").await;
    let users = "user vipd on >hunter2 resetkeys &* -@all +ping +psubscribe +client|setname \
                 +sentinel|myid +sentinel|master +sentinel|get-master-addr-by-name \
                 +sentinel|replicas +sentinel|sentinels +sentinel|ckquorum +info";
    let sentinel = Server::sentinel(&scratch, redis.port, 2, users).await;
    let at = sentinel.endpoint();
    let anybody = orders(vec![at.clone()], Login::default());
    let refused = async |orders: &Orders, name: &str| {
        order::failover(orders, name, redis.addr(), Manner::Forced).await.unwrap_err()
    };
    let refusal = refused(&anybody, MASTER).await;
    assert!(matches!(refusal, Refusal::NoQuorum(..)), "{refusal:?}");
    sentinel.tell(&format!("SENTINEL SET {MASTER} quorum 1")).await.unwrap();
    let refusal = refused(&anybody, MASTER).await;
    assert_eq!(refusal, Refusal::NoReplica(at.clone(), "it knows none".into()));
    assert_eq!(refused(&anybody, "nobody").await, Refusal::Unknown(at.clone()));

    let port = redis.port;
    let replica = Server::redis(&scratch, &format!("replicaof 127.0.0.1 {port}")).await;
    until("it knows the replica", || async {
        order::preconditions(&anybody, MASTER, redis.addr()).await.ok()
    })
    .await;
    let file = scratch.write("password", "hunter2");
    let login = Login { username: Some("vipd".to_owned()), password_file: Some(file), tls: None };
    let forbidden = orders(vec![at.clone()], login.clone());
    let refusal = refused(&forbidden, MASTER).await;
    let Refusal::Denied(_, Error::NoPerm(_)) = &refusal else { panic!("{refusal:?}") };
    // `vipd check` finds it out without a failover.
    let (resolver, names) = (Resolver::default(), [MASTER]);
    let found = inspect(&dialer(&login), &resolver, &at, &names).await.answer.unwrap();
    assert!(matches!(found.failover, Err(Error::NoPerm(_))), "{:?}", found.failover);
    let found = inspect(&dialer(&Login::default()), &resolver, &at, &names).await.answer.unwrap();
    assert_eq!(found.failover, Ok(()));

    // Dead, and the Sentinel has found out: that is its own business.
    drop(redis);
    let node = SocketAddr::from(([127, 0, 0, 1], port));
    let refusal = until("it is down", || async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        order::preconditions(&anybody, MASTER, node).await.err()
    })
    .await;
    assert!(matches!(refusal, Refusal::Down(_) | Refusal::InProgress(_)), "{refusal:?}");
    drop(replica);
}
