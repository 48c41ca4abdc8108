//! Passwords: read from a file when they are needed, and never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest password file, in bytes; Redis itself refuses ACL passwords beyond 512 MiB, and a file
/// this long is not a password file.
const MAX_BYTES: u64 = 4096;

/// A password. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a password file gave no password.
#[derive(Debug, thiserror::Error)]
#[error("password file {}: {reason}", path.display())]
pub struct SecretError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: SecretReason,
}

/// See [`SecretError`].
#[derive(Debug, thiserror::Error)]
pub enum SecretReason {
    /// It can't be read.
    #[error("{0}")]
    Io(io::Error),
    /// Its first line is empty.
    #[error("its first line is empty; write the password there")]
    Empty,
    /// It is longer than a password file can be.
    #[error("it is longer than {MAX_BYTES} bytes; is it the right file?")]
    TooLong,
    /// It is not text.
    #[error("it is not UTF-8 text; is it the right file?")]
    NotText,
}

impl Secret {
    /// The first line of `path`, without its line end. Spaces count.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let fail = |reason| SecretError { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| fail(SecretReason::Io(error)))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| fail(SecretReason::Io(error)))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(fail(SecretReason::TooLong));
        }
        let text = String::from_utf8(bytes).map_err(|_| fail(SecretReason::NotText))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(line.to_owned())),
            _ => Err(fail(SecretReason::Empty)),
        }
    }

    /// The password itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8]) -> Result<Secret, String> {
        let path = std::env::temp_dir().join(format!("vipd-secret-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("the temporary directory is writable");
        let secret = Secret::read(&path).map_err(|error| error.to_string());
        std::fs::remove_file(&path).expect("it was just written");
        secret
    }

    #[test]
    fn the_first_line_is_the_password() {
        for (name, content, password) in [
            ("plain", "hunter2", "hunter2"),
            ("newline", "hunter2\n", "hunter2"),
            ("crlf", "hunter2\r\nsecond", "hunter2"),
            ("spaces", " with spaces \n", " with spaces "),
        ] {
            assert_eq!(read(name, content.as_bytes()).unwrap().expose(), password, "{name}");
        }
    }

    #[test]
    fn a_file_without_a_password_says_why() {
        for (name, content, reason) in [
            ("empty", &b""[..], "first line is empty"),
            ("blank", b"\nhunter2", "first line is empty"),
            ("binary", b"\xff\xfe", "not UTF-8"),
            ("long", &[b'a'; 4097], "longer than 4096"),
        ] {
            let error = read(name, content).unwrap_err();
            assert!(error.contains(reason) && error.contains(name), "{error}");
        }
        let error = Secret::read(Path::new("/nonexistent/password")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/password: No such file"), "{error}");
    }

    #[test]
    fn it_is_never_shown() {
        let secret = Secret("hunter2".into());
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
    }
}
