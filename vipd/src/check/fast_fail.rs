//! `fast_fail = "refused"`, and what ends connections in mode `host`: whether they can work, and
//! whether they are of any use.

use super::report::Finding;
use crate::config::{Config, FastFail, Mode};
use crate::connect::Error;
use crate::sentinel::{Inspection, KnownMaster, MasterAnswer};
use crate::sock_diag;

const SUBJECT: &str = "fast_fail";

/// Facts about the host.
pub(super) struct Facts {
    /// Whether the kernel ends sockets when it is asked to.
    pub(super) destroy: Result<(), String>,
}

impl Facts {
    pub(super) fn gather() -> Self {
        Self { destroy: sock_diag::can_destroy().map_err(|error| error.to_string()) }
    }
}

pub(super) fn judge(config: &Config, facts: &Facts, sentinels: &[Inspection]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = judge_destroy(config, facts).into_iter().collect();
    match config.daemon.fast_fail {
        FastFail::Off => return findings,
        FastFail::Refused => {}
    }
    let names = config.masters();
    if names.is_empty() {
        let finding = Finding::warn(SUBJECT, "there is no service whose master could be replaced");
        findings.push(finding.advise("without [[vip.service]], leave it off"));
    }
    findings.extend(sentinels.iter().filter_map(judge_permission));
    for (master, name) in names.iter().enumerate() {
        let known: Vec<&KnownMaster> =
            sentinels.iter().filter_map(|it| known(it, master)).collect();
        findings.extend(judge_grace(config, name, &known));
        findings.extend(judge_replicas(name, &known));
    }
    if findings.is_empty() {
        let text = format!(
            "a master whose host refuses connections for {} ms is replaced, once in {} s at most",
            config.failover.fast_fail_grace_ms, config.failover.fast_fail_interval_s
        );
        findings.push(Finding::ok(SUBJECT, text));
    }
    findings
}

fn judge_destroy(config: &Config, facts: &Facts) -> Option<Finding> {
    if !config.vips.iter().any(|vip| vip.mode == Mode::Host) {
        return None;
    }
    let why = facts.destroy.as_ref().err()?;
    let text = format!(
        "sockets can't be destroyed ({why}): a client that only waits will not notice that its VIP \
         has left this host"
    );
    let advice = "it takes CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY";
    Some(Finding::warn("sockets", text).advise(advice))
}

fn judge_permission(inspection: &Inspection) -> Option<Finding> {
    let answer = inspection.answer.as_ref().ok()?;
    let quorum = |it: &MasterAnswer| match it {
        MasterAnswer::Known(known) => matches!(known.ckquorum, Err(Error::NoPerm(_))),
        MasterAnswer::Unknown | MasterAnswer::Changing => false,
    };
    let missing = [
        ("+sentinel|failover", matches!(answer.failover, Err(Error::NoPerm(_)))),
        ("+sentinel|ckquorum", answer.masters.iter().any(quorum)),
        // TILT shows only there.
        ("+info", answer.version.is_empty()),
    ];
    let missing: Vec<&str> = missing.iter().filter(|(_, it)| *it).map(|(what, _)| *what).collect();
    if missing.is_empty() {
        return None;
    }
    let subject = format!("sentinel {}", inspection.endpoint);
    let text = format!("lets vipd ask for no failover: the user lacks {}", missing.join(" "));
    let advice = "grant it with ACL SETUSER there; until then fast_fail does nothing";
    Some(Finding::warn(subject, text).advise(advice))
}

/// Where the Sentinels are as quick, they are first.
fn judge_grace(config: &Config, name: &str, known: &[&KnownMaster]) -> Option<Finding> {
    let down_after = known.iter().map(|it| it.view.down_after).min()?;
    let grace = config.failover.grace();
    if grace < down_after {
        return None;
    }
    let text = format!(
        "{name} is called down after {} ms, and fast_fail_grace_ms is {}: the Sentinels are first",
        down_after.as_millis(),
        grace.as_millis()
    );
    Some(Finding::warn(SUBJECT, text).advise("set it below Sentinel's down-after-milliseconds"))
}

fn judge_replicas(name: &str, known: &[&KnownMaster]) -> Option<Finding> {
    let mut replicas = known.iter().flat_map(|it| &it.replicas);
    if known.is_empty() || replicas.any(|replica| replica.priority > 0) {
        return None;
    }
    let text = format!("no replica of {name} may be promoted: it is never replaced");
    Some(Finding::warn(SUBJECT, text).advise("see `replica-priority` of its replicas"))
}

fn known(inspection: &Inspection, master: usize) -> Option<&KnownMaster> {
    match inspection.answer.as_ref().ok()?.masters.get(master)? {
        MasterAnswer::Known(known) => Some(known),
        MasterAnswer::Unknown | MasterAnswer::Changing => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::model::Epoch;
    use crate::sentinel::{Answer, Replica, View};

    fn config(fast_fail: &str, mode: &str, more: &str) -> Config {
        let text = format!(
            "[daemon]\ninterfaces = [\"eth0\"]\nfast_fail = \"{fast_fail}\"\n{more}\n\
             [sentinel]\nendpoints = [\"198.18.0.101:26379\"]\n\
             [[vip]]\naddress = \"198.18.0.250\"\nmode = \"{mode}\"\n\
             [[vip.service]]\nport = 8000\nmaster = \"mymaster\"\n"
        );
        Config::parse(&text, Path::new("test")).unwrap()
    }

    fn known_master() -> KnownMaster {
        let addr = |host| SocketAddr::from(([198, 18, 0, host], 8000));
        KnownMaster {
            addr: Ok(addr(101)),
            epoch: Epoch(3),
            view: View {
                quorum: 2,
                replicas: 1,
                other_sentinels: 2,
                down_after: Duration::from_secs(5),
                flags: "master".to_owned(),
            },
            ckquorum: Ok("OK".to_owned()),
            replicas: vec![Replica {
                addr: addr(102),
                down: false,
                link_up: true,
                priority: 100,
                offset: 1,
            }],
            sentinels: Vec::new(),
        }
    }

    fn answer() -> Answer {
        Answer {
            run_id: "id".to_owned(),
            version: "7.0.15".to_owned(),
            tilt: false,
            failover: Ok(()),
            masters: vec![MasterAnswer::Known(known_master())],
        }
    }

    fn findings(config: &Config, destroy: Result<(), String>, answer: Answer) -> Vec<String> {
        let endpoint = "198.18.0.101:26379".parse().unwrap();
        let inspection = Inspection { endpoint, addr: None, answer: Ok(answer) };
        let findings = judge(config, &Facts { destroy }, &[inspection]);
        findings.into_iter().map(|it| format!("{}: {}", it.subject, it.text)).collect()
    }

    #[test]
    fn what_keeps_it_from_working_and_what_makes_it_useless_is_said() {
        let no_perm = || Err(Error::NoPerm("no".to_owned()));
        let changed = |change: fn(&mut KnownMaster)| {
            let mut known = known_master();
            change(&mut known);
            Answer { masters: vec![MasterAnswer::Known(known)], ..answer() }
        };
        let on = || config("refused", "nat", "");
        let late = config("refused", "nat", "[failover]\nfast_fail_grace_ms = 5000");
        for (config, answer, expected) in [
            (config("off", "nat", ""), Answer { failover: no_perm(), ..answer() }, ""),
            (on(), answer(), "refuses connections for 30 ms is replaced, once in 60 s at most"),
            (on(), Answer { failover: no_perm(), ..answer() }, "lacks +sentinel|failover"),
            (on(), Answer { version: String::new(), ..answer() }, "lacks +info"),
            (
                on(),
                changed(|it| it.ckquorum = Err(Error::NoPerm("no".to_owned()))),
                "lacks +sentinel|ckquorum",
            ),
            (
                on(),
                changed(|it| it.view.down_after = Duration::from_millis(30)),
                "the Sentinels are first",
            ),
            (late, answer(), "fast_fail_grace_ms is 5000"),
            (on(), changed(|it| it.replicas[0].priority = 0), "may be promoted"),
            (on(), changed(|it| it.replicas.clear()), "may be promoted"),
        ] {
            let found = findings(&config, Ok(()), answer);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{found:?}");
            assert!(found.iter().all(|it| it.contains(expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn sockets_matter_only_where_vips_come_and_go() {
        for (mode, count) in [("nat", 0), ("dsr", 0), ("host", 1)] {
            let refused = Err("Operation not supported".to_owned());
            let found = findings(&config("off", mode, ""), refused, answer());
            assert_eq!(found.len(), count, "{mode}: {found:?}");
        }
    }
}
