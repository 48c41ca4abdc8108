//! Numbers as people read them.

/// Nanoseconds as milliseconds, with three digits that say something: `0.214`, `4.21`, `42.1`,
/// `899.6`, `12,345.0`.
pub fn ms(ns: u64) -> String {
    let value = ns as f64 / 1e6;
    let decimals = match value {
        it if it < 1.0 => 3,
        it if it < 10.0 => 2,
        _ => 1,
    };
    plain(value, decimals)
}

/// Milliseconds since `zero_ns`, with a sign.
pub fn since(at_ns: u64, zero_ns: u64) -> String {
    let value = milliseconds_since(at_ns, zero_ns);
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign}{}", plain(value.abs(), 1))
}

/// The same as a number, for an axis.
pub fn milliseconds_since(at_ns: u64, zero_ns: u64) -> f64 {
    (at_ns as f64 - zero_ns as f64) / 1e6
}

/// A count.
pub fn count(number: u64) -> String {
    grouped(&number.to_string())
}

/// With so many decimals, and its thousands apart.
pub fn plain(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let is_zero = text.chars().all(|it| matches!(it, '0' | '.'));
    let sign = if value < 0.0 && !is_zero { "−" } else { "" };
    format!("{sign}{}{rest}", grouped(whole))
}

/// As [`plain`], with no more decimals than it has, and no more than three.
pub fn shortest(value: f64) -> String {
    shortest_of(value, 3)
}

/// As [`plain`], with no more decimals than it has.
pub fn shortest_of(value: f64, decimals: usize) -> String {
    let text = plain(value, decimals);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_digits_that_say_something() {
        let cases = [
            (0, "0.000"),
            (214_300, "0.214"),
            (4_211_000, "4.21"),
            (899_640_000, "899.6"),
            (12_345_000_000, "12,345.0"),
        ];
        for (ns, text) in cases {
            assert_eq!(ms(ns), text);
        }
    }

    #[test]
    fn a_moment_says_on_which_side_of_zero_it_is() {
        assert_eq!(since(2_500_000, 2_000_000), "+0.5");
        assert_eq!(since(0, 2_000_000_000), "−2,000.0");
    }

    #[test]
    fn nothing_is_not_negative() {
        assert_eq!(plain(-0.04, 1), "0.0");
        assert_eq!(plain(-1234.5, 1), "−1,234.5");
    }

    #[test]
    fn thousands_stand_apart() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        assert_eq!((shortest(900.0), shortest(0.25)), ("900".to_owned(), "0.25".to_owned()));
    }
}
