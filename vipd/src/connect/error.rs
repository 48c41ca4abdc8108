//! Why a connection can't be had, or was lost.

use std::fmt;
use std::io;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use crate::config::SecretError;

/// What a connection was busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Looking up the host name.
    Resolve,
    /// TCP's handshake.
    Connect,
    /// TLS's handshake.
    Tls,
    /// AUTH and a first PING.
    Login,
    /// A request.
    Answer,
}

/// Why a Sentinel or Redis node does not answer. Reads on after "198.18.0.101:26379: ".
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Its name has no address.
    #[error("the host name can't be resolved: {0}")]
    Resolve(String),
    /// Its host answers, but nothing listens on the port.
    #[error("connection refused: the host is up, but nothing listens on that port")]
    Refused,
    /// There is no way to the host.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Nothing came in time.
    #[error("no answer within {} ms {during}{hint}", after.as_millis(), hint = timeout_hint(*during))]
    Timeout {
        /// What was waited for.
        during: Phase,
        /// How long.
        after: Duration,
    },
    /// It closed the connection.
    #[error("closed the connection {0}{hint}", hint = closed_hint(*.0))]
    Closed(Phase),
    /// TLS failed: its certificate, ours, or it doesn't speak TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// It wants a password, and none is configured.
    #[error("wants a password: set `password_file`")]
    NoAuth,
    /// It doesn't accept the password or the user.
    #[error("wrong password or user name: check `username` and `password_file`")]
    WrongPassword,
    /// It has no password, but one is configured.
    #[error("has no password, but `password_file` is set: remove it, or set one there too")]
    PasswordUnexpected,
    /// The password file can't be read any more.
    #[error("{0}")]
    Password(String),
    /// The ACL user may not do what vipd needs.
    #[error("the user lacks a permission: {0}")]
    NoPerm(String),
    /// It is in protected mode: no password, and only loopback is served.
    #[error("is in protected mode: set a password or `bind` there, or `protected-mode no`")]
    ProtectedMode,
    /// It has no room for another client.
    #[error("has too many clients: raise `maxclients` there")]
    TooManyClients,
    /// Another error of the server, as it says it.
    #[error("answers an error: {0}")]
    Server(String),
    /// What it says is not what a Sentinel or Redis says.
    #[error("does not speak as expected: {0}; is it the right port?")]
    Protocol(String),
    /// It is a Sentinel that is followed already, by another name.
    #[error("is the same Sentinel as {0}, and can't be counted twice: remove one of them")]
    SameAs(String),
}

/// What is wrong with the files that a login needs.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The password file.
    #[error(transparent)]
    Password(#[from] SecretError),
    /// A TLS file or name.
    #[error("TLS {what}: {reason}")]
    Tls {
        /// The key of the configuration, and its value.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// From a system call, or from rustls through tokio-rustls.
    pub(crate) fn from_io(error: &io::Error, during: Phase) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(match tls {
                rustls::Error::InvalidMessage(_) => {
                    format!("{tls}; the server may not speak TLS on that port")
                }
                _ => tls.to_string(),
            });
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Closed(during),
            io::ErrorKind::TimedOut => {
                // The kernel's own: ETIMEDOUT by keepalive or TCP_USER_TIMEOUT.
                Self::Unreachable("the kernel gave up on the connection".into())
            }
            _ => Self::Unreachable(error.to_string()),
        }
    }

    /// From redis-rs; `deadline` is the one that a timeout would have hit.
    pub(crate) fn from_redis(error: &RedisError, during: Phase, deadline: Duration) -> Self {
        if error.is_timeout() {
            return Self::Timeout { during, after: deadline };
        }
        match (error.kind(), error.code()) {
            (ErrorKind::Io, _) => Self::Closed(during),
            (_, Some(code)) => Self::from_server(code, error.detail().unwrap_or_default()),
            _ => Self::Protocol(error.to_string()),
        }
    }

    /// From an error reply: its first word, and the rest.
    pub(crate) fn from_server(code: &str, detail: &str) -> Self {
        match code {
            "NOAUTH" => Self::NoAuth,
            "WRONGPASS" => Self::WrongPassword,
            "NOPERM" => Self::NoPerm(detail.to_owned()),
            "DENIED" => Self::ProtectedMode,
            "ERR" if detail.starts_with("max number of clients") => Self::TooManyClients,
            "ERR" if detail.starts_with("invalid password") => Self::WrongPassword,
            "ERR" if detail.contains("without any password configured") => Self::PasswordUnexpected,
            "ERR" if detail.contains("no password is set") => Self::PasswordUnexpected,
            _ => Self::Server(format!("{code} {detail}").trim_end().to_owned()),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "while its name was looked up",
            Self::Connect => "while connecting",
            Self::Tls => "during the TLS handshake",
            Self::Login => "while logging in",
            Self::Answer => "to a request",
        })
    }
}

fn timeout_hint(during: Phase) -> &'static str {
    match during {
        // A Redis without TLS waits for the end of what it takes for a command.
        Phase::Tls => "; it may not speak TLS on that port",
        Phase::Resolve | Phase::Connect | Phase::Login | Phase::Answer => "",
    }
}

fn closed_hint(during: Phase) -> &'static str {
    match during {
        Phase::Tls => "; it may not speak TLS on that port",
        Phase::Login => "; it may speak TLS only on that port",
        Phase::Resolve | Phase::Connect | Phase::Answer => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_of_redis_are_told_apart() {
        for (code, detail, error) in [
            ("NOAUTH", "Authentication required.", Error::NoAuth),
            (
                "WRONGPASS",
                "invalid username-password pair or user is disabled.",
                Error::WrongPassword,
            ),
            ("ERR", "invalid password", Error::WrongPassword),
            (
                "ERR",
                "AUTH <password> called without any password configured for the default user. Are \
                 you sure your configuration is correct?",
                Error::PasswordUnexpected,
            ),
            ("ERR", "Client sent AUTH, but no password is set", Error::PasswordUnexpected),
            (
                "NOPERM",
                "this user has no permissions",
                Error::NoPerm("this user has no permissions".into()),
            ),
            ("DENIED", "Redis is running in protected mode", Error::ProtectedMode),
            ("ERR", "max number of clients reached", Error::TooManyClients),
            ("LOADING", "Redis is loading", Error::Server("LOADING Redis is loading".into())),
            ("IDONTKNOW", "", Error::Server("IDONTKNOW".into())),
        ] {
            assert_eq!(Error::from_server(code, detail), error, "{code} {detail}");
        }
    }

    #[test]
    fn errors_of_the_kernel_are_told_apart() {
        for (errno, error) in [
            (libc::ECONNREFUSED, Error::Refused),
            (libc::ECONNRESET, Error::Closed(Phase::Login)),
            (libc::EPIPE, Error::Closed(Phase::Login)),
            (libc::EHOSTUNREACH, Error::Unreachable("No route to host (os error 113)".into())),
        ] {
            assert_eq!(Error::from_io(&io::Error::from_raw_os_error(errno), Phase::Login), error);
        }
    }
}
