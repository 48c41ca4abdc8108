use super::*;
use crate::connect::Phase;
use crate::sentinel::Replica;

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn sentinel() -> Endpoint {
    "198.18.0.101:26379".parse().unwrap()
}

fn replica() -> Candidate {
    Candidate {
        replica: Replica {
            addr: node(102),
            down: false,
            link_up: true,
            priority: 100,
            offset: 1234,
        },
        link_down: Some(Duration::ZERO),
        info_age: Duration::from_secs(3),
    }
}

fn view(flags: &str) -> View {
    View {
        quorum: 2,
        replicas: 1,
        other_sentinels: 2,
        down_after: Duration::from_secs(5),
        flags: flags.to_owned(),
    }
}

#[test]
fn what_a_sentinel_answers_is_judged() {
    let ok = || Ok("OK 3 usable Sentinels".to_owned());
    let no_quorum = || Err(Error::Server("NOQUORUM 1 usable Sentinels.".into()));
    let cases = [
        (node(101), "master", ok(), vec![replica()], None),
        (node(101), "s_down,master", ok(), vec![replica()], Some(Refusal::Down(sentinel()))),
        (
            node(101),
            "master,o_down,s_down,failover_in_progress",
            ok(),
            vec![replica()],
            Some(Refusal::InProgress(sentinel())),
        ),
        (
            node(102),
            "master",
            ok(),
            vec![replica()],
            Some(Refusal::Moved(sentinel(), Some(node(102)))),
        ),
        (
            node(101),
            "master,failover_in_progress",
            ok(),
            vec![replica()],
            Some(Refusal::InProgress(sentinel())),
        ),
        (
            node(101),
            "master",
            no_quorum(),
            vec![replica()],
            Some(Refusal::NoQuorum(sentinel(), "NOQUORUM 1 usable Sentinels.".into())),
        ),
        (
            node(101),
            "master",
            Err(Error::NoPerm("ckquorum".into())),
            vec![replica()],
            Some(Refusal::Denied(sentinel(), Error::NoPerm("ckquorum".into()))),
        ),
        (
            node(101),
            "master",
            ok(),
            vec![],
            Some(Refusal::NoReplica(sentinel(), "it knows none".into())),
        ),
    ];
    for (is_now, flags, quorum, replicas, expected) in cases {
        let found = Found { is_now, view: &view(flags), quorum, replicas };
        assert_eq!(judge(&sentinel(), node(101), found).err(), expected, "{flags}");
    }
}

#[test]
fn only_a_replica_that_is_connected_and_fresh_is_fit() {
    assert!(is_fit(&replica()));
    type Change = fn(&mut Candidate);
    let cases: [(&str, bool, Change); 7] = [
        // Its master has just gone, as was to be expected.
        ("lost its link just now", true, |it| it.link_down = Some(Duration::from_secs(1))),
        ("out of sync for 6 s", false, |it| it.link_down = Some(Duration::from_secs(6))),
        ("was never in sync", false, |it| it.link_down = None),
        ("down", false, |it| it.replica.down = true),
        ("has priority 0", false, |it| it.replica.priority = 0),
        ("not heard of for long", false, |it| it.info_age = Duration::from_secs(31)),
        ("", true, |it| it.info_age = Duration::from_secs(10)),
    ];
    for (what, fit, change) in cases {
        let mut candidate = replica();
        change(&mut candidate);
        assert_eq!(is_fit(&candidate), fit, "{what}");
        let said = describe(&[candidate]);
        assert!(fit || said.ends_with(what), "{said}");
    }
}

#[test]
fn the_next_sentinel_is_asked_only_when_one_is_unreachable() {
    let after = Duration::from_millis(250);
    for (error, next) in [
        (Error::Refused, true),
        (Error::Unreachable("no route".into()), true),
        (Error::Timeout { during: Phase::Connect, after }, true),
        // It hangs, and was not given the order yet.
        (Error::Timeout { during: Phase::Answer, after }, true),
        (Error::Closed(Phase::Login), true),
        (Error::NoPerm("failover".into()), false),
        (Error::WrongPassword, false),
        (Error::Server("ERR".into()), false),
    ] {
        let is_next = matches!(obstacle(&sentinel(), error.clone()), Obstacle::Unreachable(_));
        assert_eq!(is_next, next, "{error:?}");
    }
}

#[test]
fn answers_to_the_order_are_told_apart() {
    let after = Duration::from_millis(500);
    let cases = [
        ("INPROG Failover already in progress", Refusal::InProgress(sentinel()), true),
        (
            "NOGOODSLAVE No suitable replica to promote",
            Refusal::NoReplica(sentinel(), "NOGOODSLAVE No suitable replica to promote".into()),
            false,
        ),
        (
            "ERR No such master with that name",
            Refusal::Denied(sentinel(), Error::Server("ERR No such master with that name".into())),
            false,
        ),
    ];
    for (text, expected, under_way) in cases {
        let refusal = refused(sentinel(), Error::Server(text.into()));
        assert_eq!(refusal, expected);
        assert_eq!(refusal.may_be_under_way(), under_way, "{text}");
    }
    let lost = Error::Timeout { during: Phase::Answer, after };
    let refusal = refused(sentinel(), lost.clone());
    assert_eq!(refusal, Refusal::Unclear(sentinel(), lost));
    assert!(refusal.may_be_under_way(), "nobody else may be asked");
}

#[test]
fn a_server_that_knows_no_coordinated_failover_is_recognised() {
    for (text, unsupported) in [
        ("ERR wrong number of arguments for 'sentinel|failover' command", true),
        ("ERR Wrong number of arguments for 'sentinel failover'", true),
        ("ERR Unknown failover option specified", true),
        ("NOGOODPRIMARY Primary does not support FAILOVER command", true),
        ("INPROG Failover already in progress", false),
        ("NOGOODSLAVE No suitable replica to promote", false),
    ] {
        assert_eq!(is_unsupported(&Error::Server(text.into())), unsupported, "{text}");
    }
    assert!(!is_unsupported(&Error::Refused));
}

/// A Sentinel with one answer for every `SENTINEL MASTER`, whoever asks.
async fn fake(flags: &'static str) -> Endpoint {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                    let question = String::from_utf8_lossy(&bytes[..length]).to_uppercase();
                    let fields = [
                        ("config-epoch", "1"),
                        ("quorum", "2"),
                        ("num-slaves", "1"),
                        ("num-other-sentinels", "2"),
                        ("down-after-milliseconds", "5000"),
                        ("flags", flags),
                    ];
                    let mut answer = String::new();
                    if question.contains("SENTINEL") {
                        answer = format!("*{}\r\n", fields.len() * 2);
                        for word in fields.iter().flat_map(|(name, value)| [name, value]) {
                            answer += &format!("${}\r\n{word}\r\n", word.len());
                        }
                    } else {
                        for _ in question.matches('*') {
                            answer += "+PONG\r\n";
                        }
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    endpoint
}

#[tokio::test]
async fn a_failover_that_another_sentinel_leads_is_found() {
    let quiet = fake("master").await;
    let leader = fake("master,failover_in_progress").await;
    let gone: Endpoint = "127.0.0.1:1".parse().unwrap();
    let login = crate::config::Login::default();
    let dialer = Dialer::new(&login, DEADLINES).unwrap();
    let endpoints = vec![quiet.clone(), leader.clone(), gone.clone()];
    let orders = Orders { dialer, resolver: Resolver::default(), endpoints };
    assert_eq!(is_busy(&orders, &quiet, "mymaster").await, Some(false));
    assert_eq!(is_busy(&orders, &leader, "mymaster").await, Some(true));
    assert_eq!(is_busy(&orders, &gone, "mymaster").await, None);
    let only = orders.only(&[leader.clone(), quiet.clone()]);
    assert_eq!(only.endpoints, [quiet, leader], "in the configured order");
}

#[test]
fn whoever_sentinel_may_select_counts_be_it_fit_or_not() {
    let mut stale = replica();
    stale.link_down = Some(Duration::from_secs(8));
    assert!(is_electable(&stale) && !is_fit(&stale));
    stale.replica.down = true;
    assert!(!is_electable(&stale));
    let mut never = replica();
    never.replica.priority = 0;
    assert!(!is_electable(&never));
}
