//! bpffs, what is pinned there, and whether a vipd runs.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use vipd_common::maps::LAYOUT;

use super::report::Finding;
use crate::bpffs;
use crate::config::Config;
use crate::control::{self, Request, Response};
use crate::datapath::{self, DatapathError, Inspection, OpenSettings, PinnedInterface};
use crate::status::Status;

/// Where a start mounts bpffs for a pin directory below it.
const USUAL_MOUNT: &str = "/sys/fs/bpf";

/// Where a start finds the pin directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// On a bpffs that this process sees.
    Mounted,
    /// Nowhere yet: a start mounts bpffs.
    Missing,
    /// In the host's mount namespace; this process is in a private one.
    HostNamespace,
}

/// What was found.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Facts {
    pub(super) pin_dir: PathBuf,
    pub(super) place: Place,
    /// What else is where bpffs would be mounted.
    pub(super) in_the_way: bool,
    /// None if nothing is pinned; or why that can't be told.
    pub(super) pinned: Result<Option<Inspection>, String>,
    /// Why pinned maps can't be taken over.
    pub(super) unusable: Vec<String>,
    pub(super) socket: PathBuf,
    pub(super) control: Socket,
}

/// The control socket.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Socket {
    /// Free to be made, or left by a vipd that is gone.
    Free,
    /// A vipd answers.
    Answers(Box<Status>),
    /// Something else is there, or it can't be made; and why.
    Unusable(String),
}

/// A vipd that runs, as far as this configuration is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Running {
    Nobody,
    /// The one that a start with this configuration would replace.
    This(u32),
    /// It has the control socket, and another pin directory.
    OnSocket(u32),
    /// It has the pin directory, and another control socket.
    OnPins(u32),
}

impl Facts {
    pub(super) async fn gather(config: &Config) -> Self {
        let daemon = &config.daemon;
        let place = place(&daemon.pin_dir);
        let settings = OpenSettings::from(config);
        Self {
            pin_dir: daemon.pin_dir.clone(),
            place,
            in_the_way: place == Place::Missing && in_the_way(&daemon.pin_dir),
            pinned: datapath::inspect_pins(&daemon.pin_dir).map_err(super::chain),
            unusable: match datapath::unusable_pins(&settings) {
                Ok(differences) => differences.into_iter().map(super::chain).collect(),
                // `pinned` says the same.
                Err(_) => Vec::new(),
            },
            socket: daemon.control_socket.clone(),
            control: look_at_socket(&daemon.control_socket).await,
        }
    }

    /// The link that this configuration's vipd has pinned for an interface.
    pub(super) fn link(&self, interface: &str) -> Option<&PinnedInterface> {
        self.inspection()?.interfaces.iter().find(|link| link.name == interface)
    }

    /// What is pinned, if anything is.
    pub(super) fn inspection(&self) -> Option<&Inspection> {
        self.pinned.as_ref().ok()?.as_ref()
    }

    /// Process of the vipd that a start with this configuration would replace.
    pub(super) fn running(&self) -> Option<u32> {
        match self.who_runs() {
            Running::This(pid) => Some(pid),
            Running::Nobody | Running::OnSocket(_) | Running::OnPins(_) => None,
        }
    }

    fn who_runs(&self) -> Running {
        let holder = self.inspection().and_then(|pinned| pinned.holder);
        let Socket::Answers(status) = &self.control else {
            return holder.map_or(Running::Nobody, Running::OnPins);
        };
        let pid = status.pid.unwrap_or_default();
        // Who holds the lock is not visible from another PID namespace; whose program it is, is.
        let same_program = self.inspection().is_some_and(|pinned| {
            let ids = status.interfaces.iter().map(|interface| interface.program_id);
            ids.into_iter().any(|id| pinned.interfaces.iter().any(|link| link.program_id == id))
        });
        if holder == Some(pid) || (holder.is_none() && same_program) {
            Running::This(pid)
        } else {
            Running::OnSocket(pid)
        }
    }
}

/// Judges them.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    vec![directory(facts), pinned(facts), socket(facts)]
}

fn directory(facts: &Facts) -> Finding {
    let path = facts.pin_dir.display();
    let subject = "bpffs";
    // bpf_lookup() in kernel/bpf/inode.c.
    let dot = facts.pin_dir.iter().any(|name| name.to_string_lossy().contains('.'));
    match facts.place {
        _ if facts.in_the_way => Finding::fail(
            subject,
            format!("pin_dir {path} is not on bpffs, and its directory is not empty"),
        )
        .advise(format!("choose a pin_dir below {USUAL_MOUNT}")),
        _ if dot && !facts.pin_dir.exists() => {
            Finding::fail(subject, format!("pin_dir {path}: bpffs allows no dot in names"))
        }
        Place::Mounted => Finding::ok(subject, format!("mounted, pin directory {path}")),
        Place::Missing => Finding::ok(subject, format!("`vipd run` will mount it for {path}")),
        Place::HostNamespace => Finding::ok(
            subject,
            format!("pin directory {path} in the host's mount namespace; this one is private"),
        ),
    }
}

fn pinned(facts: &Facts) -> Finding {
    let subject = "pinned";
    let path = facts.pin_dir.display();
    let found = match &facts.pinned {
        Err(why) => return Finding::fail(subject, why.as_str()),
        Ok(None) => return Finding::ok(subject, "nothing: a fresh start"),
        Ok(Some(found)) => found,
    };
    let others: Vec<String> =
        found.layouts.iter().filter(|name| **name != format!("v{LAYOUT}")).cloned().collect();
    if !others.is_empty() {
        let pin_dir = facts.pin_dir.clone();
        let error = DatapathError::OtherLayout { pin_dir, found: others, ours: LAYOUT };
        return Finding::fail(subject, error.to_string());
    }
    if !facts.unusable.is_empty() {
        return Finding::fail(subject, facts.unusable.join("\n"));
    }
    let names: Vec<_> = found.interfaces.iter().map(|link| link.name.as_str()).collect();
    let on = if names.is_empty() { "no interface".to_owned() } else { names.join(", ") };
    match facts.who_runs() {
        Running::This(pid) => {
            Finding::ok(subject, format!("by the running vipd (pid {pid}) on {on}"))
        }
        Running::OnPins(pid) => Finding::fail(
            subject,
            format!(
                "another vipd (pid {pid}) uses {path}, and does not answer on {}",
                facts.socket.display()
            ),
        )
        .advise("stop that one, or choose another pin_dir"),
        Running::Nobody | Running::OnSocket(_) => Finding::ok(
            subject,
            format!(
                "the program of an earlier vipd on {on}, with {} maps: `vipd run` takes them over",
                found.maps.len()
            ),
        ),
    }
}

fn socket(facts: &Facts) -> Finding {
    let subject = "control socket";
    let path = facts.socket.display();
    match (&facts.control, facts.who_runs()) {
        (Socket::Unusable(why), _) => {
            Finding::fail(subject, format!("{path}: {why}")).advise("choose another control_socket")
        }
        (_, Running::This(pid)) => {
            Finding::ok(subject, format!("vipd (pid {pid}) answers on {path}"))
        }
        (_, Running::OnSocket(pid)) => {
            Finding::fail(subject, format!("another vipd (pid {pid}) answers on {path}"))
                .advise("stop that one, or choose another control_socket")
        }
        (Socket::Free | Socket::Answers(_), Running::Nobody | Running::OnPins(_)) => {
            Finding::ok(subject, format!("{path} is free"))
        }
    }
}

fn place(pin_dir: &Path) -> Place {
    let mounted = existing(pin_dir)
        .and_then(|directory| statfs(directory).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    match mounted {
        true => Place::Mounted,
        false if bpffs::lasting_namespace().is_some() => Place::HostNamespace,
        false => Place::Missing,
    }
}

/// Whether the directory that bpffs would be mounted on has something in it.
fn in_the_way(pin_dir: &Path) -> bool {
    let usual = Path::new(USUAL_MOUNT);
    let target = if pin_dir.starts_with(usual) { Some(usual) } else { pin_dir.parent() };
    target.and_then(|it| fs::read_dir(it).ok()).is_some_and(|mut entries| entries.next().is_some())
}

/// The path itself or the nearest directory above it that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|directory| directory.exists())
}

async fn look_at_socket(path: &Path) -> Socket {
    match control::ask(path, Request::Status).await {
        Ok(Response::Status(status)) => return Socket::Answers(status),
        Ok(Response::Error(error)) => return Socket::Unusable(format!("vipd answers: {error}")),
        Ok(Response::Done | Response::Unknown(_) | Response::Step(_) | Response::Switched(_)) => {
            return Socket::Unusable("another version of vipd answers there".to_owned());
        }
        Err(control::Error::NotRunning { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            return Socket::Unusable("no permission to use it; run this as root".to_owned());
        }
        Err(control::Error::NotRunning { .. }) => {}
        Err(error) => return Socket::Unusable(error.to_string()),
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Socket::Unusable(
                "something that is not a socket is there; choose another".to_owned(),
            );
        }
        _ => {}
    }
    let Some(directory) = path.parent().and_then(existing) else { return Socket::Free };
    match access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if directory.is_dir() => Socket::Free,
        Ok(()) => Socket::Unusable(format!("{} is not a directory", directory.display())),
        Err(error) => {
            Socket::Unusable(format!("cannot make it in {}: {}", directory.display(), error.desc()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Severity;
    use super::*;
    use crate::status;

    fn facts() -> Facts {
        Facts {
            pin_dir: "/sys/fs/bpf/vipd".into(),
            place: Place::Mounted,
            in_the_way: false,
            pinned: Ok(None),
            unusable: Vec::new(),
            socket: "/run/vipd/vipd.sock".into(),
            control: Socket::Free,
        }
    }

    fn pinned_by(holder: Option<u32>) -> Inspection {
        let link =
            PinnedInterface { name: "eth0".to_owned(), ifindex: 2, xdp_mode: None, program_id: 77 };
        Inspection {
            layouts: vec![format!("v{LAYOUT}")],
            holder,
            interfaces: vec![link],
            ..Inspection::default()
        }
    }

    fn answers(pid: u32, program_id: u32) -> Socket {
        let interface = status::Interface {
            name: "eth0".to_owned(),
            xdp_mode: "native".to_owned(),
            program_id,
        };
        Socket::Answers(Box::new(Status {
            version: String::new(),
            pid: Some(pid),
            interfaces: vec![interface],
            services: Vec::new(),
            failovers: Vec::new(),
            counters: Default::default(),
            sentinels: Vec::new(),
            nodes: Vec::new(),
            problems: Vec::new(),
            host: Vec::new(),
        }))
    }

    #[test]
    fn whose_vipd_runs_is_told_apart() {
        for (holder, control, running, failing) in [
            (None, Socket::Free, Running::Nobody, None),
            (Some(5), answers(5, 77), Running::This(5), None),
            (None, answers(5, 77), Running::This(5), None),
            (None, answers(5, 78), Running::OnSocket(5), Some("control socket")),
            (Some(6), answers(5, 77), Running::OnSocket(5), Some("control socket")),
            (Some(6), Socket::Free, Running::OnPins(6), Some("pinned")),
        ] {
            let facts = Facts { pinned: Ok(Some(pinned_by(holder))), control, ..facts() };
            assert_eq!(facts.who_runs(), running);
            assert_eq!(failing_subjects(&facts), Vec::from_iter(failing), "{running:?}");
        }
        let elsewhere = Facts { control: answers(5, 77), ..facts() };
        assert_eq!(elsewhere.who_runs(), Running::OnSocket(5));
    }

    #[test]
    fn what_keeps_a_start_from_its_pins_fails() {
        let other = Inspection { layouts: vec!["v0".to_owned()], ..Inspection::default() };
        let small = "pinned map FLOWS has max_entries 8".to_owned();
        for (facts, failing, text) in [
            (Facts { pinned: Err("no permission".to_owned()), ..facts() }, "pinned", "permission"),
            (Facts { pinned: Ok(Some(other)), ..facts() }, "pinned", "another version of vipd (v0"),
            (
                Facts { pinned: Ok(Some(pinned_by(None))), unusable: vec![small], ..facts() },
                "pinned",
                "FLOWS has max_entries 8",
            ),
            (Facts { in_the_way: true, place: Place::Missing, ..facts() }, "bpffs", "not empty"),
            (Facts { pin_dir: "/sys/fs/bpf/a.b".into(), ..facts() }, "bpffs", "no dot in names"),
            (
                Facts { control: Socket::Unusable("not a socket".to_owned()), ..facts() },
                "control socket",
                "not a socket",
            ),
        ] {
            assert_eq!(failing_subjects(&facts), [failing], "{text}");
            let found = judge(&facts);
            assert!(found.iter().any(|it| it.text.contains(text)), "{text}: {found:?}");
        }
        assert!(failing_subjects(&facts()).is_empty());
    }

    fn failing_subjects(facts: &Facts) -> Vec<String> {
        let failed = judge(facts).into_iter().filter(|it| it.severity == Severity::Fail);
        failed.map(|it| it.subject).collect()
    }

    #[tokio::test]
    async fn a_file_where_the_socket_should_be_is_noticed_and_left() {
        let path = std::env::temp_dir().join(format!("vipd-check-{}", std::process::id()));
        assert_eq!(look_at_socket(&path).await, Socket::Free);
        fs::write(&path, "precious").unwrap();
        let found = look_at_socket(&path).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        assert!(matches!(found, Socket::Unusable(_)), "{found:?}");
    }
}
