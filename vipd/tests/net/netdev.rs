use vipd::config::XdpMode;
use vipd::datapath::{PASS, Pass};
use vipd::netdev::{AttachedMode, Expected, NativeXdp, NetdevError, facts, interface_holding};
use vipd_common::addr::MacAddr;

use crate::lab::{Netns, veth};

fn pair() -> (Netns, Netns) {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.4.50/24", "02:00:00:00:04:50"),
        (&peer, "eth0", "", "02:00:00:00:04:66"),
    );
    (own, peer)
}

#[test]
fn the_facts_of_a_veth() {
    let (own, _peer) = pair();
    let facts = own.run(|| facts("eth0").expect("facts"));
    assert_eq!(facts.driver.as_deref(), Some("veth"));
    assert_eq!(facts.link.mac, Some(MacAddr([2, 0, 0, 0, 4, 0x50])));
    assert_eq!((facts.link.mtu, facts.link.admin_up, facts.link.running), (1_500, true, true));
    assert_eq!(facts.link.oper_state, "up");
    assert_eq!(facts.addresses, [([198, 18, 4, 50].into(), 24)]);
    assert_eq!(facts.tx_checksum, Some(true));
    assert!(matches!(facts.native, NativeXdp::Supported { .. }), "{:?}", facts.native);
    assert_eq!(facts.link.xdp, None);
    assert_eq!(facts.expected(XdpMode::Auto), Expected::Native);
}

#[test]
fn the_mode_that_would_be_had_is_told_without_trying() {
    let (own, _peer) = pair();
    own.ip("link set eth0 mtu 9000");
    own.run(|| {
        // veth judges by its peer's MTU, which may be out of sight.
        let jumbo = facts("eth0").expect("facts");
        for mode in [XdpMode::Auto, XdpMode::Native] {
            assert!(matches!(jumbo.expected(mode), Expected::Unknown(why) if why.contains("9000")));
        }
        let loopback = facts("lo").expect("facts");
        assert_eq!(loopback.native, NativeXdp::Unsupported);
        assert!(matches!(loopback.expected(XdpMode::Auto), Expected::Generic(_)));
        assert!(matches!(loopback.expected(XdpMode::Native), Expected::Refused(_)));
        assert_eq!(loopback.link.mac, None);
    });
}

#[test]
fn an_attached_program_is_named() {
    let (own, _peer) = pair();
    own.run(|| {
        let pass = Pass::attach("eth0").expect("attach");
        let with = facts("eth0").expect("facts");
        assert_eq!(with.link.xdp.map(|xdp| xdp.mode), Some(AttachedMode::Native));
        assert_eq!(with.xdp_program.as_deref(), Some(PASS));
        drop(pass);
        assert_eq!(facts("eth0").expect("facts").link.xdp, None);
    });
}

#[test]
fn an_unknown_interface_is_an_error_that_lists_those_there_are() {
    let (own, _peer) = pair();
    let error = own.run(|| facts("eth9").expect_err("there is none"));
    assert!(matches!(&error, NetdevError::Unknown { .. }));
    assert!(error.to_string().contains("eth0"), "{error}");
}

#[test]
fn a_vip_that_is_a_host_address_is_found() {
    let (own, _peer) = pair();
    own.run(|| {
        let holder = interface_holding([198, 18, 4, 50].into()).expect("addresses");
        assert_eq!(holder.as_deref(), Some("eth0"));
        let free = interface_holding([198, 18, 4, 51].into()).expect("addresses");
        assert_eq!(free, None);
    });
}
