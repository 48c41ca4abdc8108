//! 802.1Q: tags kept, changed, added and removed.

use vipd_common::maps::{Backend, ServiceState};
use vipd_common::verdict::Verdict;

use crate::director::{GENERATION, SERVICE, director};
use crate::family::{Family, in_both_families};
use crate::frames::{
    BACKEND_PORT, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC, ROUTER, Tcp, VIP,
    icmp,
};
use crate::kernel::{Kernel, Xdp_, nat_backend};

fn director_with_backend_in<F: Family>(vlan: Option<u16>) -> Kernel<F> {
    let mut kernel = director::<F>();
    let backend = nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR);
    kernel.backend(9, Backend { vlan: vlan.unwrap_or(0), ..backend });
    kernel.active(SERVICE, ServiceState::Up, 9, GENERATION);
    kernel
}

fn each_side_has_its_own_tag<F: Family>() {
    let cases = [
        ("neither", None, None),
        ("kept", Some(10), Some(10)),
        ("changed", Some(10), Some(4094)),
        ("added", None, Some(20)),
        ("removed", Some(10), None),
    ];
    for (what, client, backend) in cases {
        let mut kernel = director_with_backend_in::<F>(backend);
        let syn = Tcp::to_vip("S").vlan(client);
        let out = syn.at_r1(CLIENT_PORT).vlan(backend).frame();
        kernel.expect(what, &syn.frame(), (Verdict::NatNew, Xdp_::Tx), &out);
        let syn_ack = Tcp::from_r1("SA", CLIENT_PORT).vlan(backend);
        let out = syn_ack.at_client().vlan(client).frame();
        kernel.expect(what, &syn_ack.frame(), (Verdict::NatToClient, Xdp_::Tx), &out);
        let ask = Tcp::to_vip("A").seq(1001, 5001).vlan(client).payload(b"odd");
        let out = ask.at_r1(CLIENT_PORT).vlan(backend).frame();
        kernel.expect(what, &ask.frame(), (Verdict::NatToBackend, Xdp_::Tx), &out);

        let seen = Tcp::from_r1("A", CLIENT_PORT).at_client();
        let sent = Tcp { ttl: seen.ttl, ..Tcp::from_r1("A", CLIENT_PORT) };
        let (too_big, router) = ((3, 4, [0, 0, 5, 0]), (CLIENT_MAC, ROUTER));
        let error = icmp(router, (DIRECTOR_MAC, VIP), 60, too_big, &seen.quote(40));
        let out = icmp((DIRECTOR_MAC, DIRECTOR), (R1_MAC, R1), 59, too_big, &sent.quote(40));
        let expected = (Verdict::IcmpToBackend, Xdp_::Tx);
        kernel.expect(what, &tagged(error, client), expected, &tagged(out, backend));
    }
}

fn tagged(mut frame: Vec<u8>, vlan: Option<u16>) -> Vec<u8> {
    if let Some(id) = vlan {
        let [high, low] = id.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
    }
    frame
}

/// The frame with priority 5 and DEI in its tag.
fn urgent(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14] |= 0xb0;
    frame
}

fn the_priority_stays_when_the_vlan_changes<F: Family>() {
    let mut kernel = director_with_backend_in::<F>(Some(20));
    let syn = Tcp::to_vip("S").vlan(Some(10));
    let out = urgent(syn.at_r1(CLIENT_PORT).vlan(Some(20)).frame());
    kernel.expect("SYN", &urgent(syn.frame()), (Verdict::NatNew, Xdp_::Tx), &out);
}

fn a_priority_tag_is_no_vlan<F: Family>() {
    let mut kernel = director_with_backend_in::<F>(None);
    let syn = Tcp::to_vip("S");
    let frame = urgent(syn.clone().vlan(Some(0)).frame());
    let out = syn.at_r1(CLIENT_PORT).frame();
    kernel.expect("SYN", &frame, (Verdict::NatNew, Xdp_::Tx), &out);
}

fn what_is_inside_two_tags_passes<F: Family>() {
    let mut kernel = director::<F>();
    let mut frame = Tcp::to_vip("S").vlan(Some(10)).frame();
    frame.splice(12..12, [0x81, 0, 0, 5]);
    kernel.expect_untouched("802.1Q twice", &frame, (Verdict::NotOurs, Xdp_::Pass));
    frame[12..14].copy_from_slice(&[0x88, 0xa8]);
    kernel.expect_untouched("802.1ad", &frame, (Verdict::NotOurs, Xdp_::Pass));
}

in_both_families! {
    each_side_has_its_own_tag,
    the_priority_stays_when_the_vlan_changes,
    a_priority_tag_is_no_vlan,
    what_is_inside_two_tags_passes,
}
