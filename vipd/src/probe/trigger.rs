//! Commands of the user's: `--trigger` and `--restore`.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Exit status 0.
    pub succeeded: bool,
    /// In words, with the end of what it said on standard error if it failed.
    pub how: String,
}

/// Tells a command which run it is in.
const NUMBER: &str = "VIPD_PROBE_RUN";
/// What is kept of what a command says.
const SAID: usize = 2000;

/// Runs `command` by sh. After `limit` it is killed, with everything that it started; and so it is if
/// nobody waits for it any more.
pub async fn run(command: &str, number: u32, limit: Duration) -> Ended {
    let failed = |how: String| Ended { succeeded: false, how };
    let mut sh = Command::new("sh");
    sh.args(["-c", command]).env(NUMBER, number.to_string());
    sh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A group of its own: it ends as a whole, and Ctrl-C is for the probe.
    sh.process_group(0).kill_on_drop(true);
    let mut child = match sh.spawn() {
        Ok(child) => child,
        Err(error) => return failed(format!("sh can't be started: {error}")),
    };
    // Dropped before the child, as long as its number is its own.
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let mut said = child.stderr.take();
    let both = async {
        // What it leaves running in the background may keep its standard error.
        let listen = async {
            let mut tail = Vec::new();
            let mut chunk = [0; 512];
            while let Some(said) = &mut said
                && let Ok(count @ 1..) = said.read(&mut chunk).await
            {
                tail.extend_from_slice(&chunk[..count]);
                tail.drain(..tail.len().saturating_sub(SAID));
            }
            tail
        };
        let mut listening = std::pin::pin!(listen);
        let mut tail = None;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                all = &mut listening, if tail.is_none() => tail = Some(all),
            }
        };
        // What it leaves in the background is to stay.
        group.0 = None;
        let tail = match tail {
            Some(tail) => tail,
            None => timeout(Duration::from_millis(100), listening).await.unwrap_or_default(),
        };
        (status, tail)
    };
    let Ok((status, tail)) = timeout(limit, both).await else {
        return failed(format!("killed, since it had not ended after {limit:?}"));
    };
    match status {
        Ok(status) if status.success() => {
            Ended { succeeded: true, how: "exit status 0".to_owned() }
        }
        Ok(status) => {
            let tail = String::from_utf8_lossy(&tail);
            let tail = tail.trim();
            failed(if tail.is_empty() { status.to_string() } else { format!("{status}: {tail}") })
        }
        Err(error) => failed(error.to_string()),
    }
}

/// The processes of a command that has not ended; dropping this kills them.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Monotonic;

    #[tokio::test]
    async fn a_command_tells_how_it_ended() {
        let limit = Duration::from_secs(10);
        assert!(run("test $VIPD_PROBE_RUN = 7", 7, limit).await.succeeded);
        let failed = run("echo no such host >&2; exit 3", 1, limit).await;
        assert!(!failed.succeeded && failed.how.contains("no such host"), "{failed:?}");
        assert!(failed.how.contains('3'), "{failed:?}");
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_killed() {
        let begun = Monotonic::now();
        let ended = run("sleep 60 & sleep 60", 1, Duration::from_millis(100)).await;
        assert!(!ended.succeeded && ended.how.starts_with("killed"), "{ended:?}");
        assert!(Monotonic::now().since(begun) < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_is_not_waited_for() {
        let begun = Monotonic::now();
        let ended = run("sleep 20 & exit 0", 1, Duration::from_secs(15)).await;
        assert!(ended.succeeded, "{ended:?}");
        assert!(Monotonic::now().since(begun) < Duration::from_secs(10));
    }
}
