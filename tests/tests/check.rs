//! `vipd check` against real Redis and Sentinels: it must say what `vipd run` would meet, and
//! change nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vipd::{datapath, netdev};
use vipd_tests::{Lab, Mode, Nics, Options, Outcome};

/// A configuration's changes, and what the report must then say.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn a_good_deployment_is_all_well_before_beside_and_after_a_vipd() -> Result<()> {
    let mut lab =
        Lab::up(Options { daemon: "on_stop = \"keep\"".to_owned(), ..Options::default() })?;
    let before = Outcome::of(lab.daemon(), "check")?;
    before.must_succeed(&[
        "XDP native",
        "free on eth0",
        "named by 3 of 3 Sentinels",
        "next hop 02:00:00:12:00:65 on eth0",
        "link up, lag ",
        "nothing: a fresh start",
        "\n`vipd run` would serve\n",
    ])?;
    ensure!(!before.text.contains("warn"), "{}", before.text);
    untouched(&lab)?;

    lab.serve()?;
    let pid = lab.daemon().status()?.pid;
    let beside = Outcome::of(lab.daemon(), "check")?;
    let running = format!("vipd is running already (pid {pid})");
    beside.must_succeed(&["announced by this vipd already", "vipd's own program", &running])?;

    lab.daemon_mut().kill()?;
    let after = Outcome::of(lab.daemon(), "check")?;
    after.must_succeed(&["takes them over", "announced by this vipd already"])
}

#[test]
fn dsr_is_all_well_where_redis_has_the_vips_port() -> Result<()> {
    let lab = Lab::up(Options::mode(Mode::Dsr))?;
    Outcome::of(lab.daemon(), "check")?.must_succeed(&["`vipd run` would serve\n"])?;
    let port: Case<'_> = (&[("port = 8000", "port = 6379")], &["can't translate ports"]);
    Outcome::with(lab.daemon(), port.0, "check")?.must_fail(port.1)
}

#[test]
fn each_mistake_in_the_configuration_is_named() -> Result<()> {
    let lab = Lab::up(Options { password: Some("secret".to_owned()), ..Options::default() })?;
    Outcome::of(lab.daemon(), "check")?.must_succeed(&["`vipd run` would serve\n"])?;
    let directory = lab.daemon().config().parent().context("a directory")?.to_owned();
    let wrong = directory.join("wrong");
    fs::write(&wrong, "guess\n")?;
    let right = format!("{:?}", directory.join("password"));
    let wrong = format!("{wrong:?}");
    let no_password = format!("password_file = {right}\n");
    let failing: &[Case<'_>] = &[
        (&[("\"eth0\"", "\"eth7\"")], &["no interface \"eth7\"", "it has: lo, eth0"]),
        (&[(&right, &wrong)], &["198.18.0.101:26379", "wrong password", "2 must"]),
        (&[(&no_password, "")], &["wants a password: set `password_file`"]),
        (&[(&right, "\"/nowhere/password\"")], &["sentinel login", "/nowhere/password"]),
        (&[("\"mymaster\"", "\"other\"")], &["does not know the master \"other\""]),
        (&[(":26379", ":26380")], &["connection refused", "is Sentinel running there"]),
        (&[(":26379", ":8000")], &["this is a Redis node, not a Sentinel"]),
        (&[("198.18.0.250", "198.18.0.50")], &["an address of this host, on eth0"]),
        (&[("198.18.0.250", "198.18.0.10")], &["in use on eth0 by 02:00:00:12:00:0a"]),
        (&[("\"nat\"", "\"dsr\"")], &["198.18.0.101:8000", "can't translate ports"]),
        (
            &[("\"nat\"", "\"host\""), ("port = 6379", "port = 8000")],
            &["none of the nodes of mymaster runs on this host"],
        ),
        (&[("[sentinel]", "[daemon.more]\n[sentinel]")], &["more"]),
    ];
    for (changes, said) in failing {
        let outcome = Outcome::with(lab.daemon(), changes, "check")?;
        outcome.must_fail(said).with_context(|| format!("{changes:?}"))?;
        untouched(&lab)?;
    }
    let warned: &[Case<'_>] = &[
        (&[("198.18.0.250", "198.18.1.250")], &["in no network of the interfaces"]),
        (&[("198.18.0.103:26379", "198.18.0.103:1")], &["198.18.0.103:1", "connection refused"]),
    ];
    for (changes, said) in warned {
        let outcome = Outcome::with(lab.daemon(), changes, "check")?;
        outcome.must_succeed(said).with_context(|| format!("{changes:?}"))?;
        ensure!(outcome.text.contains("warning"), "{}", outcome.text);
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_the_interface_is_named() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let director = &lab.director().namespace;

    let pass = director.run(|| datapath::Pass::attach("eth0"))??;
    let occupied = Outcome::of(lab.daemon(), "check")?;
    drop(pass);
    occupied.must_fail(&["another XDP program is attached", "(pass), in native mode"])?;
    untouched(&lab)?;

    // What counts for a veth device is its peer's.
    let switch = format!("{}-switch", lab.name());
    let mtu = |mtu| {
        let mut ip = Command::new("ip");
        let done = ip.args(["-n", &switch, "link", "set", "p-director", "mtu", mtu]).status()?;
        ensure!(done.success(), "cannot set the MTU");
        Ok(())
    };
    mtu("9000")?;
    let native = &[("control_socket", "xdp_mode = \"native\"\ncontrol_socket")];
    let refused = Outcome::with(lab.daemon(), native, "check")?;
    let generic = Outcome::of(lab.daemon(), "check")?;
    mtu("1500")?;
    refused.must_fail(&["no native XDP", "9000, is too large"])?;
    generic.must_succeed(&["XDP generic, slower", "9000, is too large"])?;

    director.ip_batch("link set eth0 down\n")?;
    let down = Outcome::of(lab.daemon(), "check")?;
    director.ip_batch("link set eth0 up\n")?;
    down.must_fail(&["interface eth0", "is down", "`ip link set dev eth0 up`"])?;

    let offload = director.command("ethtool").args(["-K", "eth0", "tx", "on"]).output()?;
    ensure!(offload.status.success(), "cannot switch the offload on");
    Outcome::of(lab.daemon(), "check")?.must_succeed(&["transmit checksum offload"])
}

#[test]
fn what_lies_between_two_networks_is_seen() -> Result<()> {
    let lab = Lab::up(Options { nics: Nics::Two, ..Options::default() })?;
    Outcome::of(lab.daemon(), "check")?.must_succeed(&[
        "NAT source",
        "198.19.0.50, ports 61000-65535",
        "`vipd run` would serve\n",
    ])?;
    let one_missing = &[("\"eth0\", \"eth1\"", "\"eth0\"")];
    Outcome::with(lab.daemon(), one_missing, "check")?
        .must_fail(&["is reached by eth1, which is not configured", "add \"eth1\""])?;
    let ports = &[("control_socket", "source_ports = \"50000-65535\"\ncontrol_socket")];
    Outcome::with(lab.daemon(), ports, "check")?
        .must_fail(&["overlap net.ipv4.ip_local_port_range"])?;
    lab.director().namespace.ip_batch("link set eth1 mtu 1400\n")?;
    Outcome::of(lab.daemon(), "check")?.must_succeed(&["differs among the interfaces"])
}

#[test]
fn a_deployment_with_parts_missing_is_judged_by_what_is_left() -> Result<()> {
    let mut lab = Lab::up(Options::default())?;
    lab.sentinels[2].kill()?;
    Outcome::of(lab.daemon(), "check")?
        .must_succeed(&["named by 2 of 3", "198.18.0.103:26379  connection refused"])?;
    lab.nodes[1].kill()?;
    Outcome::of(lab.daemon(), "check")?.must_succeed(&["replica of mymaster, as Sentinel says"])?;
    lab.sentinels[1].freeze()?;
    let minority = Outcome::of(lab.daemon(), "check")?;
    lab.sentinels[1].thaw()?;
    minority
        .must_fail(&["no answer within", "1 of the configured Sentinels name a master, 2 must"])?;
    lab.sentinels[1].kill()?;
    lab.sentinels[0].kill()?;
    Outcome::of(lab.daemon(), "check")?.must_fail(&["0 of the configured Sentinels", "3"])
}

/// `vipd check` has attached, pinned and made nothing.
fn untouched(lab: &Lab) -> Result<()> {
    let link = lab.director().namespace.run(|| netdev::link("eth0"))??;
    ensure!(link.xdp.is_none(), "a program is on eth0: {:?}", link.xdp);
    let pins = PathBuf::from("/sys/fs/bpf").join(lab.name());
    ensure!(!pins.exists(), "{} is left", pins.display());
    ensure!(!lab.daemon().socket().exists(), "the control socket is left");
    Ok(())
}
