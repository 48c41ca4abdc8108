//! Whether a switchover can be, and what it would do. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::site::NodeFacts;
use super::{Order, hint, pause_limit};
use crate::config::Endpoint;
use crate::connect::Error;
use crate::order::Ready;
use crate::redis_node::Role;
use crate::sentinel::{Inspection, KnownMaster, MasterAnswer};

/// `CLIENT PAUSE … WRITE` and `CLIENT UNPAUSE` are as old as this.
const OLDEST: (u32, u32) = (6, 2);

/// Everything that was found out.
pub struct Survey<'a> {
    /// The master.
    pub node: SocketAddr,
    /// The Sentinel that would be asked.
    pub ready: &'a Ready,
    /// All of them.
    pub sentinels: &'a [Inspection],
    /// The master, and whether it can be paused.
    pub master: &'a Result<NodeFacts, Error>,
    /// As above.
    pub may_pause: &'a Result<(), Error>,
    /// Those of [`selectable`].
    pub replicas: &'a [(SocketAddr, Result<NodeFacts, Error>)],
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Replicas that Sentinel may select: each must have the master's offset.
    pub replicas: Vec<SocketAddr>,
    /// The one to prefer.
    pub to: Option<SocketAddr>,
    /// The pause ends after this long.
    pub pause: Duration,
    /// The replicas are waited for this long while paused.
    pub catching_up: Duration,
}

/// All replicas that any Sentinel may select. That it is lax on purpose (a replica that Sentinel
/// would find too old is among them) costs a refusal at worst.
pub fn selectable(ready: &Ready, sentinels: &[Inspection]) -> Vec<SocketAddr> {
    let asked = ready.replicas.iter().map(|it| &it.replica);
    let all = asked.chain(known(sentinels).flat_map(|(_, known)| &known.replicas));
    let may = all.filter(|it| !it.down && it.priority > 0).map(|it| it.addr);
    may.collect::<BTreeSet<_>>().into_iter().collect()
}

/// How many of the configured Sentinels name `node` as the master, and nobody else.
pub fn named_by(sentinels: &[Inspection], node: SocketAddr) -> usize {
    known(sentinels).filter(|(_, known)| known.addr.as_ref() == Ok(&node)).count()
}

/// One that has a failover in progress.
pub fn busy(sentinels: &[Inspection]) -> Option<&Endpoint> {
    let is_busy = |flags: &str| flags.split(',').any(|flag| flag == "failover_in_progress");
    let changing = |it: &&Inspection| {
        let masters = it.answer.as_ref().ok().and_then(|answer| answer.masters.first());
        match masters {
            Some(MasterAnswer::Known(known)) => is_busy(&known.view.flags),
            // It was about to name another one as it was asked.
            Some(MasterAnswer::Changing) => true,
            Some(MasterAnswer::Unknown) | None => false,
        }
    };
    sentinels.iter().find(changing).map(|it| &it.endpoint)
}

/// Whether more than half of them name one node that is not `old`.
pub fn agree_on_another(sentinels: &[Inspection], old: SocketAddr) -> bool {
    let named = known(sentinels).filter_map(|(_, known)| known.addr.as_ref().ok().copied());
    let others: BTreeSet<_> = named.filter(|node| *node != old).collect();
    others.into_iter().any(|node| named_by(sentinels, node) > sentinels.len() / 2)
}

/// Those that answer and know the master.
pub fn known(sentinels: &[Inspection]) -> impl Iterator<Item = (&Inspection, &KnownMaster)> {
    sentinels.iter().filter_map(|it| match it.answer.as_ref().ok()?.masters.first()? {
        MasterAnswer::Known(known) => Some((it, known)),
        MasterAnswer::Unknown | MasterAnswer::Changing => None,
    })
}

/// The plan with what speaks for it, or everything that is in its way. Lines read on after the
/// word "check:".
pub fn judge(order: &Order, survey: &Survey<'_>) -> Result<(Plan, Vec<String>), Vec<String>> {
    let mut good = vec![format!(
        "Sentinel {}: {}, epoch {}",
        survey.ready.sentinel, survey.ready.quorum, survey.ready.epoch
    )];
    let mut bad = Vec::new();
    for line in [about_sentinels(survey), about_master(survey)]
        .into_iter()
        .chain(survey.replicas.iter().map(|(node, facts)| about_replica(*node, facts)))
    {
        match line {
            Ok(line) => good.push(line),
            Err(line) => bad.push(line),
        }
    }
    let replicas: Vec<_> = survey.replicas.iter().map(|(node, _)| *node).collect();
    let to = match order.to {
        None => None,
        Some(preferred) => match replicas.iter().find(|node| preferred.is(**node)) {
            Some(node) => Some(*node),
            None => {
                bad.push(format!(
                    "{preferred} is not among the replicas that Sentinel may select: {}",
                    list(&replicas)
                ));
                None
            }
        },
    };
    let down_after = known(survey.sentinels).map(|(_, known)| known.view.down_after);
    let down_after = down_after.chain([survey.ready.view.down_after]).min().unwrap_or_default();
    let limits = pause_limit(order.timeout(), down_after);
    let (pause, catching_up) = limits.unwrap_or_default();
    if limits.is_none() {
        bad.push(format!(
            "down-after-milliseconds is {}: a pause of the master would look like its end; raise \
             it to 500 at least, or the timeout to 20 ms",
            down_after.as_millis()
        ));
    }
    if !bad.is_empty() {
        return Err(bad);
    }
    good.push(format!(
        "the replicas are waited for {} ms at most while writers are paused{}",
        catching_up.as_millis(),
        if catching_up < order.timeout() {
            format!(" (of down-after-milliseconds, {})", down_after.as_millis())
        } else {
            String::new()
        }
    ));
    Ok((Plan { replicas, to, pause, catching_up }, good))
}

/// Whether each Sentinel that would be asked prefers `to` by now: a priority that is set on the
/// replica is known to a Sentinel only after its next INFO, up to 10 s later.
pub fn is_preferred(sentinels: &[Inspection], to: SocketAddr) -> bool {
    let mut known = known(sentinels).peekable();
    known.peek().is_some()
        && known.all(|(_, known)| {
            let up = known.replicas.iter().filter(|it| !it.down);
            let priorities: Vec<_> = up.map(|it| (it.addr, it.priority)).collect();
            hint::prefers(&priorities, to)
        })
}

fn about_sentinels(survey: &Survey<'_>) -> Result<String, String> {
    let configured = survey.sentinels.len();
    let naming = named_by(survey.sentinels, survey.node);
    if let Some(busy) = busy(survey.sentinels) {
        return Err(format!("the Sentinel {busy} has a failover in progress"));
    }
    let line = format!("{naming} of {configured} Sentinels have {} as the master", survey.node);
    if naming > configured / 2 { Ok(line) } else { Err(line) }
}

fn about_master(survey: &Survey<'_>) -> Result<String, String> {
    let node = survey.node;
    let facts = match survey.master {
        Ok(facts) => facts,
        Err(error) => return Err(format!("the master {node} {error}")),
    };
    let Role::Master { offset, replicas } = facts.role else {
        return Err(format!("{node} does not call itself master"));
    };
    if version(&facts.version).is_some_and(|version| version < OLDEST) {
        return Err(format!(
            "the master {node} is Redis {}: pausing writers needs 6.2 or newer",
            facts.version
        ));
    }
    match survey.may_pause {
        Ok(()) => Ok(format!(
            "master {node}{}: offset {offset}, {replicas} replicas connected, may be paused",
            of_version(&facts.version)
        )),
        Err(error) => Err(format!("the master {node} can't be paused: {}", advised(error))),
    }
}

fn about_replica(node: SocketAddr, facts: &Result<NodeFacts, Error>) -> Result<String, String> {
    let remedy = "or tell Sentinel never to select it (`replica-priority 0`)";
    match facts {
        Ok(NodeFacts { role: Role::Replica { link_up: true, offset, .. }, version }) => {
            Ok(format!("replica {node}{}: link up, offset {offset}", of_version(version)))
        }
        Ok(NodeFacts { role: Role::Replica { link_up: false, .. }, .. }) => Err(format!(
            "the replica {node}, which Sentinel may select, has no link to its master: see its \
             log, {remedy}"
        )),
        Ok(_) => Err(format!("{node}, which Sentinel may select, is not a replica")),
        Err(error) => Err(format!(
            "the replica {node}, which Sentinel may select, {error}; see to it, {remedy}"
        )),
    }
}

/// The error, with the permission to give if that is what lacks.
pub fn advised(error: &Error) -> String {
    match error {
        Error::NoPerm(_) => format!(
            "{error}; vipd's user needs +client|pause +client|unpause +client|kill +client|list (and with --to \
             +config|get +config|set)"
        ),
        _ => error.to_string(),
    }
}

fn of_version(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!(", Redis {version}") }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn list(nodes: &[SocketAddr]) -> String {
    match nodes {
        [] => "there is none".to_owned(),
        nodes => nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("6.0.16").unwrap() < OLDEST);
        assert!(version("6.2.0").unwrap() >= OLDEST);
        assert!(version("10.0.1").unwrap() >= OLDEST);
        assert_eq!(version(""), None);
    }
}
