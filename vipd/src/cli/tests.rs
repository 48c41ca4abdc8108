use super::*;
use crate::config::{Login, Service, Source, Vip};

fn run_flags(line: &str) -> Result<RunFlags, String> {
    match Cli::try_parse_from(line.split_whitespace()) {
        Ok(Cli { command: Command::Run(flags) | Command::Check(flags) }) => Ok(flags),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn config(line: &str) -> Result<Config, String> {
    Config::from_flags(&run_flags(line)?).map_err(|error| error.to_string())
}

const ONE: &str = "vipd run --interface eth1 --vip 198.18.0.250 --master mymaster --sentinel \
                   198.18.0.101:26379 --sentinel 198.18.0.102:26379";

#[test]
fn clap_finds_no_fault_with_the_definitions() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn flags_say_the_same_as_a_file() {
    let config = config(ONE).unwrap();
    assert_eq!(config.daemon.interfaces, ["eth1"]);
    assert_eq!(config.sentinel.endpoints.len(), 2);
    let services = vec![Service {
        port: 6379,
        master: "mymaster".into(),
        role: crate::config::ServiceRole::Master,
        backend_port: None,
    }];
    let address = "198.18.0.250".parse().unwrap();
    let expected = Vip { address, mode: Mode::Nat, source: Source::Auto, services };
    assert_eq!(config.vips, [expected]);
}

#[test]
fn several_ports_of_one_vip_are_one_vip() {
    let line = ONE.replace("198.18.0.250", "198.18.0.250:6379,198.18.0.251,198.18.0.250:6380");
    let vips = config(&line).unwrap().vips;
    let ports: Vec<Vec<u16>> =
        vips.iter().map(|vip| vip.services.iter().map(|s| s.port).collect()).collect();
    assert_eq!(ports, [vec![6379, 6380], vec![6379]]);
}

#[test]
fn every_flag_arrives() {
    let config = config(&format!(
        "{ONE} --mode nat --backend-port 8000 --xdp-mode generic --pin-dir /p --control-socket \
         /s --on-sentinel-loss withdraw --on-stop keep --sentinel-username a \
         --sentinel-password-file /a --redis-username b --redis-password-file /b"
    ))
    .unwrap();
    let login = |user: &str, file: &str| Login {
        username: Some(user.into()),
        password_file: Some(file.into()),
        tls: None,
    };
    assert_eq!(config.vips[0].services[0].backend_port, Some(8000));
    assert_eq!(config.daemon.xdp_mode, XdpMode::Generic);
    assert_eq!(config.daemon.pin_dir, PathBuf::from("/p"));
    assert_eq!(config.daemon.control_socket, PathBuf::from("/s"));
    assert_eq!(config.daemon.on_sentinel_loss, OnSentinelLoss::Withdraw);
    assert_eq!(config.daemon.on_stop, OnStop::Keep);
    assert_eq!(config.sentinel.login, login("a", "/a"));
    assert_eq!(config.redis.login, login("b", "/b"));
}

#[test]
fn a_flag_that_makes_no_sense_says_why() {
    for (flags, expected) in [
        ("--config /x --vip 198.18.0.250", "cannot be used with"),
        ("--interface eth1", "--vip is missing"),
        ("--vip 198.18.0.250", "--interface is missing"),
        ("--interface e --vip 198.18.0.250 --master m", "--sentinel is missing"),
        ("--interface e --vip 198.18.0.250 --sentinel h:1", "--master is missing"),
        ("--vip [fd98:18::250]6379", "write [ADDRESS]:PORT"),
        ("--vip 198.18.0.250:0", "not a number from 1 to 65535"),
        ("--vip 198.18.0.250:x", "not a number from 1 to 65535"),
        ("--vip eth0", "is not an IP address"),
        ("--sentinel 198.18.0.101", "the port is missing"),
        ("--mode tun", "there are \"nat\" and \"dsr\""),
        ("--redis-password hunter2", "unexpected argument"),
        (
            "--interface e --vip 198.18.0.250 --master m --sentinel h:1 --mode dsr \
             --backend-port 8000",
            "can't translate ports",
        ),
    ] {
        let error = config(&format!("vipd run {flags}")).unwrap_err();
        assert!(error.contains(expected), "{flags}: {error}");
    }
}

#[test]
fn status_and_detach_find_their_vipd() {
    let status = StatusFlags { socket: Some("/s".into()), ..StatusFlags::default() };
    assert_eq!(status.paths().unwrap().control_socket, PathBuf::from("/s"));
    let detach = DetachFlags { pin_dir: Some("/p".into()), ..DetachFlags::default() };
    let expected = Paths { control_socket: DEFAULT_CONTROL_SOCKET.into(), pin_dir: "/p".into() };
    assert_eq!(detach.paths().unwrap(), expected);
    let missing = StatusFlags { config: Some("/nonexistent".into()), ..StatusFlags::default() };
    assert!(missing.paths().is_err());
}

#[test]
fn a_switchover_is_ordered_with_its_flags() {
    let order = |line: &str| match Cli::try_parse_from(line.split(' ')) {
        Ok(Cli { command: Command::Switchover(flags) }) => Ok(flags.order()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let plain = Order { master: "m".into(), to: None, timeout_ms: 5000, dry_run: false };
    assert_eq!(order("vipd switchover m"), Ok(plain.clone()));
    let to = Some(Preferred::Node("198.18.0.102:8000".parse().unwrap()));
    let every = Order { to, timeout_ms: 7000, dry_run: true, ..plain.clone() };
    let line = "vipd switchover m --to 198.18.0.102:8000 --timeout 7 --dry-run --socket /s";
    assert_eq!(order(line), Ok(every));
    let to = Some(Preferred::Host("fd98:18::66".parse().unwrap()));
    assert_eq!(order("vipd switchover m --to fd98:18::66"), Ok(Order { to, ..plain }));
    for (line, expected) in [
        ("vipd switchover", "<MASTER>"),
        ("vipd switchover m --to redis2", "with or without :PORT"),
        ("vipd switchover m --timeout 0", "not in 1..=600"),
    ] {
        let error = order(line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

const HINT: [&str; 7] =
    ["mymaster", "leader", "start", "198.18.0.101", "8000", "198.18.0.102", "8000"];

fn notify_flags(words: &[&str]) -> Result<NotifyFlags, clap::Error> {
    let given = words.iter().chain(&HINT).map(OsString::from);
    match Cli::try_parse_from(Cli::arguments(given))?.command {
        Command::Notify(flags) => Ok(flags),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sentinel_calls_a_link_without_the_word_notify() {
    for words in [&["/usr/bin/vipd", "notify"][..], &["/opt/vipd-notify"]] {
        let flags = notify_flags(words).unwrap();
        assert_eq!(flags.arguments, HINT, "{words:?}");
    }
    let given = ["/opt/vipd-notify", "mymaster"].map(OsString::from);
    let error = Cli::try_parse_from(Cli::arguments(given)).unwrap_err();
    assert_eq!(error.exit_code(), 2, "which Sentinel does not repeat");
}

#[test]
fn notify_finds_its_vipd() {
    let dir = std::env::temp_dir().join(format!("vipd-notify-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("vipd.toml");
    let text = "[daemon]\ninterfaces = [\"eth1\"]\ncontrol_socket = \"/c\"\nnotify_socket = \
                \"/n\"\n[sentinel]\nendpoints = [\"198.18.0.101:26379\"]\n[[vip]]\naddress = \
                \"198.18.0.250\"\n[[vip.service]]\nport = 6379\nmaster = \"mymaster\"\n";
    std::fs::write(&file, text).unwrap();
    let find = |words: &[&str], variables: &[(&str, &str)]| {
        let words = [&["vipd", "notify"], words].concat();
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        notify_flags(&words).unwrap().sockets(value)
    };
    let path = file.to_str().unwrap();
    let both = [PathBuf::from("/c"), PathBuf::from("/n")];
    assert_eq!(find(&["--config", path], &[]).unwrap(), both);
    assert_eq!(find(&[], &[("VIPD_CONFIG", path)]).unwrap(), both);
    let socket = [PathBuf::from("/s")];
    assert_eq!(find(&["--socket", "/s"], &[("VIPD_SOCKET", "/x")]).unwrap(), socket);
    assert_eq!(find(&[], &[("VIPD_SOCKET", "/s"), ("VIPD_CONFIG", path)]).unwrap(), socket);
    let broken = find(&[], &[("VIPD_CONFIG", "/nonexistent")]);
    assert!(broken.is_err(), "what was named must be there: {broken:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}
