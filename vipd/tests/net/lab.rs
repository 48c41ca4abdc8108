//! Network namespaces for these tests. Everything has a name that starts with `vipdnet-` and is
//! removed when its value is dropped, also by a failing test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name nobody else uses.
pub fn unique(what: &str) -> String {
    format!("vipdnet-{}-{what}{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs `ip` with these arguments, split at spaces; fails the test with its message.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the tests need `ip` (package iproute2)");
    assert!(
        output.status.success(),
        "`ip {arguments}` failed: {}(these tests need root with CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A network namespace.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(what: &str) -> Self {
        let name = unique(what);
        ip(&format!("netns add {name}"));
        let this = Self { name };
        this.ip("link set lo up");
        this
    }

    /// `ip` in this namespace.
    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// Runs `work` on a thread of its own in this namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("netns");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).expect("setns needs CAP_SYS_ADMIN");
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// What `ip` prints in this namespace.
    pub fn says(&self, arguments: &str) -> String {
        let output = Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace())
            .output()
            .expect("ip");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// [`Self::run`] with a tokio runtime.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime")
                .block_on(work())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A veth pair: `(namespace, interface, address/prefix, MAC)` for each end; an empty address
/// gives none.
pub fn veth(a: (&Netns, &str, &str, &str), b: (&Netns, &str, &str, &str)) {
    ip(&format!(
        "link add {} address {} netns {} type veth peer name {} address {} netns {}",
        a.1, a.3, a.0.name, b.1, b.3, b.0.name
    ));
    for (netns, interface, address, _) in [a, b] {
        // No IPv6 chatter.
        netns.run(|| {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            let _ = std::fs::write(path, "1");
        });
        if !address.is_empty() {
            netns.ip(&format!("addr add {address} dev {interface}"));
        }
        netns.ip(&format!("link set {interface} up"));
    }
}

/// Gives each end of a [`veth`] IPv6, with an address that is usable at once.
pub fn ipv6(ends: [(&Netns, &str, &str); 2]) {
    for (netns, interface, address) in ends {
        netns.run(|| {
            let set = |name: &str, value: &str| {
                let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
                std::fs::write(&path, value).expect(&path);
            };
            // Nobody here has the same address, and nobody is a router.
            set("accept_dad", "0");
            set("accept_ra", "0");
            set("router_solicitations", "0");
            set("disable_ipv6", "0");
        });
        if !address.is_empty() {
            netns.ip(&format!("addr add {address} dev {interface} nodad"));
        }
    }
}

/// A place for a pin directory: bpffs is mounted there by vipd itself.
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    pub fn new() -> Self {
        let root = PathBuf::from(format!("/run/{}", unique("pins")));
        std::fs::create_dir(&root).expect("these tests need root");
        Self { root }
    }

    /// `<root>/bpf/vipd`; bpffs will be mounted on `<root>/bpf`.
    pub fn dir(&self) -> PathBuf {
        self.root.join("bpf/vipd")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.root.join("bpf"), nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Waits until `probe` gives something; fails the test after 10 s with `what`.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The directory of this version's pins.
pub fn layout() -> String {
    format!("v{}", vipd_common::maps::LAYOUT)
}

/// The names in a directory.
pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .map(|entries| {
            entries
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}
