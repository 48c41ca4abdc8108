//! Redis's protocol, version 2, read piece by piece. Pure.

use super::failure::Failure;

/// A reply that is longer is none that these clients ask for.
pub(super) const MAX_REPLY: usize = 1 << 20;
/// Lists in lists.
const MAX_DEPTH: usize = 4;

/// One reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// `+`
    Status(String),
    /// `-`, without it.
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`; none is nil.
    Bulk(Option<String>),
    /// `*`; nil is empty.
    List(Vec<Self>),
}

/// Bytes that came, and replies in them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    read: usize,
}

impl Inbox {
    /// More bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next reply, if all of it is there.
    ///
    /// # Errors
    ///
    /// It is none, or too long.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Failure> {
        let mut rest = &self.bytes[self.read..];
        let whole = rest.len();
        match parse(&mut rest, 0) {
            Ok(reply) => {
                self.read += whole - rest.len();
                Ok(Some(reply))
            }
            Err(Short::More) if whole > MAX_REPLY => Err(Failure::protocol("a reply does not end")),
            Err(Short::More) => Ok(None),
            Err(Short::Never) => Err(Failure::protocol("the reply is not one of Redis")),
        }
    }
}

/// Why there is no reply.
enum Short {
    /// Not all of it is there.
    More,
    /// It is none.
    Never,
}

fn parse(bytes: &mut &[u8], depth: usize) -> Result<Reply, Short> {
    let line = line(bytes)?;
    let (kind, text) = line.split_at_checked(1).ok_or(Short::Never)?;
    Ok(match kind {
        "+" => Reply::Status(text.to_owned()),
        "-" => Reply::Error(text.to_owned()),
        ":" => Reply::Integer(text.parse().map_err(|_| Short::Never)?),
        "$" => Reply::Bulk(match length(text)? {
            None => None,
            Some(length) => Some(bulk(bytes, length)?),
        }),
        "*" if depth < MAX_DEPTH => {
            let count = length(text)?.unwrap_or(0);
            // Each takes some bytes; those that aren't there yet take no memory either.
            let mut list = Vec::with_capacity(count.min(bytes.len()));
            for _ in 0..count {
                list.push(parse(bytes, depth + 1)?);
            }
            Reply::List(list)
        }
        _ => return Err(Short::Never),
    })
}

fn line(bytes: &mut &[u8]) -> Result<String, Short> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        // What begins like nothing of Redis's is not waited for.
        let is_none = bytes.first().is_some_and(|first| !b"+-:$*".contains(first));
        return Err(if is_none { Short::Never } else { Short::More });
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Short::Never)?;
    let line = String::from_utf8_lossy(line).into_owned();
    *bytes = &bytes[end + 1..];
    Ok(line)
}

fn length(text: &str) -> Result<Option<usize>, Short> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(length) => match usize::try_from(length) {
            Ok(length) if length <= MAX_REPLY => Ok(Some(length)),
            _ => Err(Short::Never),
        },
        Err(_) => Err(Short::Never),
    }
}

fn bulk(bytes: &mut &[u8], length: usize) -> Result<String, Short> {
    let (text, rest) = bytes.split_at_checked(length + 2).ok_or(Short::More)?;
    let text = text.strip_suffix(b"\r\n").ok_or(Short::Never)?;
    *bytes = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_come_out_whole_however_they_came_in() {
        let sent: &[u8] =
            b"+OK\r\n-READONLY no\r\n:42\r\n$5\r\na\r\nbc\r\n$-1\r\n*2\r\n$1\r\n7\r\n:8\r\n*-1\r\n";
        let expected = [
            Reply::Status("OK".into()),
            Reply::Error("READONLY no".into()),
            Reply::Integer(42),
            Reply::Bulk(Some("a\r\nbc".into())),
            Reply::Bulk(None),
            Reply::List(vec![Reply::Bulk(Some("7".into())), Reply::Integer(8)]),
            Reply::List(vec![]),
        ];
        for size in 1..sent.len() {
            let mut inbox = Inbox::default();
            let mut replies = vec![];
            for piece in sent.chunks(size) {
                inbox.add(piece);
                while let Some(reply) = inbox.next().unwrap() {
                    replies.push(reply);
                }
            }
            assert_eq!(replies, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_not_waited_for() {
        for wrong in [
            "HTTP/1.1 400",
            ":x\r\n",
            "$-2\r\n",
            "$99999999999\r\n",
            "$1\r\nabc",
            "\r\n",
            "+no carriage return\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        ] {
            let mut inbox = Inbox::default();
            inbox.add(wrong.as_bytes());
            assert!(inbox.next().is_err(), "{wrong:?}");
        }
        let mut endless = Inbox::default();
        endless.add(b"+");
        endless.add(&vec![b'a'; MAX_REPLY]);
        assert!(endless.next().is_err());
    }
}
