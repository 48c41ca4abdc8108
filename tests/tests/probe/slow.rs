//! Answers that take their time: a server that holds back what it says. The probe neither waits for
//! it nor forgets those that had to.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};
use vipd::clock::Monotonic;
use vipd::probe::report::{LayerName, State};
use vipd_tests::truth::site::PORT;
use vipd_tests::truth::{Rule, Site, Tap};

use crate::judge::{EXACT, Exchange, at};
use crate::rate::judge_lateness;

const DELAY: Duration = Duration::from_millis(120);
/// How long it delays.
const SLOW: Duration = Duration::from_millis(900);

#[test]
fn slow_answers_are_slow_for_every_probe_that_was_due_and_the_schedule_is_kept() -> Result<()> {
    let site = Site::up()?;
    site.give_vips(0)?;
    // The kernel of the server would say that nobody listens.
    site.servers[0].namespace.nft(&format!(
        "table inet mute {{
            chain output {{
                type filter hook output priority 0; policy accept;
                tcp sport {PORT} tcp flags & rst == rst drop
            }}
        }}\n"
    ))?;
    let server = Holding::start(&site)?;
    let syns = Tap::attach(&site.servers[0].namespace, "eth0", &[Rule::syn(true, PORT)])?;
    let answers = Tap::attach(&site.client.namespace, "eth0", &[Rule::syn_ack(true, PORT)])?;
    let target = Site::vip(true).to_string();
    let mut probe = site.probe(&[&target, "--layers=syn", "--duration=3s", "--warm-up=100ms"])?;
    probe.wait_until("it is under way", || Ok(answers.count(0) > 200))?;
    let from = Monotonic::now() + Duration::from_millis(100);
    server.delay_between(from, from + SLOW);
    let measured = probe.end()?;
    server.stop()?;

    let (run, layer) = (measured.run()?, measured.layer(LayerName::Syn)?);
    let schedule = layer.schedule.context("no schedule")?;
    ensure!(schedule.planned == 3000, "{schedule:?}");
    judge_lateness(&syns.entries(0)?, at(run, 0), &schedule)?;

    // As the probe defines it: from the moment at which it was due, outside of outages.
    let exchange = Exchange::new(syns.entries(0)?, &answers.entries(0)?, 1);
    ensure!(schedule.skipped == 0, "it left some out, so they can't be told by their number");
    let in_outage = |due: Monotonic| {
        layer.outages.iter().any(|it| {
            let to = it.to_ns.map_or(Monotonic(u64::MAX), |to| at(run, to));
            (at(run, it.from_ns)..=to).contains(&due)
        })
    };
    let (mut times, mut slow) = (vec![], 0_u64);
    for (probe, number) in exchange.probes.iter().zip(0_u64..) {
        let due = at(run, number * 1_000_000);
        let &back = exchange.answers(probe.key).first().context("an answer is missing")?;
        if !in_outage(due) {
            times.push(back.since(due));
        }
        // Some that came before the end were looked at after it.
        slow += u64::from(back.since(probe.at) >= DELAY && !in_outage(due));
    }
    times.sort_unstable();
    let latency = layer.latency.as_ref().context("no latency")?;
    ensure!(latency.count == times.len() as u64, "{} of {}", latency.count, times.len());
    let rank = |share: f64| times[((times.len() as f64 * share).ceil() as usize).max(1) - 1];
    for (what, told, truth) in [
        ("half", latency.p50_ns, rank(0.5)),
        ("p90", latency.p90_ns, rank(0.9)),
        ("p99", latency.p99_ns, rank(0.99)),
        ("p999", latency.p999_ns, rank(0.999)),
    ] {
        let told = Duration::from_nanos(told);
        println!("{what}: {told:?} told, {truth:?} true");
        ensure!(told.abs_diff(truth) <= EXACT, "{what} is {truth:?}, {told:?} is told");
    }
    // Nothing is coordinated away: everyone who came while it was slow is told to have waited.
    let bucket = |it: &&vipd::probe::figures::Bucket| {
        Duration::from_nanos(it.to_ns) > DELAY.saturating_sub(EXACT)
    };
    let told: u64 = latency.histogram.iter().filter(bucket).map(|it| it.count).sum();
    ensure!(told >= slow && slow > 500, "{slow} were slow, {told} are told");
    ensure!(layer.lost == 0 && layer.duplicated == 0, "{layer:?}");
    let lane = layer.lanes.first().context("no lane")?;
    ensure!(lane.spans.iter().any(|it| it.state == State::Late), "{lane:?}");
    Ok(())
}

/// A server that accepts connections, as far as a SYN can tell, and holds answers back.
struct Holding {
    /// From and to.
    delay: Arc<[AtomicU64; 2]>,
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Holding {
    fn start(site: &Site) -> Result<Self> {
        let sockets = site.servers[0].namespace.run(|| -> io::Result<_> {
            let hear = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
            // For as long as this test does not run: what it holds back it must have got.
            setsockopt(&hear, RcvBufForce, &(16 << 20))?;
            let raw = Protocol::from(libc::IPPROTO_RAW);
            Ok((hear, Socket::new(Domain::IPV4, Type::RAW, Some(raw))?))
        })??;
        let delay: Arc<[AtomicU64; 2]> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let thread = {
            let (delay, ended) = (Arc::clone(&delay), Arc::clone(&ended));
            thread::spawn(move || {
                be_prompt()?;
                hold(&sockets.0, &sockets.1, &delay, &ended)
            })
        };
        Ok(Self { delay, ended, thread })
    }

    fn delay_between(&self, from: Monotonic, to: Monotonic) {
        self.delay[0].store(from.0, Ordering::SeqCst);
        self.delay[1].store(to.0, Ordering::SeqCst);
    }

    fn stop(self) -> Result<()> {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    }
}

/// This server's delays are to be its own, and not those of a busy machine.
fn be_prompt() -> Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: a plain system call that reads a structure; 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) };
    ensure!(result == 0, "cannot be a real-time thread: {}", io::Error::last_os_error());
    Ok(())
}

fn hold(hear: &Socket, say: &Socket, delay: &[AtomicU64; 2], ended: &AtomicBool) -> Result<()> {
    let mut held: VecDeque<(Monotonic, Vec<u8>, SocketAddr)> = VecDeque::new();
    let mut buffer = vec![0; 2048];
    while !ended.load(Ordering::SeqCst) {
        let now = Monotonic::now();
        while let Some((_, answer, to)) = held.pop_front_if(|it| it.0 <= now) {
            say.send_to(&answer, &to.into())?;
        }
        let patience = held.front().map_or(Duration::from_millis(20), |it| it.0.since(now));
        hear.set_read_timeout(Some(patience.max(Duration::from_micros(100))))?;
        let length = match io::Read::read(&mut &*hear, &mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let Some((answer, to)) = answer(&buffer[..length])? else { continue };
        let now = Monotonic::now();
        let [from, until] = [0, 1].map(|it| Monotonic(delay[it].load(Ordering::SeqCst)));
        if (from..until).contains(&now) {
            held.push_back((now + DELAY, answer, to));
        } else {
            say.send_to(&answer, &to.into())?;
        }
    }
    Ok(())
}

/// The SYN-ACK to a SYN for the service.
fn answer(packet: &[u8]) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    let packet = SlicedPacket::from_ip(packet)?;
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
        (&packet.net, &packet.transport)
    else {
        return Ok(None);
    };
    if tcp.destination_port() != PORT || !tcp.syn() || tcp.ack() {
        return Ok(None);
    }
    let (client, vip) = (ip.header().source(), ip.header().destination());
    let mut answer = vec![];
    PacketBuilder::ipv4(vip, client, 64)
        .tcp(PORT, tcp.source_port(), 1, 1000)
        .syn()
        .ack(tcp.sequence_number().wrapping_add(1))
        .write(&mut answer, &[])?;
    Ok(Some((answer, SocketAddr::new(IpAddr::from(client), 0))))
}
