//! The real program, loaded, pinned, attached to a veth, taken over and removed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use vipd::bpffs::BpffsError;
use vipd::clock::Monotonic;
use vipd::config::XdpMode;
use vipd::datapath::{
    Adopted, Datapath, DatapathError, OpenSettings, Pass, detach_all, inspect_pins,
};
use vipd::netdev::{self, AttachedMode, AttachedXdp};
use vipd::plan::{Actual, Step};
use vipd_common::addr::{MacAddr, mapped};
use vipd_common::maps::{
    self, Active, Address, Backend, Confirmed, ForwardMode, Group, Interface, KernelEvent,
    ServiceState,
};
use vipd_common::verdict::Verdict;

use crate::lab::{Netns, Pins, ipv6, layout, names, veth, wait_for};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 5, 0x50]);
const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 5, 250);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd98, 0x18, 0, 0, 0, 5, 0, 0x250);

struct Lab {
    own: Netns,
    peer: Netns,
    pins: Pins,
}

fn lab() -> Lab {
    let (own, peer) = (Netns::new("own"), Netns::new("peer"));
    veth(
        (&own, "eth0", "198.18.5.50/24", &OWN.to_string()),
        (&peer, "eth0", "198.18.5.66/24", "02:00:00:00:05:66"),
    );
    Lab { own, peer, pins: Pins::new() }
}

fn settings(pins: &Pins) -> OpenSettings {
    OpenSettings {
        pin_dir: pins.dir(),
        xdp_mode: XdpMode::Auto,
        max_connections: 1_024,
        max_half_open: 512,
        max_pending_syns: 512,
    }
}

fn eth0() -> Vec<String> {
    vec!["eth0".to_owned()]
}

/// Open and attach; committed, as by a daemon that is up.
fn start(settings: &OpenSettings) -> (Datapath, Adopted) {
    let (mut datapath, adopted) = Datapath::open(settings).expect("open");
    datapath.attach(&eth0()).expect("attach");
    datapath.commit();
    (datapath, adopted)
}

fn xdp(interface: &str) -> Option<AttachedXdp> {
    netdev::link(interface).expect("link").xdp
}

/// One of everything.
fn steps(ifindex: u32) -> Vec<Step> {
    let key = (VIP, 6_379).into();
    let node = Ipv4Addr::new(198, 18, 5, 101).octets();
    let backend = Backend {
        addr: mapped(node),
        source: mapped(VIP.octets()),
        port: 8_000_u16.to_be_bytes(),
        next_hop: MacAddr([2, 0, 0, 0, 5, 1]),
        own_mac: OWN,
        vlan: 7,
        first_port: 61_000,
        last_port: 65_535,
        ifindex,
        mode: ForwardMode::Nat as u32,
    };
    let confirmed = Confirmed {
        epoch: 5,
        addr: mapped(node),
        master: 7,
        port: 8_000,
        valid: 1,
        provisional_addr: mapped(node),
        provisional_port: 8_001,
        zero: 0,
    };
    vec![
        Step::PutInterface { ifindex, interface: Interface { mac: OWN, zero: [0; 2] } },
        Step::PutAddress {
            addr: VIP.into(),
            address: Address::new(Address::NAT | Address::ANNOUNCE),
        },
        Step::PutAddress {
            addr: VIP6.into(),
            address: Address { flags: Address::HOST | Address::ANNOUNCE, service: 4_095 },
        },
        Step::PutService { key: key6(), index: 1_023 },
        Step::PutService { key, index: 3 },
        Step::PutGroup { group: 255, members: group() },
        Step::WriteSlot { slot: 8_191, backend },
        Step::SetConfirmed { service: 3, confirmed },
        Step::SetActive { service: 3, active: Active::new(ServiceState::Up, 8_191, 9) },
    ]
}

fn key6() -> SocketAddr {
    (VIP6, 6_379).into()
}

fn group() -> Group {
    let mut group = Group { count: 2, ..Group::EMPTY };
    group.members[1] = 4_095;
    group
}

fn expected(steps: &[Step]) -> Actual {
    let mut actual = Actual::default();
    for step in steps {
        match *step {
            Step::PutInterface { ifindex, interface } => {
                actual.interfaces.insert(ifindex, interface);
            }
            Step::PutAddress { addr, address } => {
                actual.addresses.insert(addr, address);
            }
            Step::PutService { key, index } => {
                actual.services.insert(key, index);
            }
            Step::PutGroup { group, members } => {
                actual.groups.insert(group, members);
            }
            Step::WriteSlot { slot, backend } => {
                actual.slots.insert(slot, backend);
            }
            Step::SetActive { service, active } => {
                actual.active.insert(service, active);
            }
            Step::SetConfirmed { service, confirmed } => {
                actual.confirmed.insert(service, confirmed);
            }
            _ => unreachable!("only what is put"),
        }
    }
    actual
}

fn removals(ifindex: u32) -> Vec<Step> {
    let key = (VIP, 6_379).into();
    vec![
        Step::RemoveInterface { ifindex },
        Step::RemoveAddress { addr: VIP.into() },
        Step::RemoveAddress { addr: VIP6.into() },
        Step::RemoveService { key: key6() },
        Step::RemoveService { key },
        Step::PutGroup { group: 255, members: Group::EMPTY },
        Step::WriteSlot { slot: 8_191, backend: Backend::EMPTY },
        Step::SetConfirmed { service: 3, confirmed: Confirmed::default() },
        Step::SetActive { service: 3, active: Active::default() },
    ]
}

#[test]
fn the_parts_can_move_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Datapath>();
    assert_send::<vipd::datapath::Events>();
    assert_send::<vipd::announce::Announcer>();
    assert_send::<vipd::neighbour::Neighbours>();
}

#[test]
fn what_is_written_is_read_back_and_removing_twice_is_no_error() {
    let lab = lab();
    lab.own.run(|| {
        let (mut datapath, adopted) = start(&settings(&lab.pins));
        assert_eq!(adopted, Adopted::default());
        let ifindex = datapath.interfaces()[0].ifindex;
        let steps = steps(ifindex);
        for step in &steps {
            datapath.apply(step).expect("apply");
        }
        assert_eq!(datapath.read_actual().expect("read"), expected(&steps));
        for step in removals(ifindex).iter().chain(&removals(ifindex)) {
            datapath.apply(step).expect("apply");
        }
        assert_eq!(datapath.read_actual().expect("read"), Actual::default());
        let beyond = Step::SetActive { service: maps::MAX_LINES, active: Active::default() };
        datapath.apply(&beyond).expect_err("no such service");
    });
}

#[test]
fn the_program_answers_arp_and_counts() {
    let lab = lab();
    lab.own.run(|| {
        let (mut datapath, _) = start(&settings(&lab.pins));
        let attached = datapath.interfaces()[0].clone();
        assert_eq!(attached.xdp_mode, AttachedMode::Native);
        for step in &steps(attached.ifindex)[..2] {
            datapath.apply(step).expect("apply");
        }
        // XDP_TX reaches a veth peer only if that has a program too.
        let _pass = lab.peer.run(|| Pass::attach("eth0").expect("pass"));
        lab.peer.ip("neigh add 198.18.5.250 dev eth0 nud none");
        lab.peer.run(|| {
            let socket = std::net::UdpSocket::bind("198.18.5.66:0").expect("bind");
            socket.send_to(b"x", (VIP, 9)).expect("send");
        });
        wait_for("an answer to ARP", || {
            let counters = datapath.counters().expect("counters");
            counters.iter().find(|(v, c)| *v == Verdict::ArpReply && c.packets > 0).map(|_| ())
        });
    });
}

/// The IPv6 half is reached through PROGRAMS, also by a program that an earlier vipd attached.
#[test]
fn the_program_answers_neighbour_discovery_across_a_restart() {
    let lab = lab();
    ipv6([(&lab.own, "eth0", "fd98:18::5:0:50/64"), (&lab.peer, "eth0", "fd98:18::5:0:66/64")]);
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (mut first, _) = start(&settings);
        for step in &steps(first.interfaces()[0].ifindex)[..3] {
            first.apply(step).expect("apply");
        }
        first.renew_lease(Monotonic::now() + Duration::from_secs(100)).expect("renew");
        let _pass = lab.peer.run(|| Pass::attach("eth0").expect("pass"));
        let solicit = |datapath: &Datapath, what| {
            let replies = || {
                let counters = datapath.counters().expect("counters");
                let found = counters.iter().find(|(verdict, _)| *verdict == Verdict::NdpReply);
                found.map_or(0, |(_, counter)| counter.packets)
            };
            let before = replies();
            lab.peer.ip(&format!("neigh replace {VIP6} dev eth0 nud none"));
            lab.peer.run(|| {
                let socket = std::net::UdpSocket::bind("[::]:0").expect("bind");
                socket.send_to(b"x", (VIP6, 9)).expect("send");
            });
            wait_for(what, || (replies() > before).then_some(()));
        };
        solicit(&first, "an answer of the first");
        drop(first);
        let (mut second, _) = Datapath::open(&settings).expect("open");
        solicit(&second, "an answer of the old program, which goes on in the new one");
        second.attach(&eth0()).expect("attach");
        second.commit();
        solicit(&second, "an answer of the second");
    });
}

#[test]
fn a_rival_claim_arrives_as_an_event() {
    let lab = lab();
    lab.own.block_on(|| async {
        let (mut datapath, _) = start(&settings(&lab.pins));
        let ifindex = datapath.interfaces()[0].ifindex;
        for step in &steps(ifindex)[..2] {
            datapath.apply(step).expect("apply");
        }
        let mut events = datapath.events().expect("events").expect("the first call");
        assert!(datapath.events().expect("events").is_none());
        let rival = MacAddr([2, 0, 0, 0, 5, 0x66]);
        lab.peer.block_on(|| async {
            let port = vipd::announce::Port {
                ifindex: nix::net::if_::if_nametoindex("eth0").expect("eth0"),
                mac: rival,
            };
            vipd::announce::Announcer::new(vipd::announce::Schedule::default())
                .expect("socket")
                .announce(port, VIP.into(), vipd::announce::Tenure::Own)
                .expect("send");
        });
        let event = tokio::time::timeout(Duration::from_secs(5), events.next())
            .await
            .expect("an event")
            .expect("readable");
        assert_eq!(event.kind, KernelEvent::RIVAL);
        assert_eq!((event.addr, event.mac, event.ifindex), (mapped(VIP.octets()), rival, ifindex));
    });
}

#[test]
fn a_second_start_takes_over_without_a_moment_of_no_program() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (mut first, _) = start(&settings);
        let ifindex = first.interfaces()[0].ifindex;
        let steps = steps(ifindex);
        for step in &steps {
            first.apply(step).expect("apply");
        }
        let before = xdp("eth0").expect("attached");
        let link = link_id(&settings);
        let until = Monotonic(0x0123_4567_89ab_cdef);
        first.renew_lease(until).expect("renew");
        drop(first); // as by kill -9: the pins stay
        assert_eq!(xdp("eth0"), Some(before));

        let (second, adopted) = Datapath::open(&settings).expect("open");
        assert_eq!(adopted.actual, expected(&steps));
        assert_eq!(adopted.interfaces, ["eth0"]);
        assert_eq!(adopted.lease, until);
        assert_eq!(xdp("eth0"), Some(before), "not before attach()");
        let mut second = second;
        second.attach(&eth0()).expect("attach");
        let after = xdp("eth0").expect("attached");
        assert_ne!(after.program_id, before.program_id);
        assert_eq!(after.mode, before.mode);
        assert_eq!(link_id(&settings), link, "the same link: it was updated, never removed");
        assert_eq!(second.read_actual().expect("read"), expected(&steps));
        // Uncommitted, yet what the first one pinned is not undone.
        drop(second);
        assert_eq!(xdp("eth0").map(|xdp| xdp.program_id), Some(after.program_id));
    });
}

/// The kernel's id of the pinned link.
fn link_id(settings: &OpenSettings) -> u32 {
    let pin = settings.pin_dir.join(layout()).join("link_eth0");
    let link = aya::programs::links::PinnedLink::from_pin(pin).expect("pinned");
    aya::programs::links::FdLink::from(link).info().expect("info").id()
}

#[test]
fn a_start_that_is_not_committed_leaves_nothing() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (mut datapath, _) = Datapath::open(&settings).expect("open");
        assert!(names(&settings.pin_dir.join(layout())).len() >= maps::ALL.len());
        let error = datapath.attach(&["eth0".to_owned(), "eth9".to_owned()]).expect_err("no eth9");
        assert!(error.to_string().contains("eth9"), "{error}");
        assert!(xdp("eth0").is_some(), "attached before the failure");
        drop(datapath);
        assert_eq!(xdp("eth0"), None);
        assert!(!settings.pin_dir.exists());
    });
}

#[test]
fn another_vipd_on_the_same_pins_is_named() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let _first = start(&settings);
        let error = Datapath::open(&settings).err().expect("locked");
        let DatapathError::Bpffs(BpffsError::Locked { pid, .. }) = &error else {
            panic!("{error}");
        };
        assert_eq!(*pid, Some(std::process::id()));
        let refused = detach_all(&settings.pin_dir).expect_err("locked");
        assert!(matches!(refused, DatapathError::Bpffs(BpffsError::Locked { .. })), "{refused}");
    });
}

#[test]
fn another_program_on_the_interface_is_named_and_left_alone() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let _pass = Pass::attach("eth0").expect("pass");
        let other = xdp("eth0").expect("pass is there");
        let (mut datapath, _) = Datapath::open(&settings).expect("open");
        let error = datapath.attach(&eth0()).expect_err("occupied");
        let text = error.to_string();
        assert!(matches!(error, DatapathError::Occupied { .. }), "{text}");
        assert!(text.contains(&format!("id {} (pass)", other.program_id)), "{text}");
        assert!(text.contains("xdpdrv off"), "{text}");
        drop(datapath);
        assert_eq!(xdp("eth0"), Some(other));
        assert!(!settings.pin_dir.exists());
    });
}

#[test]
fn another_vipd_with_other_pins_is_recognised() {
    let lab = lab();
    let others = Pins::new();
    lab.own.run(|| {
        let _first = start(&settings(&lab.pins));
        let (mut second, _) = Datapath::open(&settings(&others)).expect("open");
        let text = second.attach(&eth0()).expect_err("occupied").to_string();
        assert!(text.contains("another vipd"), "{text}");
    });
}

#[test]
fn another_layout_is_refused_and_detach_removes_it() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        drop(start(&settings));
        std::fs::create_dir(settings.pin_dir.join("v0")).expect("mkdir");
        let error = Datapath::open(&settings).err().expect("another layout");
        assert!(
            matches!(&error, DatapathError::OtherLayout { found, .. } if found == &["v0"]),
            "{error}"
        );
        assert!(error.to_string().contains("vipd detach"), "{error}");
        assert!(xdp("eth0").is_some(), "the old one goes on");
        let removed = detach_all(&settings.pin_dir).expect("detach");
        assert_eq!(removed.interfaces, ["eth0"]);
        assert_eq!(removed.maps.len(), maps::ALL.len());
        assert!(removed.left.is_empty());
        assert_eq!(xdp("eth0"), None);
        assert!(!settings.pin_dir.exists());
        assert_eq!(detach_all(&settings.pin_dir).expect("nothing"), Default::default());
    });
}

#[test]
fn a_pinned_map_of_another_size_is_refused_with_both_sizes() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        drop(start(&settings));
        let larger = OpenSettings { max_connections: 2_048, ..settings.clone() };
        let error = Datapath::open(&larger).err().expect("another size");
        let text = error.to_string();
        assert!(
            matches!(
                error,
                DatapathError::MapDiffers { map: maps::FLOWS, what: "max_entries", .. }
            ),
            "{text}"
        );
        for part in ["2048", "4096", "max_connections = 1024", "vipd detach"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(xdp("eth0").is_some(), "the old one goes on");
        start(&settings);
    });
}

#[test]
fn a_large_mtu_falls_back_to_generic_and_native_says_why() {
    let lab = lab();
    lab.peer.ip("link set eth0 mtu 9000"); // veth judges by its peer's MTU
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (mut datapath, _) =
            Datapath::open(&OpenSettings { xdp_mode: XdpMode::Native, ..settings.clone() })
                .expect("open");
        let text = datapath.attach(&eth0()).expect_err("MTU").to_string();
        assert!(text.contains("MTU is too large") && text.contains("native"), "{text}");
        drop(datapath);
        let (datapath, _) = start(&settings);
        assert_eq!(datapath.interfaces()[0].xdp_mode, AttachedMode::Generic);
        drop(datapath);
        // A restart keeps the mode in `auto`, and `native` does not silently stay generic.
        let (datapath, _) = start(&settings);
        assert_eq!(datapath.interfaces()[0].xdp_mode, AttachedMode::Generic);
        drop(datapath);
        let (mut datapath, _) =
            Datapath::open(&OpenSettings { xdp_mode: XdpMode::Native, ..settings.clone() })
                .expect("open");
        let error = datapath.attach(&eth0()).expect_err("generic is pinned");
        assert!(matches!(error, DatapathError::ModeDiffers { .. }), "{error}");
    });
}

#[test]
fn an_interface_that_was_made_anew_is_attached_again_and_one_no_longer_named_is_released() {
    let lab = lab();
    lab.own.ip("link add two type veth peer name owt");
    lab.own.ip("link set two up");
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (mut datapath, _) = Datapath::open(&settings).expect("open");
        datapath.attach(&["eth0".to_owned(), "two".to_owned()]).expect("attach");
        datapath.commit();
        let old = datapath.interfaces()[1].ifindex;
        let interface = Interface { mac: OWN, zero: [0; 2] };
        datapath.apply(&Step::PutInterface { ifindex: old, interface }).expect("apply");

        lab.own.ip("link del two");
        lab.own.ip("link add two type veth peer name owt");
        assert_eq!(xdp("two"), None);
        // Its port went with it, so that a plan will write it again if it is still wanted.
        assert!(datapath.read_actual().expect("read").interfaces.is_empty());
        datapath.attach(&["eth0".to_owned(), "two".to_owned()]).expect("attach again");
        assert_ne!(datapath.interfaces()[1].ifindex, old);
        assert!(xdp("two").is_some());

        datapath.attach(&eth0()).expect("one only");
        assert_eq!(xdp("two"), None);
        assert!(xdp("eth0").is_some());
        assert!(!names(&settings.pin_dir.join(layout())).contains(&"link_two".to_owned()));
    });
}

#[test]
fn an_interface_with_a_dot_in_its_name_can_be_pinned() {
    let lab = lab();
    lab.own.ip("link add eth0.7 type veth peer name owt");
    lab.own.ip("link set eth0.7 up");
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (mut datapath, _) = Datapath::open(&settings).expect("open");
        datapath.attach(&["eth0.7".to_owned()]).expect("attach");
        datapath.commit();
        drop(datapath);
        let (_, adopted) = Datapath::open(&settings).expect("open");
        assert_eq!(adopted.interfaces, ["eth0.7"]);
        assert_eq!(detach_all(&settings.pin_dir).expect("detach").interfaces, ["eth0.7"]);
    });
}

#[test]
fn a_daemon_that_stops_removes_everything() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        let (datapath, _) = start(&settings);
        let removed = datapath.detach().expect("detach");
        assert_eq!(removed.interfaces, ["eth0"]);
        assert_eq!(xdp("eth0"), None);
        assert!(!settings.pin_dir.exists());
    });
}

#[test]
fn pins_are_inspected_without_a_daemon_and_without_a_change() {
    let lab = lab();
    lab.own.run(|| {
        let settings = settings(&lab.pins);
        assert_eq!(inspect_pins(&settings.pin_dir).expect("nothing yet"), None);
        assert!(!settings.pin_dir.exists(), "looking made nothing");
        let (mut datapath, _) = start(&settings);
        let attached = datapath.interfaces()[0].clone();
        let steps = steps(attached.ifindex);
        for step in &steps {
            datapath.apply(step).expect("apply");
        }
        let alive = inspect_pins(&settings.pin_dir).expect("inspect").expect("pins");
        assert_eq!(alive.holder, Some(std::process::id()));
        drop(datapath);
        let dead = inspect_pins(&settings.pin_dir).expect("inspect").expect("pins");
        assert_eq!(dead.holder, None);
        assert_eq!(dead.layouts, [layout()]);
        assert_eq!(dead.maps.len(), maps::ALL.len());
        assert_eq!(dead.actual, Some(expected(&steps)));
        assert_eq!(dead.counters.len(), Verdict::ALL.len());
        let [interface] = dead.interfaces.as_slice() else { panic!("{:?}", dead.interfaces) };
        assert_eq!(interface.name, "eth0");
        assert_eq!(interface.ifindex, attached.ifindex);
        assert_eq!(interface.program_id, attached.program_id);
        assert_eq!(interface.xdp_mode, Some(AttachedMode::Native));
    });
}

#[test]
fn a_pin_directory_that_bpffs_cannot_have_is_refused() {
    let lab = lab();
    lab.own.run(|| {
        let dotted = lab.pins.dir().join("a.b");
        std::fs::create_dir_all(Path::new("/run")).expect("run");
        let settings = OpenSettings { pin_dir: dotted, ..settings(&lab.pins) };
        // The first open mounts bpffs; the dot is refused below it.
        let error = Datapath::open(&OpenSettings { pin_dir: lab.pins.dir(), ..settings.clone() })
            .map(|(datapath, _)| {
                let _keep = datapath;
                Datapath::open(&settings).err().expect("a dot")
            })
            .expect("open");
        assert!(matches!(error, DatapathError::Bpffs(BpffsError::DotInName(_))), "{error}");
    });
}
