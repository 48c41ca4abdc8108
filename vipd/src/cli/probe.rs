//! Flags of `vipd probe`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::{Endpoint, Login, Tls};
use crate::probe::{LayerName, SourcePorts, TargetFlag};

/// Flags of `probe`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct ProbeFlags {
    /// What to probe: a VIP, or any address (default port 6379; [IPV6]:PORT)
    ///
    /// Without it, the layers `redis` and `idle` find the master by --sentinel, as clients do that
    /// know Sentinel.
    #[arg(value_name = "ADDR[:PORT]")]
    pub target: Option<TargetFlag>,

    /// What to probe it with: arp (IPv4), nd (IPv6), icmp, syn, redis, idle; default all of them
    #[arg(long, value_name = "LAYER", value_enum, value_delimiter = ',')]
    pub layers: Vec<LayerName>,

    /// How long one run takes; Ctrl-C ends it earlier
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub duration: Duration,

    /// How long to measure before the trigger, which is not pulled unless all is well then
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub warm_up: Duration,

    /// When a client gives up: on a connection, a reply, an echo, a SYN
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub timeout: Duration,

    /// Also report to this file: JSON (a stable format); `-` is standard output, instead of text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,

    /// Also report to this file: one page with the timeline, for a browser or a printer
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Also write the packets of arp, nd, icmp and syn to this file, for tcpdump and Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,

    /// What must come out, in every run, such as 'blackout<500ms,lost=0'; exit status 3 if it doesn't
    ///
    /// METRIC OP VALUE, where OP is < <= = >= > and METRIC is blackout, lost (acknowledged writes),
    /// late (writes acknowledged by two masters), hung (connections), two-owners (a time), unanswered
    /// (probes), errors, p50, p99, p999 or max (latency), each of all layers that know it, or of one
    /// as in syn.blackout.
    #[arg(long, value_name = "EXPECTATIONS")]
    pub expect: Option<String>,

    /// Rates and sizes.
    #[command(flatten)]
    pub load: LoadFlags,

    /// Causing the failover.
    #[command(flatten)]
    pub cause: CauseFlags,

    /// What else happened.
    #[command(flatten)]
    pub watch: WatchFlags,

    /// How clients log in.
    #[command(flatten)]
    pub login: LoginFlags,
}

/// Rates and sizes.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadFlags {
    /// Questions for the VIP's link-layer address a second; 0 only listens
    ///
    /// Linux takes an answer as news about the address. So asking repairs, on this host, a neighbour
    /// entry that missed an announcement: to see what that costs, listen, or ask from another host.
    #[arg(long, value_name = "RATE", default_value_t = 20)]
    pub arp_rate: u32,
    /// Echo requests a second
    #[arg(long, value_name = "RATE", default_value_t = 100)]
    pub icmp_rate: u32,
    /// SYNs a second
    #[arg(long, value_name = "RATE", default_value_t = 1000)]
    pub syn_rate: u32,
    /// Source ports of the SYNs, in turn; default those outside of net.ipv4.ip_local_port_range
    #[arg(long, value_name = "FIRST-LAST")]
    pub source_ports: Option<SourcePorts>,
    /// Writes a second on each persistent connection
    #[arg(long, value_name = "RATE", default_value_t = 100)]
    pub write_rate: u32,
    /// Persistent connections that write
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: u32,
    /// Writes a second that each come on a connection of their own
    #[arg(long, value_name = "RATE", default_value_t = 100)]
    pub fresh_rate: u32,
    /// Connections that only wait: a third each in a read, in BLPOP and in SUBSCRIBE
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub idle: u32,
    /// Interface of the VIP's link; default where the route to it leads
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
}

/// Causing the failover.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(next_help_heading = "Causing the failover")]
pub struct CauseFlags {
    /// Command (for sh) that causes it, after the warm-up; VIPD_PROBE_RUN tells it the run's number
    ///
    /// It is in the report as it is written here: keep secrets in a file. One that has not ended at the
    /// end of the run is ended, and has failed.
    #[arg(long, value_name = "CMD")]
    pub trigger: Option<String>,
    /// Command (for sh) that puts everything right again, after each run whose trigger was pulled
    #[arg(long, value_name = "CMD", requires = "trigger")]
    pub restore: Option<String>,
    /// How often to measure
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Pause between two runs, after --restore
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub pause: Duration,
}

/// What else happened.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(next_help_heading = "On the same time axis")]
pub struct WatchFlags {
    /// A Sentinel whose events to show; may be repeated
    #[arg(long = "sentinel", value_name = "HOST:PORT", value_delimiter = ',')]
    pub sentinels: Vec<Endpoint>,
    /// Sentinel's name of the master
    #[arg(long, value_name = "NAME", requires = "sentinels")]
    pub master: Option<String>,
    /// ACL user for the Sentinels
    ///
    /// Needs `&* +ping +psubscribe +sentinel|masters +sentinel|replicas
    /// +sentinel|get-master-addr-by-name`, and `+client|setname` if possible.
    #[arg(long, value_name = "USER", requires = "sentinels")]
    pub sentinel_username: Option<String>,
    /// File whose first line is the Sentinels' password
    #[arg(long, value_name = "FILE", requires = "sentinels")]
    pub sentinel_password_file: Option<PathBuf>,
    /// Control socket of a vipd on this machine, whose failover record to show
    #[arg(long, value_name = "PATH")]
    pub vipd: Option<PathBuf>,
}

/// How clients log in.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Login of the layers redis and idle")]
pub struct LoginFlags {
    /// ACL user
    ///
    /// Needs `~vipd-probe:* &vipd-probe:* +ping +info +rpush +expire +lrange +unlink +blpop
    /// +subscribe`, and `+client|setname` if possible.
    #[arg(long, value_name = "USER")]
    pub username: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Speak TLS, and trust the certificate authorities of this PEM file
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file of the client's certificate chain
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the client's key
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    pub tls_key: Option<PathBuf>,
    /// Name that the server's certificate must be for; by default the address connected to
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub tls_server_name: Option<String>,
}

impl LoginFlags {
    /// For a dialer.
    pub fn login(&self) -> Login {
        Login {
            username: self.username.clone(),
            password_file: self.password_file.clone(),
            tls: self.tls_ca.clone().map(|ca| Tls {
                ca,
                cert: self.tls_cert.clone(),
                key: self.tls_key.clone(),
                server_name: self.tls_server_name.clone(),
            }),
        }
    }
}

impl WatchFlags {
    /// For a dialer.
    pub fn login(&self) -> Login {
        Login {
            username: self.sentinel_username.clone(),
            password_file: self.sentinel_password_file.clone(),
            tls: None,
        }
    }
}

/// `500ms`, `2s`, `1m 30s`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 500ms, 2s or 1m"))
}
