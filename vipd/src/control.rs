//! The control socket: one JSON line asks, one JSON line answers. Mode 0600: root's.
//!
//! [`Request::Switchover`] alone is answered by several: a [`Response::Step`] each time something
//! is done, and one that is not a step at the end. It goes on without whoever asked: a client that
//! leaves early only doesn't hear how it ends.
//!
//! The socket for hints speaks the same, has mode 0666 and takes nothing but [`Request::Notify`]:
//! for Sentinels that run as a user of their own. It has its own bound on conversations, so nobody
//! who fills it is in root's way.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::notify::Hint;
use crate::status::Status;
use crate::switchover::{self, Order, Step, Switched};

/// The longest that either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a client waits for the next step beyond what it allowed itself.
const STEP_PATIENCE: Duration = switchover::LONGEST_STEP.saturating_add(PATIENCE);
/// Steps that a client may be behind.
const STEPS: usize = 64;
/// Longest question.
const MAX_REQUEST: u64 = 4096;
/// Longest answer.
const MAX_RESPONSE: u64 = 16 << 20;
/// Conversations at once; the next ones wait.
const MAX_CONVERSATIONS: usize = 16;

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// The status document.
    Status,
    /// Read the configuration file again.
    Reload,
    /// A Sentinel says that a master has changed: ask them all.
    Notify(Hint),
    /// Make another node master, with no acknowledged write lost.
    Switchover(Order),
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To the others: it is done.
    Done,
    /// To [`Request::Notify`]: that master is none of this vipd's, and never will be.
    Unknown(String),
    /// To [`Request::Switchover`]: something is done, and more is to come.
    Step(Step),
    /// To [`Request::Switchover`]: how it ended.
    Switched(Box<Switched>),
    /// The request was not understood, or could not be carried out.
    Error(String),
}

impl Response {
    /// Nothing comes after it.
    pub fn is_last(&self) -> bool {
        match self {
            Self::Step(_) => false,
            Self::Status(_)
            | Self::Done
            | Self::Unknown(_)
            | Self::Switched(_)
            | Self::Error(_) => true,
        }
    }
}

/// What the driver gives back.
#[derive(Debug)]
pub enum Answer {
    /// That is all.
    Now(Response),
    /// They come one by one; the last one says so ([`Response::is_last`]).
    Steps(mpsc::Receiver<Response>),
}

/// The way for an answer in steps.
pub fn steps() -> (mpsc::Sender<Response>, mpsc::Receiver<Response>) {
    mpsc::channel(STEPS)
}

/// A question on its way to the driver, and the way back.
pub type Question = (Request, oneshot::Sender<Answer>);

/// Why there is no socket, or no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// A vipd answers there.
    #[error("another vipd is running and answers on {}", .0.display())]
    InUse(PathBuf),
    /// The socket can't be made.
    #[error("cannot listen on {}: {source}; choose another control_socket", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("no vipd answers on {}: {source}", path.display())]
    NotRunning {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// vipd answered something else, or not in time.
    #[error("vipd's answer on {} makes no sense: {reason}", path.display())]
    Answer {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Who may ask, and what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Root, everything.
    Control,
    /// Everybody, [`Request::Notify`].
    Hints,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Control => 0o600,
            Self::Hints => 0o666,
        }
    }

    fn allows(self, request: &Request) -> bool {
        match (self, request) {
            (
                Self::Control,
                Request::Status | Request::Reload | Request::Notify(_) | Request::Switchover(_),
            )
            | (Self::Hints, Request::Notify(_)) => true,
            (Self::Hints, Request::Status | Request::Reload | Request::Switchover(_)) => false,
        }
    }
}

/// The listening socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Control {
    /// Listens at `path` and passes questions on. A file left by a vipd that died is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] and [`Error::Listen`].
    pub async fn listen(
        path: &Path,
        access: Access,
        questions: mpsc::Sender<Question>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Listen { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(Error::InUse(path.to_owned()));
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(failed(io::Error::other("something that is not a socket is there")));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(_not_there) => {}
        }
        let listener = bind_with_mode(path, access.mode()).map_err(failed)?;
        let task = tokio::spawn(serve(listener, access, questions));
        Ok(Self { path: path.to_owned(), task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever removed it before us wanted the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the vipd behind `path`.
///
/// # Errors
///
/// [`Error::NotRunning`] and [`Error::Answer`].
pub async fn ask(path: &Path, request: Request) -> Result<Response, Error> {
    let mut conversation = Conversation::begin(path, &request).await?;
    conversation.next(PATIENCE).await
}

/// Asks the vipd behind `path` for a switchover; `heard` is told each step. Returns the last
/// answer.
///
/// # Errors
///
/// [`Error::NotRunning`] and [`Error::Answer`]; the switchover may go on then.
pub async fn switch_over(
    path: &Path,
    order: Order,
    mut heard: impl FnMut(&Step),
) -> Result<Response, Error> {
    let patience = order.timeout() + STEP_PATIENCE;
    let mut conversation = Conversation::begin(path, &Request::Switchover(order)).await?;
    loop {
        match conversation.next(patience).await? {
            Response::Step(step) => heard(&step),
            last => return Ok(last),
        }
    }
}

/// A client's side of a conversation.
struct Conversation<'a> {
    path: &'a Path,
    lines: BufReader<tokio::io::Take<UnixStream>>,
}

impl<'a> Conversation<'a> {
    async fn begin(path: &'a Path, request: &Request) -> Result<Self, Error> {
        let mut stream = UnixStream::connect(path)
            .await
            .map_err(|source| Error::NotRunning { path: path.to_owned(), source })?;
        let sent = timeout(PATIENCE, stream.write_all(&line(request))).await;
        let lines = BufReader::new(stream.take(MAX_RESPONSE));
        let conversation = Self { path, lines };
        match sent {
            Ok(Ok(())) => Ok(conversation),
            Ok(Err(error)) => Err(conversation.senseless(error)),
            Err(_late) => Err(conversation.senseless(Late(PATIENCE))),
        }
    }

    async fn next(&mut self, patience: Duration) -> Result<Response, Error> {
        let mut text = Vec::new();
        match timeout(patience, self.lines.read_until(b'\n', &mut text)).await {
            Ok(Ok(0)) => Err(self.senseless("it ended the conversation")),
            Ok(Ok(_)) => serde_json::from_slice(&text).map_err(|error| self.senseless(error)),
            Ok(Err(error)) => Err(self.senseless(error)),
            Err(_late) => Err(self.senseless(Late(patience))),
        }
    }

    fn senseless(&self, reason: impl ToString) -> Error {
        Error::Answer { path: self.path.to_owned(), reason: reason.to_string() }
    }
}

/// No answer in this time.
struct Late(Duration);

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "none in {} s", self.0.as_secs())
    }
}

/// Binds to a name beside the real one, sets its mode, and moves it there: nobody else can connect
/// in between.
fn bind_with_mode(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&temporary);
        })?;
    Ok(listener)
}

async fn serve(listener: UnixListener, access: Access, questions: mpsc::Sender<Question>) {
    let places = std::sync::Arc::new(Semaphore::new(MAX_CONVERSATIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = converse(stream, access, questions).await {
                        debug!(%error, "control connection");
                    }
                });
            }
            // Out of descriptors, say: not worth a busy loop.
            Err(error) => {
                debug!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The whole of a conversation: bounded by [`PATIENCE`] for the question, for the driver's answer,
/// and for each line that the client has to take.
async fn converse(
    stream: UnixStream,
    access: Access,
    questions: mpsc::Sender<Question>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(MAX_REQUEST);
    let answer = timely(async {
        let mut text = Vec::new();
        reader.read_until(b'\n', &mut text).await?;
        Ok(answer_to(&text, access, &questions).await)
    })
    .await?;
    let mut steps = match answer {
        Answer::Now(response) => return timely(writer.write_all(&line(&response))).await,
        Answer::Steps(steps) => steps,
    };
    loop {
        let response = steps.recv().await.unwrap_or_else(stopping);
        // This fails once the client is gone.
        timely(writer.write_all(&line(&response))).await?;
        if response.is_last() {
            return Ok(());
        }
    }
}

async fn answer_to(text: &[u8], access: Access, questions: &mpsc::Sender<Question>) -> Answer {
    let request = match serde_json::from_slice(text) {
        Ok(request) => request,
        Err(error) => {
            let why = format!("not a request of vipd {VERSION}: {error}");
            return Answer::Now(Response::Error(why));
        }
    };
    if !access.allows(&request) {
        let why = "this socket takes only `vipd notify`".to_owned();
        return Answer::Now(Response::Error(why));
    }
    let (answer, answered) = oneshot::channel();
    match questions.send((request, answer)).await {
        Ok(()) => answered.await.unwrap_or_else(|_| Answer::Now(stopping())),
        Err(_) => Answer::Now(stopping()),
    }
}

fn stopping() -> Response {
    Response::Error("vipd is stopping".to_owned())
}

async fn timely<T>(doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    timeout(PATIENCE, doing).await.unwrap_or_else(|_| Err(late()))
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn line(message: &impl Serialize) -> Vec<u8> {
    // Serialising to memory fails only for maps with keys that aren't strings; there are none.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
