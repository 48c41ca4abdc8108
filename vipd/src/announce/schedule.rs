//! When an announcement is repeated.

use std::time::Duration;

use crate::config;

/// How a VIP that was taken over is announced: [`config::Announce`], with times as times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// How often at first, the one at once included.
    pub count: u32,
    /// How far apart those are.
    pub interval: Duration,
    /// How far apart all later ones are; `None` for no more.
    pub refresh: Option<Duration>,
}

impl Schedule {
    /// How long after the first announcement each further one is due.
    pub fn repeats(self) -> impl Iterator<Item = Duration> {
        let Self { count, interval, refresh } = self;
        let last = interval.saturating_mul(count.saturating_sub(1));
        let burst = (1..count).map(move |n| interval.saturating_mul(n));
        let later = refresh.into_iter().flat_map(move |every| {
            (1..=u32::MAX).map(move |n| last.saturating_add(every.saturating_mul(n)))
        });
        burst.chain(later)
    }
}

impl From<&config::Announce> for Schedule {
    fn from(config: &config::Announce) -> Self {
        Self {
            count: config.count,
            interval: Duration::from_millis(config.interval_ms.into()),
            refresh: (config.refresh_s > 0).then(|| Duration::from_secs(config.refresh_s.into())),
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        (&config::Announce::default()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(schedule: Schedule) -> Vec<u128> {
        schedule.repeats().take(6).map(|after| after.as_millis()).collect()
    }

    #[test]
    fn five_quick_ones_then_one_a_minute_by_default() {
        let expected = [200, 400, 600, 800, 60_800, 120_800];
        assert_eq!(milliseconds(Schedule::default()), expected);
    }

    #[test]
    fn without_refresh_it_ends_and_one_alone_is_one_alone() {
        let schedule = |count, refresh| Schedule {
            count,
            interval: Duration::from_millis(10),
            refresh: Some(refresh).filter(|it| *it > 0).map(Duration::from_millis),
        };
        assert_eq!(milliseconds(schedule(3, 0)), [10, 20]);
        assert_eq!(milliseconds(schedule(1, 0)), []);
        assert_eq!(milliseconds(schedule(0, 0)), []);
        assert_eq!(milliseconds(schedule(1, 50)), [50, 100, 150, 200, 250, 300]);
    }
}
