//! From TOML text to a [`Config`], with errors that say where.

use std::io;
use std::path::{Path, PathBuf};

use super::Config;
use super::validate::Problem;

/// Largest configuration file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is not TOML, has an unknown key or a value of the wrong kind.
    #[error("{}, line {line}, column {column}: {}{message}", path.display(), in_key(key))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The key that the line is about, with its table, if there is one.
        key: Option<String>,
        /// What is wrong, and what to do.
        message: String,
    },
    /// Each value is well formed, but they make no sense together.
    #[error("{origin} can't be used:{}", list(problems))]
    Invalid {
        /// The file's path, or `the command line`.
        origin: String,
        /// Everything that is wrong, in order of appearance.
        problems: Vec<Problem>,
    },
    /// The flags do not make a configuration.
    #[error("{0}")]
    Flags(String),
}

impl Config {
    /// Reads and validates a TOML file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(read)?.len();
        if size > MAX_BYTES {
            return Err(read(io::Error::other(format!("it is larger than {MAX_BYTES} bytes"))));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let config = Self::parse(&text, path)?;
        config.checked(&path.display().to_string())
    }

    /// Parses TOML without validating it; `path` is for errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| syntax_error(&error, text, path))
    }

    /// Itself, if [`Config::validate`] finds nothing wrong; `origin` is for the error.
    pub(super) fn checked(self, origin: &str) -> Result<Self, Error> {
        let problems = self.validate();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(Error::Invalid { origin: origin.to_owned(), problems })
        }
    }
}

/// toml's own rendering quotes the source line, which may hold a password that somebody wrote
/// where it does not belong: only the place, the key and the message are kept.
fn syntax_error(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let offset = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let message = error.message();
    Error::Syntax {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        key: key_of(line).map(|key| match table_of(&before[..line_start]) {
            Some(table) => format!("{table} {key}"),
            None => key.to_owned(),
        }),
        message: match hint(message) {
            Some(hint) => format!("{}; {hint}", message.trim_end()),
            None => message.trim_end().to_owned(),
        },
    }
}

/// The key of a `key = value` line.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.\"".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_bare)).then_some(key)
}

/// The header of the table that the text ends in, such as `[daemon]` or `[[vip]]`.
fn table_of(before: &str) -> Option<&str> {
    before.lines().rev().map(str::trim).find(|line| line.starts_with('[') && line.ends_with(']'))
}

/// What to do about an unknown key.
fn hint(message: &str) -> Option<&'static str> {
    let key = message.strip_prefix("unknown field `")?.split('`').next()?;
    match key {
        "password" => Some("a password is read from a file: write its path as `password_file`"),
        "user" => Some("write `username`"),
        "interface" => Some("write `interfaces = [\"…\"]`"),
        "vips" => Some("each VIP is a table `[[vip]]`"),
        "services" => Some("each service is a table `[[vip.service]]`"),
        _ => None,
    }
}

fn in_key(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default()
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
