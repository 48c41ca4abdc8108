//! The command line. Names and meaning are a contract: others script against them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{
    Config, DEFAULT_CONFIG, DEFAULT_CONTROL_SOCKET, DEFAULT_PIN_DIR, Endpoint, Error, Mode,
    OnSentinelLoss, OnStop, VipFlag, XdpMode,
};

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

    /// Virtual IPv4 address, with the port clients use (default 6379); may be repeated
    #[arg(long = "vip", value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub vips: Vec<VipFlag>,

    /// Sentinel's name of the master
    #[arg(long, value_name = "NAME")]
    pub master: Option<String>,

    /// A Sentinel; name all of them, by repeating this flag
    #[arg(long = "sentinel", value_name = "HOST:PORT", value_delimiter = ',')]
    pub sentinels: Vec<Endpoint>,

    /// How the VIP's traffic is carried: nat (default) or dsr
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

/// What `status` and `detach` need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The control socket.
    pub control_socket: PathBuf,
    /// The directory in bpffs.
    pub pin_dir: PathBuf,
}

impl InlineFlags {
    /// None of them was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl StatusFlags {
    /// Where the running vipd listens.
    pub fn control_socket(&self) -> Result<PathBuf, Error> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(paths_of(self.config.as_deref())?.control_socket),
        }
    }
}

impl DetachFlags {
    /// Where the earlier vipd pinned, and where it listens if it still runs. What a flag does not
    /// say has its default when the other flag is given.
    pub fn paths(&self) -> Result<Paths, Error> {
        if self.socket.is_none() && self.pin_dir.is_none() {
            return paths_of(self.config.as_deref());
        }
        let defaults = default_paths();
        Ok(Paths {
            control_socket: self.socket.clone().unwrap_or(defaults.control_socket),
            pin_dir: self.pin_dir.clone().unwrap_or(defaults.pin_dir),
        })
    }
}

/// From `config`, else from the default file if it exists, else the defaults.
fn paths_of(config: Option<&std::path::Path>) -> Result<Paths, Error> {
    let default = std::path::Path::new(DEFAULT_CONFIG);
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
