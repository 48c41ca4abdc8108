//! Facts in, findings out: a good deployment, and what each fault makes of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use vipd_common::addr::MacAddr;

use super::pins::{Place, Socket};
use super::report::Severity::{Fail, Ok as Good, Warn};
use super::*;
use crate::announce::Occupancy;
use crate::connect::Error;
use crate::model::{Epoch, NextHop};
use crate::neighbour::Unreachable;
use crate::netdev::{Link, NativeXdp};
use crate::redis_node::{NodeInspection, Replication, Role};
use crate::sentinel::reply::Peer;
use crate::sentinel::{Answer, KnownMaster, MasterAnswer, Replica, View};

const LAN: u32 = 2;

fn config(changes: &[(&str, &str)]) -> Config {
    let mut text = r#"
        [daemon]
        interfaces = ["eth0"]
        [sentinel]
        endpoints = ["198.18.0.101:26379", "198.18.0.102:26379", "198.18.0.103:26379"]
        [[vip]]
        address = "198.18.0.250"
        mode = "nat"
        [[vip.service]]
        port = 6379
        master = "mymaster"
    "#
    .to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    Config::parse(&text, Path::new("vipd.toml")).expect("a configuration")
}

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn hop(host: u8) -> NextHop {
    NextHop {
        ifindex: LAN,
        own_mac: mac(50),
        mac: mac(host),
        vlan: 0,
        router: None,
        source: [198, 18, 0, 50].into(),
        on_link: vec![([198, 18, 0, 0].into(), 24)],
    }
}

fn known() -> KnownMaster {
    let replica = |host| Replica {
        addr: node(host),
        down: false,
        link_up: true,
        priority: 100,
        offset: 1_000,
    };
    KnownMaster {
        addr: Ok(node(101)),
        epoch: Epoch(3),
        view: View {
            quorum: 2,
            replicas: 2,
            other_sentinels: 2,
            down_after: Duration::from_secs(5),
            flags: "master".to_owned(),
        },
        ckquorum: Ok("OK 3 usable Sentinels".to_owned()),
        replicas: vec![replica(102), replica(103)],
        sentinels: Vec::new(),
    }
}

fn sentinel(host: u8) -> Inspection {
    let endpoint: crate::config::Endpoint =
        format!("198.18.0.{host}:26379").parse().expect("an endpoint");
    Inspection {
        addr: endpoint.ip().map(|ip| SocketAddr::new(ip, endpoint.port)),
        endpoint,
        answer: Ok(Answer {
            run_id: format!("id{host}"),
            version: "7.0.15".to_owned(),
            tilt: false,
            failover: Ok(()),
            masters: vec![MasterAnswer::Known(known())],
        }),
    }
}

fn says(role: Role) -> NodeInspection {
    NodeInspection {
        role,
        replication: Some(Replication { silence: Some(Duration::ZERO), ..Replication::default() }),
        run_id: "id".to_owned(),
        version: "7.0.15".to_owned(),
    }
}

fn replica() -> Role {
    Role::Replica { of: ("198.18.0.101".to_owned(), 8000), link_up: true, offset: 990 }
}

fn facts() -> Facts {
    let link = Link {
        ifindex: LAN,
        name: "eth0".to_owned(),
        mac: Some(mac(50)),
        mtu: 1500,
        admin_up: true,
        running: true,
        carrier_changes: 1,
        oper_state: "up",
        vlan: None,
        xdp: None,
    };
    let interface = Interface {
        name: "eth0".to_owned(),
        facts: Ok(netdev::Facts {
            link,
            driver: Some("ixgbe".to_owned()),
            xdp_program: None,
            native: NativeXdp::Supported { redirect_target: true },
            tx_checksum: Some(true),
            addresses: vec![([198, 18, 0, 50].into(), 24)],
        }),
        link: None,
        peer_mtu: None,
    };
    let own = HostAddress { address: [198, 18, 0, 50].into(), prefix: 24, ifindex: LAN };
    Facts {
        kernel: kernel::Facts {
            release: "6.1.0-40-amd64".to_owned(),
            capabilities: Some(u64::MAX),
            load: Ok(()),
        },
        pins: pins::Facts {
            pin_dir: "/sys/fs/bpf/vipd".into(),
            place: Place::Mounted,
            in_the_way: false,
            pinned: Ok(None),
            unusable: Vec::new(),
            socket: "/run/vipd/vipd.sock".into(),
            control: Socket::Free,
        },
        interfaces: vec![interface],
        addresses: vec![own],
        names: BTreeMap::from([(LAN, "eth0".to_owned()), (3, "eth1".to_owned())]),
        host: host::Facts::default(),
        fast_fail: fast_fail::Facts { destroy: Ok(()) },
        local_ports: LocalPorts::default(),
        probes: vec![Probe {
            vip: [198, 18, 0, 250].into(),
            interface: "eth0".to_owned(),
            outcome: Ok(Occupancy::Free),
        }],
        sentinels: Ok([101, 102, 103].map(sentinel).to_vec()),
        nodes: nodes::Facts {
            answers: BTreeMap::from([
                (node(101), Ok(says(Role::Master { offset: 1_000, replicas: 2 }))),
                (node(102), Ok(says(replica()))),
                (node(103), Ok(says(replica()))),
            ]),
            next_hops: [101, 102, 103]
                .map(|host| ([198, 18, 0, host].into(), Ok(hop(host))))
                .into_iter()
                .collect(),
            login: None,
            network: None,
        },
    }
}

/// Changes what Sentinel number `at` says of the master.
fn sees(facts: &mut Facts, at: usize, change: impl FnOnce(&mut KnownMaster)) {
    let answer = facts.sentinels.as_mut().ok().and_then(|all| all[at].answer.as_mut().ok());
    if let Some(MasterAnswer::Known(known)) = answer.and_then(|it| it.masters.first_mut()) {
        change(known);
    }
}

fn fails(facts: &mut Facts, at: usize, error: Error) {
    if let Ok(sentinels) = &mut facts.sentinels {
        sentinels[at].answer = Err(error);
    }
}

fn knows_nothing(facts: &mut Facts, at: usize) {
    let answer = facts.sentinels.as_mut().ok().and_then(|all| all[at].answer.as_mut().ok());
    if let Some(answer) = answer {
        answer.masters = vec![MasterAnswer::Unknown];
    }
}

fn next_hop(facts: &mut Facts, host: u8, hop: Result<NextHop, Unreachable>) {
    facts.nodes.next_hops.insert([198, 18, 0, host].into(), hop);
}

fn role(facts: &mut Facts, host: u8, answer: Result<Role, Error>) {
    facts.nodes.answers.insert(node(host), answer.map(says));
}

#[test]
fn a_good_deployment_is_all_well() {
    let report = judge(&config(&[]), &facts());
    assert!(report.findings.iter().all(|it| it.severity == Good), "{report}");
    assert!(report.will_work());
    let text = report.to_string();
    for said in [
        "master mymaster              198.18.0.101:8000 (epoch 3), named by 3 of 3",
        "master of mymaster, Redis 7.0.15, 2 replicas connected",
        "replica of mymaster, Redis 7.0.15, link up, lag 10 bytes",
        "next hop 02:00:00:00:00:67 on eth0",
        "`vipd run` would serve\n",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn a_good_deployment_of_mode_host_is_all_well_on_the_master_and_on_a_replica() {
    let config = config(&[("\"nat\"", "\"host\""), ("port = 6379", "port = 8000")]);
    for here in [101, 102] {
        let mut facts = facts();
        facts.addresses[0].address = [198, 18, 0, here].into();
        next_hop(&mut facts, here, Err(Unreachable::Local));
        facts.host.listeners = Some([SocketAddr::from(([0, 0, 0, 0], 8000))].into());
        // The owner answers.
        if here != 101 {
            facts.probes[0].outcome = Ok(Occupancy::InUse { mac: mac(101) });
        }
        let report = judge(&config, &facts);
        assert!(report.findings.iter().all(|it| it.severity == Good), "{report}");
        let text = report.to_string();
        for said in ["runs on this host", "would be held here while 198.18.0.1", "0.0.0.0:8000"] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }
}

/// What went wrong, the worst severity, and what the report says of it.
type Fault = (fn(&mut Facts), Severity, &'static str);

fn table(config: &Config, faults: &[Fault]) {
    for (fault, severity, text) in faults {
        let mut facts = facts();
        fault(&mut facts);
        let report = judge(config, &facts);
        let worst = report.findings.iter().map(|it| it.severity).max();
        assert_eq!(worst, Some(*severity), "{text}\n{report}");
        let printed = report.to_string();
        assert!(printed.contains(text), "{text}\n{printed}");
        assert_eq!(report.will_work(), *severity < Fail, "{printed}");
    }
}

#[test]
fn faults_of_sentinels() {
    table(
        &config(&[]),
        &[
            (|it| fails(it, 2, Error::Refused), Warn, "connection refused"),
            (|it| fails(it, 2, Error::WrongPassword), Warn, "wrong password"),
            (
                |it| {
                    fails(it, 1, Error::Refused);
                    fails(it, 2, Error::Refused);
                },
                Fail,
                "1 of the configured Sentinels name a master, 2 must",
            ),
            (|it| (0..3).for_each(|at| fails(it, at, Error::NoAuth)), Fail, "wants a password"),
            (|it| it.sentinels = Err("no such file".to_owned()), Fail, "no such file"),
            (|it| knows_nothing(it, 2), Warn, "does not know the master \"mymaster\""),
            (
                |it| (0..3).for_each(|at| knows_nothing(it, at)),
                Fail,
                "does not know the master \"mymaster\"",
            ),
            (|it| sees(it, 2, |known| known.view.quorum = 3), Warn, "have different quorums"),
            (
                |it| sees(it, 2, |known| known.addr = Ok(node(102))),
                Warn,
                "198.18.0.101:8000 (epoch 3) by 198.18.0.101:26379, 198.18.0.102:26379; \
                 198.18.0.102:8000 (epoch 3) by 198.18.0.103:26379",
            ),
            (
                // A newer epoch wins, and that node does not answer as master.
                |it| {
                    sees(it, 2, |known| (known.addr, known.epoch) = (Ok(node(102)), Epoch(4)));
                },
                Fail,
                "198.18.0.102:8000 (epoch 4) does not answer ROLE as master",
            ),
            (
                |it| {
                    (0..3).for_each(|at| {
                        sees(it, at, |known| {
                            let address = Ok(node(101 + u8::try_from(at).unwrap_or_default()));
                            known.addr = address;
                        })
                    })
                },
                Fail,
                "name different masters at epoch 3",
            ),
            (
                |it| {
                    sees(it, 0, |known| {
                        known.ckquorum = Err(Error::Server("NOQUORUM 1 usable Sentinels".into()));
                    })
                },
                Warn,
                "CKQUORUM mymaster: answers an error: NOQUORUM",
            ),
            (
                |it| sees(it, 0, |known| known.view.flags = "master,s_down".to_owned()),
                Warn,
                "can't reach mymaster (master,s_down)",
            ),
            (
                |it| sees(it, 0, |known| known.view.other_sentinels = 1),
                Warn,
                "knows 2 Sentinels of mymaster, and 3 are configured",
            ),
            (
                |it| {
                    sees(it, 0, |known| {
                        known.sentinels.push(Peer {
                            run_id: "other".to_owned(),
                            host: "198.18.0.104".to_owned(),
                            port: 26379,
                        })
                    })
                },
                Warn,
                "198.18.0.104:26379  is known to the others and not configured",
            ),
            (
                |it| (0..3).for_each(|at| sees(it, at, |known| known.view.replicas = 0)),
                Warn,
                "mymaster has no replica",
            ),
        ],
    );
}

#[test]
fn the_same_sentinel_twice_is_one() {
    let mut facts = facts();
    if let Ok(sentinels) = &mut facts.sentinels {
        let first = sentinels[0].answer.clone();
        sentinels[1].answer = first.clone();
        sentinels[2].answer = first;
    }
    let report = judge(&config(&[]), &facts);
    assert!(!report.will_work(), "{report}");
    assert!(report.to_string().contains("is the same Sentinel as 198.18.0.101:26379"), "{report}");
}

#[test]
fn faults_of_nodes() {
    table(
        &config(&[]),
        &[
            (|it| role(it, 101, Err(Error::Refused)), Fail, "connection refused"),
            (|it| role(it, 101, Err(Error::WrongPassword)), Fail, "wrong password"),
            (|it| role(it, 102, Err(Error::WrongPassword)), Warn, "wrong password"),
            (|it| role(it, 101, Ok(replica())), Fail, "is a replica of 198.18.0.101:8000"),
            (
                |it| role(it, 102, Ok(Role::Master { offset: 0, replicas: 0 })),
                Warn,
                "calls itself master",
            ),
            (|it| role(it, 101, Ok(Role::Sentinel)), Fail, "is a Sentinel, not the master"),
            (
                |it| {
                    let of = ("198.18.0.101".to_owned(), 8000);
                    role(it, 102, Ok(Role::Replica { of, link_up: false, offset: 0 }));
                },
                Warn,
                "its link to 198.18.0.101:8000 is down",
            ),
            (
                |it| {
                    if let Some(Ok(found)) = it.nodes.answers.get_mut(&node(103)) {
                        let silence = Some(Duration::from_secs(12));
                        found.replication = Some(Replication { silence, ..Replication::default() });
                    }
                },
                Warn,
                "nothing from its master for 12 s",
            ),
            (|it| it.nodes.login = Some("no such file".to_owned()), Fail, "no such file"),
        ],
    );
}

#[test]
fn faults_of_the_way_to_a_node() {
    table(
        &config(&[]),
        &[
            (
                |it| {
                    let (next_hop_ip, interface) = ([198, 18, 0, 101].into(), "eth0".to_owned());
                    let why = Unreachable::Unresolved { next_hop: next_hop_ip, interface };
                    next_hop(it, 101, Err(why));
                },
                Fail,
                "no answer to ARP for 198.18.0.101 on eth0",
            ),
            (|it| next_hop(it, 102, Err(Unreachable::NoRoute)), Warn, "no route to it"),
            (|it| next_hop(it, 101, Err(Unreachable::Local)), Fail, "an address of this host"),
            (
                |it| next_hop(it, 101, Ok(NextHop { ifindex: 3, ..hop(101) })),
                Fail,
                "is reached by eth1, which is not configured",
            ),
            (
                |it| {
                    (0..3).for_each(|at| {
                        sees(it, at, |known| {
                            known.addr = Ok(SocketAddr::from(([198, 18, 0, 250], 6379)));
                        })
                    })
                },
                Fail,
                "names a VIP as the node's address",
            ),
        ],
    );
}

#[test]
fn faults_of_dsr() {
    let dsr = ("\"nat\"", "\"dsr\"");
    table(&config(&[dsr]), &[(|_| {}, Fail, "it listens on port 8000, and this VIP's mode")]);
    table(
        &config(&[dsr, ("port = 6379", "port = 8000")]),
        &[
            (|_| {}, Good, "`vipd run` would serve"),
            (
                |it| {
                    let router = Some([198, 18, 0, 1].into());
                    next_hop(it, 101, Ok(NextHop { router, ..hop(101) }));
                },
                Fail,
                "it is behind the router 198.18.0.1",
            ),
            (
                |it| it.probes[0].outcome = Ok(Occupancy::InUse { mac: mac(102) }),
                Fail,
                "the Redis host 198.18.0.102",
            ),
        ],
    );
}

#[test]
fn the_source_ports_are_judged_for_the_source_that_nat_would_use() {
    // Clients on eth0, Redis in another network: NAT is from this host's own address there.
    let mut facts = facts();
    for host in [101, 102, 103] {
        let hop = NextHop { on_link: vec![([198, 19, 0, 0].into(), 24)], ..hop(host) };
        next_hop(&mut facts, host, Ok(hop));
    }
    let report = judge(&config(&[]), &facts);
    assert!(report.to_string().contains("NAT source"), "{report}");
    assert!(report.to_string().contains("198.18.0.50, ports 61000-65535"), "{report}");
    let report = judge(&config(&[]), &self::facts());
    assert!(!report.to_string().contains("NAT source"), "{report}");
}

#[test]
fn an_unresolved_preview_has_no_source() {
    let preview = rehearsal::preview(
        &config(&[]),
        &[None],
        &[vec![node(102)]],
        &HashMap::new(),
        &BTreeMap::new(),
        &OwnAddresses::default(),
    );
    assert!(preview.sources.is_empty());
    assert_eq!(preview.problems.len(), 1, "{preview:?}");
}

#[test]
fn a_lease_that_outlasts_sentinel_s_patience_is_told_of() {
    let host = ("mode = \"nat\"", "mode = \"host\"");
    for (lease, told) in [("lease_ms = 4999", false), ("lease_ms = 5000", true)] {
        let lease = ("interfaces", &*format!("{lease}\n        interfaces"));
        let report = judge(&config(&[host, lease]), &facts()).to_string();
        assert_eq!(report.contains("set [daemon] lease_ms below"), told, "{report}");
        let report = judge(&config(&[lease]), &facts()).to_string();
        assert!(!report.contains("lease_ms"), "{report}");
    }
}
