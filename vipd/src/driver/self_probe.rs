//! Whether the local Redis serves the VIP that this host holds. In mode `host` the kernel hands
//! packets for the VIP to Redis, which may listen on other addresses only: then everything looks
//! right, and nobody is served.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{error, info};

/// A service that is held is asked this often, and at once when it becomes so.
const INTERVAL: Duration = Duration::from_secs(10);
/// The longest that Redis may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A service on a held VIP, and what is wrong with it.
pub(super) type Probed = (SocketAddr, Option<String>);

/// Asks, and remembers the answers.
pub(super) struct SelfProbe {
    due: BTreeMap<SocketAddr, Instant>,
    wrong: BTreeMap<SocketAddr, String>,
    answers: mpsc::Sender<Probed>,
}

impl SelfProbe {
    pub(super) fn new() -> (Self, mpsc::Receiver<Probed>) {
        let (answers, probed) = mpsc::channel(64);
        (Self { due: BTreeMap::new(), wrong: BTreeMap::new(), answers }, probed)
    }

    /// Asks those of the `held` services whose turn it is, and forgets the others.
    pub(super) fn update(&mut self, held: &BTreeSet<SocketAddr>, now: Instant) {
        self.due.retain(|service, _| held.contains(service));
        self.wrong.retain(|service, _| held.contains(service));
        for &service in held {
            if self.due.get(&service).is_some_and(|due| now < *due) {
                continue;
            }
            self.due.insert(service, now + INTERVAL);
            let answers = self.answers.clone();
            tokio::spawn(async move {
                // The driver may have stopped.
                let _ = answers.send((service, ask(service).await)).await;
            });
        }
    }

    /// An answer.
    pub(super) fn probed(&mut self, (service, wrong): Probed) {
        // The VIP may have gone meanwhile.
        if !self.due.contains_key(&service) {
            return;
        }
        match wrong {
            Some(why) => {
                if self.wrong.insert(service, why.clone()).as_ref() != Some(&why) {
                    error!("{why}");
                }
            }
            None => {
                if let Some(why) = self.wrong.remove(&service) {
                    info!("no longer: {why}");
                }
            }
        }
    }

    /// For status.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.wrong.values().cloned()
    }
}

/// What is wrong, in words with a remedy.
async fn ask(service: SocketAddr) -> Option<String> {
    let answer = timeout(PATIENCE, ping(service)).await;
    let silent = || io::Error::from(ErrorKind::TimedOut);
    judge(service, &answer.unwrap_or_else(|_| Err(silent())))
}

/// The first bytes of the answer. The connection is local: it never meets the XDP program.
async fn ping(service: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(service).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

fn judge(service: SocketAddr, answer: &io::Result<Vec<u8>>) -> Option<String> {
    match answer {
        // Protected mode: no password is set and `bind` isn't either.
        Ok(answer) if answer.starts_with(b"-DENIED") => Some(format!(
            "Redis refuses commands on the VIP {service}, it is in protected mode: set a password \
             (`requirepass`), or `protected-mode no`"
        )),
        // PONG, NOAUTH, LOADING, or a TLS alert: somebody listens.
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(format!(
            "Redis does not listen on the VIP {service}, which this host holds now: in redis.conf \
             write `bind * -::*`, or name the VIP in `bind` beside its own address (with \
             net.ipv4.ip_nonlocal_bind = 1)"
        )),
        Err(error) => Some(format!(
            "Redis does not answer on the VIP {service}, which this host holds now: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn answers_are_judged() {
        let service = SocketAddr::from(([198, 18, 0, 250], 8000));
        for (answer, expected) in [
            (Ok(&b"+PONG\r\n"[..]), None),
            (Ok(b"-NOAUTH Authentication required.\r\n"), None),
            (Ok(b"\x15\x03\x01\x00\x02"), None),
            (Ok(b""), None),
            (Ok(b"-DENIED Redis is running in protected mode"), Some("protected-mode no")),
            (Err(ErrorKind::ConnectionRefused), Some("write `bind * -::*`")),
            (Err(ErrorKind::TimedOut), Some("does not answer on the VIP 198.18.0.250:8000")),
        ] {
            let found = judge(service, &answer.map(<[u8]>::to_vec).map_err(io::Error::from));
            let as_expected = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.contains(expected),
                _ => false,
            };
            assert!(as_expected, "{answer:?}: {found:?}");
        }
    }

    #[tokio::test]
    async fn a_service_that_nobody_listens_for_is_found_and_asked_again_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = listener.local_addr().unwrap();
        drop(listener);
        let (mut probe, mut answers) = SelfProbe::new();
        let start = Instant::now();
        let held = BTreeSet::from([service]);
        probe.update(&held, start);
        probe.update(&held, start);
        let answer = answers.recv().await.unwrap();
        assert!(answers.try_recv().is_err(), "asked twice");
        probe.probed(answer);
        assert_eq!(probe.problems().count(), 1);

        let listener = TcpListener::bind(service).await.unwrap();
        probe.update(&held, start + INTERVAL);
        let (mut client, _) = listener.accept().await.unwrap();
        client.write_all(b"+PONG\r\n").await.unwrap();
        let answer = answers.recv().await.unwrap();
        probe.probed(answer);
        assert_eq!(probe.problems().count(), 0);
    }

    #[tokio::test]
    async fn what_is_not_held_any_more_is_no_problem() {
        let service = SocketAddr::from(([127, 0, 0, 1], 1));
        let (mut probe, mut answers) = SelfProbe::new();
        probe.update(&BTreeSet::from([service]), Instant::now());
        probe.update(&BTreeSet::new(), Instant::now());
        let answer = answers.recv().await.unwrap();
        probe.probed(answer);
        assert_eq!(probe.problems().count(), 0);
    }
}
