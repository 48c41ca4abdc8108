//! What can't be probed is said before anything is sent, and nothing is left behind.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vipd::probe::report::LayerName;
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

/// Runs a program without the capability, though as root: it can't be had back by executing a file.
const WITHOUT_NET_RAW: [&str; 3] = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"];

#[test]
fn without_cap_net_raw_it_is_told_what_lacks_and_what_works() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let target = Site::vip(true).to_string();
    for (layers, without) in [
        ("--layers=syn", "--layers redis,idle works"),
        ("--layers=arp,icmp,syn", "--layers redis,idle works"),
        ("--layers=syn,idle", "--layers idle works"),
    ] {
        let arguments = [&target, layers, "--duration=500ms", "--warm-up=100ms"];
        let mut command = site.command_by(&WITHOUT_NET_RAW, &arguments);
        let measured = site.start(&mut command)?.end()?;
        measured.must_end(1, &["CAP_NET_RAW", "setcap cap_net_raw+ep", without])?;
        ensure!(measured.report.is_none(), "{:?}", measured.report);
    }
    // Nobody asked for any by name: what is left is tried, and nobody listens there.
    let mut command =
        site.command_by(&WITHOUT_NET_RAW, &[&target, "--duration=500ms", "--warm-up=100ms"]);
    let measured = site.start(&mut command)?.end()?;
    measured.must_end(1, &["arp,icmp,syn are left out: raw sockets need CAP_NET_RAW"])?;

    // Echoes are for anybody where the host's administrator says so.
    site.client.namespace.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    for is_v4 in [true, false] {
        let target = Site::vip(is_v4).to_string();
        let arguments = [&target, "--layers=icmp", "--duration=500ms", "--warm-up=100ms"];
        let mut command = site.command_by(&WITHOUT_NET_RAW, &arguments);
        let measured = site.start(&mut command)?.end()?;
        let layer = measured.layer(LayerName::Icmp)?;
        let sent = layer.schedule.context("no schedule")?.sent;
        ensure!(layer.fates.get("echo_reply") == Some(&sent) && layer.lost == 0, "{layer:?}");
    }
    Ok(())
}

#[test]
fn what_can_not_be_reached_is_an_error() -> Result<()> {
    let site = Site::up()?;
    // Nobody on the link has it.
    for is_v4 in [true, false] {
        let target = Site::vip(is_v4).to_string();
        let layers = if is_v4 { "--layers=arp,icmp,syn" } else { "--layers=nd,icmp,syn" };
        let measured = site.probe(&[&target, layers, "--duration=9s", "--warm-up=400ms"])?.end()?;
        measured.must_end(1, &[&target, "does not answer", "syn: ", "none answered"])?;
        ensure!(measured.report.is_none(), "{:?}", measured.report);
    }
    // There is no route.
    for (target, layer) in [("203.0.113.1", "arp"), ("2001:db8::1", "nd")] {
        for layers in [format!("--layers={layer}"), "--layers=syn".into(), "--layers=icmp".into()] {
            let measured = site.probe(&[target, &layers, "--duration=500ms", "--warm-up=100ms"])?;
            measured.end()?.must_end(1, &["unreachable", &layers["--layers=".len()..]])?;
        }
    }
    // It is behind a router, where nobody can be asked who has it.
    site.client.namespace.ip_batch("route add 203.0.113.0/24 via 198.18.0.101\n")?;
    let measured = site.probe(&["203.0.113.1", "--layers=arp", "--duration=3s"])?.end()?;
    measured.must_end(1, &["layer arp is not possible", "not on the link of eth0", "router"])
}

#[test]
fn what_is_absurd_is_refused_before_anything_is_sent() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let sent = Watched::new(&site)?;
    let target = Site::vip(true).to_string();
    let both = "--layers=icmp,syn";
    for (arguments, said) in [
        ([both, "--syn-rate=1000000"], "--syn-rate 1000000 is not between 1 and 20000"),
        ([both, "--syn-rate=0"], "leave the layer out with --layers"),
        ([both, "--icmp-rate=10001"], "--icmp-rate 10001 is not between 1 and 10000"),
        (["--layers=arp,syn", "--arp-rate=1001"], "--arp-rate 1001 is not between 0 and 1000"),
        ([both, "--duration=3h"], "at most 5000000 are possible"),
        ([both, "--duration=1s"], "--warm-up 2s must be shorter than --duration 1s"),
        ([both, "--duration=1ms"], "--duration 1ms is not between 200ms and"),
        ([both, "--timeout=0s"], "--timeout 0s is not between"),
        ([both, "--source-ports=20000-20010"], "at least 1000 ports"),
        ([both, "--source-ports=nonsense"], "FIRST-LAST"),
        (["--layers=nd", "--duration=3s"], "layer nd does not exist for an IPv4 address"),
        (["--layers=arp", "--interface=eth7"], "eth7"),
        ([both, "--runs=0"], "--runs"),
        ([both, "--restore=true"], "--trigger"),
    ] {
        let measured = site.probe(&[&target, arguments[0], arguments[1]])?.end()?;
        ensure!(matches!(measured.status, Some(1 | 2)), "{arguments:?}: {measured:?}");
        ensure!(measured.text.contains(said), "{arguments:?}: {}", measured.text);
        ensure!(measured.report.is_none(), "{:?}", measured.report);
    }
    sent.nothing()
}

#[test]
fn a_file_that_can_not_be_written_is_an_error_before_anything_is_sent() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let sent = Watched::new(&site)?;
    let target = Site::vip(true).to_string();
    let directory = site.directory().join("outputs");
    fs::create_dir(&directory)?;
    let good = directory.join("good");
    let good = good.to_str().context("its name is text")?;
    for bad in [&directory.join("none/file"), &directory, Path::new("/proc/file")] {
        let bad = bad.to_str().context("its name is text")?;
        for [one, other] in [["--json", "--pcap"], ["--pcap", "--json"], ["--html", "--json"]] {
            let arguments = [&target, "--layers=syn", "--duration=3s", one, bad, other, good];
            let mut command = site.command(&arguments);
            let output = command.output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
            ensure!(said.contains(bad), "{arguments:?}: {said}");
        }
    }
    let left: Vec<_> = fs::read_dir(&directory)?.collect();
    ensure!(left.is_empty(), "{left:?} is left");
    sent.nothing()
}

#[test]
fn a_disk_that_is_full_costs_the_packet_file_and_not_the_report() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    let _listener = site.listen(0, true)?;
    let target = Site::vip(true).to_string();
    let small = site.directory().join("small");
    fs::create_dir(&small)?;
    // Seen by this probe only, and gone with it.
    let mount = format!("mount -t tmpfs -o size=64k tmpfs {} && exec \"$@\"", small.display());
    let by = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let pcap = format!("--pcap={}", small.join("probe.pcap").display());
    let arguments = [&target, "--layers=syn", "--duration=1s", "--warm-up=200ms", &pcap];
    let measured = site.start(&mut site.command_by(&by, &arguments))?.end()?;
    measured.must_end(1, &["--pcap", "No space left"])?;
    let report = measured.report.context("there is no report")?;
    let layer = report.runs.first().and_then(|it| it.layer(LayerName::Syn)).context("no layer")?;
    ensure!(layer.fates.get("syn_ack").is_some_and(|&it| it > 500), "{layer:?}");
    Ok(())
}

/// What arrives at the server.
struct Watched(Tap);

impl Watched {
    fn new(site: &Site) -> Result<Self> {
        let rules = [Rule::syn(true, PORT), Rule::echo_request(true)];
        Ok(Self(Tap::attach(&site.servers[0].namespace, "eth0", &rules)?))
    }

    fn nothing(&self) -> Result<()> {
        let counts = [0, 1].map(|rule| self.0.count(rule));
        ensure!(counts == [0, 0], "SYNs and echoes were sent: {counts:?}");
        Ok(())
    }
}
