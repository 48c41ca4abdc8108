//! What a Redis node answers, as types. Pure.

use std::time::Duration;

use redis::Value;

use crate::connect::{Error, info_field, text};

/// The answer to ROLE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// It takes writes.
    Master {
        /// Replication offset, in bytes.
        offset: u64,
        /// Replicas connected to it.
        replicas: u32,
    },
    /// It follows another node.
    Replica {
        /// Host name or IP address of its master, and the port.
        of: (String, u16),
        /// The link to the master is up (`connected`).
        link_up: bool,
        /// Replication offset, in bytes; 0 while it was never in sync.
        offset: u64,
    },
    /// It is a Sentinel: a configuration error.
    Sentinel,
}

/// From INFO replication.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replication {
    /// `master_replid`: the history it is on.
    pub id: String,
    /// `master_replid2`: the history it was on before it was promoted; of zeros if it never was.
    pub previous_id: String,
    /// A replica's silence from its master (`master_last_io_seconds_ago`), to a second.
    pub silence: Option<Duration>,
}

/// Reads the answer to ROLE.
pub fn role(value: &Value) -> Result<Role, Error> {
    parse_role(value)
        .ok_or_else(|| Error::Protocol(format!("unexpected answer to ROLE: {value:?}")))
}

/// Reads the text of INFO replication.
pub fn replication(info: &str) -> Replication {
    let field = |key| info_field(info, key).unwrap_or_default().to_owned();
    Replication {
        id: field("master_replid"),
        previous_id: field("master_replid2"),
        // -1 while the link is down.
        silence: info_field(info, "master_last_io_seconds_ago")
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs),
    }
}

fn parse_role(value: &Value) -> Option<Role> {
    let Value::Array(parts) = value else {
        return None;
    };
    match (text(parts.first()?)?, parts.get(1..)?) {
        ("master", [offset, Value::Array(replicas)]) => Some(Role::Master {
            offset: offset_of(offset)?,
            replicas: u32::try_from(replicas.len()).ok()?,
        }),
        ("slave", [host, port, state, offset]) => Some(Role::Replica {
            of: (text(host)?.to_owned(), u16::try_from(number(port)?).ok()?),
            link_up: text(state)? == "connected",
            offset: offset_of(offset)?,
        }),
        ("sentinel", _) => Some(Role::Sentinel),
        _ => None,
    }
}

/// -1 stands for none.
fn offset_of(value: &Value) -> Option<u64> {
    Some(u64::try_from(number(value)?).unwrap_or(0))
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        value => text(value)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn answers_of_redis_7_to_role_are_read() {
        let of = || ("198.18.0.101".to_owned(), 8000);
        let replica = |state: &str, offset| {
            Value::Array(vec![
                bulk("slave"),
                bulk("198.18.0.101"),
                Value::Int(8000),
                bulk(state),
                Value::Int(offset),
            ])
        };
        let connected = Value::Array(vec![bulk("198.18.0.102"), bulk("8000"), bulk("3129659")]);
        for (value, role) in [
            (
                Value::Array(vec![
                    bulk("master"),
                    Value::Int(3_129_659),
                    Value::Array(vec![connected]),
                ]),
                Role::Master { offset: 3_129_659, replicas: 1 },
            ),
            (
                replica("connected", 3_167_038),
                Role::Replica { of: of(), link_up: true, offset: 3_167_038 },
            ),
            (replica("connect", -1), Role::Replica { of: of(), link_up: false, offset: 0 }),
            (replica("sync", -1), Role::Replica { of: of(), link_up: false, offset: 0 }),
            (
                Value::Array(vec![bulk("sentinel"), Value::Array(vec![bulk("mymaster")])]),
                Role::Sentinel,
            ),
        ] {
            assert_eq!(super::role(&value), Ok(role));
        }
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_role() {
        for value in [
            Value::Nil,
            Value::Okay,
            Value::Array(vec![]),
            Value::Array(vec![bulk("master")]),
            Value::Array(vec![bulk("master"), bulk("x"), Value::Array(vec![])]),
            Value::Array(vec![
                bulk("slave"),
                bulk("host"),
                Value::Int(65_536),
                bulk("connected"),
                Value::Int(1),
            ]),
            Value::Array(vec![bulk("primary"), Value::Int(0), Value::Array(vec![])]),
        ] {
            assert!(matches!(role(&value), Err(Error::Protocol(_))), "{value:?}");
        }
    }

    #[test]
    fn info_tells_the_histories_and_the_silence() {
        let info = "# Replication\r\nrole:slave\r\nmaster_last_io_seconds_ago:3\r\n\
                    master_replid:aaaa\r\nmaster_replid2:0000\r\n";
        let expected = Replication {
            id: "aaaa".into(),
            previous_id: "0000".into(),
            silence: Some(Duration::from_secs(3)),
        };
        assert_eq!(replication(info), expected);
        assert_eq!(replication("master_last_io_seconds_ago:-1\r\n").silence, None);
    }
}
