//! A lab that outlives the command that built it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vipd_tests::wait::{PATIENCE, wait_until};
use vipd_tests::{Lab, Mode};

use crate::Shape;

/// Holds the process id of the lab's keeper and the lab's name.
const STATE_FILE: &str = "/run/vipd-lab";
/// The last line that the keeper prints.
const READY: &str = "ready";

/// Starts a keeper in the background, waits until the lab stands, and prints how to enter it.
pub fn up(shape: Shape) -> Result<()> {
    if let Some(keeper) = Keeper::present() {
        bail!("lab {} is standing already: remove it with `cargo xtask lab down`", keeper.lab);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hold").args(shape.arguments()).stdin(Stdio::null()).stdout(Stdio::piped());
    command.process_group(0);
    let mut keeper = command.spawn().context("cannot start the lab's keeper")?;
    let output = keeper.stdout.take().context("the keeper has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == READY {
            return Ok(());
        }
        println!("{line}");
    }
    bail!("the lab could not be built ({})", keeper.wait()?)
}

/// Ends the keeper, and waits until its lab is gone.
pub fn down() -> Result<()> {
    let Some(keeper) = Keeper::present() else {
        println!("no lab is standing");
        return Ok(());
    };
    kill(keeper.pid, Signal::SIGTERM).context("cannot end the lab's keeper")?;
    wait_until("the lab is gone", PATIENCE, || {
        let switch = Path::new("/run/netns").join(format!("{}-switch", keeper.lab));
        let directory = std::env::temp_dir().join(&keeper.lab);
        Ok(!switch.exists() && !directory.exists())
    })?;
    fs::remove_file(STATE_FILE).with_context(|| format!("cannot remove {STATE_FILE}"))?;
    println!("lab {} is removed", keeper.lab);
    Ok(())
}

/// Builds the lab and keeps it until this process is ended by a signal: the lab's reaper does the
/// rest.
pub fn hold(shape: Shape) -> Result<()> {
    let mut lab = Lab::up(shape.options())?;
    lab.serve()?;
    let state = format!("{} {}\n", std::process::id(), lab.name());
    fs::write(STATE_FILE, state).with_context(|| format!("cannot write {STATE_FILE}"))?;
    let mut output = std::io::stdout();
    writeln!(output, "{}\n{READY}", directions(&lab))?;
    loop {
        // Returns for no reason at times, and otherwise when a signal's handler ran: there is none.
        nix::unistd::pause();
    }
}

fn directions(lab: &Lab) -> String {
    let (name, service) = (lab.name(), lab.service());
    let hosts = match lab.options().mode {
        Mode::Host => "switch, client, redis1, redis2, redis3",
        Mode::Nat | Mode::Dsr => "switch, client, director, redis1, redis2, redis3",
    };
    let daemons = lab.daemons.iter().map(|daemon| {
        format!(
            "  vipd:            vipd status --config {}\n  its log:         {}\n",
            daemon.config().display(),
            daemon.log().display()
        )
    });
    format!(
        "lab {name} is standing. Its hosts are namespaces called {name}-HOST: {hosts}.\n\n  \
         as a client:     ip netns exec {name}-client redis-cli -h {} -p {}\n  \
         a Sentinel:      ip netns exec {name}-redis1 redis-cli -p 26379 sentinel master mymaster\n  \
         planned switch:  ip netns exec {name}-redis1 redis-cli -p 26379 sentinel failover mymaster\n  \
         packets:         ip netns exec {name}-client tcpdump -ni eth0\n  \
         remove it:       cargo xtask lab down\n{}",
        service.ip(),
        service.port(),
        daemons.collect::<String>(),
    )
}

/// The background process that keeps a lab.
struct Keeper {
    pid: Pid,
    lab: String,
}

impl Keeper {
    /// The one that the state file names, if it is alive.
    fn present() -> Option<Self> {
        let state = fs::read_to_string(STATE_FILE).ok()?;
        let (pid, lab) = state.trim().split_once(' ')?;
        let this = fs::read_link("/proc/self/exe").ok()?;
        let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        // It may have been rebuilt since, which Linux shows as "… (deleted)".
        let same = executable
            .file_name()?
            .to_string_lossy()
            .starts_with(&*this.file_name()?.to_string_lossy());
        same.then(|| Self { pid: Pid::from_raw(pid.parse().unwrap_or(0)), lab: lab.to_owned() })
            .filter(|keeper| keeper.pid.as_raw() > 1)
    }
}
