//! Files that are written at the end, and that must be known to be writable at the beginning.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A file that appears under its name when it is complete, and not before. Dropped, it leaves
/// nothing. What is no plain file (`/dev/stderr`, a pipe) is written to as it is.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    /// What it is called until then.
    part: Option<PathBuf>,
    file: File,
}

impl Output {
    /// Makes sure that `path` can be written.
    pub fn prepare(path: &Path) -> Result<Self> {
        let cannot =
            || format!("cannot write {}: its directory must exist and be writable", path.display());
        anyhow::ensure!(!path.is_dir(), "{} is a directory", path.display());
        if path.exists() && !path.is_file() {
            let file = OpenOptions::new().write(true).open(path).with_context(cannot)?;
            return Ok(Self { path: path.to_owned(), part: None, file });
        }
        // Behind a link is the file that is meant.
        let path = if path.exists() { fs::canonicalize(path)? } else { path.to_owned() };
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::create_new(&part).with_context(cannot)?;
        Ok(Self { path, part: Some(part), file })
    }

    /// For somebody who writes it piece by piece.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Writes `text`, and see [`Self::finish`].
    pub fn write(mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.finish()
    }

    /// Gives it its name.
    pub fn finish(self) -> Result<()> {
        match &self.part {
            Some(part) => fs::rename(part, &self.path)
                .with_context(|| format!("cannot write {}", self.path.display())),
            None => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // Once it has its name, there is nothing to remove.
            let _ = fs::remove_file(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = std::env::temp_dir().join(format!("vipd-output-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("report.json");
        drop(Output::prepare(&path).unwrap());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        Output::prepare(&path).unwrap().write("{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        let link = directory.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Output::prepare(&link).unwrap().write("[]").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]");
        assert!(link.is_symlink());
        let twice = Output::prepare(&path).unwrap();
        assert!(Output::prepare(&path).is_err(), "two reports can't have one name");
        drop(twice);
        for (path, reason) in [
            (directory.join("none").join("x"), "its directory must exist"),
            (directory.clone(), "is a directory"),
        ] {
            let error = format!("{:#}", Output::prepare(&path).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_device_stays_one() {
        use std::os::unix::fs::FileTypeExt as _;
        Output::prepare(Path::new("/dev/null")).unwrap().write("x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
