//! Why injecting takes microseconds and not tens of milliseconds.
//!
//! The kernel calls XDP programs through a dispatcher that it rewrites for each change of the
//! programs in use, and waits for an RCU grace period then. A run of `BPF_PROG_TEST_RUN` is such a
//! change twice, at its beginning and at its end, unless the program is in use anyway. So it is put
//! in use: on the loopback interface of a network namespace that has nothing else, is down, and
//! lives as long as this value.

use std::fs::File;
use std::io;

use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use nix::sched::{CloneFlags, unshare};

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// Keeps a program in the dispatcher.
pub(super) struct Registered {
    // Before the namespace: it is on an interface of that.
    _link: XdpLink,
    _namespace: File,
}

impl Registered {
    /// Puts the program there, which needs CAP_SYS_ADMIN.
    pub(super) fn new(program: &mut Xdp) -> io::Result<Self> {
        // On a thread that ends with this: its network namespace is another one from here on.
        let thread = std::thread::scope(|scope| scope.spawn(|| Self::apart(program)).join());
        thread.unwrap_or_else(|_| Err(io::Error::other("the thread for it panicked")))
    }

    fn apart(program: &mut Xdp) -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let mut attach = || -> Result<XdpLink, ProgramError> {
            let id = program.attach_to_if_index(LOOPBACK, XdpMode::Skb)?;
            program.take_link(id)
        };
        let link = attach().map_err(io::Error::other)?;
        Ok(Self { _link: link, _namespace: namespace })
    }
}
