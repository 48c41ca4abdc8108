//! Connections to Redis from a place in the lab, with the timeouts of an ordinary client.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::{Client, Connection, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo};

use crate::namespace::Namespace;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Where it sits.
    pub from: Namespace,
    /// What it connects to.
    pub to: SocketAddr,
    /// Sent with AUTH.
    pub password: Option<String>,
    /// Given up after this long: TCP handshake and login.
    pub connect_timeout: Duration,
    /// A reply that takes longer is an error.
    pub reply_timeout: Duration,
}

impl Dialer {
    /// A client that is patient enough for anything but a hang.
    pub fn new(from: &Namespace, to: SocketAddr, password: Option<&str>) -> Self {
        Self {
            from: from.clone(),
            to,
            password: password.map(str::to_owned),
            connect_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(10),
        }
    }

    /// Connects, on a thread inside the namespace.
    pub fn connect(&self) -> Result<Connection> {
        self.from.run(|| self.connect_here())?
    }

    /// Connects from the calling thread's namespace.
    pub fn connect_here(&self) -> Result<Connection> {
        let connect = || {
            let address = ConnectionAddr::Tcp(self.to.ip().to_string(), self.to.port());
            let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
            if let Some(password) = &self.password {
                settings = settings.set_password(password);
            }
            let info = address.into_connection_info()?.set_redis_settings(settings);
            let connection =
                Client::open(info)?.get_connection_with_timeout(self.connect_timeout)?;
            connection.set_read_timeout(Some(self.reply_timeout))?;
            connection.set_write_timeout(Some(self.reply_timeout))?;
            redis::RedisResult::Ok(connection)
        };
        connect().with_context(|| format!("cannot connect to {}", self.to))
    }
}

/// The `run_id` of whichever node answers: a new one for each start of a Redis.
pub fn run_id(connection: &mut Connection) -> redis::RedisResult<String> {
    let info: String = redis::cmd("INFO").arg("server").query(connection)?;
    Ok(info_field(&info, "run_id").unwrap_or_default().to_owned())
}

/// One field of what INFO says.
pub fn info_field<'a>(info: &'a str, field: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(field)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = "# Server\r\nrun_id_old:1\r\nrun_id:abc\r\n";
        assert_eq!(info_field(info, "run_id"), Some("abc"));
        assert_eq!(info_field(info, "run"), None);
    }
}
