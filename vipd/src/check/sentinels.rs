//! The Sentinels: who answers, what they say, and whether they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use super::rehearsal::Outlook;
use super::report::{Finding, Severity};
use crate::config::{Config, Mode};
use crate::connect::{Dialer, Error, Phase};
use crate::failover::Notice;
use crate::model::MasterId;
use crate::resolve::Resolver;
use crate::sentinel::{self, Answer, Inspection, KnownMaster, MasterAnswer};

/// For all questions to all Sentinels.
const DEADLINE: Duration = Duration::from_secs(15);
/// Sentinels asked at once: all of them ([`crate::config::MAX_SENTINELS`]).
const AT_ONCE: usize = 32;

/// Asks all of them; an error if the login can't be read.
pub(super) async fn ask(config: &Config, resolver: &Resolver) -> Result<Vec<Inspection>, String> {
    let dialer = Dialer::new(&config.sentinel.login, sentinel::DEADLINES).map_err(super::chain)?;
    let (dialer, masters) = (&dialer, &config.masters());
    let deadline = Instant::now() + DEADLINE;
    let questions = config.sentinel.endpoints.iter().map(|endpoint| async move {
        let asked = sentinel::inspect(dialer, resolver, endpoint, masters);
        timeout_at(deadline, asked).await.unwrap_or_else(|_late| Inspection {
            endpoint: endpoint.clone(),
            addr: None,
            answer: Err(Error::Timeout { during: Phase::Answer, after: DEADLINE }),
        })
    });
    Ok(stream::iter(questions).buffered(AT_ONCE).collect().await)
}

/// Judges each Sentinel, and then each master name.
pub(super) fn judge(
    config: &Config,
    sentinels: &Result<Vec<Inspection>, String>,
    outlook: &Outlook,
) -> Vec<Finding> {
    let sentinels = match sentinels {
        Ok(sentinels) => sentinels,
        Err(why) => return vec![Finding::fail("sentinel login", why.as_str())],
    };
    let names = config.masters();
    let mut findings: Vec<Finding> = Vec::new();
    let mut seen: BTreeMap<&str, &Inspection> = BTreeMap::new();
    for inspection in sentinels {
        let subject = format!("sentinel {}", inspection.endpoint);
        let answer = match &inspection.answer {
            Err(error) => {
                findings.push(unreachable(subject, error, quorate(sentinels)));
                continue;
            }
            Ok(answer) => answer,
        };
        if !answer.run_id.is_empty()
            && let Some(first) = seen.insert(&answer.run_id, inspection)
        {
            findings.push(
                Finding::warn(subject, format!("is the same Sentinel as {}", first.endpoint))
                    .advise("it counts once: remove one of them"),
            );
            continue;
        }
        findings.extend(one(&subject, answer, &names, sentinels));
    }
    findings.extend(strangers(config, sentinels));
    for (master, name) in names.iter().enumerate() {
        findings.extend(judge_master(name, MasterId(master), sentinels, outlook));
        findings.extend(judge_lease(config, name, MasterId(master), sentinels));
    }
    findings
}

/// In mode `host`: an old owner whose vipd hangs must be silent before Sentinel makes another node
/// master, which takes it `down-after-milliseconds` at least.
fn judge_lease(
    config: &Config,
    name: &str,
    master: MasterId,
    sentinels: &[Inspection],
) -> Option<Finding> {
    let hosts = config.vips.iter().filter(|vip| vip.mode == Mode::Host);
    if !hosts.flat_map(|vip| &vip.services).any(|service| service.master == name) {
        return None;
    }
    let answers = sentinels.iter().filter_map(|it| it.answer.as_ref().ok());
    let down_after = answers
        .filter_map(|answer| match answer.masters.get(master.0) {
            Some(MasterAnswer::Known(known)) => Some(known.view.down_after),
            Some(MasterAnswer::Unknown | MasterAnswer::Changing) | None => None,
        })
        .min()?;
    let lease = config.daemon.lease();
    if lease < down_after {
        return None;
    }
    let text = format!(
        "{name} is called down after {} ms, and lease_ms is {}: two hosts may answer for a VIP whose \
         old host is cut off, or has a vipd that hangs",
        down_after.as_millis(),
        lease.as_millis()
    );
    let advice = "set [daemon] lease_ms below Sentinel's down-after-milliseconds";
    Some(Finding::warn("lease".to_owned(), text).advise(advice))
}

/// Whether a majority of the configured Sentinels answers.
fn quorate(sentinels: &[Inspection]) -> bool {
    sentinels.iter().filter(|it| it.answer.is_ok()).count() > sentinels.len() / 2
}

/// One of several may be away.
fn unreachable(subject: String, error: &Error, quorate: bool) -> Finding {
    let severity = if quorate { Severity::Warn } else { Severity::Fail };
    let finding = Finding::new(severity, subject, error.to_string());
    match advice(error, "Sentinel") {
        Some(advice) => finding.advise(advice),
        None => finding,
    }
}

/// What to do, where the error itself doesn't say it; `what` is `Sentinel` or `Redis`.
pub(super) fn advice(error: &Error, what: &str) -> Option<String> {
    let text = match error {
        Error::Resolve(_) => "check the name, or configure the address".to_owned(),
        Error::Refused => format!("is {what} running there, on that port and address (`bind`)?"),
        Error::Unreachable(_) | Error::Timeout { during: Phase::Connect, .. } => {
            "check the address, the route to it and its firewall".to_owned()
        }
        Error::Timeout { .. } => format!("{what} hangs, is overloaded, or speaks TLS only there"),
        Error::Closed(Phase::Connect | Phase::Answer) => format!("see the log of {what}"),
        Error::Tls(_) => "check `tls` in the configuration, and the certificates".to_owned(),
        Error::NoPerm(_) => "grant it with ACL SETUSER".to_owned(),
        Error::Closed(_)
        | Error::NoAuth
        | Error::WrongPassword
        | Error::PasswordUnexpected
        | Error::Password(_)
        | Error::ProtectedMode
        | Error::TooManyClients
        | Error::Server(_)
        | Error::Protocol(_)
        | Error::SameAs(_) => return None,
    };
    Some(text)
}

/// A Sentinel that answers.
fn one(subject: &str, answer: &Answer, names: &[&str], all: &[Inspection]) -> Vec<Finding> {
    let mut says = vec![match answer.version.as_str() {
        "" => "answers".to_owned(),
        version => format!("Redis {version}"),
    }];
    let mut others = Vec::new();
    if answer.tilt {
        others.push(Finding::warn(subject, "is in TILT: it takes no part in failovers for now"));
    }
    for (master, (name, said)) in names.iter().zip(&answer.masters).enumerate() {
        match said {
            MasterAnswer::Unknown => {
                let most = all.iter().filter(|it| knows(it, master)).count() > all.len() / 2;
                let severity = if most { Severity::Warn } else { Severity::Fail };
                others.push(
                    Finding::new(severity, subject, format!("does not know the master {name:?}"))
                        .advise("see `SENTINEL MASTERS` there for the names that it has"),
                );
            }
            MasterAnswer::Changing => others.push(
                Finding::warn(subject, format!("{name} is failing over right now"))
                    .advise("check again when that is over"),
            ),
            MasterAnswer::Known(known) => {
                says.push(describe(name, known));
                others.extend(judge_view(subject, name, known, all.len()));
            }
        }
    }
    let mut findings = vec![Finding::ok(subject, says.join("; "))];
    findings.append(&mut others);
    findings
}

fn describe(name: &str, known: &KnownMaster) -> String {
    let addr = match &known.addr {
        Ok(addr) => addr.to_string(),
        Err(error) => error.to_string(),
    };
    format!(
        "{name} is {addr}, epoch {}, quorum {} of {}, {} replicas",
        known.epoch,
        known.view.quorum,
        known.view.other_sentinels + 1,
        known.view.replicas
    )
}

fn judge_view(subject: &str, name: &str, known: &KnownMaster, configured: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut warn = |text: String, advice: &str| {
        findings.push(Finding::warn(subject, text).advise(advice));
    };
    if let Err(error) = &known.addr {
        warn(
            format!("names {name} by a host name without an address: {error}"),
            "see `sentinel resolve-hostnames` and `announce-hostnames`",
        );
    }
    if let Err(error) = &known.ckquorum {
        warn(
            format!("CKQUORUM {name}: {error}"),
            "no failover would happen now: see to the Sentinels that are away",
        );
    }
    if known.view.replicas == 0 {
        warn(format!("{name} has no replica"), "there is nobody to fail over to");
    }
    let flags = ["s_down", "o_down", "disconnected"];
    if known.view.flags.split(',').any(|flag| flags.contains(&flag)) {
        warn(
            format!("can't reach {name} ({})", known.view.flags),
            "see whether that Redis runs, and the network between the two",
        );
    }
    let seen = known.view.other_sentinels as usize + 1;
    if seen < configured {
        warn(
            format!("knows {seen} Sentinels of {name}, and {configured} are configured"),
            "do all of them monitor the same master, and reach each other?",
        );
    }
    findings
}

/// Sentinels that others name, and that would not count towards the majority.
fn strangers(config: &Config, sentinels: &[Inspection]) -> Vec<Finding> {
    let answers: Vec<&Answer> = sentinels.iter().filter_map(|it| it.answer.as_ref().ok()).collect();
    let ids: BTreeSet<&str> = answers.iter().map(|it| it.run_id.as_str()).collect();
    let here: BTreeSet<SocketAddr> = sentinels.iter().filter_map(|it| it.addr).collect();
    let known = |host: &str, port: u16| {
        let ip = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        ip.is_some_and(|addr| here.contains(&addr))
            || config.sentinel.endpoints.iter().any(|it| it.host == host && it.port == port)
    };
    let masters = answers.iter().flat_map(|answer| &answer.masters);
    let peers = masters.filter_map(|answer| match answer {
        MasterAnswer::Known(known) => Some(&known.sentinels),
        MasterAnswer::Unknown | MasterAnswer::Changing => None,
    });
    let strangers: BTreeSet<String> = peers
        .flatten()
        .filter(|peer| !ids.contains(peer.run_id.as_str()) && !known(&peer.host, peer.port))
        .map(|peer| format!("{}:{}", peer.host, peer.port))
        .collect();
    let finding = |endpoint| {
        Finding::warn(format!("sentinel {endpoint}"), "is known to the others and not configured")
            .advise("add it to `endpoints`: it does not count towards the majority")
    };
    strangers.into_iter().map(finding).collect()
}

fn judge_master(
    name: &str,
    master: MasterId,
    sentinels: &[Inspection],
    outlook: &Outlook,
) -> Vec<Finding> {
    let subject = format!("master {name}");
    let claims: Vec<(&Inspection, SocketAddr, &KnownMaster)> = sentinels
        .iter()
        .filter_map(|it| {
            let known = known(it, master.0)?;
            Some((it, *known.addr.as_ref().ok()?, known))
        })
        .collect();
    let desired = outlook.desired.get(master.0);
    let target = desired.filter(|it| it.announce).and_then(|it| it.target);
    let mut findings = Vec::new();
    if let Some(target) = target {
        let named = claims.iter().filter(|(_, addr, _)| *addr == target.addr).count();
        let text = format!("{target}, named by {named} of {} Sentinels", sentinels.len());
        findings.push(Finding::ok(&subject, text));
    }
    let severity = if target.is_some() { Severity::Warn } else { Severity::Fail };
    for (of, notice) in &outlook.notices {
        // Each Sentinel's own line says the latter.
        if *of == master && !matches!(notice, Notice::UnknownMaster { .. }) {
            findings.push(Finding::new(severity, &subject, notice.to_string()));
        }
    }
    if target.is_none() && findings.is_empty() {
        findings.push(Finding::fail(&subject, "nobody names it"));
    }
    findings.extend(disagreement(
        &subject,
        "name different masters",
        &claims,
        |(_, addr, known)| format!("{addr} (epoch {})", known.epoch),
    ));
    findings.extend(disagreement(&subject, "have different quorums", &claims, |(_, _, known)| {
        known.view.quorum.to_string()
    }));
    findings
}

/// A warning that says who says what, unless all say the same.
fn disagreement<'a, T>(
    subject: &str,
    what: &str,
    claims: &'a [(&Inspection, SocketAddr, T)],
    says: impl Fn(&'a (&Inspection, SocketAddr, T)) -> String,
) -> Option<Finding> {
    let mut who: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for claim in claims {
        who.entry(says(claim)).or_default().push(claim.0.endpoint.to_string());
    }
    if who.len() < 2 {
        return None;
    }
    let list: Vec<_> =
        who.iter().map(|(said, who)| format!("{said} by {}", who.join(", "))).collect();
    Some(Finding::warn(subject, format!("the Sentinels {what}: {}", list.join("; "))))
}

fn knows(inspection: &Inspection, master: usize) -> bool {
    known(inspection, master).is_some()
}

fn known(inspection: &Inspection, master: usize) -> Option<&KnownMaster> {
    match inspection.answer.as_ref().ok()?.masters.get(master)? {
        MasterAnswer::Known(known) => Some(known),
        MasterAnswer::Unknown | MasterAnswer::Changing => None,
    }
}
