//! What is to be probed, checked as far as that goes without sending anything.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::packet::MAX_PACKETS;
use super::report::LayerName;
use crate::cli::{LoadFlags, ProbeFlags};
use crate::config::Endpoint;

/// The port of a target that is given without one.
const DEFAULT_PORT: u16 = 6379;

/// `ADDR[:PORT]` or `HOST[:PORT]`; an IPv6 address with a port is in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetFlag(pub Endpoint);

/// `FIRST-LAST`: TCP ports, at least [`FEWEST_PORTS`] of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePorts(pub RangeInclusive<u16>);

/// A port that is used again too soon meets what is left of its last connection.
const FEWEST_PORTS: u16 = 1000;

/// Limits, so that a slip of the finger is no flood.
const MAX_ARP_RATE: u32 = 1_000;
const MAX_ICMP_RATE: u32 = 10_000;
const MAX_SYN_RATE: u32 = 20_000;
const MAX_WRITE_RATE: u32 = 20_000;
const MAX_FRESH_RATE: u32 = 5_000;
const MAX_CONNECTIONS: u32 = 1_000;
const MAX_IDLE: u32 = 10_000;
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
const MIN_DURATION: Duration = Duration::from_millis(200);
const MIN_WARM_UP: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// Where the kernel takes the ports from that nobody asks for by number.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Services are below this more often than above.
const FIRST_PORT: u16 = 10_000;

/// Flags that can't be followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// The layers that are wanted of a target of that family (`None`: no target, clients ask the
/// Sentinels).
///
/// # Errors
///
/// One that doesn't exist there, a rate or a time that is absurd, a flag that lacks another.
pub fn layers(flags: &ProbeFlags, target: Option<IpAddr>) -> Result<Vec<LayerName>, SettingsError> {
    let possible: &[LayerName] = match target {
        Some(IpAddr::V4(_)) => {
            &[LayerName::Arp, LayerName::Icmp, LayerName::Syn, LayerName::Redis, LayerName::Idle]
        }
        Some(IpAddr::V6(_)) => {
            &[LayerName::Nd, LayerName::Icmp, LayerName::Syn, LayerName::Redis, LayerName::Idle]
        }
        None => &[LayerName::Redis, LayerName::Idle],
    };
    let mut layers = if flags.layers.is_empty() { possible.to_vec() } else { flags.layers.clone() };
    layers.sort_unstable();
    layers.dedup();
    if let Some(other) = layers.iter().find(|layer| !possible.contains(layer)) {
        let names: Vec<_> = possible.iter().map(|layer| layer.name()).collect();
        let of = match target {
            Some(IpAddr::V4(_)) => "an IPv4 address",
            Some(IpAddr::V6(_)) => "an IPv6 address",
            None => "a master that clients find by the Sentinels",
        };
        return Err(SettingsError(format!(
            "layer {} does not exist for {of}; there are {}",
            other.name(),
            names.join(", ")
        )));
    }
    verify_times(flags)?;
    verify_load(flags, &layers)?;
    Ok(layers)
}

/// The ports that SYNs come from: those of `--source-ports`, or such as no connection of this host
/// uses by itself.
pub fn source_ports(flags: &LoadFlags) -> Result<RangeInclusive<u16>, SettingsError> {
    if let Some(SourcePorts(ports)) = &flags.source_ports {
        return Ok(ports.clone());
    }
    let text = fs::read_to_string(LOCAL_PORTS)
        .map_err(|error| SettingsError(format!("{LOCAL_PORTS}: {error}; say --source-ports")))?;
    outside(&text).ok_or_else(|| {
        SettingsError(format!(
            "net.ipv4.ip_local_port_range ({}) leaves fewer than {FEWEST_PORTS} ports: say \
             --source-ports",
            text.trim()
        ))
    })
}

/// The larger of the ranges below and above.
fn outside(local_ports: &str) -> Option<RangeInclusive<u16>> {
    let mut words = local_ports.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (words.next()?.ok()?, words.next()?.ok()?);
    let below = FIRST_PORT..=first.saturating_sub(1);
    let above = last.checked_add(1)?..=u16::MAX;
    let size = |ports: &RangeInclusive<u16>| {
        u32::from(*ports.end()) + 1 - u32::from(*ports.start()).min(u32::from(*ports.end()) + 1)
    };
    let larger = if size(&below) >= size(&above) { below } else { above };
    (size(&larger) >= u32::from(FEWEST_PORTS)).then_some(larger)
}

fn verify_times(flags: &ProbeFlags) -> Result<(), SettingsError> {
    let shown = humantime::format_duration;
    let within = |flag: &str, value: Duration, least: Duration, most: Duration| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        let (value, least, most) = (shown(value), shown(least), shown(most));
        Err(SettingsError(format!("{flag} {value} is not between {least} and {most}")))
    };
    within("--duration", flags.duration, MIN_DURATION, MAX_DURATION)?;
    within("--warm-up", flags.warm_up, MIN_WARM_UP, MAX_DURATION)?;
    within("--timeout", flags.timeout, MIN_TIMEOUT, MAX_TIMEOUT)?;
    within("--pause", flags.cause.pause, Duration::ZERO, MAX_DURATION)?;
    if flags.warm_up >= flags.duration {
        return Err(SettingsError(format!(
            "--warm-up {} must be shorter than --duration {}, which it is a part of",
            shown(flags.warm_up),
            shown(flags.duration)
        )));
    }
    Ok(())
}

fn verify_load(flags: &ProbeFlags, layers: &[LayerName]) -> Result<(), SettingsError> {
    let load = &flags.load;
    let has = |layer| layers.contains(&layer);
    let who_has = has(LayerName::Arp) || has(LayerName::Nd);
    for (is_used, flag, value, least, most) in [
        (who_has, "--arp-rate", load.arp_rate, 0, MAX_ARP_RATE),
        (has(LayerName::Icmp), "--icmp-rate", load.icmp_rate, 1, MAX_ICMP_RATE),
        (has(LayerName::Syn), "--syn-rate", load.syn_rate, 1, MAX_SYN_RATE),
        (has(LayerName::Redis), "--write-rate", load.write_rate, 0, MAX_WRITE_RATE),
        (has(LayerName::Redis), "--connections", load.connections, 0, MAX_CONNECTIONS),
        (has(LayerName::Redis), "--fresh-rate", load.fresh_rate, 0, MAX_FRESH_RATE),
        (has(LayerName::Idle), "--idle", load.idle, 1, MAX_IDLE),
    ] {
        if is_used && !(least..=most).contains(&value) {
            let leave_out = if value == 0 { "; leave the layer out with --layers" } else { "" };
            return Err(SettingsError(format!(
                "{flag} {value} is not between {least} and {most}{leave_out}"
            )));
        }
    }
    let writes = load.connections.saturating_mul(load.write_rate);
    if has(LayerName::Redis) && writes > MAX_WRITE_RATE {
        return Err(SettingsError(format!(
            "--connections {} × --write-rate {} are {writes} writes a second; at most \
             {MAX_WRITE_RATE} are possible",
            load.connections, load.write_rate
        )));
    }
    if has(LayerName::Redis) && writes == 0 && load.fresh_rate == 0 {
        let text = "layer redis has nothing to do with --connections or --write-rate 0 and \
                    --fresh-rate 0; leave it out with --layers";
        return Err(SettingsError(text.to_owned()));
    }
    for (layer, flag, rate) in [
        (LayerName::Arp, "--arp-rate", load.arp_rate),
        (LayerName::Nd, "--arp-rate", load.arp_rate),
        (LayerName::Icmp, "--icmp-rate", load.icmp_rate),
        (LayerName::Syn, "--syn-rate", load.syn_rate),
        (LayerName::Redis, "--connections × --write-rate", writes + load.fresh_rate),
    ] {
        let probes = f64::from(rate) * flags.duration.as_secs_f64();
        if has(layer) && probes > MAX_PACKETS as f64 {
            let longest = (MAX_PACKETS / u64::from(rate)).max(1);
            return Err(SettingsError(format!(
                "{flag} {rate} for {} are {probes:.0} probes; at most {MAX_PACKETS} are possible: \
                 say --duration {longest}s or less, or a lower rate",
                humantime::format_duration(flags.duration)
            )));
        }
    }
    Ok(())
}

impl FromStr for TargetFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address: Option<IpAddr> = bracketed.unwrap_or(text).parse().ok();
        if let Some(address) = address {
            return Ok(Self(Endpoint { host: address.to_string(), port: DEFAULT_PORT }));
        }
        let with_port =
            if text.contains(':') { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") };
        with_port.parse().map(Self).map_err(|error: crate::config::EndpointError| error.to_string())
    }
}

impl FromStr for SourcePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text.split_once('-').and_then(|(first, last)| {
            let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some(first..=last)
        });
        let ports =
            ports.ok_or_else(|| format!("{text:?} is not FIRST-LAST, such as 20000-29999"))?;
        if ports.end() - ports.start() < FEWEST_PORTS - 1 {
            return Err(format!("{text:?}: at least {FEWEST_PORTS} ports are needed"));
        }
        Ok(Self(ports))
    }
}

impl fmt::Display for TargetFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
