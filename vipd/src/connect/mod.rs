//! Connections to Sentinels and Redis nodes: TCP, optionally TLS, login, then redis-rs.
//!
//! Every step has a deadline, and every error says which step failed and what to do about it. The
//! login is vipd's own, so that a password is never in redis-rs's hands.

mod backoff;
mod error;
mod login;
mod reply;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Pipeline, RedisConnectionInfo, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use backoff::Backoff;
pub use error::{Error, Phase, SetupError};
pub(crate) use login::command;
pub use reply::{checked, info_field, text};

use crate::config::{Login, Secret};

/// Keepalive probes start after a connection was silent for this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
/// … are this far apart …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// … and this many without an answer end it.
const KEEPALIVE_PROBES: u32 = 3;
/// Data that isn't acknowledged for this long ends the connection (TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests queued on one connection before a caller waits.
const PIPELINE_DEPTH: usize = 16;

/// How long each step may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// Until the TCP connection is there.
    pub connect: Duration,
    /// For TLS and login together.
    pub login: Duration,
    /// For the answer to one request.
    pub answer: Duration,
}

/// Opens connections with one [`Login`]. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    shared: Arc<Shared>,
    deadlines: Deadlines,
}

struct Shared {
    login: Login,
    /// Read at the start, and again after a login that failed: passwords rotate.
    password: Mutex<Option<Secret>>,
    tls: Option<tls::Tls>,
}

/// A connection for requests.
pub struct Link {
    requests: Requests,
    driver: JoinHandle<()>,
}

/// The sending half of a [`Link`]; requests of several clones share the connection in order.
#[derive(Clone)]
pub struct Requests {
    connection: MultiplexedConnection,
    answer: Duration,
}

impl Dialer {
    /// Reads the password file and the TLS files that `login` names.
    pub fn new(login: &Login, deadlines: Deadlines) -> Result<Self, SetupError> {
        Ok(Self {
            shared: Arc::new(Shared {
                password: Mutex::new(login.password()?),
                tls: login.tls.as_ref().map(tls::Tls::load).transpose()?,
                login: login.clone(),
            }),
            deadlines,
        })
    }

    /// The same login with other deadlines.
    pub fn with_deadlines(&self, deadlines: Deadlines) -> Self {
        Self { shared: self.shared.clone(), deadlines }
    }

    /// Opens a connection for requests. `host` is the name or address that `addr` was found by;
    /// the server's certificate must be for it, unless the configuration names another.
    pub async fn requests(&self, host: &str, addr: SocketAddr) -> Result<Link, Error> {
        let stream = self.open(host, addr, tune).await?;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.deadlines.answer))
            .set_pipeline_buffer_size(PIPELINE_DEPTH);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&no_login(), stream, config)
                .await
                .map_err(|error| Error::from_redis(&error, Phase::Login, self.deadlines.login))?;
        let requests = Requests { connection, answer: self.deadlines.answer };
        Ok(Link { requests, driver: tokio::spawn(driver) })
    }

    /// Opens a connection for subscriptions. Reading from it is the caller's duty: redis-rs keeps
    /// messages that are not read.
    pub async fn subscriptions(&self, host: &str, addr: SocketAddr) -> Result<PubSub, Error> {
        let stream = self.open(host, addr, tune).await?;
        PubSub::new(&no_login(), stream)
            .await
            .map_err(|error| Error::from_redis(&error, Phase::Login, self.deadlines.login))
    }

    /// Opens a connection as most clients have it: without keepalive and TCP_USER_TIMEOUT. Its login
    /// is done and answered; what follows is the caller's.
    pub async fn plain(&self, host: &str, addr: SocketAddr) -> Result<Box<dyn Stream>, Error> {
        self.open(host, addr, |tcp| tcp.set_nodelay(true)).await
    }

    /// TCP, TLS and login.
    async fn open(
        &self,
        host: &str,
        addr: SocketAddr,
        tune: fn(&TcpStream) -> std::io::Result<()>,
    ) -> Result<Box<dyn Stream>, Error> {
        let Deadlines { connect, login: login_deadline, .. } = self.deadlines;
        let tcp = timeout(connect, TcpStream::connect(addr))
            .await
            .map_err(|_| Error::Timeout { during: Phase::Connect, after: connect })?
            .map_err(|error| Error::from_io(&error, Phase::Connect))?;
        tune(&tcp).map_err(|error| Error::from_io(&error, Phase::Connect))?;

        // Which of the two steps is late, for the error.
        let mut during = Phase::Tls;
        let opened = timeout(login_deadline, async {
            let mut stream: Box<dyn Stream> = match &self.shared.tls {
                Some(tls) => Box::new(tls.connect(host, tcp).await?),
                None => Box::new(tcp),
            };
            during = Phase::Login;
            let password = self.password().clone();
            let username = self.shared.login.username.as_deref();
            login::log_in(&mut stream, username, password.as_ref()).await?;
            Ok(stream)
        })
        .await
        .unwrap_or(Err(Error::Timeout { during, after: login_deadline }));

        if matches!(opened, Err(Error::WrongPassword | Error::NoAuth)) {
            // The file may have changed since it was read; the next attempt tells.
            let fresh = self.shared.login.password().map_err(|e| Error::Password(e.to_string()))?;
            *self.password() = fresh;
        }
        opened
    }

    fn password(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.shared.password.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("login", &self.shared.login).finish_non_exhaustive()
    }
}

impl Link {
    /// The sending half.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Returns once the connection is gone, whoever ended it. Can be dropped and called again.
    pub async fn closed(&mut self) {
        // A driver that panicked is gone as well.
        let _ = (&mut self.driver).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Requests {
    /// Sends several commands at once. One value per command, in order; a command's own error is
    /// its value, see [`checked`].
    pub async fn send(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let count = pipeline.len();
        let values = self
            .connection
            .clone()
            .send_packed_commands(pipeline, 0, count)
            .await
            .map_err(|error| Error::from_redis(&error, Phase::Answer, self.answer))?;
        if values.len() == count {
            Ok(values)
        } else {
            Err(Error::Protocol(format!("{} answers to {count} commands", values.len())))
        }
    }
}

/// What redis-rs needs to know: nothing, the login is done.
fn no_login() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_skip_set_lib_name()
}

fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// A connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
