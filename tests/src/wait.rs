//! Waiting on a condition, which is the only way to wait here.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Longer than anything in the lab takes when it works, on a machine that does other things too. The
/// longest is a Sentinel in TILT, which a stalled machine puts it into: 30 s, and then a failover.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(5);

/// Looks until `look` returns a value, and gives up after `limit`. An error of `look` means "not
/// yet"; the last one is part of the error when time runs out.
pub fn wait_for<T>(
    what: impl Display,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let problem = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            let waited = anyhow!("waited {} s in vain until {what}", limit.as_secs());
            return Err(match problem {
                Some(error) => error.context(waited),
                None => waited,
            });
        }
        thread::sleep(POLL);
    }
}

/// [`wait_for`] something that is true or not.
pub fn wait_until(
    what: impl Display,
    limit: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, limit, || Ok(look()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_last_problem_is_part_of_the_error() {
        let waited: Result<()> =
            wait_for("pigs fly", Duration::ZERO, || bail!("no wings were found"));
        let error = format!("{:#}", waited.expect_err("they don't"));
        assert!(error.contains("pigs fly") && error.contains("no wings"), "{error}");
    }

    #[test]
    fn an_error_means_not_yet() {
        let mut looks = 0;
        let value = wait_for("the third look", PATIENCE, || {
            looks += 1;
            if looks < 3 {
                bail!("too early");
            }
            Ok(Some(looks))
        });
        assert_eq!(value.expect("the third look succeeds"), 3);
    }
}
