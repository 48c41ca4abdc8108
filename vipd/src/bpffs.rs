//! The directory in bpffs that holds vipd's pinned link and maps.
//!
//! # Which bpffs
//!
//! Every mount of bpffs is a filesystem of its own and dies with its last mount. `ip netns exec`
//! runs a command in a private mount namespace with a fresh /sys: what is pinned in a bpffs that
//! was mounted there is gone when the command ends, so a `kill -9` of vipd would stop traffic and
//! the next vipd would find nothing to adopt. So the pin directory is looked for, and bpffs
//! mounted where it is missing, like this:
//!
//! 1. where this process sees it, if that bpffs is also mounted in the *lasting* mount namespace
//!    (or this is the lasting one);
//! 2. otherwise in the lasting namespace, at the same path.
//!
//! The lasting mount namespace is that of PID 1, or, where /proc/1 can't be read, that of the
//! oldest readable ancestor of this process. A thread enters it (setns(2), which needs
//! CAP_SYS_ADMIN and CAP_SYS_CHROOT), opens the directory and ends; the open descriptor then
//! leads there from anywhere, as `/proc/self/fd/N`. With neither readable, vipd uses the mount
//! namespace it is in.
//!
//! A systemd unit with a private mount namespace, and a container with the host's bpffs mounted
//! into it, are case 1. A container that sees the host's PID 1 but has a bpffs of its own is case
//! 2: its pins are on the host, where they outlive the container.
//!
//! bpffs is left mounted when vipd goes. It reserves names with a dot, so an interface name is
//! written into a pin's name by [`pin_name`].

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where bpffs is mounted for a pin directory below it.
const USUAL_MOUNT: &str = "/sys/fs/bpf";
/// How far up the ancestors of this process are followed.
const MAX_ANCESTORS: usize = 64;
/// How long another user may take to end: a process that was killed still closes its files, and a
/// child between fork and exec shares them.
pub const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// How often a lock is taken anew on a directory that was removed in between.
const LOCK_TRIES: usize = 3;

/// Why the pin directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// A relative path would mean something else to the next vipd.
    #[error("pin_dir {0} is not an absolute path")]
    Relative(PathBuf),
    /// A privilege is missing.
    #[error(
        "no permission to {what}; vipd needs {needs} (run it as root, or grant them in its unit file)"
    )]
    NoPermission {
        /// What was tried.
        what: String,
        /// Names of capabilities.
        needs: &'static str,
    },
    /// bpffs reserves them.
    #[error("pin_dir {0}: bpffs allows no dot in names")]
    DotInName(PathBuf),
    /// Something else is where bpffs would be mounted.
    #[error("cannot mount bpffs on {0}: the directory is not empty; choose a pin_dir on bpffs")]
    NotEmpty(PathBuf),
    /// Another vipd uses it.
    #[error("another vipd{} uses the pin directory {path}; stop it, or give this one another pin_dir",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The pin directory.
        path: PathBuf,
        /// Its process, if /proc/locks shows it to us.
        pid: Option<u32>,
    },
    /// Anything else.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// An open pin directory on bpffs, wherever it is mounted.
#[derive(Debug)]
pub struct PinDir {
    directory: File,
    path: PathBuf,
}

impl PinDir {
    /// Opens `pin_dir`; mounts bpffs and makes directories where they are missing.
    pub fn create(pin_dir: &Path) -> Result<Self, BpffsError> {
        let directory = somewhere(pin_dir, |path| open(path, true).map(Some))?;
        match directory {
            Some(directory) => Ok(Self { directory, path: pin_dir.to_owned() }),
            None => Err(io_error("create", pin_dir, io::Error::from(io::ErrorKind::NotFound))),
        }
    }

    /// Opens `pin_dir` if it is there. Changes nothing.
    pub fn existing(pin_dir: &Path) -> Result<Option<Self>, BpffsError> {
        let directory = somewhere(pin_dir, |path| match on_bpffs(path)? {
            true if path.exists() => open(path, false).map(Some),
            _ => Ok(None),
        })?;
        Ok(directory.map(|directory| Self { directory, path: pin_dir.to_owned() }))
    }

    /// Makes this process the only user of the directory, until it is dropped or dies.
    ///
    /// [`BpffsError::Locked`] if there is another one for more than [`LOCK_WAIT`]. The lock is on
    /// the directory itself (flock(2)), so it holds across mount and network namespaces.
    pub fn lock(self) -> Result<Self, BpffsError> {
        let mut this = self;
        for _ in 0..LOCK_TRIES {
            this.wait_for_lock()?;
            // `vipd detach` may have removed the directory between the opening and the locking.
            let links = this.directory.metadata().map_err(|e| io_error("read", &this.path, e))?;
            if links.nlink() > 0 {
                return Ok(this);
            }
            this = Self::create(&this.path)?;
        }
        Err(io_error("lock", &this.path, io::Error::from(io::ErrorKind::NotFound)))
    }

    fn wait_for_lock(&self) -> Result<(), BpffsError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match self.directory.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = self.holder();
                    return Err(BpffsError::Locked { path: self.path.clone(), pid });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(io_error("lock", &self.path, source));
                }
            }
        }
    }

    /// The process that holds the lock, from /proc/locks.
    pub fn holder(&self) -> Option<u32> {
        let metadata = self.directory.metadata().ok()?;
        let device = metadata.dev();
        let wanted = format!(
            "{:02x}:{:02x}:{}",
            nix::sys::stat::major(device),
            nix::sys::stat::minor(device),
            metadata.ino()
        );
        // 1: FLOCK  ADVISORY  WRITE 1234 00:2a:5678 0 EOF
        fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            if fields.next()? != "FLOCK" {
                return None;
            }
            let pid = fields.nth(2)?;
            (fields.next()? == wanted).then(|| pid.parse().ok()).flatten()
        })
    }

    /// The configured path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to the directory from this process, whatever its mount namespace.
    pub fn access(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// The names in the directory, sorted.
    pub fn names(&self) -> io::Result<Vec<String>> {
        names_in(&self.access())
    }

    /// Removes the directory itself, if it is empty and not bpffs's root.
    pub fn remove_if_empty(&self) -> Result<(), BpffsError> {
        // Through its parent: /proc/self/fd/N can't be removed.
        let parent = self.access().join("..");
        let Some(name) = self.path.file_name() else { return Ok(()) };
        match fs::remove_dir(parent.join(name)) {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOTEMPTY | libc::EBUSY | libc::ENOENT | libc::ENOTDIR)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(io_error("remove", &self.path, error)),
        }
    }
}

/// The names in a directory, sorted.
pub(crate) fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// `prefix` and an interface name as a name that bpffs takes: it reserves dots, which VLAN
/// interfaces have (`eth0.100`). `.` is written `%2e` and `%` is written `%25`.
pub(crate) fn pin_name(prefix: &str, interface: &str) -> String {
    format!("{prefix}{}", interface.replace('%', "%25").replace('.', "%2e"))
}

/// The interface name in a name made by [`pin_name`].
pub(crate) fn interface_of(prefix: &str, name: &str) -> Option<String> {
    Some(name.strip_prefix(prefix)?.replace("%2e", ".").replace("%25", "%"))
}

/// Runs `open` where the pin directory lasts: see the module's documentation.
fn somewhere(
    pin_dir: &Path,
    open: impl Fn(&Path) -> Result<Option<File>, BpffsError> + Send + Sync,
) -> Result<Option<File>, BpffsError> {
    if !pin_dir.is_absolute() {
        return Err(BpffsError::Relative(pin_dir.to_owned()));
    }
    let Some(lasting) = lasting_namespace() else { return open(pin_dir) };
    let here = bpffs_device(pin_dir);
    let entered = in_mount_namespace(&lasting, || match here {
        Some(device) if mounted_bpffs(device) => None,
        _ => Some(open(pin_dir)),
    });
    match entered {
        Ok(None) => open(pin_dir),
        Ok(Some(result)) => result,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(BpffsError::NoPermission {
            what: format!(
                "enter the host's mount namespace for {} (vipd runs in a private one, as under \
                 `ip netns exec`)",
                pin_dir.display()
            ),
            needs: "CAP_SYS_ADMIN and CAP_SYS_CHROOT",
        }),
        Err(error) => Err(io_error("enter the host's mount namespace for", pin_dir, error)),
    }
}

/// Opens the directory, in the mount namespace of this thread.
fn open(pin_dir: &Path, create: bool) -> Result<File, BpffsError> {
    if create {
        if !on_bpffs(pin_dir)? {
            mount_for(pin_dir)?;
        }
        make_directories(pin_dir)?;
    }
    File::open(pin_dir).map_err(|error| io_error("open", pin_dir, error))
}

fn make_directories(pin_dir: &Path) -> Result<(), BpffsError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(pin_dir) {
        Ok(()) => Ok(()),
        // bpf_lookup() in kernel/bpf/inode.c.
        Err(error)
            if error.raw_os_error() == Some(libc::EPERM)
                && pin_dir.to_string_lossy().contains('.') =>
        {
            Err(BpffsError::DotInName(pin_dir.to_owned()))
        }
        Err(error) => Err(io_error("make the directory", pin_dir, error)),
    }
}

/// Whether `path`, or the nearest directory above it that exists, is on bpffs.
fn on_bpffs(path: &Path) -> Result<bool, BpffsError> {
    for directory in path.ancestors() {
        match statfs(directory) {
            Ok(found) => return Ok(found.filesystem_type() == BPF_FS_MAGIC),
            // EPERM: bpffs, asked for a name with a dot.
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EPERM) => {}
            Err(error) => return Err(io_error("look at", directory, error.into())),
        }
    }
    Ok(false)
}

/// The device number of the bpffs that `path` is on.
fn bpffs_device(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|directory| directory.exists())?;
    (statfs(existing).ok()?.filesystem_type() == BPF_FS_MAGIC)
        .then(|| fs::metadata(existing).ok().map(|metadata| metadata.dev()))
        .flatten()
}

/// Whether the bpffs of that device is mounted anywhere in this thread's mount namespace.
fn mounted_bpffs(device: u64) -> bool {
    let wanted = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    // 36 35 0:32 / /sys/fs/bpf rw,relatime - bpf bpf rw
    fs::read_to_string("/proc/thread-self/mountinfo")
        .is_ok_and(|table| table.lines().any(|line| line.split(' ').nth(2) == Some(&wanted)))
}

fn mount_for(pin_dir: &Path) -> Result<(), BpffsError> {
    let usual = Path::new(USUAL_MOUNT);
    let target = match pin_dir.parent() {
        _ if pin_dir.starts_with(usual) => usual,
        Some(parent) => parent,
        None => pin_dir,
    };
    fs::create_dir_all(target).map_err(|error| io_error("make the directory", target, error))?;
    let mut entries = fs::read_dir(target).map_err(|error| io_error("read", target, error))?;
    if entries.next().is_some() {
        return Err(BpffsError::NotEmpty(target.to_owned()));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0700")).map_err(
        |error| match error {
            nix::errno::Errno::EPERM => BpffsError::NoPermission {
                what: format!("mount bpffs on {}", target.display()),
                needs: "CAP_SYS_ADMIN",
            },
            nix::errno::Errno::ENODEV => BpffsError::Io {
                what: "mount bpffs: this kernel has none (CONFIG_BPF_SYSCALL)".to_owned(),
                source: error.into(),
            },
            _ => io_error("mount bpffs on", target, error.into()),
        },
    )?;
    tracing::info!(path = %target.display(), "mounted bpffs, which was missing");
    Ok(())
}

/// The mount namespace that outlives this process, unless it is this process's own (or cannot be
/// found).
pub(crate) fn lasting_namespace() -> Option<File> {
    let own = namespace_of("self")?;
    let lasting = match namespace_of("1") {
        Some(first) => Some(first),
        None => oldest_ancestors_namespace(),
    }?;
    let same = |a: &File, b: &File| match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => true,
    };
    (!same(&own, &lasting)).then_some(lasting)
}

fn namespace_of(process: &str) -> Option<File> {
    File::open(format!("/proc/{process}/ns/mnt")).ok()
}

fn oldest_ancestors_namespace() -> Option<File> {
    let mut oldest = None;
    let mut process = "self".to_owned();
    for _ in 0..MAX_ANCESTORS {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok();
        let Some(parent) = status.as_deref().and_then(parent_in) else { break };
        let Some(namespace) = namespace_of(parent) else { break };
        oldest = Some(namespace);
        process = parent.to_owned();
    }
    oldest
}

/// The parent's process id in /proc/PID/status; `None` if it is out of sight.
fn parent_in(status: &str) -> Option<&str> {
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim();
    (parent != "0").then_some(parent)
}

/// Runs `work` on a thread that has entered the mount namespace.
fn in_mount_namespace<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<T> {
            // setns(2): a thread that shares its root and working directory can't change them.
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            Ok(work())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn io_error(what: &str, path: &Path, source: io::Error) -> BpffsError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => BpffsError::NoPermission {
            what: format!("{what} {}", path.display()),
            needs: "CAP_BPF, CAP_NET_ADMIN, and CAP_SYS_ADMIN or ownership of the directory",
        },
        _ => BpffsError::Io { what: format!("{what} {}", path.display()), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_name_has_no_dot_and_leads_back_to_its_interface() {
        for interface in ["eth0", "eth0.100", "a%b", "a%2eb", "bond0.4094"] {
            let name = pin_name("link_", interface);
            assert!(!name.contains('.'), "{name}");
            assert_eq!(interface_of("link_", &name).as_deref(), Some(interface));
        }
        assert_eq!(interface_of("link_", "VIPS"), None);
    }

    #[test]
    fn the_parent_is_read_from_status() {
        assert_eq!(parent_in("Name:\tx\nPPid:\t17\nTracerPid:\t0\n"), Some("17"));
        assert_eq!(parent_in("Name:\tx\nPPid:\t0\n"), None);
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn a_relative_pin_directory_is_refused() {
        assert!(matches!(PinDir::existing(Path::new("sys/fs/bpf")), Err(BpffsError::Relative(_))));
    }
}
