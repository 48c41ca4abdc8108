use tokio::sync::mpsc;

use super::*;
use crate::clock::Monotonic;
use crate::control::{Access, Answer, Control, Question};
use crate::status::{Service, ServiceState, Timeline};

const WINDOW: Window = Window { origin: Monotonic(1000), trigger: None, end: Monotonic(2000) };

fn failover(service: &str, master: &str, timeline: Timeline) -> Failover {
    Failover {
        service: service.to_owned(),
        master: master.to_owned(),
        from: None,
        to: "198.18.0.102:8000".parse().unwrap(),
        epoch: Some(1),
        trigger: "down".to_owned(),
        outcome: "confirmed".to_owned(),
        parked_for_ns: None,
        ahead_of_switch_master_ns: None,
        syns_replayed: None,
        clients_freed: None,
        timeline,
        services: 1,
        last_flip_ns: None,
        planned_ns: None,
    }
}

fn service(port: u16) -> Service {
    Service {
        vip: "198.18.0.250".parse().unwrap(),
        port,
        mode: "nat".to_owned(),
        master: "m".to_owned(),
        role: "master".to_owned(),
        members: vec![],
        state: ServiceState::Serving,
        backend: None,
        epoch: None,
        generation: 1,
        announcing: true,
        owner: false,
    }
}

fn status(services: Vec<Service>, failovers: Vec<Failover>) -> Status {
    Status {
        version: "0".to_owned(),
        pid: Some(1),
        interfaces: vec![],
        services,
        failovers,
        counters: Default::default(),
        sentinels: vec![],
        nodes: vec![],
        problems: vec![],
        host: vec![],
    }
}

fn told(status: &Status, service: &str) -> Vec<(u64, String)> {
    let moments = of_run(status, &WINDOW, Some(service.parse().unwrap()));
    moments.into_iter().map(|it| (it.at.0, it.what)).collect()
}

#[test]
fn only_the_probed_service_in_the_time_of_the_run_is_told_of() {
    let at = |flip: u64| Timeline {
        flip_ns: Some(flip),
        first_packet_ns: Some(flip + 10),
        ..Timeline::default()
    };
    let failovers = vec![
        failover("198.18.0.250:6379", "m", at(500)),
        failover("198.18.0.250:6379", "m", at(1500)),
        failover("198.18.0.250:6380", "other", at(1700)),
        failover("198.18.0.250:6379", "m", at(1995)),
    ];
    let status = status(vec![service(6379), service(6380)], failovers);
    let flip = |at| (at, "flip".to_owned());
    assert_eq!(
        told(&status, "198.18.0.250:6379"),
        [flip(1500), (1510, "first packet".to_owned()), flip(1995)]
    );
}

#[test]
fn a_service_that_vipd_does_not_know_is_told_of_by_all_the_others_once() {
    let timeline = Timeline { flip_ns: Some(1500), ..Timeline::default() };
    let failovers = vec![
        failover("198.18.0.250:6379", "m", timeline),
        failover("198.18.0.251:6379", "m", timeline),
    ];
    let status = status(vec![service(6379)], failovers);
    assert_eq!(
        told(&status, "127.0.0.1:1"),
        [(1500, "flip (198.18.0.250:6379)".to_owned())],
        "services that moved together are one"
    );
}

#[tokio::test]
async fn the_record_comes_from_the_control_socket_or_a_note_says_why_not() {
    let path = std::env::temp_dir().join(format!("vipd-record-{}.sock", std::process::id()));
    let missing = moments(&path, &WINDOW, None).await.unwrap_err();
    assert!(missing.contains(&path.display().to_string()), "{missing}");

    let (sender, mut questions) = mpsc::channel::<Question>(1);
    let _control = Control::listen(&path, Access::Control, sender).await.unwrap();
    let timeline = Timeline { parked_ns: Some(1200), ..Timeline::default() };
    let failovers = vec![failover("198.18.0.250:6379", "m", timeline)];
    let driver = tokio::spawn(async move {
        let (request, answer) = questions.recv().await.unwrap();
        assert_eq!(request, Request::Status);
        let status = status(vec![service(6379)], failovers);
        answer.send(Answer::Now(Response::Status(Box::new(status)))).unwrap();
    });
    let service = "198.18.0.250:6379".parse().unwrap();
    let found = moments(&path, &WINDOW, Some(service)).await.unwrap();
    driver.await.unwrap();
    let expected = Moment {
        at: Monotonic(1200),
        source: Source::Vipd,
        who: String::new(),
        what: "parked".to_owned(),
    };
    assert_eq!(found, [expected]);
}
