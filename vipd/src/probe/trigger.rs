//! Commands of the user's: `--trigger` and `--restore`.

use std::future::Future;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{sleep, timeout};

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Exit status 0.
    pub succeeded: bool,
    /// In words, with the end of what it said on standard error if it failed.
    pub how: String,
}

impl Ended {
    /// Nothing had to be done.
    pub fn well() -> Self {
        Self { succeeded: true, how: "exit status 0".to_owned() }
    }
}

/// Tells a command which run it is in.
const NUMBER: &str = "VIPD_PROBE_RUN";
/// What is kept of what a command says.
const SAID: usize = 2000;
/// For ending, once it is asked to.
const GRACE: Duration = Duration::from_secs(2);
/// For what it said just before it ended.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Runs `command` by sh. After `limit`, or when `stop` says so, it is ended with everything that it
/// started: first asked (SIGTERM), so that it can put things right, and then killed.
pub async fn run(
    command: &str,
    number: u32,
    limit: Duration,
    stop: impl Future<Output = ()>,
) -> Ended {
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
    let said = child.stderr.take();
    let mut whole = std::pin::pin!(wait(&mut child, said));
    let why = tokio::select! {
        (status, tail) = &mut whole => {
            // What it leaves in the background is to stay.
            group.0 = None;
            return told(status, &tail);
        }
        () = sleep(limit) => format!("had not ended after {limit:?}"),
        () = stop => "the run was interrupted".to_owned(),
    };
    group.signal(Signal::SIGTERM);
    // Those that it started may take longer, or not listen: whoever is left is killed.
    let _ = timeout(GRACE, &mut whole).await;
    failed(format!("ended from outside: {why}"))
}

/// The processes of a command that has not ended; dropping this kills them.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = killpg(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Its exit status, and the end of what it says.
async fn wait(child: &mut Child, said: Option<ChildStderr>) -> (io::Result<ExitStatus>, Vec<u8>) {
    let mut said = said;
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
    let tail = match tail {
        Some(tail) => tail,
        None => timeout(LAST_WORDS, listening).await.unwrap_or_default(),
    };
    (status, tail)
}

fn told(status: io::Result<ExitStatus>, tail: &[u8]) -> Ended {
    let failed = |how: String| Ended { succeeded: false, how };
    match status {
        Ok(status) if status.success() => Ended::well(),
        Ok(status) => {
            let tail = String::from_utf8_lossy(tail);
            let tail = tail.trim();
            failed(if tail.is_empty() { status.to_string() } else { format!("{status}: {tail}") })
        }
        Err(error) => failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::clock::Monotonic;

    #[tokio::test]
    async fn a_command_tells_how_it_ended() {
        let limit = Duration::from_secs(10);
        assert!(run("test $VIPD_PROBE_RUN = 7", 7, limit, pending()).await.succeeded);
        let failed = run("echo no such host >&2; exit 3", 1, limit, pending()).await;
        assert!(!failed.succeeded && failed.how.contains("no such host"), "{failed:?}");
        assert!(failed.how.contains('3'), "{failed:?}");
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_killed() {
        let begun = Monotonic::now();
        let ended = run("sleep 60 & sleep 60", 1, Duration::from_millis(100), pending()).await;
        assert!(!ended.succeeded && ended.how.contains("had not ended"), "{ended:?}");
        assert!(Monotonic::now().since(begun) < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_command_that_is_stopped_may_put_things_right() {
        let file = std::env::temp_dir().join(format!("vipd-trigger-{}", std::process::id()));
        let path = file.display();
        let command = format!("trap 'echo right >{path}; exit' TERM; : >{path}; sleep 60 & wait");
        let begun = async {
            while !file.exists() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = run(&command, 1, Duration::from_secs(60), begun).await;
        assert!(!ended.succeeded && ended.how.contains("interrupted"), "{ended:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "right\n");
        std::fs::remove_file(&file).unwrap();
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_is_not_waited_for() {
        let begun = Monotonic::now();
        let ended = run("sleep 20 & exit 0", 1, Duration::from_secs(15), pending()).await;
        assert!(ended.succeeded, "{ended:?}");
        assert!(Monotonic::now().since(begun) < Duration::from_secs(10));
    }
}
