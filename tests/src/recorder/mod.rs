//! Who says that it has the VIP, when: a raw socket that asks for it all the time, and writes down
//! every answer and every announcement.
//!
//! It asks from a host of its own. An answer refreshes the cache of whoever asked; from a client's
//! host, asking would repair what a client that missed an announcement suffers from.
//!
//! Each round asks everybody (broadcast, or the solicited-node group) and then each host by its own
//! link-layer address, as a kernel does that checks an old entry. The latter asks for an address of
//! its own, so that the answers can be told apart.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::socket::sockopt::{ReceiveTimeout, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use vipd::clock::Monotonic;
use vipd_common::addr::MacAddr;

use crate::address::{Segment, v6_address};
use crate::host::Host;
use crate::wait::{PATIENCE, wait_until};
use vipd::probe::who_has::Asker;
pub use vipd::probe::who_has::{Interval, Kind, Overlap, Record, Sighting};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(20);
/// How long a receive waits: a fraction of a round.
const GLANCE: i64 = 4;
/// A frame that is longer is no answer.
const FRAME: usize = 256;
/// Rounds after which it stops: no test takes as long.
const MAX_ROUNDS: usize = 100_000;

/// A running recorder of one VIP.
#[derive(Debug)]
pub struct Recorder {
    vip: IpAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    record: Mutex<Record>,
    problem: Mutex<Option<String>>,
}

impl Recorder {
    /// Starts to ask for `vip` from `observer`, and each of `hosts` by its link-layer address.
    pub fn start(observer: &Host, vip: IpAddr, hosts: &[MacAddr]) -> Result<Self> {
        let socket =
            observer.namespace.run(|| open("eth0"))?.context("cannot open a raw socket")?;
        let asker = asker(observer, vip)?;
        let mut questions = vec![asker.ask_everybody()];
        questions.extend(hosts.iter().map(|&host| asker.ask(host)));
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Err(error) = record_until_stopped(&socket, &asker, &questions, &shared) {
                    *shared.problem.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(format!("{error:#}"));
                }
            })
        };
        Ok(Self { vip, shared, thread: Some(thread) })
    }

    /// What it recorded so far.
    pub fn record(&self) -> Record {
        self.shared.record().clone()
    }

    /// Waits until `host` answers a question that is asked from now on.
    pub fn wait_answered_by(&self, host: MacAddr) -> Result<()> {
        let now = Monotonic::now();
        wait_until(format_args!("{host} answers for {}", self.vip), PATIENCE, || {
            let record = self.shared.record();
            Ok(record.last_answer(host).is_some_and(|it| it > now))
        })
    }

    /// Waits until nobody has answered the last `questions` questions.
    pub fn wait_unanswered(&self, questions: usize) -> Result<()> {
        wait_until(format_args!("nobody answers for {}", self.vip), PATIENCE, || {
            Ok(self.shared.record().unanswered() >= questions)
        })
    }

    /// Ends it. Fails if it ended before.
    pub fn stop(mut self) -> Result<Record> {
        self.end();
        let problem = self.shared.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(problem) = problem {
            bail!("the recorder of {} failed: {problem}", self.vip);
        }
        Ok(std::mem::take(&mut self.shared.record()))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        if panicked {
            *self.shared.problem.lock().unwrap_or_else(PoisonError::into_inner) =
                Some("its thread panicked".to_owned());
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Single hosts are asked from this host number: nobody has it.
const DIRECT: u8 = 21;

fn asker(observer: &Host, vip: IpAddr) -> Result<Asker> {
    let (own, direct) = match vip {
        IpAddr::V4(_) => (observer.address.into(), Segment::Front.address(DIRECT).into()),
        IpAddr::V6(_) => {
            let own = observer.v6_address.context("the observer has no IPv6 address")?;
            (own.into(), v6_address(DIRECT).into())
        }
    };
    Ok(Asker::new(observer.mac, vip, own, Some(direct)))
}

fn record_until_stopped(
    socket: &OwnedFd,
    asker: &Asker,
    questions: &[Vec<u8>],
    shared: &Shared,
) -> Result<()> {
    let mut due = Monotonic::now();
    let mut rounds = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Monotonic::now();
        if now >= due {
            rounds += 1;
            if rounds > MAX_ROUNDS {
                bail!("it was never stopped");
            }
            due = now + ROUND;
            shared.record().asked.push(now);
            for question in questions {
                nix::unistd::write(socket, question).context("cannot send a question")?;
            }
        }
        while let Some((at, frame)) = receive(socket)? {
            if let Some((mac, kind)) = asker.read(&frame) {
                shared.record().sightings.push(Sighting { at, mac, kind });
            }
            if Monotonic::now() >= due {
                break;
            }
        }
    }
    Ok(())
}

/// A socket that gets every frame of `interface`, each with the kernel's time, and sends there.
fn open(interface: &str) -> Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: a plain system call; the descriptor is checked before it is owned.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, protocol.into()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor is open and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = nix::net::if_::if_nametoindex(interface)?.cast_signed();
    // SAFETY: `address` is a sockaddr_ll and the length is its own.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound != 0 {
        return Err(io::Error::last_os_error().into());
    }
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(GLANCE))?;
    Ok(socket)
}

/// The next frame and when the kernel got it; `None` if there is none for a while.
fn receive(socket: &OwnedFd) -> Result<Option<(Monotonic, Vec<u8>)>> {
    let mut frame = vec![0; FRAME];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(&mut frame)];
    let received =
        recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
    let message = match received {
        Ok(message) => message,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        // The interface is down for a moment.
        Err(nix::Error::ENETDOWN) => return Ok(None),
        Err(error) => return Err(error).context("cannot receive"),
    };
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
        _ => None,
    });
    let length = message.bytes;
    let now = Monotonic::now();
    let at = stamp.map_or(now, |stamp| {
        // The stamp is by the wall clock: what counts is how old it is.
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = age.saturating_sub(stamp);
        Monotonic(now.0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(0)))
    });
    frame.truncate(length);
    Ok(Some((at, frame)))
}
