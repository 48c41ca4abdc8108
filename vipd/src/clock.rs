//! CLOCK_MONOTONIC, the clock of the kernel's events and of every timeline.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC: what `bpf_ktime_get_ns` returns as well, so that times from
/// the kernel and from the daemon stand on one axis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Reads the clock. The sans-IO core never calls this: time is its argument.
    pub fn now() -> Self {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid timespec, and CLOCK_MONOTONIC exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// Time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let first = Monotonic::now();
        assert!(Monotonic::now() >= first);
        assert_eq!((first + Duration::from_nanos(5)).since(first), Duration::from_nanos(5));
        assert_eq!(first.since(first + Duration::from_secs(1)), Duration::ZERO);
    }
}
