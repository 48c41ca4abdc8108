//! The first exchange on a fresh connection: AUTH, PING, CLIENT SETNAME, in one write.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Error, Phase, Stream};
use crate::config::Secret;

/// What `CLIENT LIST` shows for a connection of vipd's.
const CLIENT_NAME: &str = "vipd";
/// Longest first exchange, in bytes: three lines.
const MAX_REPLY: usize = 4096;

/// Logs in and finds out whether the server answers. The caller sets the deadline.
pub(super) async fn log_in(
    stream: &mut Box<dyn Stream>,
    username: Option<&str>,
    password: Option<&Secret>,
) -> Result<(), Error> {
    let mut request = Vec::new();
    let mut expected = 2;
    if let Some(password) = password {
        expected += 1;
        match username {
            Some(username) => command(&mut request, &["AUTH", username, password.expose()]),
            None => command(&mut request, &["AUTH", password.expose()]),
        }
    }
    command(&mut request, &["PING"]);
    command(&mut request, &["CLIENT", "SETNAME", CLIENT_NAME]);

    let io = |error| Error::from_io(&error, Phase::Login);
    stream.write_all(&request).await.map_err(io)?;
    stream.flush().await.map_err(io)?;

    // Each answer is one line. Nothing follows the last one, so nothing is read too much.
    let mut reply = Vec::new();
    while reply.iter().filter(|&&byte| byte == b'\n').count() < expected {
        let mut chunk = [0; 512];
        let count = match stream.read(&mut chunk).await {
            Ok(count) => count,
            // What was said before the connection was cut says more than the cut.
            Err(_) if reply.contains(&b'\n') => 0,
            Err(error) => return Err(io(error)),
        };
        reply.extend_from_slice(&chunk[..count]);
        if count == 0 || reply.len() > MAX_REPLY || !b"+-".contains(&reply[0]) {
            break;
        }
    }
    judge(&String::from_utf8_lossy(&reply), expected).map_err(|error| redacted(error, password))
}

/// Reads the answers. `SETNAME` may fail: it is a courtesy.
fn judge(reply: &str, expected: usize) -> Result<(), Error> {
    if reply.is_empty() {
        return Err(Error::Closed(Phase::Login));
    }
    for line in reply.lines().take(expected - 1) {
        let Some(message) = line.strip_prefix('-') else {
            if line.starts_with('+') {
                continue;
            }
            return Err(Error::Protocol("the answer to PING is not one of Redis".into()));
        };
        let (code, detail) = message.split_once(' ').unwrap_or((message, ""));
        match code {
            // A node that loads its data set answers ROLE all the same.
            "LOADING" | "MASTERDOWN" | "BUSY" => {}
            _ => return Err(Error::from_server(code, detail)),
        }
    }
    if reply.lines().count() < expected {
        return Err(Error::Closed(Phase::Login));
    }
    Ok(())
}

/// A server that does not know AUTH quotes its arguments.
fn redacted(error: Error, password: Option<&Secret>) -> Error {
    let clean = |text: String| match password {
        Some(password) => text.replace(password.expose(), "***"),
        None => text,
    };
    match error {
        Error::Server(text) => Error::Server(clean(text)),
        Error::NoPerm(text) => Error::NoPerm(clean(text)),
        error => error,
    }
}

/// Appends one command in RESP.
pub(crate) fn command(request: &mut Vec<u8>, words: &[&str]) {
    request.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        request.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        for (reply, expected, result) in [
            ("+PONG\r\n+OK\r\n", 2, Ok(())),
            ("+OK\r\n+PONG\r\n+OK\r\n", 3, Ok(())),
            ("+PONG\r\n-ERR unknown command 'CLIENT'\r\n", 2, Ok(())),
            ("-LOADING Redis is loading\r\n+OK\r\n", 2, Ok(())),
            ("-NOAUTH Authentication required.\r\n-NOAUTH\r\n", 2, Err(Error::NoAuth)),
            ("-WRONGPASS invalid\r\n-NOAUTH\r\n-NOAUTH\r\n", 3, Err(Error::WrongPassword)),
            ("-DENIED Redis is running in protected mode\r\n", 2, Err(Error::ProtectedMode)),
            ("", 2, Err(Error::Closed(Phase::Login))),
            ("+PONG\r\n", 2, Err(Error::Closed(Phase::Login))),
            (
                "HTTP/1.1 400 Bad Request\r\n",
                2,
                Err(Error::Protocol("the answer to PING is not one of Redis".into())),
            ),
        ] {
            assert_eq!(judge(reply, expected), result, "{reply}");
        }
    }

    #[tokio::test]
    async fn a_server_that_echoes_the_password_does_not_get_it_shown() {
        let path = std::env::temp_dir().join(format!("vipd-login-{}", std::process::id()));
        std::fs::write(&path, "hunter2").unwrap();
        let secret = Secret::read(&path);
        std::fs::remove_file(&path).unwrap();
        let (near, mut far) = tokio::io::duplex(1024);
        let server = async {
            far.read_u8().await.unwrap();
            far.write_all(b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n")
                .await
                .unwrap();
            drop(far);
        };
        let mut near: Box<dyn Stream> = Box::new(near);
        let secret = secret.unwrap();
        let (result, ()) = tokio::join!(log_in(&mut near, None, Some(&secret)), server);
        let error = format!("{0} {0:?}", result.unwrap_err());
        assert!(error.contains("***") && !error.contains("hunter2"), "{error}");
    }
}
