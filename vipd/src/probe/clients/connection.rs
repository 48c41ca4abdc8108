//! A client's connection: commands out, replies in.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::failure::Failure;
use super::resp::{Inbox, Reply};
use crate::connect::{Stream, command};

/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// A connection that is logged in. Has no time-outs of its own.
pub(super) struct Connection {
    pub(super) stream: Box<dyn Stream>,
    pub(super) inbox: Inbox,
}

/// Commands as they are sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands(pub(super) Vec<u8>);

impl Connection {
    /// To a stream whose login is done.
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, inbox: Inbox::default() }
    }

    /// Sends all of it.
    pub(super) async fn send(&mut self, commands: &Commands) -> Result<(), Failure> {
        let io = |error| Failure::from_io(&error);
        self.stream.write_all(&commands.0).await.map_err(io)?;
        self.stream.flush().await.map_err(io)
    }

    /// The next reply that is no error. Can be dropped and called again.
    pub(super) async fn reply(&mut self) -> Result<Reply, Failure> {
        good(read(&mut self.stream, &mut self.inbox).await?)
    }

    /// The next reply, which must be a text.
    pub(super) async fn text(&mut self) -> Result<String, Failure> {
        match self.reply().await? {
            Reply::Bulk(Some(text)) | Reply::Status(text) => Ok(text),
            _ => Err(Failure::protocol("a text was expected")),
        }
    }
}

impl Commands {
    /// One more.
    pub(super) fn add(mut self, words: &[&str]) -> Self {
        command(&mut self.0, words);
        self
    }
}

/// The next reply, an error or not. Can be dropped and called again.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    inbox: &mut Inbox,
) -> Result<Reply, Failure> {
    loop {
        if let Some(reply) = inbox.next()? {
            return Ok(reply);
        }
        let mut chunk = [0; CHUNK];
        match stream.read(&mut chunk).await {
            Ok(0) => return Err(Failure::closed()),
            Ok(count) => inbox.add(&chunk[..count]),
            Err(error) => return Err(Failure::from_io(&error)),
        }
    }
}

/// An error reply as an error.
pub(super) fn good(reply: Reply) -> Result<Reply, Failure> {
    match reply {
        Reply::Error(line) => Err(Failure::from_server(&line)),
        reply => Ok(reply),
    }
}
