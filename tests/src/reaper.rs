//! Removing what a lab left on the machine, however it ended.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::namespace::output;

/// First letters of every namespace and directory of every lab.
pub const PREFIX: &str = "vipdlab";

/// After the name of the lab's pin directory: that of the pins of the real servers' agents.
pub const AGENTS: &str = "-agents";

/// Reads its standard input until that is closed, which the kernel does too when the lab is
/// killed; then removes the namespaces and directories that start with its first argument.
const SCRIPT: &str = r#"
cat >/dev/null
for namespace in $(ip netns list | cut -d' ' -f1 | grep "^$1-"); do
    for pid in $(ip netns pids "$namespace"); do kill -9 "$pid" 2>/dev/null; done
    ip netns del "$namespace"
done
for directory in "$2" "$3" "$3$4"; do
    if [ -e "$directory" ]; then rm -rf "$directory"; fi
done
"#;

/// The one way in which a lab is taken down: a process in a session of its own, so that neither
/// Ctrl-C nor a panic nor SIGKILL of the lab's process leaves anything behind.
#[derive(Debug)]
pub struct Reaper {
    shell: Child,
}

impl Reaper {
    /// Starts to watch over the lab `name`, before the lab makes anything.
    pub fn watch(name: &str, run_directory: &Path, pin_directory: &Path) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "reaper", name]).arg(run_directory).arg(pin_directory);
        command.arg(AGENTS);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let own_session = || nix::unistd::setsid().map(drop).map_err(Into::into);
        // SAFETY: setsid is a plain system call, allowed between fork and exec.
        unsafe { command.pre_exec(own_session) };
        let shell = command.spawn().context("cannot start sh, which takes the lab down")?;
        Ok(Self { shell })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        if let Err(error) = self.shell.wait() {
            eprintln!("lab: cannot wait for its removal: {error}");
        }
    }
}

/// Removes labs whose process and reaper were both killed. Those of living processes stay.
pub fn sweep() -> Result<()> {
    let listed = output(Command::new("ip").args(["netns", "list"]))?;
    for line in listed.lines() {
        let namespace = line.split_whitespace().next().unwrap_or_default();
        let owner = owner(namespace);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Its reaper may be at it right now.
            let _already_gone = output(Command::new("ip").args(["netns", "del", namespace]));
        }
    }
    Ok(())
}

/// The process that made a namespace: `vipdlab<pid>x<number>-<host>`.
fn owner(namespace: &str) -> Option<u32> {
    let (lab, _host) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    let (pid, _number) = lab.split_once('x')?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_labs_own_namespaces_have_an_owner() {
        assert_eq!(owner("vipdlab4711x2-redis1"), Some(4711));
        assert_eq!(owner("vipdlab4711-redis1"), None);
        assert_eq!(owner("production"), None);
    }
}
