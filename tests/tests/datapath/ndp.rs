//! Neighbour discovery for the VIP.

use std::net::Ipv6Addr;

use vipd_common::addr::MacAddr;
use vipd_common::maps::{Address, KernelEvent};
use vipd_common::verdict::Verdict;

use crate::family::{Family as _, Ipv6, fix_icmpv6_checksum};
use crate::frames::{CLIENT, CLIENT_MAC, DIRECTOR, DIRECTOR_MAC, R1, STRANGER_MAC, VIP, set_word};
use crate::kernel::{INGRESS, Kernel, Xdp_, now};

const ANNOUNCED: u16 = Address::NAT | Address::ANNOUNCE;
const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const REPLY: (Verdict, Xdp_) = (Verdict::NdpReply, Xdp_::Tx);
const OTHER: (Verdict, Xdp_) = (Verdict::NdpOther, Xdp_::Pass);
const SILENT: (Verdict, Xdp_) = (Verdict::NdpSilent, Xdp_::Drop);
const INVALID: (Verdict, Xdp_) = (Verdict::NdpInvalid, Xdp_::Drop);
const RIVAL: (Verdict, Xdp_) = (Verdict::NdpRival, Xdp_::Pass);
const SECOND: u64 = 1_000_000_000;

fn ipv6(addr: std::net::Ipv4Addr) -> Ipv6Addr {
    Ipv6::bytes(addr.octets()).into()
}

fn kernel(flags: u16) -> Kernel<Ipv6> {
    let mut kernel = Kernel::load(DIRECTOR_MAC);
    kernel.address(VIP, flags);
    kernel
}

/// ff02::1:ff and the last three bytes.
fn solicited_node(addr: Ipv6Addr) -> (MacAddr, Ipv6Addr) {
    let [.., a, b, c] = addr.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    (MacAddr([0x33, 0x33, 0xff, a, b, c]), group.into())
}

/// A message between these ends, with a hop limit of 255 and a valid checksum.
#[derive(Clone)]
struct Message {
    from: (MacAddr, Ipv6Addr),
    to: (MacAddr, Ipv6Addr),
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    options: Vec<u8>,
}

impl Message {
    /// The client asks everybody who might have it.
    fn ask(target: Ipv6Addr) -> Self {
        Self {
            from: (CLIENT_MAC, ipv6(CLIENT)),
            to: solicited_node(target),
            kind: 135,
            flags: 0,
            target,
            options: link_layer(1, CLIENT_MAC),
        }
    }

    /// Duplicate address detection: somebody wants to have it.
    fn probe(target: Ipv6Addr) -> Self {
        Self { from: (CLIENT_MAC, NOBODY), options: vec![], ..Self::ask(target) }
    }

    /// Somebody has it.
    fn advertise(mac: MacAddr, target: Ipv6Addr) -> Self {
        Self {
            from: (mac, target),
            to: (ALL_NODES_MAC, ALL_NODES),
            kind: 136,
            flags: 0x20,
            target,
            options: link_layer(2, mac),
        }
    }

    fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    fn frame(&self) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((24 + self.options.len() as u16).to_be_bytes());
        packet.extend([58, 255]);
        packet.extend(self.from.1.octets());
        packet.extend(self.to.1.octets());
        packet.extend([self.kind, 0, 0, 0, self.flags, 0, 0, 0]);
        packet.extend(self.target.octets());
        packet.extend(&self.options);
        fix_icmpv6_checksum(&mut packet);
        [&self.to.0.0[..], &self.from.0.0, &[0x86, 0xdd], &packet].concat()
    }

    /// The same after a change to its packet, with a valid checksum.
    fn changed(&self, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let frame = self.frame();
        let mut packet = frame[14..].to_vec();
        change(&mut packet);
        fix_icmpv6_checksum(&mut packet);
        [&frame[..14], &packet].concat()
    }

    /// What should answer it.
    fn answer(&self) -> Vec<u8> {
        let (to, flags) = match self.from.1 {
            NOBODY => ((ALL_NODES_MAC, ALL_NODES), 0x20),
            _ => (self.from, 0x60),
        };
        let from = (DIRECTOR_MAC, self.target);
        let options = link_layer(2, DIRECTOR_MAC);
        Self { from, to, kind: 136, flags, target: self.target, options }.frame()
    }
}

fn link_layer(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1][..], &mac.0].concat()
}

/// RFC 3971: an option of eight bytes that is of no concern here.
const NONCE: [u8; 8] = [14, 1, 9, 8, 7, 6, 5, 4];

fn vip() -> Ipv6Addr {
    ipv6(VIP)
}

#[test]
fn solicitations_for_an_announced_vip_are_answered() {
    let mut kernel = kernel(ANNOUNCED);
    let unicast = Message { to: (DIRECTOR_MAC, vip()), ..Message::ask(vip()) };
    let both = [link_layer(1, CLIENT_MAC), NONCE.to_vec()].concat();
    let cases = [
        ("multicast", Message::ask(vip())),
        ("unicast to us", unicast.clone()),
        ("unicast without an option: the answer is longer", unicast.options(&[])),
        ("two options: the answer is shorter", Message::ask(vip()).options(&both)),
        ("as many as are read", Message::ask(vip()).options(&NONCE.repeat(8))),
        ("one long option", Message::ask(vip()).options(&[[14, 3].as_slice(), &[7; 22]].concat())),
        ("a probe", Message::probe(vip())),
        ("a probe with a nonce (RFC 7527)", Message::probe(vip()).options(&NONCE)),
        ("on all nodes' group", Message { to: (ALL_NODES_MAC, ALL_NODES), ..Message::ask(vip()) }),
    ];
    for (what, ask) in cases {
        expect(&mut kernel, what, &ask.frame(), REPLY, &ask.answer());
        // Padding is no part of it, and isn't sent back.
        let padded = [ask.frame(), vec![0xaa; 3]].concat();
        expect(&mut kernel, what, &padded, REPLY, &ask.answer());
    }
    assert!(kernel.events().is_empty());
}

#[track_caller]
fn expect(
    kernel: &mut Kernel<Ipv6>,
    what: &str,
    frame: &[u8],
    expected: (Verdict, Xdp_),
    out: &[u8],
) {
    let run = kernel.run_raw(INGRESS, frame);
    assert_eq!((run.verdict, run.action), expected, "{what}");
    assert_eq!(run.frame, out, "{what}");
}

#[track_caller]
fn expect_untouched(
    kernel: &mut Kernel<Ipv6>,
    what: &str,
    frame: &[u8],
    expected: (Verdict, Xdp_),
) {
    expect(kernel, what, frame, expected, frame);
}

#[test]
fn an_answer_keeps_the_vlan_tag() {
    let mut kernel = kernel(ANNOUNCED);
    let tag = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0x00, 0x60, 0x0a]);
        frame
    };
    for ask in [Message::ask(vip()), Message::probe(vip())] {
        expect(&mut kernel, "tagged", &tag(ask.frame()), REPLY, &tag(ask.answer()));
    }
}

#[test]
fn all_other_neighbour_discovery_is_untouched() {
    let mut kernel = kernel(ANNOUNCED);
    kernel.address(DIRECTOR, Address::SOURCE);
    let r1 = ipv6(R1);
    let to_stranger = Message { to: (STRANGER_MAC, vip()), ..Message::ask(vip()) };
    let own_probe = Message { from: (DIRECTOR_MAC, NOBODY), ..Message::probe(vip()) };
    let cases = [
        ("another address", Message::ask(r1), OTHER),
        ("our own address", Message::ask(ipv6(DIRECTOR)), OTHER),
        ("a probe for another address", Message::probe(r1), OTHER),
        ("another's advertisement", Message::advertise(STRANGER_MAC, r1), OTHER),
        ("our own, reflected", Message::advertise(DIRECTOR_MAC, vip()), OTHER),
        ("our own probe, reflected", own_probe, OTHER),
        ("to another host", to_stranger, (Verdict::OtherHost, Xdp_::Pass)),
    ];
    for (what, message, expected) in cases {
        expect_untouched(&mut kernel, what, &message.frame(), expected);
    }
    assert!(kernel.events().is_empty());
}

#[test]
fn what_rfc_4861_discards_is_not_answered() {
    let mut kernel = kernel(ANNOUNCED);
    let ask = Message::ask(vip());
    let probe = Message::probe(vip());
    let mut wrong_sum = ask.frame();
    wrong_sum[85] ^= 1;
    let claim = Message::advertise(STRANGER_MAC, vip());
    let cases = [
        ("from beyond a router", ask.changed(|it| it[7] = 254)),
        ("another code", ask.changed(|it| it[41] = 1)),
        ("a wrong checksum", wrong_sum),
        ("an option of no length", ask.clone().options(&[1, 0, 0, 0, 0, 0, 0, 0]).frame()),
        ("an option beyond the end", ask.clone().options(&[1, 2, 0, 0, 0, 0, 0, 0]).frame()),
        ("half an option", ask.clone().options(&[14, 1, 0, 0]).frame()),
        ("nine options", ask.clone().options(&NONCE.repeat(9)).frame()),
        ("a length beyond the frame", ask.changed(|it| set_word(it, 4, 40))),
        ("from nobody, with an address", probe.clone().options(&ask.options).frame()),
        ("from nobody, to one", Message { to: (DIRECTOR_MAC, vip()), ..probe }.frame()),
        ("a claim from beyond a router", claim.changed(|it| it[7] = 64)),
        ("a claim that answers everybody", Message { flags: 0x60, ..claim }.frame()),
    ];
    for (what, frame) in cases {
        expect_untouched(&mut kernel, what, &frame, INVALID);
    }
    assert!(kernel.events().is_empty());
}

#[test]
fn neighbour_discovery_cut_off_anywhere_is_never_answered() {
    let mut kernel = kernel(ANNOUNCED);
    let frame = Message::ask(vip()).frame();
    for length in 14..frame.len() {
        let expected = match length {
            ..54 => (Verdict::NotOurs, Xdp_::Pass),
            54..62 => (Verdict::NotVip, Xdp_::Pass),
            62..78 => OTHER,
            _ => INVALID,
        };
        expect_untouched(&mut kernel, &format!("{length} bytes"), &frame[..length], expected);
    }
}

#[test]
fn a_vip_that_is_not_announced_is_kept_silent() {
    let mut kernel = kernel(Address::NAT);
    expect_untouched(&mut kernel, "asked", &Message::ask(vip()).frame(), SILENT);
    // Another director's probe reaches the daemon.
    expect_untouched(&mut kernel, "probed", &Message::probe(vip()).frame(), OTHER);
}

#[test]
fn a_rival_is_reported_once_a_second_at_most() {
    let mut kernel = kernel(ANNOUNCED);
    let solicited = Message {
        from: (STRANGER_MAC, vip()),
        to: (DIRECTOR_MAC, ipv6(DIRECTOR)),
        flags: 0x60,
        ..Message::advertise(STRANGER_MAC, vip())
    };
    // Somebody asks for another address, and says that he is the VIP.
    let asks = Message { from: (STRANGER_MAC, vip()), ..Message::ask(ipv6(R1)) };
    for claim in [Message::advertise(STRANGER_MAC, vip()), solicited, asks] {
        expect_untouched(&mut kernel, "claim", &claim.frame(), RIVAL);
    }
    let [event] = kernel.events()[..] else { panic!("one event") };
    assert_eq!((event.kind, event.ifindex), (KernelEvent::RIVAL, INGRESS));
    assert_eq!((Ipv6Addr::from(event.addr), event.mac), (vip(), STRANGER_MAC));
}

#[test]
fn in_mode_host_the_owner_answers_as_long_as_its_lease_lasts() {
    let mut kernel = Kernel::<Ipv6>::load(DIRECTOR_MAC);
    let announced = Address::ANNOUNCE;
    let (ask, probe) = (Message::ask(vip()), Message::probe(vip()));
    let claim = Message::advertise(STRANGER_MAC, vip()).frame();
    let cases = [
        ("not announced", 0, now() + 100 * SECOND),
        ("no lease yet", announced, 0),
        ("the lease has run out", announced, now() - SECOND),
    ];
    for (what, flags, lease) in cases {
        kernel.host_address(VIP, flags, 7);
        kernel.lease(lease);
        expect_untouched(&mut kernel, what, &ask.frame(), SILENT);
        // The stack holds the address, and would answer.
        expect_untouched(&mut kernel, what, &probe.frame(), SILENT);
        expect_untouched(&mut kernel, what, &claim, OTHER);
        assert!(kernel.events().is_empty(), "{what}");
    }
    kernel.host_address(VIP, announced, 7);
    kernel.lease(now() + 100 * SECOND);
    for ask in [ask, probe] {
        expect(&mut kernel, "owner", &ask.frame(), REPLY, &ask.answer());
    }
    expect_untouched(&mut kernel, "rival", &claim, RIVAL);
    assert_eq!(kernel.events().len(), 1);
}

#[test]
fn a_real_server_never_answers_for_its_vip() {
    let mut kernel = kernel(Address::REAL);
    kernel.lease(now() + 100 * SECOND);
    for ask in [Message::ask(vip()), Message::probe(vip())] {
        expect_untouched(&mut kernel, "asked", &ask.frame(), SILENT);
    }
    let director = Message::advertise(STRANGER_MAC, vip()).frame();
    expect_untouched(&mut kernel, "the director", &director, OTHER);
    assert!(kernel.events().is_empty());
}
