//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from a first delay up to a limit. Each delay is shortened by up to a quarter at random,
/// so that many vipds do not come back to a Sentinel in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from about `first` to about `limit`.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.limit);
        // RandomState is seeded by the operating system, and differs at each use.
        let random = RandomState::new().hash_one(0_u8) % 1024;
        delay - delay.mul_f64(random as f64 / 4096.0)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_over() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(300));
        for nominal in [50, 100, 200, 300, 300, 300] {
            let delay = backoff.delay();
            assert!(
                delay <= ms(nominal) && delay >= ms(nominal) * 3 / 4,
                "{delay:?} for {nominal}"
            );
        }
        backoff.reset();
        assert!(backoff.delay() <= ms(50));
    }
}
