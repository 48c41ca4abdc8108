//! Many clients at once, on one thread: those that only wait ([`Blocked`]), those that have time to
//! connect ([`Patient`]), and those that come one after another ([`Arrivals`]). Each notes by
//! CLOCK_MONOTONIC what happens to it.

mod arrivals;
mod blocked;
mod event_loop;
mod patient;
#[cfg(test)]
mod tests;

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Dialer;

pub use arrivals::Arrivals;
pub use blocked::{Blocked, Ended, How, Waiter, Waiting};
pub use patient::{Attempt, Fate, Patient};

/// Bytes of a reply that are read at once.
const CHUNK: usize = 4096;
/// A reply that is longer is not one that these clients ask for.
const MAX_REPLY: usize = 64 * 1024;

/// Connects, and logs in if there is a password.
async fn connect(dialer: &Dialer) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(dialer.to).await?;
    stream.set_nodelay(true)?;
    if let Some(password) = &dialer.password {
        stream.write_all(&request(&["AUTH", password])).await?;
        read_until(&mut stream, |reply| reply.ends_with(b"\r\n")).await?;
    }
    Ok(stream)
}

/// A command as Redis reads it.
fn request(words: &[&str]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    text.into_bytes()
}

/// Reads until `is_complete`; an error if Redis says one, or closes.
async fn read_until(
    stream: &mut TcpStream,
    is_complete: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut chunk = [0; CHUNK];
    while !is_complete(&reply) {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&chunk[..length]);
        if reply.len() > MAX_REPLY {
            return Err(io::Error::other("the reply does not end"));
        }
    }
    if reply.first() == Some(&b'-') {
        return Err(io::Error::other(String::from_utf8_lossy(&reply).trim().to_owned()));
    }
    Ok(reply)
}
