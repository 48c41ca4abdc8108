//! What Sentinels answer and publish, as types. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use redis::Value;

use super::View;
use crate::connect::{Error, checked, text};
use crate::model::Epoch;

#[cfg(test)]
mod tests;

/// The patterns to PSUBSCRIBE to. Each event is published on the channel of its name.
pub const PATTERNS: [&str; 17] = [
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
    "+try-failover",
    "+selected-slave",
    "+failover-state-*",
    "+promoted-slave",
    "+failover-end*",
    "-failover-abort-*",
    "+switch-master",
    "+config-update-from",
    "+reset-master",
    "+monitor",
    "?tilt",
    "+slave",
    "+sentinel",
];

/// A node as Sentinel names it: an address, or a host name where it announces those.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One answer to three questions sent at once; see the module [`super`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sandwich {
    /// The address and the epoch belong together.
    Claim {
        /// From `GET-MASTER-ADDR-BY-NAME`.
        node: Named,
        /// From `MASTER`, before and after.
        epoch: Epoch,
        /// From `MASTER`.
        view: View,
    },
    /// Sentinel doesn't know the name.
    Unknown,
    /// Something changed in between: ask again.
    Torn,
}

/// A replica as one Sentinel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Where it is.
    pub addr: SocketAddr,
    /// `s_down`, `o_down` or `disconnected`: that Sentinel can't reach it.
    pub down: bool,
    /// Its link to the master is up.
    pub link_up: bool,
    /// `replica-priority`; one with 0 is never promoted.
    pub priority: u32,
    /// Replication offset, in bytes, as of Sentinel's last INFO.
    pub offset: u64,
}

/// A replica as one Sentinel sees it now, with all that decides whether it may be promoted. (Changes
/// all the time, so it is asked for only where that is wanted.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<R = Replica> {
    /// What is known of it in any case.
    pub replica: R,
    /// How long it has had no link to its master, as of Sentinel's last INFO, to a second; zero while
    /// it has one, `None` if it never had.
    pub link_down: Option<Duration>,
    /// How old that INFO is.
    pub info_age: Duration,
}

/// Another Sentinel, as one names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Peer {
    /// Its `SENTINEL MYID`; empty as long as it is not known.
    pub run_id: String,
    /// Host name or IP address that it announces.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A published event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// What happened.
    pub kind: Kind,
    /// The master's name; `None` if the event is about all of them.
    pub master: Option<&'a str>,
    /// The replica it is about, or with `+switch-master` the new master.
    pub node: Option<Named>,
}

/// The kinds of events that vipd tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The master is subjectively down.
    Sdown,
    /// The master is objectively down.
    Odown,
    /// A replica was selected.
    Selected,
    /// SLAVEOF NO ONE was sent.
    Promoting,
    /// A replica was promoted.
    Promoted,
    /// The configuration changed.
    SwitchMaster,
    /// The failover is over.
    End,
    /// The failover is off.
    Aborted,
    /// The known replicas or Sentinels changed.
    Topology,
    /// Anything else: a reason to read again.
    Other,
}

/// Puts together the answers to `MASTER`, `GET-MASTER-ADDR-BY-NAME` and `MASTER`, in that order.
pub fn sandwich(before: Value, address: Value, after: Value) -> Result<Sandwich, Error> {
    let (Some(before), Some(after)) = (master(before)?, master(after)?) else {
        return Ok(Sandwich::Unknown);
    };
    if before.epoch != after.epoch {
        return Ok(Sandwich::Torn);
    }
    Ok(match named(checked(address)?)? {
        Some(node) => Sandwich::Claim { node, epoch: after.epoch, view: after.view },
        // It went between the questions.
        None => Sandwich::Torn,
    })
}

/// What `SENTINEL MASTER` says, without the address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Master {
    /// Config-epoch.
    pub epoch: Epoch,
    /// The rest.
    pub view: View,
}

/// Reads the answer to `SENTINEL MASTER`; `None` if there is no such master. Its address is not
/// read on purpose: it does not belong to the epoch.
pub fn master(value: Value) -> Result<Option<Master>, Error> {
    let value = match checked(value) {
        Ok(value) => value,
        Err(Error::Server(text)) if text.contains("No such master") => return Ok(None),
        Err(error) => return Err(error),
    };
    let fields = Fields::read(&value)?;
    Ok(Some(Master {
        epoch: Epoch(fields.number("config-epoch")?),
        view: View {
            quorum: fields.number("quorum")?,
            replicas: fields.number("num-slaves")?,
            other_sentinels: fields.number("num-other-sentinels")?,
            down_after: Duration::from_millis(fields.number("down-after-milliseconds")?),
            flags: fields.text("flags")?.to_owned(),
        },
    }))
}

/// Reads the answer to `SENTINEL GET-MASTER-ADDR-BY-NAME`.
pub fn named(value: Value) -> Result<Option<Named>, Error> {
    let unexpected =
        || Error::Protocol("unexpected answer to SENTINEL GET-MASTER-ADDR-BY-NAME".into());
    match &value {
        Value::Nil => Ok(None),
        Value::Array(parts) => match parts.as_slice() {
            [host, port] => {
                let host = text(host).ok_or_else(unexpected)?;
                let port = text(port).ok_or_else(unexpected)?;
                node(host, port).map(Some).ok_or_else(unexpected)
            }
            _ => Err(unexpected()),
        },
        _ => Err(unexpected()),
    }
}

/// Reads the answer to `SENTINEL REPLICAS`. Addresses are still to be resolved: those in the
/// replicas are a function of the names beside them.
pub fn replicas(value: Value) -> Result<Vec<(Named, Unplaced)>, Error> {
    each(value, |fields| Ok((fields.node()?, fields.replica()?)))
}

/// Reads the same answer, and more of it.
pub fn candidates(value: Value) -> Result<Vec<(Named, Candidate<Unplaced>)>, Error> {
    each(value, |fields| {
        let replica = fields.replica()?;
        // -1000 (or, before Redis 7, the time since 1970) if it never had one.
        let down: i64 = fields.number("master-link-down-time")?;
        let link_down = if replica.link_up {
            Some(Duration::ZERO)
        } else {
            u64::try_from(down).ok().map(Duration::from_millis)
        };
        let info_age = Duration::from_millis(fields.number("info-refresh")?);
        Ok((fields.node()?, Candidate { replica, link_down, info_age }))
    })
}

/// A [`Replica`] whose address isn't known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unplaced {
    down: bool,
    link_up: bool,
    priority: u32,
    offset: u64,
}

impl Unplaced {
    /// At that address.
    pub fn at(self, addr: SocketAddr) -> Replica {
        let Self { down, link_up, priority, offset } = self;
        Replica { addr, down, link_up, priority, offset }
    }
}

impl Candidate<Unplaced> {
    /// At that address.
    pub fn at(self, addr: SocketAddr) -> Candidate {
        let Self { replica, link_down, info_age } = self;
        Candidate { replica: replica.at(addr), link_down, info_age }
    }
}

/// Reads the answer to `SENTINEL SENTINELS`.
pub fn peers(value: Value) -> Result<Vec<Peer>, Error> {
    each(value, |fields| {
        let Named { host, port } = fields.node()?;
        Ok(Peer { run_id: fields.text("runid")?.to_owned(), host, port })
    })
}

/// Reads the names in the answer to `SENTINEL MASTERS`.
pub fn master_names(value: Value) -> Result<Vec<String>, Error> {
    each(value, |fields| Ok(fields.text("name")?.to_owned()))
}

/// Reads from the answer to `SENTINEL MASTERS` or `SENTINEL REPLICAS` who listens where: name and
/// `run_id`, which is empty as long as Sentinel doesn't know it.
pub fn run_ids(value: Value) -> Result<Vec<(Named, String)>, Error> {
    each(value, |fields| Ok((fields.node()?, fields.text("runid")?.to_owned())))
}

/// Reads a published message; `None` if it is not in the form that its channel has.
///
/// Source: `sentinelEvent` in sentinel.c. With `%@` the payload is `master NAME IP PORT`, or
/// `slave NAME IP PORT @ MASTER IP PORT` (also `sentinel …`). `+switch-master` is
/// `MASTER OLD-IP OLD-PORT NEW-IP NEW-PORT`.
pub fn event<'a>(channel: &str, payload: &'a str) -> Option<Event<'a>> {
    let mut kind = match channel {
        "+sdown" => Kind::Sdown,
        "+odown" => Kind::Odown,
        "+selected-slave" => Kind::Selected,
        "+failover-state-wait-promotion" => Kind::Promoting,
        "+promoted-slave" => Kind::Promoted,
        "+switch-master" => Kind::SwitchMaster,
        "+failover-end" | "+failover-end-for-timeout" => Kind::End,
        "+slave" | "+sentinel" | "+reset-master" | "+monitor" => Kind::Topology,
        _ if channel.starts_with("-failover-abort-") => Kind::Aborted,
        _ => Kind::Other,
    };
    if channel == "+tilt" || channel == "-tilt" {
        return Some(Event { kind, master: None, node: None });
    }
    let words: Vec<&str> = payload.split(' ').collect();
    let (master, node) = match words.as_slice() {
        [master, _, _, host, port] if kind == Kind::SwitchMaster => (*master, node(host, port)),
        ["master", name, _ip, _port, ..] => (*name, None),
        [_kind, _name, host, port, "@", master, ..] => (*master, node(host, port)),
        _ => return None,
    };
    // A replica or another Sentinel that is down says nothing about the master.
    if matches!(kind, Kind::Sdown | Kind::Odown) && words[0] != "master" {
        kind = Kind::Topology;
    }
    Some(Event { kind, master: Some(master), node })
}

fn node(host: &str, port: &str) -> Option<Named> {
    match port.parse() {
        Ok(port) if port > 0 && !host.is_empty() => Some(Named { host: host.to_owned(), port }),
        _ => None,
    }
}

/// Reads a list of field lists. One without an address or with nonsense is an error: a partial
/// list would look as if nodes had gone.
fn each<T>(value: Value, read: impl Fn(&Fields<'_>) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let Value::Array(items) = checked(value)? else {
        return Err(Error::Protocol("a list was expected from SENTINEL".into()));
    };
    items.iter().map(|item| read(&Fields::read(item)?)).collect()
}

/// Names and values that alternate, as RESP2 has them.
struct Fields<'a>(&'a [Value]);

impl<'a> Fields<'a> {
    fn read(value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Array(items) if items.len() % 2 == 0 => Ok(Self(items)),
            _ => Err(Error::Protocol("fields were expected from SENTINEL".into())),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str, Error> {
        self.0
            .chunks_exact(2)
            .find(|pair| text(&pair[0]) == Some(name))
            .and_then(|pair| text(&pair[1]))
            .ok_or_else(|| Error::Protocol(format!("SENTINEL did not say `{name}`")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Error> {
        let value = self.text(name)?;
        value.parse().map_err(|_| Error::Protocol(format!("SENTINEL said `{name}` is {value:?}")))
    }

    fn replica(&self) -> Result<Unplaced, Error> {
        let down = ["s_down", "o_down", "disconnected"];
        Ok(Unplaced {
            down: self.text("flags")?.split(',').any(|flag| down.contains(&flag)),
            link_up: self.text("master-link-status")? == "ok",
            priority: self.number("slave-priority")?,
            offset: self.number("slave-repl-offset")?,
        })
    }

    fn node(&self) -> Result<Named, Error> {
        let (host, port) = (self.text("ip")?, self.text("port")?);
        node(host, port)
            .ok_or_else(|| Error::Protocol(format!("SENTINEL named a node {host:?}:{port:?}")))
    }
}
