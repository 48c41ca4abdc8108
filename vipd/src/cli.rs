//! The command line. Names and meaning are a contract: others script against them.

mod probe;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

pub use self::probe::{CauseFlags, LoadFlags, LoginFlags, ProbeFlags, WatchFlags};
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
    /// Measure what a failover costs clients, from a client's place, whatever moves the VIP
    ///
    /// Needs no vipd at the other end. arp, nd, icmp and syn need CAP_NET_RAW. Nothing is left
    /// behind but what clients leave: the keys of `redis` are removed. Exit status 0; 1 if it could
    /// not measure; 3 if it is not as --expect says.
    Probe(Box<ProbeFlags>),
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
mod tests;
