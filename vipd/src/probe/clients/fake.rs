//! A Redis that does as a test says: behind one address, as a VIP is, and another node from some
//! moment on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::resp::{Inbox, Reply};
use super::{ClientSettings, Target};
use crate::config::{Endpoint, Login};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// What Redis does.
    Usual,
    /// A reply of the test's, and nothing is done.
    Say(&'static str),
    /// RPUSH: acknowledged, and not kept.
    Forget,
    /// RPUSH: kept twice.
    Twice,
    /// RPUSH: kept, and the connection is reset instead of an answer.
    KeepAndReset,
    /// Nothing more is read or said on this connection.
    Mute,
    /// What Redis does, and not before that moment.
    PauseUntil(Instant),
    /// The connection is closed …
    Close,
    /// … or reset.
    Reset,
}

/// What happens to connections that wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    /// Those whose last command was this one; all if it is empty.
    pub(super) last_command: &'static str,
    pub(super) act: Act,
}

type Rule = Box<dyn FnMut(&Command<'_>) -> Act + Send>;

/// A command that came.
pub(super) struct Command<'a> {
    pub(super) words: &'a [String],
}

impl Command<'_> {
    /// Whether it is a write of the layer, not of the rehearsal.
    pub(super) fn is_write(&self) -> bool {
        self.words[0] == "RPUSH" && !self.words[1].ends_with(":rehearsal")
    }

    /// … on a persistent connection.
    pub(super) fn is_persistent(&self) -> bool {
        self.is_write() && self.words[1].contains(":persistent-")
    }
}

pub(super) struct Fake {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    cuts: broadcast::Sender<Cut>,
}

struct State {
    /// Who accepts connections now.
    run_id: &'static str,
    role: &'static str,
    /// By node and key.
    lists: BTreeMap<(String, String), Vec<String>>,
    expires: BTreeMap<String, u64>,
    rule: Rule,
}

impl Fake {
    /// The node `first` listens.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            run_id: "first",
            role: "master",
            lists: BTreeMap::new(),
            expires: BTreeMap::new(),
            rule: Box::new(|_| Act::Usual),
        };
        let cuts = broadcast::Sender::new(16);
        let shared = Arc::new(Shared { state: Mutex::new(state), cuts });
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, task }
    }

    /// From now on.
    pub(super) fn rule(&self, rule: impl FnMut(&Command<'_>) -> Act + Send + 'static) {
        self.state().rule = Box::new(rule);
    }

    /// New connections reach another node from now on.
    pub(super) fn lead_to(&self, run_id: &'static str) {
        self.state().run_id = run_id;
    }

    pub(super) fn cut(&self, last_command: &'static str, act: Act) {
        self.shared.cuts.send(Cut { last_command, act }).unwrap();
    }

    /// Keys on all nodes.
    pub(super) fn keys(&self) -> usize {
        self.state().lists.len()
    }

    /// How often each key was given an hour.
    pub(super) fn expires(&self) -> BTreeMap<String, u64> {
        self.state().expires.clone()
    }

    pub(super) fn target(&self, timeout: Duration) -> Target {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: self.addr.port() };
        Target::fixed(&endpoint, self.addr, &Login::default(), timeout).unwrap()
    }

    /// Nobody does anything, with a second's patience.
    pub(super) fn settings(&self) -> ClientSettings {
        let timeout = Duration::from_secs(1);
        ClientSettings {
            target: self.target(timeout),
            timeout,
            connections: 0,
            write_rate: 0,
            fresh_rate: 0,
            idle: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Polls a condition.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let run_id = shared.state().run_id;
        tokio::spawn(serve(stream, run_id, Arc::clone(&shared)));
    }
}

/// Until the client leaves, or is left.
async fn serve(mut stream: TcpStream, run_id: &'static str, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let mut inbox = Inbox::default();
    let mut last = String::new();
    loop {
        let mut chunk = [0; 4096];
        let act = tokio::select! {
            read = stream.read(&mut chunk) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    inbox.add(&chunk[..count]);
                    None
                }
            },
            Ok(cut) = cuts.recv() => {
                let is_meant = cut.last_command.is_empty() || cut.last_command == last;
                is_meant.then_some(cut.act)
            }
        };
        match act {
            None => {}
            Some(Act::Say(words)) => {
                // A client that is gone is found out at the next read.
                let _ = stream.write_all(words.as_bytes()).await;
            }
            Some(act) => return leave(stream, &act).await,
        }
        let mut replies = String::new();
        while let Some(words) = next_command(&mut inbox) {
            last.clone_from(&words[0]);
            let act = (shared.state().rule)(&Command { words: &words });
            if let Act::PauseUntil(moment) = act {
                sleep_until(moment).await;
            }
            match act {
                Act::Usual | Act::Forget | Act::Twice | Act::PauseUntil(_) => {
                    replies.push_str(&usual(&mut shared.state(), run_id, &words, &act));
                }
                Act::Say(reply) => replies.push_str(reply),
                act => {
                    if act == Act::KeepAndReset {
                        usual(&mut shared.state(), run_id, &words, &Act::Usual);
                    }
                    // A client that is gone is found out at the next read.
                    let _ = stream.write_all(replies.as_bytes()).await;
                    return leave(stream, &act).await;
                }
            }
        }
        if stream.write_all(replies.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The end of a connection, if it has one.
async fn leave(stream: TcpStream, act: &Act) {
    match act {
        Act::Mute => std::future::pending().await,
        Act::Reset | Act::KeepAndReset => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        _ => {}
    }
}

fn next_command(inbox: &mut Inbox) -> Option<Vec<String>> {
    let Reply::List(words) = inbox.next().unwrap()? else { panic!("not a command") };
    let word = |it| match it {
        Reply::Bulk(Some(text)) => text,
        other => panic!("not a word: {other:?}"),
    };
    Some(words.into_iter().map(word).collect())
}

fn usual(state: &mut State, run_id: &str, words: &[String], act: &Act) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let key = |key: &str| (run_id.to_owned(), key.to_owned());
    match words.as_slice() {
        ["PING"] => "+PONG\r\n".into(),
        ["CLIENT", ..] => "+OK\r\n".into(),
        ["INFO", "server"] => bulk(&format!("# Server\r\nrun_id:{run_id}\r\n")),
        ["INFO", "replication"] => bulk(&format!("role:{}\r\n", state.role)),
        ["RPUSH", name, number] => {
            let list = state.lists.entry(key(name)).or_default();
            let times = match act {
                Act::Forget => 0,
                Act::Twice => 2,
                _ => 1,
            };
            list.extend(std::iter::repeat_n((*number).to_owned(), times));
            format!(":{}\r\n", list.len())
        }
        ["EXPIRE", name, "3600"] => {
            *state.expires.entry((*name).to_owned()).or_default() += 1;
            ":1\r\n".into()
        }
        ["LRANGE", name, first, last] => {
            let list = state.lists.get(&key(name)).cloned().unwrap_or_default();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let part: Vec<_> = list.iter().skip(first).take(last + 1 - first).collect();
            let items: String = part.iter().map(|it| bulk(it)).collect();
            format!("*{}\r\n{items}", part.len())
        }
        ["UNLINK", names @ ..] => {
            for name in names {
                state.lists.remove(&key(name));
            }
            format!(":{}\r\n", names.len())
        }
        ["BLPOP", ..] => String::new(),
        ["SUBSCRIBE", name] => format!("*3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(name)),
        other => panic!("the fake does not know {other:?}"),
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
