use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

const V4: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 250)));

fn flags(words: &str) -> ProbeFlags {
    let arguments = ["vipd", "probe"].into_iter().chain(words.split_whitespace());
    match Cli::try_parse_from(arguments).unwrap().command {
        Command::Probe(flags) => *flags,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_target_has_redis_port_unless_it_says_another() {
    for (text, host, port) in [
        ("198.18.0.250", "198.18.0.250", 6379),
        ("198.18.0.250:8000", "198.18.0.250", 8000),
        ("fd98:18::250", "fd98:18::250", 6379),
        ("[fd98:18::250]", "fd98:18::250", 6379),
        ("[fd98:18::250]:8000", "fd98:18::250", 8000),
        ("redis.example", "redis.example", 6379),
        ("redis.example:1", "redis.example", 1),
    ] {
        let TargetFlag(endpoint) = text.parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
    }
    for text in ["", "198.18.0.2500", "a:b", "fd98::1::2", "198.18.0.250:0"] {
        assert!(text.parse::<TargetFlag>().is_err(), "{text}");
    }
}

#[test]
fn layers_are_those_that_the_target_has() {
    use LayerName::{Arp, Icmp, Idle, Nd, Redis, Syn};
    let v6 = Some("fd98:18::250".parse().unwrap());
    assert_eq!(layers(&flags("x"), V4).unwrap(), [Arp, Icmp, Syn, Redis, Idle]);
    assert_eq!(layers(&flags("x"), v6).unwrap(), [Nd, Icmp, Syn, Redis, Idle]);
    assert_eq!(layers(&flags("--sentinel a:1"), None).unwrap(), [Redis, Idle]);
    assert_eq!(layers(&flags("x --layers syn,icmp,syn"), V4).unwrap(), [Icmp, Syn]);
    for (words, target) in [("x --layers nd", V4), ("x --layers arp", v6), ("--layers syn", None)] {
        let error = layers(&flags(words), target).unwrap_err().to_string();
        assert!(error.contains("does not exist for"), "{error}");
    }
}

#[test]
fn what_is_absurd_is_refused_with_what_is_possible() {
    for (words, reason) in [
        ("--syn-rate 0", "--syn-rate 0 is not between 1 and 20000; leave the layer out"),
        ("--syn-rate 1000000", "not between 1 and 20000"),
        ("--arp-rate 5000", "--arp-rate"),
        ("--icmp-rate 99999", "--icmp-rate"),
        ("--idle 1000000", "--idle"),
        ("--connections 1000 --write-rate 1000", "1000000 writes a second; at most 20000"),
        ("--syn-rate 10000 --duration 1h", "--duration 500s or less"),
        ("--duration 40h", "not between 200ms and 1day"),
        ("--timeout 2h", "--timeout 2h"),
        ("--warm-up 30s", "--warm-up 30s must be shorter than --duration 30s"),
        ("--write-rate 0 --fresh-rate 0", "has nothing to do"),
    ] {
        let error = layers(&flags(&format!("x {words}")), V4).unwrap_err().to_string();
        assert!(error.contains(reason), "{words}: {error}");
    }
    // What isn't used may be anything.
    assert!(layers(&flags("x --layers icmp --syn-rate 0"), V4).is_ok());
}

#[test]
fn source_ports_are_the_larger_range_that_connections_leave() {
    assert_eq!(outside("32768\t60999\n"), Some(10_000..=32_767));
    assert_eq!(outside("1024 40000"), Some(40_001..=65_535));
    assert_eq!(outside("1024 65535"), None);
    assert_eq!(outside("10500 65000"), None);
    assert_eq!(outside("what"), None);
    assert_eq!("20000-29999".parse(), Ok(SourcePorts(20_000..=29_999)));
    for text in ["", "1-2", "29999-20000", "0-5000", "a-b", "20000"] {
        assert!(text.parse::<SourcePorts>().is_err(), "{text}");
    }
}
