//! A schedule: moments at a fixed rate, whatever happens. By a timer of the kernel, because tokio's
//! has a resolution of a millisecond, which would be found again in every latency.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::clock::Monotonic;

/// What is further behind is left out: the probe itself did not run, and a flood would not make up
/// for that.
const FARTHEST_BEHIND: Duration = Duration::from_secs(1);

/// Moments from a beginning on.
#[derive(Debug)]
pub(super) struct Pace {
    timer: AsyncFd<Timer>,
    begin: Monotonic,
    /// A second.
    rate: u64,
    /// Number of the next one.
    next: u64,
    skipped: u64,
}

impl Pace {
    /// `rate` a second, at least one, the first at `begin`.
    pub(super) fn new(begin: Monotonic, rate: u64) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // SAFETY: the descriptor is the timer's own, which the AsyncFd holds until it is dropped and
        // never changes.
        let timer = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) }?;
        Ok(Self { timer, begin, rate: rate.max(1), next: 0, skipped: 0 })
    }

    /// Waits until the next one is due, and says when that was (which may have been before). Can be
    /// dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Monotonic> {
        loop {
            let now = Monotonic::now();
            let due = self.due(self.next);
            if due > now {
                self.until(due).await?;
            } else if now.since(due) > FARTHEST_BEHIND {
                let first = Monotonic(now.0 - FARTHEST_BEHIND.as_nanos() as u64);
                let next = self.first_from(first).max(self.next + 1);
                self.skipped += next - self.next;
                self.next = next;
            } else {
                self.next += 1;
                return Ok(due);
            }
        }
    }

    /// Those that were left out so far.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// From the beginning each time, so that nothing adds up.
    fn due(&self, number: u64) -> Monotonic {
        let after = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        Monotonic(self.begin.0.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
    }

    /// Number of the first one that is not due before `moment`.
    fn first_from(&self, moment: Monotonic) -> u64 {
        let after = u128::from(moment.0.saturating_sub(self.begin.0)) * u128::from(self.rate);
        u64::try_from(after.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
    }

    async fn until(&self, due: Monotonic) -> io::Result<()> {
        let at = Expiration::OneShot(Duration::from_nanos(due.0).into());
        self.timer.get_ref().0.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        loop {
            let mut ready = self.timer.readable().await?;
            // Setting the timer makes it forget what it had to tell: then there is nothing to read.
            let mut expirations = [0; 8];
            match ready
                .try_io(|timer| Ok(nix::unistd::read(timer.get_ref().0.as_fd(), &mut expirations)?))
            {
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn moments_are_kept_and_none_comes_early() {
        let begin = Monotonic::now() + Duration::from_millis(5);
        let mut pace = Pace::new(begin, 3000).unwrap();
        for number in 0..100_u64 {
            let due = pace.next().await.unwrap();
            assert!(Monotonic::now() >= due);
            assert_eq!(due.0, begin.0 + number * 1_000_000_000 / 3000);
        }
        assert_eq!(pace.skipped(), 0);
    }

    #[tokio::test]
    async fn who_is_late_catches_up_and_leaves_out_only_what_is_older_than_a_second() {
        let long_ago = Monotonic(Monotonic::now().0 - 3_000_000_000);
        let mut pace = Pace::new(long_ago, 10).unwrap();
        let first = pace.next().await.unwrap();
        assert!((20..=21).contains(&pace.skipped()), "{}", pace.skipped());
        assert_eq!(first, pace.due(pace.skipped()));
        let mut caught_up = 1;
        while pace.next().await.unwrap() + Duration::from_millis(100) < Monotonic::now() {
            caught_up += 1;
        }
        assert!((8..=11).contains(&caught_up), "{caught_up}");
    }

    #[tokio::test]
    async fn waiting_can_be_given_up_and_begun_again() {
        let begin = Monotonic::now() + Duration::from_millis(300);
        let mut pace = Pace::new(begin, 1).unwrap();
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = pace.next() => panic!("it comes early"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(pace.next().await.unwrap(), begin);
    }
}
