//! `vipd notify`: what a Sentinel's `client-reconfig-script` is called with, passed on to vipd.
//!
//! It is a hint and nothing more: vipd reads every Sentinel again at once and decides by its own
//! rules. Sentinel repeats a script that failed after 30 s, 60 s, … (sentinel.c,
//! `sentinelCollectTerminatedScripts`), possibly after a newer failover; such a late hint finds
//! that nothing has changed.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::control::{self, Request, Response};

/// Sentinel's seven arguments. Only the master's name has an effect.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hint {
    /// Sentinel's name of the master.
    pub master: String,
    /// `leader` or `observer`: whether that Sentinel led the failover.
    pub role: String,
    /// `start`, `end` or `abort`.
    pub state: String,
    /// The old master, `host:port`.
    pub from: String,
    /// The new one.
    pub to: String,
}

/// What became of a hint. As an exit status: 1 makes Sentinel repeat the script, 2 does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// vipd knows: 0.
    Told,
    /// No vipd answers, or it can't now: 1.
    Unheard(String),
    /// It would never succeed: 2.
    Refused(String),
}

impl Hint {
    /// From `MASTER ROLE STATE FROM-IP FROM-PORT TO-IP TO-PORT`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn from_arguments(arguments: &[String]) -> Result<Self, String> {
        let [master, role, state, from, from_port, to, to_port] = arguments else {
            return Err(format!(
                "{} arguments instead of the seven that Sentinel gives: MASTER ROLE STATE FROM-IP \
                 FROM-PORT TO-IP TO-PORT",
                arguments.len()
            ));
        };
        let place = |host: &str, port: &str| match port.parse::<u16>() {
            _ if host.is_empty() => Err("an address is empty".to_owned()),
            Ok(number) if number > 0 => Ok(format!("{host}:{port}")),
            Ok(_) | Err(_) => Err(format!("{port:?} is not a port")),
        };
        if master.is_empty() {
            return Err("the master's name is empty".to_owned());
        }
        Ok(Self {
            master: master.clone(),
            role: role.clone(),
            state: state.clone(),
            from: place(from, from_port)?,
            to: place(to, to_port)?,
        })
    }
}

impl Outcome {
    /// What Sentinel's rules for scripts want.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Told => ExitCode::SUCCESS,
            Self::Unheard(_) => ExitCode::from(1),
            Self::Refused(_) => ExitCode::from(2),
        }
    }
}

/// Tells the vipd behind the first of `sockets` that takes it: the control socket is root's alone,
/// the other one everybody's.
pub async fn tell(sockets: &[PathBuf], hint: &Hint) -> Outcome {
    let mut unheard = Vec::new();
    for socket in sockets {
        match control::ask(socket, Request::Notify(hint.clone())).await {
            Ok(Response::Done) => return Outcome::Told,
            Ok(Response::Unknown(why)) => return Outcome::Refused(why),
            Ok(Response::Error(why)) => unheard.push(format!("{}: {why}", socket.display())),
            Ok(Response::Status(_) | Response::Step(_) | Response::Switched(_)) => {
                unheard.push(format!("{} answers something else", socket.display()));
            }
            Err(error) => unheard.push(error.to_string()),
        }
    }
    Outcome::Unheard(unheard.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(line: &str) -> Result<Hint, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Hint::from_arguments(&arguments)
    }

    #[test]
    fn sentinels_arguments_are_understood() {
        let expected = Hint {
            master: "mymaster".into(),
            role: "observer".into(),
            state: "start".into(),
            from: "198.18.0.101:8000".into(),
            to: "redis2.example:8000".into(),
        };
        let line = "mymaster observer start 198.18.0.101 8000 redis2.example 8000";
        assert_eq!(hint(line), Ok(expected));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, expected) in [
            ("", "0 arguments instead of the seven"),
            ("mymaster observer start 198.18.0.101 8000 198.18.0.102", "6 arguments"),
            ("mymaster observer start 198.18.0.101 8000 198.18.0.102 8000 9", "8 arguments"),
            ("mymaster observer start 198.18.0.101 x 198.18.0.102 8000", "\"x\" is not a port"),
            ("mymaster observer start 198.18.0.101 8000 198.18.0.102 0", "\"0\" is not a port"),
        ] {
            let error = hint(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_worth_another_try() {
        let socket = std::env::temp_dir().join(format!("vipd-nobody-{}", std::process::id()));
        let hint = hint("m leader start 198.18.0.101 1 198.18.0.102 2").unwrap();
        let outcome = tell(std::slice::from_ref(&socket), &hint).await;
        let Outcome::Unheard(why) = &outcome else { panic!("{outcome:?}") };
        assert!(why.contains(&socket.display().to_string()), "{why}");
    }
}
