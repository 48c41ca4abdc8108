//! What went wrong with a client, in a word that is counted by.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use crate::connect::{Error, Phase};
use crate::probe::shots::Fate;

/// Longest first word of an error reply that is taken for its kind; Redis's are shorter.
const LONGEST_CODE: usize = 24;
/// Longest error reply that is told, in characters.
const LONGEST: usize = 200;

/// Kinds that are not a node's own word.
const OF_CONNECTIONS: [&str; 9] = [
    "refused",
    "reset",
    "closed",
    "timeout",
    "unreachable",
    "unresolved",
    "tls",
    "protocol",
    "no sentinel",
];

/// Why a client did not get what it wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// `refused`, `reset`, `closed`, `timeout`, `unreachable`, `tls`, `protocol`, or the first word of
    /// Redis's own error in lower case (`readonly`, `noauth`, `noperm`, `loading`, …). A connection
    /// that is reset before its login is over is `closed`.
    pub(super) kind: Cow<'static, str>,
    /// Whether somebody said no, or nobody anything.
    pub(super) fate: Fate,
    /// For people. Reads on after "198.18.0.250:6379: ".
    pub(super) says: String,
}

impl Failure {
    /// Somebody said no.
    pub(super) fn refused(kind: &'static str, says: impl Into<String>) -> Self {
        Self { kind: kind.into(), fate: Fate::Refused, says: says.into() }
    }

    /// Nobody said anything.
    pub(super) fn timeout(during: Phase, after: Duration) -> Self {
        Error::Timeout { during, after }.into()
    }

    /// The end of the stream.
    pub(super) fn closed() -> Self {
        Error::Closed(Phase::Answer).into()
    }

    /// Something that Redis does not say.
    pub(super) fn protocol(what: &str) -> Self {
        Error::Protocol(what.to_owned()).into()
    }

    /// Of a connection that was open.
    pub(super) fn from_io(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionReset {
            return Self::refused("reset", "reset the connection");
        }
        Error::from_io(error, Phase::Answer).into()
    }

    /// The node itself has said no, on a connection that works.
    pub(super) fn is_reply(&self) -> bool {
        !OF_CONNECTIONS.contains(&&*self.kind)
    }

    /// An error reply, without its `-`.
    pub(super) fn from_server(line: &str) -> Self {
        // It is shown on a terminal.
        let line: String = line.chars().filter(|it| !it.is_control()).take(LONGEST).collect();
        let (code, detail) = line.split_once(' ').unwrap_or((&line, ""));
        Error::from_server(code, detail).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Resolve(_) => "unresolved",
            Error::Refused => "refused",
            Error::Unreachable(_) => "unreachable",
            Error::Timeout { .. } => "timeout",
            Error::Closed(_) => "closed",
            Error::Tls(_) => "tls",
            Error::NoAuth => "noauth",
            Error::WrongPassword => "wrongpass",
            Error::PasswordUnexpected => "password unexpected",
            Error::Password(_) => "password file",
            Error::NoPerm(_) => "noperm",
            Error::ProtectedMode => "protected mode",
            Error::TooManyClients => "maxclients",
            Error::Server(text) => return Self::of_server(text, &error),
            Error::Protocol(_) | Error::SameAs(_) => "protocol",
        };
        let fate = match &error {
            Error::Timeout { .. } => Fate::Silent,
            _ => Fate::Refused,
        };
        Self { kind: kind.into(), fate, says: error.to_string() }
    }
}

impl Failure {
    fn of_server(text: &str, error: &Error) -> Self {
        let code = text.split(' ').next().unwrap_or_default();
        let is_code = !code.is_empty()
            && code.len() <= LONGEST_CODE
            && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let kind = if is_code { code.to_ascii_lowercase().into() } else { "error".into() };
        Self { kind, fate: Fate::Refused, says: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_redis_is_counted_by_its_first_word() {
        for (line, kind) in [
            ("READONLY You can't write against a read only replica.", "readonly"),
            ("NOPERM this user has no permissions", "noperm"),
            ("NOREPLICAS Not enough good replicas to write.", "noreplicas"),
            ("ERR unknown command", "err"),
            ("what is this", "error"),
            ("\u{1b}[2JOOM command not allowed", "error"),
            ("", "error"),
        ] {
            let failure = Failure::from_server(line);
            assert_eq!((&*failure.kind, failure.fate), (kind, Fate::Refused), "{line}");
        }
    }

    #[test]
    fn errors_of_the_kernel_are_told_apart() {
        for (errno, kind) in [
            (libc::ECONNRESET, "reset"),
            (libc::EPIPE, "closed"),
            (libc::EHOSTUNREACH, "unreachable"),
        ] {
            assert_eq!(Failure::from_io(&io::Error::from_raw_os_error(errno)).kind, kind);
        }
        let silent = Failure::timeout(Phase::Answer, Duration::from_secs(1));
        assert_eq!((&*silent.kind, silent.fate), ("timeout", Fate::Silent));
    }
}
