//! A schedule that waits for nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Monotonic;
use crate::probe::report::Schedule;

/// When each probe is due: computed from the beginning, so that nothing adds up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    begin: Monotonic,
    rate: u32,
}

/// When a run ends; it can be brought forward. Shared by everything that runs.
#[derive(Debug)]
pub struct End(AtomicU64);

/// Which probes of a schedule are sent, while it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lateness {
    pace: Pace,
    skipped: u64,
}

/// A probe that is later than this is left out: sending all that a long stall has held up would be a
/// burst that nobody asked for.
const MAX_LATE: Duration = Duration::from_millis(100);
/// Between two looks at whether the run has been ended.
const GLANCE: Duration = Duration::from_millis(50);

impl Pace {
    /// `rate` probes a second, at least 1, from `begin` on.
    pub fn new(begin: Monotonic, rate: u32) -> Self {
        Self { begin, rate: rate.max(1) }
    }

    /// When probe number `number` is due.
    pub fn due(&self, number: u64) -> Monotonic {
        let after = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        self.begin + Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// Between two probes.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.rate
    }
}

impl End {
    /// At `at`, unless it is brought forward.
    pub fn new(at: Monotonic) -> Self {
        Self(AtomicU64::new(at.0))
    }

    /// Brings it forward.
    pub fn at_latest(&self, at: Monotonic) {
        self.0.fetch_min(at.0, Ordering::Relaxed);
    }

    /// When.
    pub fn at(&self) -> Monotonic {
        Monotonic(self.0.load(Ordering::Relaxed))
    }
}

impl Lateness {
    /// Nothing was due yet.
    pub fn new(pace: Pace) -> Self {
        Self { pace, skipped: 0 }
    }

    /// Whether a probe that is due at `due` is still to be sent `now`.
    pub fn admits(&mut self, due: Monotonic, now: Monotonic) -> bool {
        let admitted = now.since(due) <= MAX_LATE;
        self.skipped += u64::from(!admitted);
        admitted
    }

    /// How it was kept, by how late each probe was sent.
    pub fn schedule(self, late: impl Iterator<Item = Duration>) -> Schedule {
        Schedule::of(f64::from(self.pace.rate), late.map(|it| it.as_nanos() as u64), self.skipped)
    }
}

/// Sleeps until `due`. `false` if the run ends before that: what was due before the end is late, not
/// left out.
pub fn wait_until(due: Monotonic, end: &End) -> bool {
    loop {
        let now = Monotonic::now();
        if due >= end.at() {
            return false;
        }
        if now >= due {
            return true;
        }
        sleep_until(due.min(now + GLANCE));
    }
}

/// Asks the kernel not to round the sleeps of this thread, as it does by 50 µs, and to run it before
/// whatever else this host does: who waits for a CPU measures the host and not the VIP.
///
/// Real time, since niceness counts among the processes of one session only (autogroups, sched(7)). A
/// thread that never sleeps still leaves a twentieth to others (`sched_rt_runtime_us`).
pub fn be_punctual() {
    let lowest = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: plain system calls with numbers for arguments, or a structure that is read; 0 is this
    // thread. Where they fail (the second takes CAP_SYS_NICE), packets come later, which the lateness
    // shows.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64);
        libc::sched_setscheduler(0, policy, &raw const lowest);
    }
}

/// To a moment, not for a time: however late this was called, the next sleep isn't.
fn sleep_until(at: Monotonic) {
    let until = libc::timespec {
        tv_sec: (at.0 / 1_000_000_000).cast_signed(),
        tv_nsec: (at.0 % 1_000_000_000).cast_signed(),
    };
    // SAFETY: `until` is a valid timespec, and nothing is to be written back. Whoever is woken early
    // by a signal looks at the clock again.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const until,
            std::ptr::null_mut(),
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_does_not_drift() {
        let pace = Pace::new(Monotonic(5), 3);
        assert_eq!(pace.due(0), Monotonic(5));
        assert_eq!(pace.due(3), Monotonic(1_000_000_005));
        assert_eq!(pace.due(3_000_000), Monotonic(1_000_000_000_000_005));
    }

    #[test]
    fn what_is_much_too_late_is_left_out_and_counted() {
        let mut lateness = Lateness::new(Pace::new(Monotonic(0), 1000));
        for late_ms in 0..200 {
            let late = Duration::from_millis(late_ms);
            assert_eq!(lateness.admits(Monotonic(7), Monotonic(7) + late), late <= MAX_LATE);
        }
        let schedule = lateness.schedule((0..=100).rev().map(Duration::from_millis));
        assert_eq!((schedule.planned, schedule.sent, schedule.skipped), (200, 101, 99));
        assert_eq!((schedule.late_p99_ns, schedule.late_max_ns), (99_000_000, 100_000_000));
    }

    #[test]
    fn an_end_only_comes_nearer() {
        let end = End::new(Monotonic(10));
        end.at_latest(Monotonic(20));
        assert_eq!(end.at(), Monotonic(10));
        end.at_latest(Monotonic(3));
        assert_eq!(end.at(), Monotonic(3));
        assert!(!wait_until(Monotonic(3), &end), "it is over");
        assert!(wait_until(Monotonic(2), &end), "that was due");
    }
}
