//! The kernel, and what this process may ask of it.

use std::fs;

use super::pins::Place;
use super::report::Finding;
use crate::datapath;

/// Kernel version, `major.minor`.
type Version = (u32, u32);

/// What vipd cannot do without, and the kernel it came with.
const NEEDED: [(Version, &str); 3] = [
    ((5, 8), "the BPF ring buffer"),
    ((5, 9), "pinnable XDP links"),
    ((5, 11), "the coarse clock for BPF programs"),
];
/// [`NEEDED`] that a kernel was seen to have if it has accepted the program and its maps.
const PROVED_BY_LOADING: [Version; 2] = [(5, 8), (5, 11)];

/// Bits of `CapEff` (linux/capability.h).
const NET_ADMIN: Capability = Capability { bit: 12, name: "CAP_NET_ADMIN" };
const NET_RAW: Capability = Capability { bit: 13, name: "CAP_NET_RAW" };
const SYS_CHROOT: Capability = Capability { bit: 18, name: "CAP_SYS_CHROOT" };
const SYS_ADMIN: Capability = Capability { bit: 21, name: "CAP_SYS_ADMIN" };
const PERFMON: Capability = Capability { bit: 38, name: "CAP_PERFMON" };
const BPF: Capability = Capability { bit: 39, name: "CAP_BPF" };
/// Lines of the verifier's last words that are shown.
const LAST_WORDS: usize = 5;

#[derive(Clone, Copy)]
struct Capability {
    bit: u32,
    name: &'static str,
}

/// What was found.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Facts {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// The effective set of this process, if /proc shows it.
    pub(super) capabilities: Option<u64>,
    /// Whether the kernel accepts the program and its maps, or why not.
    pub(super) load: Result<(), String>,
}

impl Facts {
    pub(super) fn gather() -> Self {
        let release = nix::sys::utsname::uname()
            .map(|names| names.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            release,
            capabilities: effective(&status),
            load: datapath::try_load().map_err(super::chain),
        }
    }
}

/// Judges them; `place` is where the pin directory is.
pub(super) fn judge(facts: &Facts, place: Place) -> Vec<Finding> {
    let mut findings = vec![features(facts)];
    findings.push(capabilities(facts, place));
    findings.push(match &facts.load {
        Ok(()) => Finding::ok("XDP program", "the kernel accepts it and its maps"),
        Err(why) => Finding::fail("XDP program", shortened(why)),
    });
    findings
}

/// The first line and the last ones: what lies between is the verifier's whole way to its refusal.
fn shortened(why: &str) -> String {
    let lines: Vec<&str> = why.lines().collect();
    if lines.len() <= LAST_WORDS + 1 {
        return why.to_owned();
    }
    let last = &lines[lines.len() - LAST_WORDS..];
    format!("{}\n...\n{}", lines[0], last.join("\n"))
}

fn features(facts: &Facts) -> Finding {
    let release = &facts.release;
    let Some(version) = version(release) else {
        return Finding::warn("kernel", format!("its version {release:?} is not understood"));
    };
    let missing = NEEDED.iter().filter(|(since, _)| {
        version < *since && (facts.load.is_err() || !PROVED_BY_LOADING.contains(since))
    });
    let missing: Vec<String> =
        missing.map(|((major, minor), what)| format!("{what} (since {major}.{minor})")).collect();
    if missing.is_empty() {
        return Finding::ok("kernel", format!("Linux {release}"));
    }
    let text = format!("Linux {release} is too old for {}", missing.join(", "));
    if facts.load.is_ok() {
        // Some distributions bring features to older kernels.
        Finding::warn("kernel", text).advise("unless your distribution has added it, use 5.11 up")
    } else {
        Finding::fail("kernel", text).advise("use Linux 5.11 or newer")
    }
}

fn capabilities(facts: &Facts, place: Place) -> Finding {
    let subject = "capabilities";
    let Some(effective) = facts.capabilities else {
        return Finding::warn(subject, "/proc/self/status does not show them");
    };
    // CAP_BPF was split off CAP_SYS_ADMIN in 5.8.
    let bpf = match version(&facts.release) {
        Some(version) if version < (5, 8) => SYS_ADMIN,
        _ => BPF,
    };
    let mut needed = vec![
        (bpf, "loads the program and its maps"),
        (NET_ADMIN, "attaches it to an interface"),
        (NET_RAW, "sends gratuitous ARP"),
    ];
    // The verifier is stricter without it; a program that it accepts anyway does not need it.
    if facts.load.is_err() && bpf.bit == BPF.bit {
        needed.push((PERFMON, "lets the verifier accept the program"));
    }
    match place {
        Place::Mounted => {}
        Place::Missing => needed.push((SYS_ADMIN, "mounts bpffs, which is missing")),
        Place::HostNamespace => {
            let why = "pins in the host's bpffs, as this mount namespace is a private one";
            needed.push((SYS_ADMIN, why));
            needed.push((SYS_CHROOT, why));
        }
    }
    let has = |capability: Capability| {
        let with = |it: Capability| effective & (1 << it.bit) != 0;
        let split_off = [BPF.bit, PERFMON.bit].contains(&capability.bit);
        with(capability) || (split_off && with(SYS_ADMIN))
    };
    let missing: Vec<String> = needed
        .iter()
        .filter(|(capability, _)| !has(*capability))
        .map(|(capability, why)| format!("{} (it {why})", capability.name))
        .collect();
    if missing.is_empty() {
        let names: Vec<_> = needed.iter().map(|(capability, _)| capability.name).collect();
        return Finding::ok(subject, names.join(", "));
    }
    Finding::fail(subject, format!("missing: {}", missing.join(", ")))
        .advise("run vipd as root, or grant them in its unit file (AmbientCapabilities)")
}

/// `CapEff` of /proc/PID/status.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// `major.minor` of a release such as `6.1.0-40-amd64`.
fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::report::Severity;
    use super::*;

    const ALL: u64 = 0x1ff_ffff_ffff;

    fn facts(release: &str) -> Facts {
        Facts { release: release.to_owned(), capabilities: Some(ALL), load: Ok(()) }
    }

    fn without(capabilities: &[Capability]) -> u64 {
        capabilities.iter().fold(ALL, |all, it| all & !(1 << it.bit))
    }

    #[test]
    fn a_kernel_is_judged_by_its_version_and_by_what_it_accepts() {
        let refused = Err("no such helper".to_owned());
        for (release, load, severity, named) in [
            ("6.18.5", Ok(()), Severity::Ok, "6.18.5"),
            ("5.11.0-rc1", Ok(()), Severity::Ok, "5.11.0"),
            ("5.10.0-28-amd64", refused.clone(), Severity::Fail, "coarse clock"),
            ("5.10.0-28-amd64", Ok(()), Severity::Ok, "5.10.0"),
            ("5.8.1", Ok(()), Severity::Warn, "XDP links"),
            ("4.18.0-553.el8", refused, Severity::Fail, "ring buffer"),
            ("Plan9", Ok(()), Severity::Warn, "Plan9"),
        ] {
            let found = features(&Facts { load, ..facts(release) });
            assert_eq!(found.severity, severity, "{release}: {found:?}");
            assert!(found.text.contains(named), "{release}: {found:?}");
        }
    }

    #[test]
    fn each_missing_capability_is_named_with_its_purpose() {
        for (capabilities, place, missing) in [
            (ALL, Place::HostNamespace, vec![]),
            (without(&[SYS_ADMIN]), Place::Mounted, vec![]),
            (without(&[BPF]), Place::Mounted, vec![]),
            (without(&[NET_RAW]), Place::Mounted, vec!["CAP_NET_RAW (it sends gratuitous ARP)"]),
            (without(&[BPF, SYS_ADMIN]), Place::Mounted, vec!["CAP_BPF"]),
            (without(&[SYS_ADMIN]), Place::Missing, vec!["CAP_SYS_ADMIN (it mounts bpffs"]),
            (without(&[SYS_CHROOT]), Place::HostNamespace, vec!["CAP_SYS_CHROOT"]),
            (0, Place::Mounted, vec!["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW"]),
        ] {
            let facts = Facts { capabilities: Some(capabilities), ..facts("6.1.0") };
            let found = super::capabilities(&facts, place);
            let expected = if missing.is_empty() { Severity::Ok } else { Severity::Fail };
            assert_eq!(found.severity, expected, "{capabilities:x}: {found:?}");
            for name in missing {
                assert!(found.text.contains(name), "{capabilities:x}: {found:?}");
            }
        }
    }

    #[test]
    fn a_program_that_the_kernel_refuses_is_said_with_its_reason() {
        let facts = Facts { load: Err("the verifier says no".to_owned()), ..facts("6.1.0") };
        let failed = judge(&facts, Place::Mounted);
        let failed: Vec<_> = failed.iter().filter(|it| it.severity == Severity::Fail).collect();
        assert!(matches!(failed[..], [it] if it.text.contains("verifier says no")), "{failed:?}");
    }

    #[test]
    fn a_refused_program_may_lack_a_capability_and_its_reason_is_short() {
        let why: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let capabilities = Some(without(&[PERFMON, SYS_ADMIN]));
        let facts = Facts { capabilities, load: Err(why), ..facts("6.1.0") };
        let found = judge(&facts, Place::Mounted);
        assert!(found.iter().any(|it| it.text.contains("CAP_PERFMON")), "{found:?}");
        let program = found.last().expect("the program's line");
        assert_eq!(program.text, "line 0\n...\nline 95\nline 96\nline 97\nline 98\nline 99");
        let accepted = Facts { load: Ok(()), ..facts };
        assert!(judge(&accepted, Place::Mounted).iter().all(|it| it.severity == Severity::Ok));
    }

    #[test]
    fn the_effective_set_is_read_from_status() {
        let status = "Name:\tvipd\nCapInh:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(effective(status), Some(ALL));
        assert_eq!(effective("Name:\tvipd\n"), None);
    }
}
