//! Kernel parameters that a held VIP needs, put back when it goes.
//!
//! `arp_announce = 2` (Documentation/networking/ip-sysctl.rst): whichever address a packet leaves
//! from, the ARP request for its next hop names an address of the interface's own network as its
//! sender. With the default of 0 a host that answers a client from the VIP would, by asking for the
//! client's link-layer address, tell it that the VIP is here: in mode `real` that is never true.
//!
//! What was there before is written to a file first, so that the vipd after a crash, or `vipd
//! detach`, can put it back. A parameter that somebody else has changed meanwhile is left alone.
//!
//! /proc/sys/net shows the parameters of the reading thread's network namespace: it is right under
//! `ip netns exec` too, which replaces /sys only.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::host_address::Interface;
use crate::record;

/// What [`Sysctls::quiet_arp`] sets …
const PARAMETER: &str = "arp_announce";
/// … and to what.
const ARP_ANNOUNCE: &str = "2";

/// A parameter that vipd has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// The interface it belongs to, which may have been renamed since.
    pub ifindex: u32,
    /// Its last component, such as `arp_announce`.
    pub parameter: String,
    /// What it was.
    pub before: String,
    /// What vipd has made it.
    pub now: String,
}

/// In the words of `sysctl`: `net.ipv4.conf.eth1.arp_announce = 2 (was 0)`.
impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ifindex, parameter, before, now } = self;
        write!(f, "net.ipv4.conf.{}.{parameter} = {now} (was {before})", Interface(*ifindex))
    }
}

/// Why a parameter could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// A parameter can't be read or written.
    #[error("cannot {what} {path}{hint}")]
    Parameter {
        /// `read`, `write`.
        what: &'static str,
        /// Which.
        path: String,
        /// What to do, where that is known.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The record of what was there before can't be kept, so nothing was changed.
    #[error("cannot keep the record of changed kernel parameters in {path}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The parameters that vipd has changed.
#[derive(Debug)]
pub struct Sysctls {
    record: PathBuf,
    /// By interface index.
    changed: BTreeMap<u32, Changed>,
}

impl Sysctls {
    /// Takes over what an earlier vipd has changed and noted in the file `record`, of interfaces
    /// that are still there. A record that can't be read is told and started anew.
    pub fn open(record: impl Into<PathBuf>) -> Self {
        let record = record.into();
        let changed = match record::read(&record) {
            Ok(changed) => changed,
            Err(error) => {
                warn!(record = %record.display(), %error, "what an earlier vipd has changed is \
                      not known");
                Vec::new()
            }
        };
        let present = changed
            .into_iter()
            .filter(|it: &Changed| it.parameter == PARAMETER && directory(it.ifindex).is_ok());
        Self { record, changed: present.map(|it| (it.ifindex, it)).collect() }
    }

    /// What is changed now.
    pub fn changed(&self) -> impl Iterator<Item = &Changed> {
        self.changed.values()
    }

    /// Sets `arp_announce = 2` on the interface `ifindex`; whether that was a change. Where the
    /// value for all interfaces is 2 already it is in force, and nothing is touched.
    ///
    /// # Errors
    ///
    /// The interface is gone, /proc/sys is read-only, or the record can't be written.
    pub fn quiet_arp(&mut self, ifindex: u32) -> Result<bool, SysctlError> {
        let path = parameter(ifindex, PARAMETER)?;
        let present = read(&path)?;
        let for_all = read(Path::new("/proc/sys/net/ipv4/conf/all/arp_announce"))?;
        // The larger of the two is in force.
        if present == ARP_ANNOUNCE || for_all == ARP_ANNOUNCE {
            return Ok(false);
        }
        let changed = Changed {
            ifindex,
            parameter: PARAMETER.to_owned(),
            before: present,
            now: ARP_ANNOUNCE.to_owned(),
        };
        self.changed.insert(ifindex, changed);
        let done = self.keep_record().and_then(|()| write(&path, ARP_ANNOUNCE));
        if done.is_err() {
            self.changed.remove(&ifindex);
        }
        done.map(|()| true)
    }

    /// Puts back what was changed on the interface `ifindex`, unless somebody has changed it since;
    /// whether anything was put back.
    ///
    /// # Errors
    ///
    /// As for [`Self::quiet_arp`]; an interface that is gone is no error.
    pub fn restore(&mut self, ifindex: u32) -> Result<bool, SysctlError> {
        let Some(changed) = self.changed.get(&ifindex) else { return Ok(false) };
        let restored = match parameter(ifindex, PARAMETER) {
            Ok(path) if read(&path)? == changed.now => {
                write(&path, &changed.before)?;
                true
            }
            Ok(_) | Err(_) => false,
        };
        self.changed.remove(&ifindex);
        self.keep_record()?;
        Ok(restored)
    }

    /// [`Self::restore`] for every interface; the first error, after all were tried.
    ///
    /// # Errors
    ///
    /// As for [`Self::restore`].
    pub fn restore_all(&mut self) -> Result<(), SysctlError> {
        let all: Vec<u32> = self.changed.keys().copied().collect();
        all.into_iter().map(|ifindex| self.restore(ifindex).map(drop)).fold(Ok(()), Result::and)
    }

    fn keep_record(&self) -> Result<(), SysctlError> {
        record::keep(&self.record, self.changed.values())
            .map_err(|source| SysctlError::Record { path: self.record.clone(), source })
    }
}

/// Where an interface's parameters are, under the name it has now.
fn directory(ifindex: u32) -> Result<PathBuf, SysctlError> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{}", Interface(ifindex)));
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => Err(failed("read", &path, io::Error::from(ErrorKind::NotFound))),
        Err(error) => Err(failed("read", &path, error)),
    }
}

fn parameter(ifindex: u32, name: &str) -> Result<PathBuf, SysctlError> {
    directory(ifindex).map(|directory| directory.join(name))
}

fn read(path: &Path) -> Result<String, SysctlError> {
    let text = fs::read_to_string(path).map_err(|error| failed("read", path, error))?;
    Ok(text.trim().to_owned())
}

fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    fs::write(path, value).map_err(|error| failed("write", path, error))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> SysctlError {
    let hint = match source.raw_os_error() {
        Some(libc::EROFS) => "; /proc/sys is mounted read-only: set it to 2 where it is not",
        Some(libc::EACCES | libc::EPERM) => "; it takes root",
        _ => "",
    };
    SysctlError::Parameter { what, path: path.display().to_string(), hint, source }
}
