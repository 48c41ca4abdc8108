//! What vipd must put back even after a crash, on disk: a line of JSON for each.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file that is longer is none of ours.
const MAX_BYTES: u64 = 64 * 1024;

/// What was kept; nothing where there is no file.
///
/// # Errors
///
/// It can't be read, or is no such record.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(io::Error::new(ErrorKind::InvalidData, "too long"));
        }
        Ok(_) => {}
    }
    let text = fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

/// Keeps these instead of what was there, whole or not at all; no file where there are none.
///
/// # Errors
///
/// It can't be written; then what was there still is.
pub fn keep<'a, T: Serialize + 'a>(
    path: &Path,
    entries: impl Iterator<Item = &'a T>,
) -> io::Result<()> {
    let lines: Vec<String> = entries.map(serde_json::to_string).collect::<Result<_, _>>()?;
    if lines.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, lines.join("\n") + "\n")?;
    fs::rename(&new, path)
}
