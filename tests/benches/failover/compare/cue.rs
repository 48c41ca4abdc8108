//! The probe's trigger, which lets it and this program go on together: the command says that it is
//! time by one FIFO, and ends when it is told by another that it is done.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use vipd_tests::process::Process;
use vipd_tests::wait::{PATIENCE, wait_for};

/// The two FIFOs, open.
pub struct Cue {
    now: (PathBuf, File),
    done: (PathBuf, File),
}

impl Cue {
    /// Makes the FIFOs in `directory`.
    pub fn prepare(directory: &Path) -> Result<Self> {
        Ok(Self { now: fifo(directory.join("now"))?, done: fifo(directory.join("done"))? })
    }

    /// For `vipd probe --trigger`. It ends when this program does, too: then the FIFO has no writer.
    pub fn trigger(&self) -> String {
        let (now, done) = (self.now.0.display(), self.done.0.display());
        format!("echo >{now}; read -r _ <{done}")
    }

    /// Waits until the trigger is pulled, as long as `probe` runs.
    pub fn wait(&mut self, probe: &mut Process) -> Result<()> {
        wait_for("the probe's warm-up is over", PATIENCE, || {
            if let Err(ended) = probe.must_run() {
                return Ok(Some(Err(ended)));
            }
            match self.now.1.read(&mut [0]) {
                Ok(0) => bail!("the FIFO is closed"),
                Ok(_) => Ok(Some(Ok(()))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error).context("cannot read the FIFO"),
            }
        })?
    }

    /// Lets the trigger end.
    pub fn done(&mut self) -> Result<()> {
        self.done.1.write_all(b"\n").context("cannot write to the FIFO")
    }
}

/// Open for both directions, so that neither end waits for the other.
fn fifo(path: PathBuf) -> Result<(PathBuf, File)> {
    mkfifo(&path, Mode::S_IRWXU).with_context(|| format!("cannot make {}", path.display()))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok((path, file))
}
