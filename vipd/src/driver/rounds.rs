//! What nobody reports, and so is asked from time to time, in mode `host`:
//!
//! * on the host that holds a VIP, whether its Redis serves it. The kernel hands packets for the VIP
//!   to Redis, which may listen on other addresses only: then everything looks right, and nobody is
//!   served.
//! * on the others, whether the host that must hold it answers for it. Its vipd may not run, or have
//!   another VIP in its configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{error, info};
use vipd_common::addr::MacAddr;

use crate::announce::{self, Occupancy, Port};

/// Each question is asked this often. The first time comes sooner: in [`AT_FIRST`].
const INTERVAL: Duration = Duration::from_secs(10);
/// Whoever has just become owner may take this long to look like one.
const AT_FIRST: Duration = Duration::from_secs(2);
/// Questions that begin at one go, and how far apart the goes are: a thousand VIPs are asked about in
/// turn. (Closing a packet socket takes the kernel some 10 ms.)
const AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_secs(1);
/// The longest that Redis may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Question {
    /// Whether the local Redis serves this.
    LocalRedis(SocketAddr),
    /// Who answers for this VIP on this interface.
    Owner {
        /// The VIP.
        vip: IpAddr,
        /// Where the node is master that must.
        master: SocketAddr,
        /// Its host's link-layer address.
        mac: MacAddr,
        /// The interface towards it.
        port: Port,
    },
}

/// What is wrong, if anything is.
pub(super) type Answer = (Question, Option<String>);

/// Asks, and remembers the answers.
pub(super) struct Rounds {
    due: BTreeMap<Question, Instant>,
    next: Option<Instant>,
    wrong: BTreeMap<Question, String>,
    answers: mpsc::Sender<Answer>,
}

impl Rounds {
    pub(super) fn new() -> (Self, mpsc::Receiver<Answer>) {
        let (answers, answered) = mpsc::channel(64);
        (Self { due: BTreeMap::new(), next: None, wrong: BTreeMap::new(), answers }, answered)
    }

    /// Asks those of the `questions` whose turn it is, and forgets all others.
    pub(super) fn update(&mut self, questions: &BTreeSet<Question>, now: Instant) {
        self.due.retain(|question, _| questions.contains(question));
        self.wrong.retain(|question, _| questions.contains(question));
        for &question in questions {
            self.due.entry(question).or_insert(now + AT_FIRST);
        }
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        let mut due: Vec<(Instant, Question)> =
            self.due.iter().map(|(question, due)| (*due, *question)).collect();
        due.retain(|(due, _)| *due <= now);
        due.sort_unstable();
        for (_, question) in due.into_iter().take(AT_ONCE) {
            self.next = Some(now + PAUSE);
            self.due.insert(question, now + INTERVAL);
            let answers = self.answers.clone();
            tokio::spawn(async move {
                // The driver may have stopped.
                let _ = answers.send((question, question.ask().await)).await;
            });
        }
    }

    /// An answer.
    pub(super) fn answered(&mut self, (question, wrong): Answer) {
        // It may be of no interest any more.
        if !self.due.contains_key(&question) {
            return;
        }
        match wrong {
            Some(why) => {
                if self.wrong.insert(question, why.clone()).as_ref() != Some(&why) {
                    error!("{why}");
                }
            }
            None => {
                if let Some(why) = self.wrong.remove(&question) {
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

impl Question {
    /// What is wrong, in words with a remedy.
    async fn ask(self) -> Option<String> {
        match self {
            Self::LocalRedis(service) => local_redis(service).await,
            Self::Owner { vip, master, mac, port } => {
                let found = announce::probe(port, vip).await;
                judge_owner(vip, master, mac, &found)
            }
        }
    }
}

fn judge_owner(
    vip: IpAddr,
    master: SocketAddr,
    mac: MacAddr,
    found: &io::Result<Occupancy>,
) -> Option<String> {
    match found {
        Ok(Occupancy::InUse { mac: found }) if *found == mac => None,
        Ok(Occupancy::InUse { mac: found }) => Some(format!(
            "{found} answers for the VIP {vip}, but the master is {master}, whose host is {mac}"
        )),
        Ok(Occupancy::Free) => Some(format!(
            "nobody answers for the VIP {vip}: see whether vipd runs on the host of the master \
             {master}, and has the same VIP in its configuration"
        )),
        Err(error) => Some(format!("cannot ask who has the VIP {vip}: {error}")),
    }
}

async fn local_redis(service: SocketAddr) -> Option<String> {
    let answer = timeout(PATIENCE, ping(service)).await;
    let silent = || io::Error::from(ErrorKind::TimedOut);
    judge_redis(service, &answer.unwrap_or_else(|_| Err(silent())))
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

fn judge_redis(service: SocketAddr, answer: &io::Result<Vec<u8>>) -> Option<String> {
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
            let found = judge_redis(service, &answer.map(<[u8]>::to_vec).map_err(io::Error::from));
            let as_expected = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.contains(expected),
                _ => false,
            };
            assert!(as_expected, "{answer:?}: {found:?}");
        }
    }

    #[test]
    fn the_owner_is_judged() {
        let (mac, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let master = SocketAddr::from(([198, 18, 0, 101], 8000));
        let judge = |found| judge_owner(IpAddr::from([198, 18, 0, 250]), master, mac, &found);
        assert_eq!(judge(Ok(Occupancy::InUse { mac })), None);
        let wrong = judge(Ok(Occupancy::InUse { mac: other })).unwrap();
        assert!(wrong.starts_with("02:00:00:00:00:02 answers"), "{wrong}");
        let nobody = judge(Ok(Occupancy::Free)).unwrap();
        assert!(nobody.contains("the same VIP in its configuration"), "{nobody}");
    }

    #[tokio::test]
    async fn a_service_that_nobody_listens_for_is_found_and_asked_again_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = listener.local_addr().unwrap();
        drop(listener);
        let (mut rounds, mut answers) = Rounds::new();
        let start = Instant::now();
        let questions = BTreeSet::from([Question::LocalRedis(service)]);
        rounds.update(&questions, start);
        assert!(answers.try_recv().is_err(), "asked too early");
        rounds.update(&questions, start + AT_FIRST);
        rounds.update(&questions, start + AT_FIRST);
        let answer = answers.recv().await.unwrap();
        assert!(answers.try_recv().is_err(), "asked twice");
        rounds.answered(answer);
        assert_eq!(rounds.problems().count(), 1);

        let listener = TcpListener::bind(service).await.unwrap();
        rounds.update(&questions, start + AT_FIRST + INTERVAL);
        let (mut client, _) = listener.accept().await.unwrap();
        client.write_all(b"+PONG\r\n").await.unwrap();
        let answer = answers.recv().await.unwrap();
        rounds.answered(answer);
        assert_eq!(rounds.problems().count(), 0);
    }

    #[test]
    fn an_answer_to_what_is_not_asked_any_more_is_no_problem() {
        let question = Question::LocalRedis(SocketAddr::from(([127, 0, 0, 1], 1)));
        let (mut rounds, _answers) = Rounds::new();
        rounds.update(&BTreeSet::from([question]), Instant::now());
        rounds.update(&BTreeSet::new(), Instant::now());
        rounds.answered((question, Some("late".to_owned())));
        assert_eq!(rounds.problems().count(), 0);
    }
}
