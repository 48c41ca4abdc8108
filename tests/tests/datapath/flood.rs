//! A SYN flood.

use vipd_common::maps::{DEFAULT_HALF_OPEN, FLOWS};
use vipd_common::verdict::Verdict;

use crate::director::prepare;
use crate::family::Ipv4;
use crate::frames::{DIRECTOR_MAC, Tcp};
use crate::kernel::{Kernel, Xdp_};

const FLOOD: u32 = 1_000_000;
const CONNECTIONS: u16 = 100;

#[test]
fn established_connections_survive_a_million_syns_from_random_sources() {
    let mut kernel = prepare(Kernel::<Ipv4>::load_sized(DIRECTOR_MAC, 1024, DEFAULT_HALF_OPEN));
    let ports = 30_000..30_000 + CONNECTIONS;
    let client = |segment: Tcp, port| segment.client(crate::frames::CLIENT, port);
    for port in ports.clone() {
        for segment in [
            client(Tcp::to_vip("S"), port),
            Tcp::from_r1("SA", port),
            client(Tcp::to_vip("A").seq(1001, 5001), port),
        ] {
            assert_eq!(kernel.run(&segment.frame()).action, Xdp_::Tx);
        }
    }
    assert_eq!(kernel.flows(FLOWS).len(), 2 * usize::from(CONNECTIONS));

    let before = kernel.count(Verdict::NatNew);
    let mut frame = Tcp::to_vip("S").frame();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..FLOOD {
        // Xorshift: sources all over 10/8, ports all over. The program trusts the receiver to
        // check checksums.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let [a, b, c, high, low, ..] = random.to_le_bytes();
        frame[26..30].copy_from_slice(&[10, a, b, c]);
        frame[34..36].copy_from_slice(&[high, low]);
        kernel.feed(&frame);
    }
    // Nearly all opened a connection; the rest hit on a source that was there.
    let opened = kernel.count(Verdict::NatNew) - before;
    assert!(opened > u64::from(FLOOD) * 98 / 100, "{opened}");
    assert_eq!(kernel.flows(FLOWS).len(), 2 * usize::from(CONNECTIONS));

    for port in ports {
        let ask = client(Tcp::to_vip("PA").seq(1001, 5001), port).payload(b"PING\r\n");
        let out = ask.at_r1(port).frame();
        kernel.expect("there", &ask.frame(), (Verdict::NatToBackend, Xdp_::Tx), &out);
        let reply = Tcp::from_r1("PA", port).payload(b"+PONG\r\n");
        let mut out = reply.at_client();
        out.to.2 = port;
        kernel.expect("back", &reply.frame(), (Verdict::NatToClient, Xdp_::Tx), &out.frame());
    }
    // And somebody new still gets in.
    for segment in [
        client(Tcp::to_vip("S"), 40_000),
        Tcp::from_r1("SA", 40_000),
        client(Tcp::to_vip("A").seq(1001, 5001), 40_000),
    ] {
        let run = kernel.run(&segment.frame());
        assert_eq!(run.action, Xdp_::Tx, "{segment:?}: {:?}", run.verdict);
    }
}
