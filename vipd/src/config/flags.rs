//! From the flags of `run` and `check` to a [`Config`].

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use super::vip::parse_vip_address;
use super::{
    Acceleration, Announce, Config, DEFAULT_CONFIG, Daemon, Error, Login, Redis, Sentinel, Service,
    ServiceRole, Source, Vip,
};
use crate::cli::{InlineFlags, RunFlags};

/// The port of a VIP that is given without one.
const DEFAULT_PORT: u16 = 6379;

/// `ADDR[:PORT]`, as `--vip` has it; an IPv6 address with a port is in brackets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VipFlag {
    /// The virtual address.
    pub address: IpAddr,
    /// TCP port on it; 6379 unless given.
    pub port: u16,
}

impl FromStr for VipFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, "")) => (address, None),
                Some((address, port)) if port.starts_with(':') => (address, Some(&port[1..])),
                _ => return Err(format!("{text:?}: write [ADDRESS]:PORT")),
            },
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((address, port)) => (address, Some(port)),
                None => (text, None),
            },
        };
        let address = parse_vip_address(address)?;
        let port = match port.map(str::parse) {
            None => DEFAULT_PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err(format!("{text:?}: the port is not a number from 1 to 65535")),
        };
        Ok(Self { address, port })
    }
}

impl Config {
    /// The configuration that `run` or `check` was told to use: `--config FILE`, or the flags, or
    /// without either [`DEFAULT_CONFIG`]. Validated.
    pub fn from_flags(flags: &RunFlags) -> Result<Self, Error> {
        match &flags.config {
            Some(path) => Self::load(path),
            None if flags.inline.is_empty() => Self::load(Path::new(DEFAULT_CONFIG)),
            None => Self::assemble(&flags.inline)?.checked("the command line"),
        }
    }

    /// Without the checks of [`Config::validate`], which then name what is missing.
    fn assemble(flags: &InlineFlags) -> Result<Self, Error> {
        let missing = |flag, example| {
            Error::Flags(format!(
                "{flag} is missing: without --config, vipd needs --interface, --vip, --master and \
                 --sentinel, for example {flag} {example}"
            ))
        };
        if flags.interfaces.is_empty() {
            return Err(missing("--interface", "eth1"));
        }
        if flags.vips.is_empty() {
            return Err(missing("--vip", "198.18.0.250:6379"));
        }
        if flags.sentinels.is_empty() {
            return Err(missing("--sentinel", "198.18.0.101:26379"));
        }
        let Some(master) = &flags.master else {
            return Err(missing("--master", "mymaster"));
        };

        let mut vips: Vec<Vip> = Vec::new();
        for &VipFlag { address, port } in &flags.vips {
            let service = Service {
                port,
                master: master.clone(),
                role: ServiceRole::Master,
                backend_port: flags.backend_port,
            };
            match vips.iter_mut().find(|vip| vip.address == address) {
                Some(vip) => vip.services.push(service),
                None => vips.push(Vip {
                    address,
                    mode: flags.mode.unwrap_or_default(),
                    source: Source::Auto,
                    services: vec![service],
                }),
            }
        }

        let defaults = Daemon::default();
        Ok(Self {
            daemon: Daemon {
                interfaces: flags.interfaces.clone(),
                xdp_mode: flags.xdp_mode.unwrap_or_default(),
                pin_dir: flags.pin_dir.clone().unwrap_or(defaults.pin_dir.clone()),
                control_socket: flags
                    .control_socket
                    .clone()
                    .unwrap_or(defaults.control_socket.clone()),
                on_sentinel_loss: flags.on_sentinel_loss.unwrap_or_default(),
                on_stop: flags.on_stop.unwrap_or_default(),
                ..defaults
            },
            sentinel: Sentinel {
                endpoints: flags.sentinels.clone(),
                login: Login {
                    username: flags.sentinel_username.clone(),
                    password_file: flags.sentinel_password_file.clone(),
                    tls: None,
                },
            },
            announce: Announce::default(),
            failover: Acceleration::default(),
            redis: Redis {
                login: Login {
                    username: flags.redis_username.clone(),
                    password_file: flags.redis_password_file.clone(),
                    tls: None,
                },
                same_host: Vec::new(),
            },
            vips,
        })
    }
}
