use std::fs;
use std::path::PathBuf;

use vipd::sysctl::{SysctlError, Sysctls};

use crate::lab::{Netns, ip, unique, veth};

const ARP_ANNOUNCE: &str = "/proc/sys/net/ipv4/conf/eth0/arp_announce";

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth((&own, "eth0", "", "02:00:00:00:08:50"), (&peer, "eth0", "", "02:00:00:00:08:66"));
    (own, peer)
}

/// A record's place, removed at the end.
struct Record(PathBuf);

impl Record {
    fn new() -> Self {
        Self(std::env::temp_dir().join(unique("record")))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn eth0() -> u32 {
    nix::net::if_::if_nametoindex("eth0").expect("eth0")
}

fn value() -> String {
    fs::read_to_string(ARP_ANNOUNCE).expect("sysctl").trim().to_owned()
}

#[test]
fn a_parameter_is_changed_listed_and_put_back() {
    let (own, _peer) = pair();
    let record = Record::new();
    own.run(|| {
        fs::write(ARP_ANNOUNCE, "1").expect("sysctl");
        let mut sysctls = Sysctls::open(&record.0);
        assert!(sysctls.quiet_arp(eth0()).expect("quiet"));
        assert_eq!(value(), "2");
        assert!(!sysctls.quiet_arp(eth0()).expect("again"));
        let changed: Vec<_> = sysctls.changed().map(ToString::to_string).collect();
        assert_eq!(changed, ["net.ipv4.conf.eth0.arp_announce = 2 (was 1)"]);
        assert!(sysctls.restore(eth0()).expect("restore"));
        assert_eq!((value().as_str(), sysctls.changed().count()), ("1", 0));
        assert!(!record.0.exists());
    });
}

#[test]
fn a_vipd_that_was_killed_is_tidied_up_after_by_the_next_one() {
    let (own, _peer) = pair();
    let record = Record::new();
    own.run(|| {
        let mut killed = Sysctls::open(&record.0);
        killed.quiet_arp(eth0()).expect("quiet");
        drop(killed);
        assert_eq!(value(), "2");
        let mut next = Sysctls::open(&record.0);
        assert!(!next.quiet_arp(eth0()).expect("it is set already"));
        // Under another name meanwhile.
        let ifindex = eth0();
        ip(&format!("-n {} link set eth0 down", own.name));
        ip(&format!("-n {} link set eth0 name lan.7", own.name));
        next.restore_all().expect("restore");
        let renamed = ARP_ANNOUNCE.replace("eth0", "lan.7");
        assert_eq!(fs::read_to_string(renamed).expect("sysctl").trim(), "0");
        assert_eq!(nix::net::if_::if_nametoindex("lan.7").expect("lan.7"), ifindex);
        assert!(!record.0.exists());
    });
}

#[test]
fn what_somebody_else_has_set_is_left_alone() {
    let (own, _peer) = pair();
    let record = Record::new();
    own.run(|| {
        fs::write(ARP_ANNOUNCE, "2").expect("sysctl");
        let mut sysctls = Sysctls::open(&record.0);
        assert!(!sysctls.quiet_arp(eth0()).expect("it is so already"));
        sysctls.restore_all().expect("restore");
        assert_eq!(value(), "2");

        fs::write(ARP_ANNOUNCE, "0").expect("sysctl");
        sysctls.quiet_arp(eth0()).expect("quiet");
        fs::write(ARP_ANNOUNCE, "1").expect("sysctl");
        assert!(!sysctls.restore(eth0()).expect("restore"));
        assert_eq!(value(), "1");

        fs::write("/proc/sys/net/ipv4/conf/all/arp_announce", "2").expect("sysctl");
        assert!(!sysctls.quiet_arp(eth0()).expect("in force for all"));
        assert_eq!(value(), "1");
    });
}

#[test]
fn an_interface_that_is_gone_is_told_and_forgotten() {
    let (own, _peer) = pair();
    let record = Record::new();
    own.run(|| {
        let mut sysctls = Sysctls::open(&record.0);
        let ifindex = eth0();
        sysctls.quiet_arp(ifindex).expect("quiet");
        own.ip("link del eth0");
        assert_eq!(Sysctls::open(&record.0).changed().count(), 0, "the next vipd");
        assert!(!sysctls.restore(ifindex).expect("nothing to restore"));
        let error = sysctls.quiet_arp(ifindex).expect_err("it is gone");
        assert!(matches!(error, SysctlError::Parameter { .. }), "{error:?}");
    });
}

#[test]
fn nothing_is_changed_that_could_not_be_put_back() {
    let (own, _peer) = pair();
    own.run(|| {
        let mut sysctls = Sysctls::open("/nowhere/record");
        let error = sysctls.quiet_arp(eth0()).expect_err("no record");
        assert!(matches!(error, SysctlError::Record { .. }), "{error:?}");
        assert_eq!((value().as_str(), sysctls.changed().count()), ("0", 0));
    });
}

#[test]
fn a_record_that_cannot_be_read_is_started_anew() {
    let (own, _peer) = pair();
    let record = Record::new();
    fs::write(&record.0, "arp_announce was 0\n").expect("record");
    own.run(|| {
        let mut sysctls = Sysctls::open(&record.0);
        assert_eq!(sysctls.changed().count(), 0);
        sysctls.quiet_arp(eth0()).expect("quiet");
        assert_eq!(Sysctls::open(&record.0).changed().count(), 1);
        sysctls.restore_all().expect("restore");
    });
}
