//! The command line. Names and meaning are a contract: others script against them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::{
    Config, DEFAULT_CONFIG, DEFAULT_CONTROL_SOCKET, DEFAULT_NOTIFY_SOCKET, DEFAULT_PIN_DIR, Daemon,
    Endpoint, Error, Mode, OnSentinelLoss, OnStop, VipFlag, XdpMode,
};
use crate::switchover::{DEFAULT_TIMEOUT, MAX_TIMEOUT, Order, Preferred};

/// One virtual IP that follows a Redis or Valkey master, in the kernel.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "vipd", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Serve the VIPs, until SIGTERM or SIGINT
    Run(RunFlags),
    /// Say whether `run` would work here, and why not; exit status 0 or 1
    ///
    /// Looks at the configuration, the kernel, capabilities, bpffs, each interface, each Sentinel
    /// and each Redis node. Changes nothing.
    Check(RunFlags),
    /// Show what a running vipd does: services, masters, counters, last failovers
    Status(StatusFlags),
    /// Let a running vipd read its configuration file again
    ///
    /// What has changed is applied, and VIPs that are not concerned see nothing of it. A file that
    /// can't be used changes nothing. SIGHUP does the same, with the answer in the log.
    Reload(SocketFlags),
    /// Make another node master, with no acknowledged write lost
    ///
    /// Writers are paused and the VIP's clients held back until a replica has everything; then
    /// Sentinel is asked to promote one, and the VIP follows. Whatever fails on the way, everything
    /// returns to the old master. Interrupting this command does not stop it. Exit status 0 or 1.
    Switchover(SwitchoverFlags),
    /// Stand in for Sentinel's client-reconfig-script: tell a running vipd to ask the Sentinels
    ///
    /// Exit status 0: told; 1: no vipd answers, Sentinel tries again later; 2: it never would
    /// succeed. A link to vipd with the name vipd-notify does the same without the word `notify`,
    /// since Sentinel calls a script without arguments of one's own.
    Notify(NotifyFlags),
    /// Remove the pinned program and maps that an earlier vipd left in the kernel
    Detach(DetachFlags),
}

/// Flags of `run` and `check`: a file, or everything on the command line.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct RunFlags {
    /// Configuration file; /etc/vipd/vipd.toml if there are no flags at all
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The same without a file.
    #[command(flatten)]
    pub inline: InlineFlags,
}

/// What a file would say, for one master. TLS and the finer settings need a file.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Without a file")]
#[group(id = "inline", multiple = true, conflicts_with = "config")]
pub struct InlineFlags {
    /// Interface that clients reach the VIP on; may be repeated
    #[arg(long = "interface", value_name = "IF", value_delimiter = ',')]
    pub interfaces: Vec<String>,

    /// Virtual address, with the port clients use (default 6379; [IPV6]:PORT); may be repeated
    #[arg(long = "vip", value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub vips: Vec<VipFlag>,

    /// Sentinel's name of the master
    #[arg(long, value_name = "NAME")]
    pub master: Option<String>,

    /// A Sentinel; name all of them, by repeating this flag
    #[arg(long = "sentinel", value_name = "HOST:PORT", value_delimiter = ',')]
    pub sentinels: Vec<Endpoint>,

    /// How the VIP's traffic is carried: nat (default), dsr, or host (on the Redis hosts)
    #[arg(long, value_name = "MODE")]
    pub mode: Option<Mode>,

    /// Port on the Redis nodes, if it isn't the one Sentinel reports (nat only)
    #[arg(long, value_name = "PORT")]
    pub backend_port: Option<u16>,

    /// How the program is attached: auto (default), native or generic
    #[arg(long, value_name = "MODE")]
    pub xdp_mode: Option<XdpMode>,

    /// Directory in bpffs, one per vipd; default /sys/fs/bpf/vipd
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,

    /// Default /run/vipd/vipd.sock
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,

    /// When no majority of Sentinels answers: hold (default) the last confirmed master, or withdraw
    #[arg(long, value_name = "ACTION")]
    pub on_sentinel_loss: Option<OnSentinelLoss>,

    /// What SIGTERM leaves behind: detach (default) removes everything, keep goes on forwarding
    #[arg(long, value_name = "ACTION")]
    pub on_stop: Option<OnStop>,

    /// ACL user for the Sentinels
    #[arg(long, value_name = "USER")]
    pub sentinel_username: Option<String>,

    /// File whose first line is the Sentinels' password
    #[arg(long, value_name = "FILE")]
    pub sentinel_password_file: Option<PathBuf>,

    /// ACL user for the Redis nodes
    #[arg(long, value_name = "USER")]
    pub redis_username: Option<String>,

    /// File whose first line is the Redis nodes' password
    #[arg(long, value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
}

/// Flags of `status`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct StatusFlags {
    /// Configuration file of the running vipd; default /etc/vipd/vipd.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its control socket, instead of a configuration file
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// Its directory in bpffs, to look there if it does not run
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub pin_dir: Option<PathBuf>,
    /// Print JSON (a stable format) instead of text
    #[arg(long)]
    pub json: bool,
}

/// Flags of `detach`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct DetachFlags {
    /// Configuration file of the vipd that pinned them; default /etc/vipd/vipd.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its control socket, to find out whether it still runs
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// Its directory in bpffs, instead of a configuration file
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub pin_dir: Option<PathBuf>,
}

/// How to find a running vipd.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct SocketFlags {
    /// Configuration file of the running vipd; default /etc/vipd/vipd.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its control socket, instead of a configuration file
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
}

/// Flags of `switchover`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct SwitchoverFlags {
    /// Sentinel's name of the master
    pub master: String,
    /// The replica that Sentinel is to prefer
    ///
    /// Through its replica-priority, which is set back afterwards. Sentinel hears of it within 10 s,
    /// before anybody is paused.
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub to: Option<Preferred>,
    /// Seconds that the replicas may take to catch up
    ///
    /// Writers are never paused for longer than four fifths of down-after-milliseconds, whatever is
    /// said here.
    #[arg(
        long,
        value_name = "S",
        default_value_t = DEFAULT_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT.as_secs())
    )]
    pub timeout: u64,
    /// Check everything and say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where the running vipd is.
    #[command(flatten)]
    pub socket: SocketFlags,
}

/// Flags of `notify`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct NotifyFlags {
    /// Configuration file of the running vipd; default $VIPD_CONFIG, or /etc/vipd/vipd.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its control or notify socket, instead of a configuration file; default $VIPD_SOCKET
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// What Sentinel calls its script with
    #[arg(
        required = true,
        num_args = 7,
        value_names = ["MASTER", "ROLE", "STATE", "FROM-IP", "FROM-PORT", "TO-IP", "TO-PORT"]
    )]
    pub arguments: Vec<String>,
}

impl SwitchoverFlags {
    /// What vipd is asked.
    pub fn order(&self) -> Order {
        Order {
            master: self.master.clone(),
            to: self.to,
            timeout_ms: self.timeout * 1000,
            dry_run: self.dry_run,
        }
    }
}

/// The name by which vipd is `vipd notify`, for a link to be named in sentinel.conf.
pub const NOTIFY_NAME: &str = "vipd-notify";

/// What `status` and `detach` need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The control socket.
    pub control_socket: PathBuf,
    /// The directory in bpffs.
    pub pin_dir: PathBuf,
}

impl RunFlags {
    /// The file that the configuration is from, if it is from one.
    pub fn file(&self) -> Option<PathBuf> {
        let default = || self.inline.is_empty().then(|| DEFAULT_CONFIG.into());
        self.config.clone().or_else(default)
    }
}

impl InlineFlags {
    /// None of them was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl StatusFlags {
    /// Where the running vipd listens, and where it pinned.
    pub fn paths(&self) -> Result<Paths, Error> {
        paths_of(self.config.as_deref(), self.socket.as_deref(), self.pin_dir.as_deref())
    }
}

impl DetachFlags {
    /// Where the earlier vipd pinned, and where it listens if it still runs.
    pub fn paths(&self) -> Result<Paths, Error> {
        paths_of(self.config.as_deref(), self.socket.as_deref(), self.pin_dir.as_deref())
    }
}

impl SocketFlags {
    /// Where the running vipd listens.
    pub fn control_socket(&self) -> Result<PathBuf, Error> {
        let paths = paths_of(self.config.as_deref(), self.socket.as_deref(), None)?;
        Ok(paths.control_socket)
    }
}

impl NotifyFlags {
    /// Where the running vipd may listen, in the order in which to try. `variable` looks up an
    /// environment variable.
    pub fn sockets(
        &self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Vec<PathBuf>, Error> {
        let variable = |name| variable(name).map(PathBuf::from);
        let (socket, config) = match (&self.socket, &self.config) {
            (None, None) => (variable("VIPD_SOCKET"), variable("VIPD_CONFIG")),
            (socket, config) => (socket.clone(), config.clone()),
        };
        if let Some(socket) = socket {
            return Ok(vec![socket]);
        }
        let daemon = match Config::load(config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))) {
            Ok(config) => config.daemon,
            // There may be none, and Sentinel's user may not be allowed to read it.
            Err(Error::Read { .. }) if config.is_none() => {
                Daemon { notify_socket: Some(DEFAULT_NOTIFY_SOCKET.into()), ..Daemon::default() }
            }
            Err(error) => return Err(error),
        };
        Ok(std::iter::once(daemon.control_socket).chain(daemon.notify_socket).collect())
    }
}

impl Cli {
    /// The arguments of this process, which may be called by the name [`NOTIFY_NAME`].
    pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let mut given = given.into_iter();
        let program = given.next().unwrap_or_else(|| "vipd".into());
        let by_name = Path::new(&program).file_name().is_some_and(|name| name == NOTIFY_NAME);
        // Whatever Sentinel gives are arguments; it knows no flags.
        let inserted = if by_name { &["notify", "--"][..] } else { &[] };
        let inserted = inserted.iter().map(OsString::from);
        std::iter::once(program).chain(inserted).chain(given).collect()
    }
}

/// From the flags; what one does not say has its default when the other is given. Without either
/// from `config`, else from the default file if it exists, else the defaults.
fn paths_of(
    config: Option<&Path>,
    socket: Option<&Path>,
    pin_dir: Option<&Path>,
) -> Result<Paths, Error> {
    if socket.is_some() || pin_dir.is_some() {
        let defaults = default_paths();
        return Ok(Paths {
            control_socket: socket.map_or(defaults.control_socket, Path::to_owned),
            pin_dir: pin_dir.map_or(defaults.pin_dir, Path::to_owned),
        });
    }
    let default = Path::new(DEFAULT_CONFIG);
    let path = match config {
        Some(path) => path,
        None if default.exists() => default,
        None => return Ok(default_paths()),
    };
    let daemon = Config::load(path)?.daemon;
    Ok(Paths { control_socket: daemon.control_socket, pin_dir: daemon.pin_dir })
}

fn default_paths() -> Paths {
    Paths { control_socket: DEFAULT_CONTROL_SOCKET.into(), pin_dir: DEFAULT_PIN_DIR.into() }
}

#[cfg(test)]
mod tests {
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
        let expected =
            Paths { control_socket: DEFAULT_CONTROL_SOCKET.into(), pin_dir: "/p".into() };
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
}
