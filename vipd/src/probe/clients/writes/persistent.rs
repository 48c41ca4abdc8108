//! A connection that writes for as long as it works, as one of a pool does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::journal::{Due, Journal};
use super::{add_expire, add_write};
use crate::clock::Monotonic;
use crate::connect::{Phase, Stream};
use crate::probe::clients::connection::{Commands, good, read};
use crate::probe::clients::failure::Failure;
use crate::probe::clients::resp::{Inbox, Reply};
use crate::probe::clients::target::{Opened, Target};
use crate::probe::shots::Fate;

/// Writes under way on one connection; what comes on top fails with `backlog`.
const MAX_IN_FLIGHT: usize = 1024;
/// Pause after a node has answered that it won't.
const AFTER_NO: Duration = Duration::from_millis(100);
/// A key is given another hour this often.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// One connection, with all that it takes to have another one after it.
pub(super) struct Persistent {
    pub(super) key: String,
    pub(super) target: Target,
    pub(super) timeout: Duration,
    pub(super) journal: Journal,
    /// Ends when no more writes are due.
    pub(super) due: mpsc::Receiver<Due>,
}

impl Persistent {
    /// Writes what is due until nothing is any more, and all is answered or given up. Returns the
    /// node that it is connected to at the end; none if it is to nobody.
    pub(super) async fn run(mut self, opened: Opened) -> Option<u16> {
        let mut session = self.session(opened);
        loop {
            let why = match self.write(&mut session).await {
                Ok(()) => return session.node,
                Err(why) => why,
            };
            let at = Monotonic::now();
            self.journal.ended(at, &why);
            session.give_up(&self.journal, at, &why);
            session = self.reconnect(&why).await?;
        }
    }

    /// Returns when nothing is due or under way any more, or when the connection is lost.
    async fn write(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut more = true;
        while more || !session.under_way.is_empty() {
            let deadline = session.under_way.front().map(|first| first.deadline);
            tokio::select! {
                biased;
                sent = session.output.send(), if session.output.is_waiting() => sent?,
                reply = read(&mut session.reader, &mut session.inbox) => {
                    session.answered(good(reply?)?, &self.journal)?;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(Failure::timeout(Phase::Answer, self.timeout));
                }
                due = self.due.recv(), if more => match due {
                    None => more = false,
                    Some(write) if session.under_way.len() >= MAX_IN_FLIGHT => {
                        self.journal.not_sent(write, "backlog", Fate::Silent);
                    }
                    Some(write) => {
                        self.journal.sent();
                        session.add(write, &self.key, self.timeout);
                    }
                },
            }
        }
        Ok(())
    }

    /// Opens the connection again: at once, and after an attempt that failed when the next write is
    /// due. Writes that are due meanwhile fail. `None` if nothing is due any more.
    async fn reconnect(&mut self, lost_by: &Failure) -> Option<Session> {
        // As long as nothing else is known, those who can't write fare as those before did.
        let mut fate = lost_by.fate;
        let target = self.target.clone();
        // A node that said no (READONLY) will do so again, and each connection that this end closes
        // costs a port for a minute.
        let not_before = match fate {
            Fate::Refused if lost_by.is_reply() => Monotonic::now() + AFTER_NO,
            _ => Monotonic::now(),
        };
        let mut attempt: Option<Opening<'_>> = None;
        if not_before <= Monotonic::now() {
            attempt = Some(Box::pin(target.open()));
        }
        loop {
            tokio::select! {
                biased;
                opened = async { attempt.as_mut().expect("see the condition").await },
                    if attempt.is_some() =>
                {
                    attempt = None;
                    match opened {
                        Ok(opened) => return Some(self.session(opened)),
                        Err(why) => {
                            fate = why.fate;
                            self.journal.not_opened(&why);
                        }
                    }
                }
                due = self.due.recv() => {
                    self.journal.not_sent(due?, "no connection", fate);
                    if Monotonic::now() >= not_before {
                        attempt.get_or_insert_with(|| Box::pin(target.open()));
                    }
                }
            }
        }
    }

    fn session(&self, opened: Opened) -> Session {
        let node = self.journal.node(&opened.node.run_id);
        let (reader, writer) = split(opened.connection.stream);
        Session {
            node,
            reader,
            inbox: opened.connection.inbox,
            output: Output { writer, bytes: vec![], sent: 0, to_flush: false },
            under_way: VecDeque::new(),
            expire_at: None,
        }
    }
}

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Opened, Failure>> + Send + 'a>>;

/// An open connection.
struct Session {
    node: Option<u16>,
    reader: ReadHalf<Box<dyn Stream>>,
    inbox: Inbox,
    output: Output,
    under_way: VecDeque<UnderWay>,
    /// When the key is to be given another hour; at once if it never was.
    expire_at: Option<Monotonic>,
}

/// A command that is not answered yet.
struct UnderWay {
    /// None is an EXPIRE.
    write: Option<Due>,
    sent: Monotonic,
    deadline: Instant,
}

impl Session {
    /// Sends a write, without waiting for the answers to those before.
    fn add(&mut self, write: Due, key: &str, timeout: Duration) {
        let (sent, deadline) = (Monotonic::now(), Instant::now() + timeout);
        let mut commands = add_write(Commands::default(), key, write.number);
        self.under_way.push_back(UnderWay { write: Some(write), sent, deadline });
        if self.expire_at.is_none_or(|at| at <= sent) {
            self.expire_at = Some(sent + EXPIRE_EVERY);
            commands = add_expire(commands, key);
            self.under_way.push_back(UnderWay { write: None, sent, deadline });
        }
        self.output.bytes.extend(commands.0);
    }

    fn answered(&mut self, reply: Reply, journal: &Journal) -> Result<(), Failure> {
        let at = Monotonic::now();
        let (Reply::Integer(_), Some(first)) = (reply, self.under_way.pop_front()) else {
            return Err(Failure::protocol("a number was expected as the answer to RPUSH"));
        };
        if let Some(write) = first.write {
            journal.acknowledged(write, first.sent, at, self.node);
        }
        Ok(())
    }

    /// Whatever it was, READONLY included: the connection is no good any more, and what was under
    /// way on it fails with it.
    fn give_up(self, journal: &Journal, at: Monotonic, why: &Failure) {
        for it in self.under_way {
            if let Some(write) = it.write {
                journal.failed(write, it.sent, at, why);
            }
        }
    }
}

/// Bytes on their way to the kernel: a connection that takes none must not keep its client from
/// anything else.
struct Output {
    writer: WriteHalf<Box<dyn Stream>>,
    bytes: Vec<u8>,
    sent: usize,
    /// TLS keeps what the kernel didn't take.
    to_flush: bool,
}

impl Output {
    fn is_waiting(&self) -> bool {
        self.to_flush || self.sent < self.bytes.len()
    }

    /// A step. Can be dropped and called again.
    async fn send(&mut self) -> Result<(), Failure> {
        let io = |error| Failure::from_io(&error);
        if self.sent == self.bytes.len() {
            self.writer.flush().await.map_err(io)?;
            self.to_flush = false;
            return Ok(());
        }
        match self.writer.write(&self.bytes[self.sent..]).await.map_err(io)? {
            0 => return Err(Failure::closed()),
            count => self.sent += count,
        }
        self.to_flush = true;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
        Ok(())
    }
}
