//! `cargo xtask bench datapath`: ns a packet in each part of the XDP program, beside the floor of
//! an empty one.

#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../tests/datapath/director.rs"]
mod director;
#[expect(dead_code, unused_macros, unused_imports, reason = "shared with the tests")]
#[path = "../../tests/datapath/family.rs"]
mod family;
#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../tests/datapath/frames.rs"]
mod frames;
#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../tests/datapath/kernel.rs"]
mod kernel;
mod repeat;
#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../tests/datapath/site.rs"]
mod site;

use anyhow::{Result, ensure};
use etherparse::ArpOperation;
use vipd_common::addr::MacAddr;
use vipd_common::maps::{
    Address, Backend, DEFAULT_FLOWS, DEFAULT_HALF_OPEN, ForwardMode, ServiceState,
};
use vipd_common::verdict::Verdict;

use family::{Family, Ipv4, Ipv6};
use frames::{
    BACKEND_PORT, CLIENT, CLIENT_MAC, CLIENT_PORT, DIRECTOR, DIRECTOR_MAC, R1, R1_MAC,
    SERVICE_PORT, Tcp, VIP,
};
use kernel::{Kernel, nat_backend};
use repeat::{Repeat, Vary};
use site::Site;

/// Runs a measurement: the kernel counts in whole ns.
const REPEAT: u32 = 1_000_000;
/// Measurements a case, each beside one of the floor.
const ROUNDS: usize = 9;
const DSR_VIP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 18, 0, 251);

/// SYNs to send again, and connections to reset.
const MANY: u32 = 100_000;

struct Case {
    what: &'static str,
    frame: Vec<u8>,
    vary: Vary,
    verdict: Verdict,
    /// ns above the floor.
    aim: Option<u32>,
}

fn main() -> Result<()> {
    let mut kernel = director::<Ipv4>();
    println!("{ROUNDS} rounds of {REPEAT} runs; ns a packet");
    let plain: Vec<_> =
        (0..ROUNDS).map(|_| kernel.time("pass", &Tcp::to_vip("A").frame(), REPEAT)).collect();
    println!("empty program, nothing before it: {} (best)\n", plain.iter().min().unwrap_or(&0));
    println!(
        "{:<34} {:>6} {:>6} {:>6} {:>6} {:>5}",
        "case", "floor", "best", "median", "above", "aim"
    );
    for case in cases() {
        measure(&mut kernel, &case)?;
    }
    let mut kernel = director::<Ipv6>();
    for case in ipv6_cases() {
        measure(&mut kernel, &case)?;
    }
    println!(
        "\nfloor: the empty program, in the same rounds. Each run's frame is written anew before \
         it\nby a program that ends in a tail call, in the floor as well. above: median of best \
         minus floor\nin each round. NAT new flow: random sources, the table full, so that each \
         evicts another."
    );
    release()
}

/// What a failover does for its clients, through a real pair of interfaces.
fn release() -> Result<()> {
    println!("\nafter a cutover, ms");
    for count in [MANY / 100, MANY] {
        let mut site = Site::<Ipv4>::up(ForwardMode::Nat, 2 * MANY);
        for number in 0..count {
            let (key, pending) = site.syn(number);
            site.pending.insert(key, pending, 0)?;
        }
        let done = site.release(true, false);
        ensure!(done.syns == count, "{done:?}");
        let syns = done.replayed.since(done.begun);
        // Both would have interfaces of the same names.
        drop(site);
        let mut site = Site::<Ipv4>::up(ForwardMode::Nat, 2 * MANY);
        for number in 0..count {
            for (key, flow) in site.connection(number, ForwardMode::Nat) {
                site.established.insert(key, flow, 0)?;
            }
        }
        let done = site.release(false, true);
        ensure!(done.freed == count, "{done:?}");
        let freed = done.done.since(done.begun);
        println!("{count:>7} SYNs sent again: {:>6.1}", syns.as_secs_f64() * 1e3);
        println!("{count:>7} clients reset:   {:>6.1}", freed.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn measure<F: Family>(kernel: &mut Kernel<F>, case: &Case) -> Result<()> {
    let floor = Repeat::new(kernel.program_fd("pass"), &case.frame, case.vary)?;
    let measured = Repeat::new(kernel.program_fd("vipd"), &case.frame, case.vary)?;
    let before = kernel.count(case.verdict);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((floor.time(REPEAT)?, measured.time(REPEAT)?));
    }
    let counted = kernel.count(case.verdict) - before;
    let all = u64::from(REPEAT) * ROUNDS as u64;
    // A random connection is met twice now and then.
    ensure!(counted <= all && counted >= all / 10 * 9, "{}: {counted} of {all}", case.what);
    let above = median(rounds.iter().map(|(floor, ns)| ns.saturating_sub(*floor)));
    println!(
        "{:<34} {:>6} {:>6} {:>6} {above:>6} {:>5}{}",
        case.what,
        median(rounds.iter().map(|round| round.0)),
        rounds.iter().map(|round| round.1).min().unwrap_or(0),
        median(rounds.iter().map(|round| round.1)),
        case.aim.map_or("-".to_owned(), |aim| aim.to_string()),
        if case.aim.is_some_and(|aim| above > aim) { "  missed" } else { "" },
    );
    Ok(())
}

fn median(values: impl Iterator<Item = u32>) -> u32 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// A director with a VIP in each mode, and one established connection.
fn director<F: Family>() -> Kernel<F> {
    let kernel = Kernel::load_sized(DIRECTOR_MAC, DEFAULT_FLOWS, DEFAULT_HALF_OPEN);
    let mut kernel = director::prepare(kernel);
    kernel.address(DSR_VIP, Address::DSR | Address::ANNOUNCE | Address::ECHO);
    kernel.service(DSR_VIP, SERVICE_PORT, 1);
    let backend = nat_backend(R1, BACKEND_PORT, R1_MAC, DIRECTOR);
    kernel.backend(10, Backend { mode: ForwardMode::Dsr as u32, ..backend });
    kernel.active(1, ServiceState::Up, 10, 1);
    director::connect(&mut kernel);
    for segment in [Tcp::to_vip("S"), Tcp::to_vip("A").seq(1001, 5001)] {
        kernel.run(&Tcp { to: (DIRECTOR_MAC, DSR_VIP, SERVICE_PORT), ..segment }.frame());
    }
    kernel
}

fn cases() -> [Case; 10] {
    let case = |what, frame, verdict, aim| Case { what, frame, vary: Vary::Nothing, verdict, aim };
    let to = |addr, segment: Tcp| Tcp { to: (DIRECTOR_MAC, addr, SERVICE_PORT), ..segment };
    let ask = arp_request();
    let echo =
        frames::icmp((CLIENT_MAC, CLIENT), (DIRECTOR_MAC, VIP), 64, (8, 0, [0; 4]), &[0; 56]);
    let stranger = Tcp::to_vip("A").client(CLIENT, 1);
    let there = Tcp::to_vip("A").seq(1001, 5001).payload(&[7; 32]);
    let back = Tcp::from_r1("A", CLIENT_PORT).payload(&[7; 32]);
    [
        case("pass: not for a VIP", to(R1, there.clone()).frame(), Verdict::NotVip, Some(10)),
        case("ARP reply", ask, Verdict::ArpReply, Some(30)),
        case("DSR", to(DSR_VIP, there.clone()).frame(), Verdict::DsrToBackend, Some(60)),
        case(
            "DSR, a connection not known",
            to(DSR_VIP, stranger.clone()).frame(),
            Verdict::DsrToBackend,
            None,
        ),
        case("NAT hit, client to backend", there.frame(), Verdict::NatToBackend, Some(70)),
        case("NAT hit, backend to client", back.frame(), Verdict::NatToClient, Some(70)),
        Case {
            vary: Vary::Connection,
            ..case("NAT new flow", Tcp::to_vip("S").frame(), Verdict::NatNew, None)
        },
        case("reset: no such flow", stranger.frame(), Verdict::NoFlowReset, None),
        case("ICMP echo reply", echo, Verdict::EchoReply, None),
        case("dropped: bad header", bad_header(), Verdict::BadIpHeader, None),
    ]
}

/// The same as in IPv4, behind the tail call.
fn ipv6_cases() -> impl Iterator<Item = Case> {
    let names = [
        ("pass: not for a VIP", "IPv6 pass: not for a VIP"),
        ("DSR", "IPv6 DSR"),
        ("NAT hit, client to backend", "IPv6 NAT hit, client to backend"),
        ("NAT hit, backend to client", "IPv6 NAT hit, backend to client"),
        ("ICMP echo reply", "IPv6 ICMP echo reply"),
    ];
    cases().into_iter().filter_map(move |case| {
        let (_, what) = names.iter().find(|(name, _)| *name == case.what)?;
        Some(Case { what, frame: Ipv6::frame(&case.frame), aim: None, ..case })
    })
}

fn arp_request() -> Vec<u8> {
    let sender = (CLIENT_MAC, CLIENT);
    frames::arp(ArpOperation::REQUEST, MacAddr::BROADCAST, sender, (MacAddr::ZERO, VIP))
}

fn bad_header() -> Vec<u8> {
    let mut frame = Tcp::to_vip("S").frame();
    frame[14] = 0x44;
    frame
}
