//! Reading the values that Redis and Sentinel answer with.

use redis::Value;

use super::Error;

/// The value, or the error that the server answered with.
pub fn checked(value: Value) -> Result<Value, Error> {
    match value {
        Value::ServerError(error) => {
            Err(Error::from_server(error.code(), error.details().unwrap_or_default()))
        }
        value => Ok(value),
    }
}

/// The text of a string reply.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        Value::Okay => Some("OK"),
        _ => None,
    }
}

/// The value of a `key:value` line of INFO.
pub fn info_field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_info_is_found_by_its_whole_name() {
        let info = "# Sentinel\r\nsentinel_masters:1\r\nsentinel_tilt_since_seconds:-1\r\nsentinel_tilt:0\r\n";
        assert_eq!(info_field(info, "sentinel_tilt"), Some("0"));
        assert_eq!(info_field(info, "sentinel_masters"), Some("1"));
        assert_eq!(info_field(info, "sentinel"), None);
    }
}
