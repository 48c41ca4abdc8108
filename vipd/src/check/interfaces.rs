//! The interfaces that the program would be attached to.

use super::peer::{self, Fit};
use super::report::{Finding, Severity};
use crate::config::XdpMode;
use crate::datapath::PinnedInterface;
use crate::netdev::{self, AttachedMode, Expected, NativeXdp, SINGLE_PAGE_MTU};

/// One configured interface.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Or why it can't be described.
    pub(super) facts: Result<netdev::Facts, String>,
    /// The link that this configuration's vipd has pinned for it.
    pub(super) link: Option<PinnedInterface>,
    /// MTU of a veth device's peer, if that may be seen.
    pub(super) peer_mtu: Option<u32>,
}

impl Interface {
    pub(super) fn gather(name: &str, link: Option<&PinnedInterface>) -> Self {
        let facts = netdev::facts(name).map_err(super::chain);
        let veth = facts.as_ref().ok().filter(|facts| is_veth(facts));
        Self {
            name: name.to_owned(),
            peer_mtu: veth.and_then(|facts| peer::mtu(facts.link.ifindex)),
            facts,
            link: link.cloned(),
        }
    }

    /// How vipd's own program is on it, if it is: there is no other way to tell it from another
    /// program than by the pinned link. An index alone may be another network namespace's.
    pub(super) fn own_program(&self) -> Option<AttachedMode> {
        let (facts, link) = (self.facts.as_ref().ok()?, self.link.as_ref()?);
        let xdp = facts.link.xdp?;
        let same = link.program_id == xdp.program_id && link.ifindex == facts.link.ifindex;
        same.then_some(xdp.mode)
    }

    fn passes_frames(&self) -> bool {
        self.facts.as_ref().is_ok_and(|facts| facts.link.running)
    }
}

/// Judges all of them; `pins_known` unless what is pinned could not be read.
pub(super) fn judge(interfaces: &[Interface], mode: XdpMode, pins_known: bool) -> Vec<Finding> {
    let any_runs = interfaces.iter().any(Interface::passes_frames);
    let mut findings: Vec<Finding> = interfaces
        .iter()
        .flat_map(|interface| judge_one(interface, mode, pins_known, any_runs))
        .collect();
    findings.extend(different_mtus(interfaces));
    findings
}

fn judge_one(
    interface: &Interface,
    mode: XdpMode,
    pins_known: bool,
    any_runs: bool,
) -> Vec<Finding> {
    let subject = format!("interface {}", interface.name);
    let facts = match &interface.facts {
        Ok(facts) => facts,
        Err(why) => return vec![Finding::fail(subject, why.as_str())],
    };
    let name = &interface.name;
    let mut findings =
        vec![state(&subject, facts, any_runs), program(&subject, interface, mode, pins_known)];
    if let Some((_, id)) = facts.link.vlan {
        findings.push(
            Finding::warn(&subject, format!("is VLAN {id} of another interface"))
                .advise("configure that one: vipd reads and writes the tags itself"),
        );
    }
    if is_veth(facts) && facts.tx_checksum == Some(true) {
        findings.push(
            Finding::warn(
                &subject,
                "veth with transmit checksum offload: the TCP checksums of this host's own packets \
                 are left to the receiver, and XDP sends them on unfinished",
            )
            .advise(format!(
                "`ethtool -K {name} tx off`, and the same in each container or namespace behind it"
            )),
        );
    }
    findings
}

/// What it is, and whether frames can pass.
fn state(subject: &str, facts: &netdev::Facts, any_runs: bool) -> Finding {
    let link = &facts.link;
    let Some(mac) = link.mac else {
        return Finding::fail(subject, "is not an Ethernet interface, so it has no neighbours");
    };
    let driver = facts.driver.as_deref().unwrap_or("unknown");
    // Every interface with IPv6 has a link-local one.
    let told = facts.addresses.iter().filter(|(address, _)| !netdev::is_link_local(*address));
    let addresses: Vec<_> = told.map(|(address, prefix)| format!("{address}/{prefix}")).collect();
    let addresses =
        if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    let what = format!("{mac}, {addresses}, driver {driver}, MTU {}", link.mtu);
    // One that is down is bad; that all are is the end.
    let severity = if any_runs { Severity::Warn } else { Severity::Fail };
    if !link.admin_up {
        Finding::new(severity, subject, format!("is down; {what}"))
            .advise(format!("`ip link set dev {} up`", link.name))
    } else if !link.running {
        Finding::new(severity, subject, format!("has no carrier ({}); {what}", link.oper_state))
            .advise("look at its cable and at the switch")
    } else {
        Finding::ok(subject, format!("up, {what}"))
    }
}

/// How the program would be attached.
fn program(subject: &str, interface: &Interface, mode: XdpMode, pins_known: bool) -> Finding {
    let Ok(facts) = &interface.facts else { return Finding::fail(subject, "is not there") };
    if let Some(now) = interface.own_program() {
        return own(subject, now, mode);
    }
    if let Some(xdp) = facts.link.xdp {
        if !pins_known {
            let text = format!("an XDP program is attached: id {}", xdp.program_id);
            return Finding::warn(subject, text + "; whether it is vipd's own is not known");
        }
        let name = facts.xdp_program.as_deref();
        let known = name.map(|name| format!(" ({name})")).unwrap_or_default();
        let text = format!(
            "another XDP program is attached: id {}{known}, in {} mode",
            xdp.program_id,
            xdp.mode.name()
        );
        let advice = if name == Some(crate::datapath::PROGRAM) {
            "it is another vipd's: stop that one, or run `vipd detach` with its pin_dir".to_owned()
        } else {
            format!(
                "stop what put it there, or remove it: `ip link set dev {} xdp off`",
                interface.name
            )
        };
        return Finding::fail(subject, text).advise(advice);
    }
    match expected(interface, facts, mode) {
        Expected::Native => Finding::ok(subject, "XDP native"),
        Expected::Generic(why) if mode == XdpMode::Generic => {
            Finding::ok(subject, format!("XDP generic: {why}"))
        }
        Expected::Generic(why) => Finding::warn(subject, format!("XDP generic, slower: {why}")),
        Expected::Refused(why) => {
            Finding::fail(subject, format!("no native XDP, and xdp_mode = \"native\": {why}"))
                .advise("lower the MTU if that is the reason, or set xdp_mode = \"auto\"")
        }
        Expected::Unknown(why) => {
            let text = format!("XDP native if the driver has it, not known beforehand: {why}");
            match mode {
                XdpMode::Native => Finding::warn(subject, text),
                XdpMode::Auto | XdpMode::Generic => Finding::ok(subject, text),
            }
        }
    }
}

/// What attaching would give. Of a veth device more is known than of others.
fn expected(interface: &Interface, facts: &netdev::Facts, mode: XdpMode) -> Expected {
    let native = matches!(facts.native, NativeXdp::Supported { .. });
    let mtu = match interface.peer_mtu {
        Some(mtu) if native && mode != XdpMode::Generic => mtu,
        _ => return facts.expected(mode),
    };
    let why = || {
        format!(
            "the MTU of its veth peer, {mtu}, is too large for native XDP, for which \
             {SINGLE_PAGE_MTU} always fits"
        )
    };
    match (peer::fit(mtu, peer::page()), mode) {
        (Fit::Fits, _) => Expected::Native,
        (Fit::TooLarge, XdpMode::Native) => Expected::Refused(why()),
        (Fit::TooLarge, XdpMode::Auto | XdpMode::Generic) => Expected::Generic(why()),
        (Fit::Close, _) => Expected::Unknown(format!("perhaps {}", why())),
    }
}

fn is_veth(facts: &netdev::Facts) -> bool {
    facts.driver.as_deref() == Some("veth")
}

/// vipd's own program is there already: it stays in its mode.
fn own(subject: &str, now: AttachedMode, wanted: XdpMode) -> Finding {
    let differs = match (wanted, now) {
        (XdpMode::Native, AttachedMode::Generic) => Some("native"),
        (XdpMode::Generic, AttachedMode::Native | AttachedMode::Offload) => Some("generic"),
        _ => None,
    };
    let now = now.name();
    match differs {
        None => Finding::ok(subject, format!("XDP {now}: vipd's own program is attached")),
        Some(wanted) => Finding::fail(
            subject,
            format!("vipd's own program is attached in {now} mode, and xdp_mode = \"{wanted}\""),
        )
        .advise("`vipd detach` first, which interrupts traffic, or set xdp_mode = \"auto\""),
    }
}

fn different_mtus(interfaces: &[Interface]) -> Option<Finding> {
    let mtus: Vec<(&str, u32)> = interfaces
        .iter()
        .filter_map(|it| Some((it.name.as_str(), it.facts.as_ref().ok()?.link.mtu)))
        .collect();
    let (_, first) = *mtus.first()?;
    if mtus.iter().all(|(_, mtu)| *mtu == first) {
        return None;
    }
    let list: Vec<_> = mtus.iter().map(|(name, mtu)| format!("{name} {mtu}")).collect();
    Some(
        Finding::warn("MTU", format!("differs among the interfaces: {}", list.join(", ")))
            .advise("make them equal: XDP can't fragment, and drops what is too large to go on"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Severity::{Fail, Ok as Good, Warn};
    use super::*;
    use crate::netdev::{AttachedXdp, Link};
    use vipd_common::addr::MacAddr;

    fn good(name: &str) -> Interface {
        let link = Link {
            ifindex: 2,
            name: name.to_owned(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 50])),
            mtu: 1500,
            admin_up: true,
            running: true,
            carrier_changes: 1,
            oper_state: "up",
            vlan: None,
            xdp: None,
        };
        let facts = netdev::Facts {
            link,
            driver: Some("veth".to_owned()),
            xdp_program: None,
            native: NativeXdp::Supported { redirect_target: true },
            tx_checksum: Some(false),
            addresses: vec![([198, 18, 0, 50].into(), 24)],
        };
        Interface { name: name.to_owned(), facts: Ok(facts), link: None, peer_mtu: Some(1500) }
    }

    fn with(change: impl FnOnce(&mut netdev::Facts)) -> Interface {
        let mut interface = good("eth0");
        if let Ok(facts) = &mut interface.facts {
            change(facts);
        }
        interface
    }

    fn attached(mode: AttachedMode, pinned_id: u32) -> Interface {
        let mut interface = with(|it| it.link.xdp = Some(AttachedXdp { program_id: 77, mode }));
        interface.link = Some(PinnedInterface {
            name: "eth0".to_owned(),
            ifindex: 2,
            xdp_mode: Some(mode),
            program_id: pinned_id,
        });
        interface
    }

    #[test]
    fn each_fault_of_an_interface_has_its_line() {
        use AttachedMode::{Generic, Native};
        let unknown = Interface { facts: Err("there is no interface".to_owned()), ..good("eth0") };
        let foreign = |it: &mut netdev::Facts| {
            it.link.xdp = Some(AttachedXdp { program_id: 9, mode: Native });
            it.xdp_program = Some("pass".to_owned());
        };
        let no_native = |it: &mut netdev::Facts| it.native = NativeXdp::Unsupported;
        let peer = |mtu| Interface { peer_mtu: Some(mtu), ..good("eth0") };
        let untold = |it: &mut netdev::Facts| it.native = NativeXdp::Unknown("old".to_owned());
        for (interface, mode, severity, text) in [
            (good("eth0"), XdpMode::Auto, Good, "XDP native"),
            (unknown, XdpMode::Auto, Fail, "there is no interface"),
            (with(|it| it.link.mac = None), XdpMode::Auto, Fail, "not an Ethernet"),
            (with(|it| it.link.running = false), XdpMode::Auto, Fail, "no carrier"),
            (
                with(|it| (it.link.running, it.link.admin_up) = (false, false)),
                XdpMode::Auto,
                Fail,
                "is down",
            ),
            (with(foreign), XdpMode::Auto, Fail, "another XDP program is attached: id 9 (pass)"),
            (attached(Native, 77), XdpMode::Auto, Good, "XDP native: vipd's own"),
            (attached(Native, 78), XdpMode::Auto, Fail, "another XDP program"),
            (attached(Generic, 77), XdpMode::Native, Fail, "in generic mode"),
            (attached(Native, 77), XdpMode::Generic, Fail, "in native mode"),
            (with(|it| it.link.mtu = 9000), XdpMode::Native, Good, "XDP native"),
            (peer(70_000), XdpMode::Native, Fail, "MTU of its veth peer, 70000, is too large"),
            (peer(70_000), XdpMode::Auto, Warn, "MTU of its veth peer, 70000, is too large"),
            (peer(70_000), XdpMode::Generic, Good, "XDP generic"),
            (with(no_native), XdpMode::Auto, Warn, "no native XDP"),
            (with(no_native), XdpMode::Generic, Good, "XDP generic"),
            (with(untold), XdpMode::Auto, Good, "not known beforehand"),
            (with(untold), XdpMode::Native, Warn, "not known beforehand"),
            (with(|it| it.tx_checksum = Some(true)), XdpMode::Auto, Warn, "checksum offload"),
            (with(|it| it.link.vlan = Some((3, 100))), XdpMode::Auto, Warn, "VLAN 100"),
        ] {
            let found = judge(&[interface], mode, true);
            let said = found.iter().find(|it| it.text.contains(text));
            assert_eq!(said.map(|it| it.severity), Some(severity), "{text}: {found:?}");
            let worst = found.iter().map(|it| it.severity).max();
            assert_eq!(worst, Some(severity), "{text}: {found:?}");
        }
    }

    #[test]
    fn checksum_offload_of_a_real_nic_is_no_fault() {
        let nic = with(|it| {
            it.driver = Some("ixgbe".to_owned());
            it.tx_checksum = Some(true);
        });
        assert!(judge(&[nic], XdpMode::Auto, true).iter().all(|it| it.severity == Good));
    }

    #[test]
    fn a_program_is_not_called_foreign_where_the_pins_cannot_be_read() {
        let found = judge(&[attached(AttachedMode::Native, 78)], XdpMode::Auto, false);
        assert_eq!(found.iter().map(|it| it.severity).max(), Some(Warn), "{found:?}");
    }

    #[test]
    fn one_of_two_that_is_down_is_a_warning() {
        let down = with(|it| it.link.running = false);
        let found = judge(&[down, good("eth1")], XdpMode::Auto, true);
        assert_eq!(found.iter().map(|it| it.severity).max(), Some(Warn), "{found:?}");
    }

    #[test]
    fn different_mtus_are_a_warning_that_names_them() {
        let found = judge(&[good("eth1"), with(|it| it.link.mtu = 1400)], XdpMode::Auto, true);
        let said = found.iter().find(|it| it.subject == "MTU").expect("a finding");
        assert_eq!(said.severity, Warn);
        assert!(said.text.contains("eth1 1500, eth0 1400"), "{said:?}");
        assert_eq!(different_mtus(&[good("eth0"), good("eth1")]), None);
    }
}
