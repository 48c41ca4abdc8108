//! What is accepted, and what the errors say.

use std::net::Ipv4Addr;
use std::path::Path;

use super::*;

const FULL: &str = r#"
[daemon]
interfaces = ["eth1", "eth2.7"]
xdp_mode = "native"
pin_dir = "/sys/fs/bpf/other"
control_socket = "/run/other.sock"
cutover = "confirmed"
fast_fail = "refused"
on_sentinel_loss = "withdraw"
on_stop = "keep"
source_ports = "50000-59999"
max_connections = 1000
max_half_open = 500
on_minority = "hold"
lease_ms = 1500
notify_socket = "/run/notify.sock"

[announce]
count = 3
interval_ms = 50
refresh_s = 0

[failover]
park_ms = 500
free_clients = false
replay_syns_s = 3
max_pending_syns = 1000
fast_fail_grace_ms = 50
fast_fail_interval_s = 10

[sentinel]
endpoints = ["198.18.0.101:26379", "[fd98:18::102]:26379", "s3.example:26379"]
username = "vipd"
password_file = "/etc/vipd/sentinel.pass"
tls = { ca = "/ca", cert = "/cert", key = "/key", server_name = "sentinel" }

[redis]
username = "vipd"
password_file = "/etc/vipd/redis.pass"
tls = { ca = "/ca" }
same_host = [["198.18.0.101", "fd98:18::101"]]

[[vip]]
address = "198.18.0.250"
source = "198.18.0.50"
[[vip.service]]
port = 6379
master = "mymaster"
backend_port = 8000
[[vip.service]]
port = 6380
master = "other"

[[vip]]
address = "198.18.0.251"
mode = "dsr"
service = [{ port = 6379, master = "mymaster" }]

[[vip]]
address = "fd98:18::252"
mode = "host"
service = [{ port = 6379, master = "mymaster" }]

[[vip]]
address = "198.18.0.253"
mode = "real"
"#;

const MINIMAL: &str = r#"
[daemon]
interfaces = ["eth1"]
[sentinel]
endpoints = ["198.18.0.101:26379"]
[[vip]]
address = "198.18.0.250"
[[vip.service]]
port = 6379
master = "mymaster"
"#;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("vipd.toml"))?.checked("vipd.toml")
}

fn minimal() -> Config {
    parse(MINIMAL).unwrap()
}

#[test]
fn every_key_is_read() {
    let config = parse(FULL).unwrap();
    let expected = Daemon {
        interfaces: vec!["eth1".into(), "eth2.7".into()],
        xdp_mode: XdpMode::Native,
        pin_dir: "/sys/fs/bpf/other".into(),
        control_socket: "/run/other.sock".into(),
        cutover: Cutover::Confirmed,
        fast_fail: FastFail::Refused,
        on_sentinel_loss: OnSentinelLoss::Withdraw,
        on_stop: OnStop::Keep,
        source_ports: PortRange { first: 50_000, last: 59_999 },
        max_connections: 1000,
        max_half_open: 500,
        on_minority: OnSentinelLoss::Hold,
        lease_ms: 1500,
        notify_socket: Some("/run/notify.sock".into()),
    };
    assert_eq!(config.daemon, expected);
    let hosts: Vec<_> = config.sentinel.endpoints.iter().map(|e| e.host.as_str()).collect();
    assert_eq!(hosts, ["198.18.0.101", "fd98:18::102", "s3.example"]);
    assert_eq!(config.sentinel.login.username.as_deref(), Some("vipd"));
    let tls = config.sentinel.login.tls.as_ref().unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("sentinel"));
    assert_eq!(
        config.redis.login.password_file.as_deref(),
        Some(Path::new("/etc/vipd/redis.pass"))
    );
    assert_eq!(config.masters(), ["mymaster", "other"]);
    assert_eq!(config.vips[0].mode, Mode::Nat);
    assert_eq!(config.vips[0].source, Source::Address("198.18.0.50".parse().unwrap()));
    assert_eq!(config.vips[0].services[0].backend_port, Some(8000));
    assert_eq!(config.vips[0].services[0].role, ServiceRole::Master);
    assert_eq!(config.announce, Announce { count: 3, interval_ms: 50, refresh_s: 0 });
    let expected = Acceleration {
        park_ms: 500,
        free_clients: false,
        replay_syns_s: 3,
        max_pending_syns: 1000,
        fast_fail_grace_ms: 50,
        fast_fail_interval_s: 10,
    };
    assert_eq!(config.failover, expected);
    assert_eq!(config.redis.same_host.len(), 1);
    let modes: Vec<_> = config.vips[1..].iter().map(|vip| vip.mode).collect();
    assert_eq!(modes, [Mode::Dsr, Mode::Host, Mode::Real]);
}

#[test]
fn every_key_has_a_default() {
    let config = minimal();
    let defaults = Daemon { interfaces: vec!["eth1".into()], ..Daemon::default() };
    assert_eq!(config.daemon, defaults);
    assert_eq!(config.daemon.pin_dir, Path::new(DEFAULT_PIN_DIR));
    assert_eq!(config.daemon.source_ports, PortRange { first: 61_000, last: 65_535 });
    assert_eq!(config.sentinel.login, Login::default());
    assert_eq!(config.redis, Redis::default());
    assert_eq!(config.announce, Announce::default());
    assert_eq!(config.failover, Acceleration::default());
    assert_eq!((config.daemon.cutover, config.daemon.fast_fail), (Cutover::Early, FastFail::Off));
    assert_eq!((config.vips[0].mode, config.vips[0].source), (Mode::Nat, Source::Auto));
}

#[test]
fn a_mistake_in_the_text_is_named_with_its_line_and_key() {
    for (line, text, expected) in [
        (3, "[daemon]\ninterfaces = [\"eth1\"]\nspeed = 9\n", "unknown field `speed`"),
        (2, "[daemon]\ncutover = \"soon\"\n", "expected `early` or `confirmed`"),
        (2, "[daemon]\nfast_fail = \"on\"\n", "expected `off` or `refused`"),
        (2, "[failover]\npark = 9\n", "unknown field `park`"),
        (2, "[daemon]\nxdp_mode = \"turbo\"\n", "[daemon] xdp_mode: unknown variant `turbo`"),
        (2, "[daemon]\nmax_connections = -1\n", "[daemon] max_connections: "),
        (2, "[daemon]\nsource_ports = \"9-1\"\n", "is not a range of ports"),
        (2, "[daemon]\ninterface = \"eth1\"\n", "write `interfaces = "),
        (1, "[demon]\n", "unknown field `demon`"),
        (2, "[sentinel]\nendpoint = []\n", "unknown field `endpoint`"),
        (
            2,
            "[sentinel]\nendpoints = [\"host\"]\n",
            "\"host\" is not HOST:PORT: the port is missing",
        ),
        (3, "[sentinel]\nendpoints = []\npassword = \"x\"\n", "as `password_file`"),
        (2, "[redis]\ntls = { ca = \"/ca\", verify = false }\n", "unknown field `verify`"),
        (2, "[redis]\ntls = { cert = \"/c\" }\n", "missing field `ca`"),
        (2, "[[vip]]\naddress = \"198.18.0\"\n", "is not an IP address"),
        (2, "[redis]\nsame_host = [[\"198.18.0.1\"]]\n", "same_host"),
        (2, "[announce]\ntimes = 3\n", "unknown field `times`"),
        (
            3,
            "[[vip]]\naddress = \"198.18.0.250\"\nmode = \"tun\"\n",
            "there are \"nat\" and \"dsr\"",
        ),
        (3, "[[vip]]\naddress = \"198.18.0.250\"\nsource = \"eth0\"\n", "neither \"auto\" nor"),
        (
            4,
            "[[vip]]\naddress = \"198.18.0.250\"\n[[vip.service]]\nport = 70000\n",
            "[[vip.service]] port",
        ),
        (1, "[daemon\n", ""),
        (2, "[daemon]\non_stop = keep\n", "[daemon] on_stop"),
        (2, "[daemon]\n[daemon]\n", "duplicate key"),
    ] {
        let error = parse(text).unwrap_err();
        let shown = error.to_string();
        let Error::Syntax { line: found, .. } = error else {
            panic!("{text}: {shown}");
        };
        assert!(found == line && shown.contains(expected), "{text}: {shown}");
        assert!(shown.starts_with(&format!("vipd.toml, line {line}, column ")), "{shown}");
    }
}

#[test]
fn a_password_in_the_wrong_place_is_not_shown() {
    for text in [
        "[sentinel]\npassword = \"hunter2\"\n",
        "[redis]\npassword = \"hunter2\" x\n",
        "[redis]\nrequirepass = \"hunter2\"\n",
    ] {
        let error = format!("{0} {0:?}", parse(text).unwrap_err());
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_makes_no_sense_together_is_named_with_its_place() {
    type Edit = fn(&mut Config);
    let cases: &[(Edit, &str)] = &[
        (|c| c.daemon.interfaces.clear(), "[daemon] interfaces: name the interface"),
        (
            |c| c.daemon.interfaces.push("eth1".into()),
            "[daemon] interfaces: \"eth1\" is there twice",
        ),
        (|c| c.daemon.interfaces.push("a/b".into()), "\"a/b\" can't be the name of an interface"),
        (|c| c.daemon.interfaces.push("a".repeat(16)), "can't be the name of an interface"),
        (|c| c.daemon.interfaces = (0..65).map(|i| format!("e{i}")).collect(), "more than 64"),
        (|c| c.daemon.pin_dir = "vipd".into(), "[daemon] pin_dir: vipd is not an absolute path"),
        (|c| c.daemon.control_socket = "x".into(), "[daemon] control_socket: x is not an absolute"),
        (
            |c| c.daemon.control_socket = format!("/{}", "x".repeat(107)).into(),
            "longer than the 107 bytes",
        ),
        (|c| c.daemon.source_ports.first = 1023, "[daemon] source_ports: starts below 1024"),
        (|c| c.daemon.max_connections = 63, "[daemon] max_connections: 63 is not from 64 to"),
        (|c| c.daemon.max_half_open = u32::MAX, "[daemon] max_half_open: 4294967295 is not from"),
        (|c| c.sentinel.endpoints.clear(), "[sentinel] endpoints: name every Sentinel"),
        (
            |c| c.sentinel.endpoints.push(c.sentinel.endpoints[0].clone()),
            "198.18.0.101:26379 is there twice",
        ),
        (
            |c| {
                c.sentinel.endpoints =
                    (1..=33).map(|port| Endpoint { host: "h".into(), port }).collect();
            },
            "[sentinel] endpoints: more than 32 Sentinels",
        ),
        (
            |c| c.sentinel.endpoints.push("198.18.0.250:26379".parse().unwrap()),
            "198.18.0.250:26379 is on a VIP",
        ),
        (
            |c| c.redis.login.username = Some("vipd".into()),
            "[redis] username: there is no password for it",
        ),
        (|c| c.sentinel.login.username = Some(String::new()), "[sentinel] username: is empty"),
        (
            |c| c.redis.login.tls = Some(Tls { cert: Some("/c".into()), ..Tls::default() }),
            "[redis] tls: `cert` without `key`",
        ),
        (
            |c| c.sentinel.login.tls = Some(Tls { key: Some("/k".into()), ..Tls::default() }),
            "[sentinel] tls: `key` without `cert`",
        ),
        (|c| c.vips.clear(), "[[vip]]: there is none"),
        (|c| c.vips.push(c.vips[0].clone()), "[[vip]] 198.18.0.250: is there twice"),
        (|c| c.vips[0].address = Ipv4Addr::UNSPECIFIED.into(), "[[vip]] 0.0.0.0: can't be a VIP"),
        (|c| c.vips[0].address = Ipv4Addr::LOCALHOST.into(), "it is a loopback address"),
        (|c| c.vips[0].address = Ipv4Addr::new(224, 0, 0, 1).into(), "it is a multicast address"),
        (|c| c.vips[0].address = Ipv4Addr::BROADCAST.into(), "it is the broadcast address"),
        (
            |c| c.vips[0].source = Source::Address(Ipv4Addr::LOCALHOST.into()),
            "`source` 127.0.0.1 can't be used",
        ),
        (
            |c| {
                c.vips[0].mode = Mode::Dsr;
                c.vips[0].source = Source::Address("198.18.0.50".parse().unwrap());
            },
            "`source` has no meaning with mode \"dsr\"",
        ),
        (
            |c| c.vips[0].source = Source::Address("fd98:18::50".parse().unwrap()),
            "`source` fd98:18::50 is of the other address family",
        ),
        (|c| c.vips[0].address = "fe80::1".parse().unwrap(), "it is a link-local address"),
        (|c| c.vips[0].address = "::ffff:198.18.0.1".parse().unwrap(), "in IPv6's clothes"),
        (|c| c.daemon.lease_ms = 499, "[daemon] lease_ms: 499 is not from 500 to 60000"),
        (|c| c.failover.park_ms = 99, "[failover] park_ms: 99 is not from 100 to 60000"),
        (|c| c.failover.replay_syns_s = 121, "[failover] replay_syns_s: 121 is not from 0 to"),
        (|c| c.failover.max_pending_syns = 1, "[failover] max_pending_syns: 1 is not from 64"),
        (|c| c.failover.fast_fail_grace_ms = 9, "[failover] fast_fail_grace_ms: 9 is not from"),
        (|c| c.failover.fast_fail_interval_s = 9, "[failover] fast_fail_interval_s: 9 is not"),
        (|c| c.announce.count = 0, "[announce] count: 0 is not from 1 to 100"),
        (|c| c.announce.interval_ms = 9, "[announce] interval_ms: 9 is not from 10"),
        (|c| c.announce.refresh_s = 86_401, "[announce] refresh_s: 86401 is not from 0"),
        (|c| c.daemon.notify_socket = Some("n".into()), "[daemon] notify_socket: n is not an abs"),
        (
            |c| c.daemon.notify_socket = Some(c.daemon.control_socket.clone()),
            "[daemon] notify_socket: is the control socket's path",
        ),
        (
            |c| {
                c.redis.same_host = vec![["198.18.0.1", "198.18.0.2"].map(|it| it.parse().unwrap())]
            },
            "198.18.0.1 and 198.18.0.2 are not one of each family",
        ),
        (
            |c| c.vips[0].mode = Mode::Real,
            "[[vip]] 198.18.0.250: mode \"real\" takes whatever the director sends",
        ),
        (
            |c| {
                c.vips[0].mode = Mode::Host;
                let first = c.vips[0].services[0].clone();
                c.vips[0].services.push(Service { port: 1, master: "other".into(), ..first });
            },
            "its services follow different masters",
        ),
        (
            |c| {
                c.vips[0].mode = Mode::Host;
                c.vips[0].services[0].role = ServiceRole::Replica;
            },
            "role \"replica\" needs mode \"nat\"",
        ),
        (|c| c.vips[0].services.clear(), "[[vip]] 198.18.0.250: carries no service"),
        (|c| c.vips[0].services[0].port = 0, "[[vip]] 198.18.0.250, service 0: port 0"),
        (
            |c| {
                let again = c.vips[0].services[0].clone();
                c.vips[0].services.push(again);
            },
            "[[vip]] 198.18.0.250, service 6379: is there twice",
        ),
        (|c| c.vips[0].services[0].master = String::new(), "\"\" can't be the name"),
        (|c| c.vips[0].services[0].master = "my master".into(), "\"my master\" can't be the name"),
        (|c| c.vips[0].services[0].backend_port = Some(0), "backend_port 0"),
        (
            |c| {
                c.vips[0].mode = Mode::Dsr;
                c.vips[0].services[0].backend_port = Some(8000);
            },
            "mode \"dsr\" can't translate ports",
        ),
        (
            |c| {
                let service = c.vips[0].services[0].clone();
                c.vips[0].services =
                    (1..=1025).map(|port| Service { port, ..service.clone() }).collect();
            },
            "[[vip.service]]: more than 1024",
        ),
    ];
    for (edit, expected) in cases {
        let mut config = minimal();
        edit(&mut config);
        let problems = config.validate();
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(shown.len() == 1 && shown[0].contains(expected), "{expected}: {shown:?}");
    }
}

#[test]
fn a_real_server_needs_no_sentinels() {
    let text = "[daemon]\ninterfaces = [\"eth1\"]\n\
                [[vip]]\naddress = \"198.18.0.250\"\nmode = \"real\"\n";
    assert_eq!(parse(text).unwrap().masters(), [""; 0]);
}

#[test]
fn all_problems_are_said_at_once() {
    let error = parse("").unwrap_err().to_string();
    assert!(error.starts_with("vipd.toml can't be used:\n  - [daemon] interfaces: "), "{error}");
    assert!(
        error.contains("\n  - [sentinel] endpoints: ") && error.contains("\n  - [[vip]]: "),
        "{error}"
    );
}

#[test]
fn a_file_that_cant_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/vipd.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/vipd.toml: No such file"), "{error}");
}
