//! The clients of `vipd probe` and what it hears from Sentinels.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args as _, CommandFactory as _};
use vipd::clock::Monotonic;
use vipd::config::{Endpoint, Login, Tls};
use vipd::probe::clients::{Addresses, ClientSettings, Idle, Target, Waited, Writers, Written};
use vipd::probe::live::Live;
use vipd::probe::report::{Layer, Source};
use vipd::probe::sentinels::Group;
use vipd::probe::shots::Window;

use crate::lab::{self, Lab, MASTER, Scratch, Server, until};
use crate::login::{certificates, login};

const TIMEOUT: Duration = Duration::from_secs(2);

fn fixed(server: &Server, host: &str, login: &Login) -> Target {
    let endpoint = Endpoint { host: host.to_owned(), port: server.port };
    Target::fixed(&endpoint, server.addr(), login, TIMEOUT).unwrap()
}

fn settings(target: Target) -> ClientSettings {
    ClientSettings {
        target,
        timeout: TIMEOUT,
        connections: 2,
        write_rate: 100,
        fresh_rate: 100,
        idle: 6,
    }
}

/// Writers and waiting clients, in a run.
struct Run {
    writers: Writers,
    idle: Idle,
    live: Arc<Live>,
    begin: Monotonic,
}

impl Run {
    async fn start(settings: &ClientSettings) -> anyhow::Result<Self> {
        let live = Arc::new(Live::default());
        let mut writers = Writers::open(settings, Arc::clone(&live)).await?;
        let idle = Idle::start(settings, Arc::default()).await?;
        let begin = Monotonic::now();
        writers.start(begin)?;
        Ok(Self { writers, idle, live, begin })
    }

    async fn goes_well_for(&self, writes: u64) {
        let enough = self.live.read().good + writes;
        until("writes are acknowledged", || async {
            (self.live.read().good >= enough).then_some(())
        })
        .await;
    }

    async fn stop(self) -> (Window, Written, Waited) {
        let window = Window { origin: self.begin, trigger: None, end: Monotonic::now() };
        let (written, waited) = tokio::join!(self.writers.stop(), self.idle.stop());
        (window, written, waited)
    }
}

/// A short run through which all must go well.
async fn all_is_well(settings: &ClientSettings) -> Layer {
    let run = Run::start(settings).await.unwrap();
    run.goes_well_for(100).await;
    let (window, written, waited) = run.stop().await;
    let layer = written.layer(&window, &Addresses::new());
    let writes = layer.writes.as_ref().unwrap();
    assert_eq!((writes.lost, writes.duplicated, writes.late), (Some(0), 0, 0), "{writes:?}");
    assert_eq!((layer.errors.len(), layer.nodes.len()), (0, 1), "{:?}", layer.errors);
    assert_eq!(written.notes(), Vec::<String>::new());
    let waiting = waited.layer(&window, &Addresses::new()).waiting.unwrap();
    assert_eq!((waiting.connections, waiting.ended.len(), waiting.hung), (6, 0, 0));
    layer
}

async fn why_not(settings: &ClientSettings) -> String {
    match Run::start(settings).await {
        Ok(_) => panic!("it starts"),
        Err(error) => format!("{error:#}"),
    }
}

/// What the help of this flag says that a user needs.
fn documented_permissions(flag: &str) -> String {
    #[derive(clap::Parser)]
    struct Nothing {}
    let command = vipd::cli::ProbeFlags::augment_args(Nothing::command());
    let argument = command.get_arguments().find(|it| it.get_id() == flag).unwrap();
    let help = argument.get_long_help().unwrap().to_string();
    let list = help.split('`').nth(1).expect("the list is between backticks");
    list.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn writes_are_read_back_and_nothing_stays() {
    let scratch = Scratch::new();
    let redis = Server::redis(&scratch, "").await;
    let layer = all_is_well(&settings(fixed(&redis, "localhost", &Login::default()))).await;
    assert!(layer.latency.is_some() && layer.fresh.is_some());
    let left = redis.tell("DBSIZE").await.unwrap();
    assert_eq!(left, redis::Value::Int(0));
}

#[tokio::test]
async fn an_acl_user_needs_no_more_than_the_help_says() {
    let scratch = Scratch::new();
    let permissions = documented_permissions("username");
    let users = format!(
        "user probe on >hunter2 resetkeys resetchannels -@all {permissions}\n\
         user deaf on >hunter2 resetkeys resetchannels -@all {permissions} -blpop"
    );
    let redis = Server::redis(&scratch, &users).await;
    let with = |user: &str| login(Some(user), Some(scratch.write("password", "hunter2")));
    all_is_well(&settings(fixed(&redis, "localhost", &with("probe")))).await;
    let error = why_not(&settings(fixed(&redis, "localhost", &with("deaf")))).await;
    assert!(error.contains("lacks a permission") && error.contains("blpop"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let scratch = Scratch::new();
    let right = login(None, Some(scratch.write("right", "hunter2")));
    let wrong = login(None, Some(scratch.write("wrong", "hunter3")));
    let port = lab::free_port();
    let lines = format!("port {port}\nrequirepass hunter2");
    let redis = Server::redis_at(&scratch, port, &lines, &right).await;
    for (login, says) in [(&wrong, "wrong password"), (&Login::default(), "wants a password")] {
        let target = fixed(&redis, "localhost", login);
        let error = why_not(&settings(target.clone())).await;
        assert!(error.contains(says) && error.contains(&redis.addr().to_string()), "{error}");
        assert!(!format!("{error} {target:?}").contains("hunter"), "{error} {target:?}");
    }
    all_is_well(&settings(fixed(&redis, "localhost", &right))).await;
}

#[tokio::test]
async fn clients_speak_tls() {
    let scratch = Scratch::new();
    certificates(&scratch);
    let dir = scratch.path();
    let tls = Tls {
        ca: dir.join("ca.crt"),
        cert: Some(dir.join("client.crt")),
        key: Some(dir.join("client.key")),
        server_name: None,
    };
    let login = Login { tls: Some(tls), ..Login::default() };
    let port = lab::free_port();
    let dir = dir.display();
    let lines = format!(
        "port 0\ntls-port {port}\ntls-ca-cert-file {dir}/ca.crt\ntls-cert-file \
         {dir}/localhost.crt\ntls-key-file {dir}/localhost.key\ntls-auth-clients yes"
    );
    let redis = Server::redis_at(&scratch, port, &lines, &login).await;
    all_is_well(&settings(fixed(&redis, "localhost", &login))).await;
    let error = why_not(&settings(fixed(&redis, "127.0.0.1", &login))).await;
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn nobody_there_and_a_replica_are_said_before_the_run() {
    let lab = Lab::new(2, 0).await;
    let error = why_not(&settings(fixed(&lab.redis[1], "localhost", &Login::default()))).await;
    assert!(error.contains("READONLY"), "{error}");
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: lab::free_port() };
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], endpoint.port));
    let nobody = Target::fixed(&endpoint, addr, &Login::default(), TIMEOUT).unwrap();
    let error = why_not(&settings(nobody)).await;
    assert!(error.contains("refused") && error.contains(&addr.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_sentinel_follows_the_master_and_the_events_are_heard() {
    let lab = Lab::new(2, 3).await;
    let endpoints: Vec<_> = lab.sentinels.iter().map(Server::endpoint).collect();
    let group = Group::find(&endpoints, &Login::default(), None).await.unwrap();
    assert_eq!(group.master(), MASTER);
    let addresses = group.nodes().await;
    let known: BTreeSet<_> = addresses.values().cloned().collect();
    let expected: BTreeSet<_> = lab.redis.iter().map(|it| it.addr().to_string()).collect();
    assert_eq!(known, expected);

    let marks = group.follow().await;
    let target = Target::sentinels(&group, &Login::default(), TIMEOUT).unwrap();
    let run = Run::start(&settings(target)).await.unwrap();
    run.goes_well_for(50).await;
    lab.sentinels[0].tell(&format!("SENTINEL FAILOVER {MASTER}")).await.unwrap();
    for sentinel in &lab.sentinels {
        until("each Sentinel names the new master", || async {
            let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}");
            let named = vipd::sentinel::reply::named(sentinel.tell(&question).await.ok()?);
            (named.ok()??.port == lab.redis[1].port).then_some(())
        })
        .await;
    }
    run.goes_well_for(200).await;
    let (window, written, waited) = run.stop().await;

    let layer = written.layer(&window, &addresses);
    let writes = layer.writes.as_ref().unwrap();
    let new = format!("{} (", lab.redis[1].addr());
    assert!(writes.read_back_from.as_ref().unwrap().starts_with(&new), "{writes:?}");
    assert!(writes.lost.is_some() && writes.duplicated == 0, "{writes:?}");
    let nodes: Vec<_> = layer.nodes.iter().map(|it| it.label.as_str()).collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    assert!(nodes[1].starts_with(&new), "{nodes:?}");
    assert!(layer.outages.iter().any(|it| it.new.as_deref() == Some(nodes[1])), "{layer:?}");
    let waiting = waited.layer(&window, &addresses).waiting.unwrap();
    assert_eq!((waiting.ended.len() as u64 + waiting.hung, waiting.connections), (6, 6));

    let (moments, notes) = marks.stop().await;
    assert_eq!(notes, Vec::<String>::new());
    assert!(moments.is_sorted_by_key(|it| it.at) && moments.iter().all(|it| it.at > window.origin));
    let (old, new) = (lab.redis[0].addr(), lab.redis[1].addr());
    let switch = format!("+switch-master {old} → {new}");
    let heard: BTreeSet<_> =
        moments.iter().filter(|it| it.what == switch).map(|it| it.who.clone()).collect();
    let everybody: BTreeSet<_> = endpoints.iter().map(Endpoint::to_string).collect();
    assert_eq!(heard, everybody, "{moments:?}");
    let selected = format!("+selected-slave {new}");
    assert!(moments.iter().any(|it| it.what == selected && it.source == Source::Sentinel));
}

#[tokio::test]
async fn a_sentinel_that_is_gone_is_asked_no_more_than_it_must_be() {
    let mut lab = Lab::new(1, 2).await;
    let endpoints: Vec<_> = lab.sentinels.iter().map(Server::endpoint).collect();
    let group = Group::find(&endpoints, &Login::default(), Some(MASTER)).await.unwrap();
    // It accepts connections, and says nothing: the first client loses a third of its time.
    lab.sentinels[0].signal(libc::SIGSTOP);
    let target = Target::sentinels(&group, &Login::default(), TIMEOUT).unwrap();
    let fresh = all_is_well(&settings(target)).await.fresh.unwrap();
    assert!(fresh.p50_ns < 300_000_000, "the one that is silent is asked each time: {fresh:?}");
    lab.sentinels[0].signal(libc::SIGCONT);
    lab.sentinels[0].kill();
    let marks = group.follow().await;
    let (_, notes) = marks.stop().await;
    assert!(notes.len() == 1 && notes[0].contains(&endpoints[0].to_string()), "{notes:?}");
}

#[tokio::test]
async fn a_master_that_nobody_knows_is_told_with_those_that_are() {
    let lab = Lab::new(1, 1).await;
    let endpoints = [lab.sentinels[0].endpoint()];
    let error = Group::find(&endpoints, &Login::default(), Some("nobody")).await.unwrap_err();
    assert!(error.to_string().contains(MASTER), "{error}");
    let nobody = [Endpoint { host: "127.0.0.1".into(), port: lab::free_port() }];
    let error = Group::find(&nobody, &Login::default(), None).await.unwrap_err();
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}

#[tokio::test]
async fn an_acl_user_needs_no_more_than_the_help_says_at_the_sentinels() {
    let scratch = Scratch::new();
    let permissions = documented_permissions("sentinel_username");
    let users = format!("user probe on >hunter2 resetkeys resetchannels -@all {permissions}");
    let redis = Server::redis(&scratch, "").await;
    let sentinel = Server::sentinel(&scratch, redis.port, 1, &users).await;
    let login = login(Some("probe"), Some(scratch.write("password", "hunter2")));
    let group = Group::find(&[sentinel.endpoint()], &login, None).await.unwrap();
    until("its run_id is known", || async { (!group.nodes().await.is_empty()).then_some(()) })
        .await;
    let (_, notes) = group.follow().await.stop().await;
    assert_eq!(notes, Vec::<String>::new());
    let target = Target::sentinels(&group, &Login::default(), TIMEOUT).unwrap();
    all_is_well(&settings(target)).await;
}
