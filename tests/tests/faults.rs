//! What keeps `vipd run` from starting: each is said clearly, and nothing is left on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vipd::{datapath, netdev};
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Options, Outcome};

/// An ordinary user.
const NOBODY: &str = "65534";

#[test]
fn a_wrong_configuration_is_refused_and_nothing_is_left() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let config = lab.daemon().config().display().to_string();
    for (changes, said) in [
        ([("\"eth0\"", "\"eth7\"")], ["no interface \"eth7\"", "it has: lo, eth0"]),
        ([("198.18.0.250", "198.18.0.50")], ["198.18.0.50 is an address of this host", "on eth0"]),
        ([("[sentinel]", "[sentinel")], [config.as_str(), "line 6"]),
        ([("control_socket", "control_sock")], ["unknown field `control_sock`", "line 4"]),
        ([("pin_dir", "cutover = \"soon\"\npin_dir")], ["cutover", "unknown variant `soon`"]),
        ([("\"eth0\"", "")], ["[daemon] interfaces", "name the interface"]),
        ([("\"nat\"", "\"real\"")], ["mode \"real\"", "remove its `[[vip.service]]`"]),
        ([("port = 6379", "port = 0")], ["service 0", "can't be connected to"]),
    ] {
        let outcome = Outcome::with(lab.daemon(), &changes, "run")?;
        outcome.must_fail(&said).with_context(|| format!("{changes:?}"))?;
        nothing_is_left(&lab)?;
    }
    Ok(())
}

#[test]
fn without_permission_it_says_which_is_missing() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    // A place that an ordinary user can reach, with a directory for the socket.
    let directory = lab.daemon().config().parent().context("a directory")?;
    let binary = directory.join("vipd");
    fs::copy(lab.daemon().binary(), &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    for (verb, said) in [("run", "no permission to"), ("check", "CAP_BPF")] {
        let mut command = lab.director().namespace.command("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&binary);
        command.arg(verb).arg("--config").arg(lab.daemon().config());
        Outcome::of_command(lab.daemon(), &mut command)?.must_fail(&[said])?;
        nothing_is_left(&lab)?;
    }
    Ok(())
}

#[test]
fn a_few_capabilities_are_enough_where_bpffs_is_mounted() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let few = "-all,+bpf,+perfmon,+net_admin,+net_raw";
    let mut command = lab.director().namespace.command("setpriv");
    command.arg(format!("--bounding-set={few}")).arg(format!("--inh-caps={few}"));
    command.arg(lab.daemon().binary()).arg("check").arg("--config").arg(lab.daemon().config());
    Outcome::of_command(lab.daemon(), &mut command)?.must_succeed(&["`vipd run` would serve\n"])
}

#[test]
fn an_interface_that_cannot_take_the_program_is_left_as_it_was() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let pass = lab.director().namespace.run(|| datapath::Pass::attach("eth0"))??;
    let before = program_on_eth0(&lab)?;
    Outcome::of(lab.daemon(), "run")?.must_fail(&["another XDP program", "(pass)"])?;
    ensure!(program_on_eth0(&lab)? == before, "the other program was disturbed");
    drop(pass);
    // A child that another test is just starting holds the link until it becomes its own program.
    wait_until("the other program is gone", PATIENCE, || Ok(program_on_eth0(&lab)?.is_none()))?;
    nothing_is_left(&lab)?;

    let switch = format!("{}-switch", lab.name());
    let mtu = ["-n", &switch, "link", "set", "p-director", "mtu", "9000"];
    ensure!(Command::new("ip").args(mtu).status()?.success(), "cannot set the MTU");
    let native = [("control_socket", "xdp_mode = \"native\"\ncontrol_socket")];
    Outcome::with(lab.daemon(), &native, "run")?.must_fail(&["native mode", "MTU", "too large"])?;
    nothing_is_left(&lab)
}

#[test]
fn a_second_vipd_is_refused_and_the_first_serves_on() -> Result<()> {
    let mut lab = Lab::up(Options::default())?;
    lab.serve()?;
    let first = lab.daemon().status()?;
    let other_pins = PathBuf::from(format!("/sys/fs/bpf/{}other", lab.name()));
    let socket = format!("{:?}", lab.daemon().socket());
    let other_socket = format!("{:?}", lab.daemon().socket().with_file_name("other.sock"));
    let pins = format!("{:?}", pins(&lab));
    let other = format!("{other_pins:?}");
    for (changes, said) in [
        (vec![], "another vipd (pid "),
        (vec![(&socket, &other_socket)], "another vipd (pid "),
        (vec![(&pins, &other)], "another vipd is running and answers on"),
        (vec![(&socket, &other_socket), (&pins, &other)], "another XDP program"),
    ] {
        let changes: Vec<(&str, &str)> =
            changes.iter().map(|(old, new)| (old.as_str(), new.as_str())).collect();
        for verb in ["run", "check"] {
            if changes.is_empty() && verb == "check" {
                continue;
            }
            let outcome = Outcome::with(lab.daemon(), &changes, verb)?;
            let said = if verb == "run" { said } else { "FAIL" };
            outcome.must_fail(&[said]).with_context(|| format!("{verb} {changes:?}"))?;
        }
        ensure!(!other_pins.exists(), "{} is left", other_pins.display());
    }
    let now = lab.daemon().status()?;
    ensure!(now.pid == first.pid && now.services.iter().all(|it| it.announcing), "{now:?}");
    lab.dialer().connect().map(drop).context("through the VIP")
}

#[test]
fn pins_of_another_size_or_version_are_refused_and_kept() -> Result<()> {
    let mut lab =
        Lab::up(Options { daemon: "on_stop = \"keep\"".to_owned(), ..Options::default() })?;
    lab.serve()?;
    lab.daemon_mut().stop()?;
    let program = program_on_eth0(&lab)?;
    ensure!(program.is_some(), "on_stop = \"keep\" keeps it");
    let size = [("control_socket", "max_connections = 1000\ncontrol_socket")];
    for verb in ["run", "check"] {
        let outcome = Outcome::with(lab.daemon(), &size, verb)?;
        outcome.must_fail(&["FLOWS", "max_entries", "max_connections = 65536", "vipd detach"])?;
        ensure!(program_on_eth0(&lab)? == program, "{verb} disturbed what was pinned");
    }
    let other_version = pins(&lab).join("v0");
    fs::create_dir(&other_version)?;
    for verb in ["run", "check"] {
        let outcome = Outcome::of(lab.daemon(), verb)?;
        outcome.must_fail(&["another version of vipd (v0", "vipd detach"])?;
        ensure!(program_on_eth0(&lab)? == program, "{verb} disturbed what was pinned");
    }
    fs::remove_dir(&other_version)?;
    // And with the configuration that made them it goes on.
    lab.serve()?;
    lab.daemon_mut().stop()?;
    lab.daemon().detach()?;
    nothing_is_left(&lab)
}

#[test]
fn a_vip_in_use_is_waited_for_and_announced_once_it_is_free() -> Result<()> {
    let mut lab = Lab::up(Options::default())?;
    lab.client.namespace.ip_batch("addr add 198.18.0.250/24 dev eth0\n")?;
    lab.daemon_mut().start()?;
    wait_until("vipd says that the VIP is in use", PATIENCE, || {
        let said = lab.daemon().status_text()?;
        Ok(said.contains("in use by 02:00:00:12:00:0a"))
    })?;
    ensure!(lab.daemon().status()?.services.iter().all(|it| !it.announcing), "it is announced");
    lab.client.namespace.ip_batch("addr del 198.18.0.250/24 dev eth0\n")?;
    let master = lab.nodes[lab.master()?].address();
    lab.daemon().wait_serving(master)?;
    lab.daemon_mut().stop()?;
    nothing_is_left(&lab)
}

/// No program, no pins, no socket.
fn nothing_is_left(lab: &Lab) -> Result<()> {
    let program = program_on_eth0(lab)?;
    ensure!(program.is_none(), "a program is on eth0: {program:?}");
    ensure!(!pins(lab).exists(), "{} is left", pins(lab).display());
    ensure!(!lab.daemon().socket().exists(), "the control socket is left");
    Ok(())
}

fn program_on_eth0(lab: &Lab) -> Result<Option<u32>> {
    let link = lab.director().namespace.run(|| netdev::link("eth0"))??;
    Ok(link.xdp.map(|xdp| xdp.program_id))
}

fn pins(lab: &Lab) -> PathBuf {
    PathBuf::from("/sys/fs/bpf").join(lab.name())
}
