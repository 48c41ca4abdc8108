//! Answers and events as Redis 7.0.15 gave them.

use super::*;

/// A RESP2 list of strings, from words.
fn list(words: &str) -> Value {
    Value::Array(words.split_whitespace().map(bulk).collect())
}

fn bulk(word: &str) -> Value {
    Value::BulkString(if word == "\"\"" { Vec::new() } else { word.into() })
}

fn master_reply(port: u16, epoch: u64) -> Value {
    list(&format!(
        "name mymaster ip 127.0.0.1 port {port} runid e8ecb1f3933f560deb5d1335603687c1fdaa3c27 \
         flags master link-pending-commands 0 link-refcount 1 last-ping-sent 0 \
         last-ok-ping-reply 357 last-ping-reply 357 down-after-milliseconds 500 info-refresh 2997 \
         role-reported master role-reported-time 2999 config-epoch {epoch} num-slaves 2 \
         num-other-sentinels 2 quorum 2 failover-timeout 180000 parallel-syncs 1"
    ))
}

fn no_such_master() -> Value {
    let answer = redis::parse_redis_value(b"-ERR No such master with that name\r\n");
    answer.expect("a server error is a value")
}

#[test]
fn the_epoch_is_paired_with_the_address_by_name_and_never_with_that_of_master() {
    // The leader reconfigures replicas: MASTER has the old address beside the new epoch.
    let answer = sandwich(master_reply(17001, 5), list("127.0.0.1 17002"), master_reply(17001, 5));
    let Ok(Sandwich::Claim { node, epoch, view }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(node, Named { host: "127.0.0.1".into(), port: 17002 });
    assert_eq!(epoch, Epoch(5));
    let expected = View {
        quorum: 2,
        replicas: 2,
        other_sentinels: 2,
        down_after: Duration::from_millis(500),
        flags: "master".into(),
    };
    assert_eq!(view, expected);
}

#[test]
fn what_changed_in_between_is_torn() {
    let address = || list("127.0.0.1 17002");
    for (before, address, after, what) in [
        (master_reply(17001, 4), address(), master_reply(17001, 5), "the epoch rose"),
        (master_reply(17001, 4), Value::Nil, master_reply(17001, 4), "removed and monitored again"),
    ] {
        assert_eq!(sandwich(before, address, after), Ok(Sandwich::Torn), "{what}");
    }
    for (before, address, after) in [
        (no_such_master(), Value::Nil, no_such_master()),
        (master_reply(17001, 4), Value::Nil, no_such_master()),
        (no_such_master(), address(), master_reply(17001, 4)),
    ] {
        assert_eq!(sandwich(before, address, after), Ok(Sandwich::Unknown));
    }
}

#[test]
fn nonsense_is_an_error_and_never_a_claim() {
    let good = || master_reply(17001, 5);
    for (master, address) in [
        (Value::Nil, list("127.0.0.1 17001")),
        (Value::Okay, list("127.0.0.1 17001")),
        (list("name mymaster config-epoch"), list("127.0.0.1 17001")),
        (list("name mymaster config-epoch -1"), list("127.0.0.1 17001")),
        (list("name mymaster"), list("127.0.0.1 17001")),
        (good(), list("127.0.0.1")),
        (good(), list("127.0.0.1 65536")),
        (good(), list("127.0.0.1 0")),
        (good(), list("\"\" 17001")),
        (good(), Value::Int(1)),
    ] {
        let answer = sandwich(master.clone(), address.clone(), master);
        assert!(matches!(answer, Err(Error::Protocol(_))), "{address:?}: {answer:?}");
    }
}

#[test]
fn replicas_are_read() {
    let replica = |flags: &str, link: &str| {
        list(&format!(
            "name 127.0.0.1:17002 ip 127.0.0.1 port 17002 runid \
             0576fac7a4be8dc966fdcde12f93b7fbeac97090 flags {flags} link-pending-commands 0 \
             link-refcount 1 last-ping-sent 0 last-ok-ping-reply 115 last-ping-reply 115 \
             down-after-milliseconds 500 info-refresh 2911 role-reported slave role-reported-time \
             4000 master-link-down-time 0 master-link-status {link} master-host 127.0.0.1 \
             master-port 17001 slave-priority 100 slave-repl-offset 4242 replica-announced 1"
        ))
    };
    let addr: SocketAddr = "127.0.0.1:17002".parse().unwrap();
    for (flags, link, down, link_up) in [
        ("slave", "ok", false, true),
        ("slave", "err", false, false),
        ("s_down,slave", "ok", true, true),
        ("s_down,slave,disconnected", "err", true, false),
    ] {
        let read = replicas(Value::Array(vec![replica(flags, link)])).unwrap();
        let [(node, unplaced)] = read.as_slice() else {
            panic!("{read:?}");
        };
        assert_eq!(*node, Named { host: "127.0.0.1".into(), port: 17002 });
        let expected = Replica { addr, down, link_up, priority: 100, offset: 4242 };
        assert_eq!(unplaced.at(addr), expected, "{flags}");
    }
    assert_eq!(replicas(Value::Array(vec![])), Ok(vec![]));
    assert!(replicas(Value::Array(vec![list("name x ip 127.0.0.1")])).is_err());
}

#[test]
fn other_sentinels_are_read() {
    let run_id = "04cc30b07d083121ad9d55b5620f5a198abede0e";
    let known =
        list(&format!("name {run_id} ip 127.0.0.1 port 17004 runid {run_id} flags sentinel"));
    let unknown = list("name x ip sentinel-2.example port 26379 runid \"\" flags s_down,sentinel");
    let expected = vec![
        Peer { run_id: run_id.into(), host: "127.0.0.1".into(), port: 17004 },
        Peer { run_id: String::new(), host: "sentinel-2.example".into(), port: 26379 },
    ];
    assert_eq!(peers(Value::Array(vec![known, unknown])), Ok(expected));
}

#[test]
fn events_are_read() {
    let about_replica = "slave 127.0.0.1:17002 127.0.0.1 17002 @ mymaster 127.0.0.1 17001";
    let about_master = "master mymaster 127.0.0.1 17001";
    let replica = || Some(Named { host: "127.0.0.1".into(), port: 17002 });
    for (channel, payload, kind, node) in [
        ("+sdown", about_master, Kind::Sdown, None),
        ("+sdown", about_replica, Kind::Topology, replica()),
        ("+odown", "master mymaster 127.0.0.1 17001 #quorum 2/2", Kind::Odown, None),
        ("+try-failover", about_master, Kind::Other, None),
        ("+failover-state-select-slave", about_master, Kind::Other, None),
        ("+selected-slave", about_replica, Kind::Selected, replica()),
        ("+failover-state-wait-promotion", about_replica, Kind::Promoting, replica()),
        ("+promoted-slave", about_replica, Kind::Promoted, replica()),
        ("+failover-state-reconf-slaves", about_master, Kind::Other, None),
        ("+failover-end", about_master, Kind::End, None),
        ("+failover-end-for-timeout", about_master, Kind::End, None),
        ("-failover-abort-no-good-slave", about_master, Kind::Aborted, None),
        ("-failover-abort-not-elected", about_master, Kind::Aborted, None),
        (
            "+switch-master",
            "mymaster 127.0.0.1 17001 127.0.0.1 17002",
            Kind::SwitchMaster,
            replica(),
        ),
        ("+reset-master", about_master, Kind::Topology, None),
        ("+monitor", "master mymaster 127.0.0.1 17001 quorum 2", Kind::Topology, None),
        ("+slave", about_replica, Kind::Topology, replica()),
        (
            "+config-update-from",
            "sentinel 04cc30b0 127.0.0.1 17002 @ mymaster 127.0.0.1 17001",
            Kind::Other,
            replica(),
        ),
    ] {
        let expected = Event { kind, master: Some("mymaster"), node };
        assert_eq!(event(channel, payload), Some(expected), "{channel} {payload}");
    }
    let all = Event { kind: Kind::Other, master: None, node: None };
    assert_eq!(event("+tilt", "#tilt mode entered"), Some(all));
}

#[test]
fn an_event_of_another_form_is_no_event() {
    for (channel, payload) in [
        ("+sdown", ""),
        ("+sdown", "master mymaster"),
        ("+selected-slave", "slave 127.0.0.1:17002 127.0.0.1 17002 mymaster 127.0.0.1"),
        ("+new-epoch", "7"),
    ] {
        assert_eq!(event(channel, payload), None, "{channel} {payload}");
    }
    // A port that is none costs the node, not the event.
    let event = event("+switch-master", "mymaster a 1 b 99999").unwrap();
    assert_eq!((event.master, event.node), (Some("mymaster"), None));
}
