//! One kind of failover: a lab of its own, in which it happens again and again.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use vipd_tests::heal;
use vipd_tests::{Lab, Mode, Options};

use super::run::{self, Run};
use crate::scenario::Scenario;

/// A mode, what happens to the master in it, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub mode: Mode,
    pub scenario: Scenario,
    /// `[daemon] fast_fail = "refused"`.
    pub fast_fail: bool,
    pub runs: usize,
}

/// What was measured.
pub struct Outcome {
    pub cell: Cell,
    pub runs: Vec<Run>,
}

/// The shortest `fast_fail_interval_s`.
const FAST_FAIL_INTERVAL: Duration = Duration::from_secs(10);
/// A Sentinel begins no failover of a master within twice this of the last.
const FAILOVER_TIMEOUT: Duration = Duration::from_millis(2500);

impl Cell {
    /// Silence after which a Sentinel calls a node down. With fast fail nobody shall wait for that.
    pub fn down_after(&self) -> Duration {
        let is_found_out = self.fast_fail && self.scenario == Scenario::Kill;
        Duration::from_millis(if is_found_out { 5000 } else { 500 })
    }

    /// A time within which the new master cannot be served yet: clients that begin to connect in it
    /// fall into the gap.
    pub fn gap(&self) -> Duration {
        match self.scenario {
            Scenario::Planned | Scenario::Switchover => Duration::from_millis(100),
            Scenario::Kill if self.fast_fail => Duration::from_millis(100),
            Scenario::Kill
            | Scenario::Gone
            | Scenario::Stop
            | Scenario::Partition
            | Scenario::Back => self.down_after(),
        }
    }

    /// Builds the lab and measures every run.
    pub fn measure(&self) -> Result<Outcome> {
        let mut lab = Lab::up(self.options())?;
        let runs = self.measure_in(&mut lab).inspect_err(|_| eprintln!("{}", lab.report()))?;
        Ok(Outcome { cell: *self, runs })
    }

    fn measure_in(&self, lab: &mut Lab) -> Result<Vec<Run>> {
        lab.serve()?;
        heal::wait_ready(lab)?;
        let mut runs = Vec::new();
        for number in 1..=self.runs {
            let begun = Instant::now();
            let run = run::measure(lab, self, number)?;
            let measured = begun.elapsed();
            eprint!("  {number}: {run}");
            self.scenario.undo(lab, run.old)?;
            heal::heal(lab, run.old, run.new)?;
            if self.fast_fail {
                run::wait_since(run.fault, FAST_FAIL_INTERVAL + Duration::from_secs(1));
            } else {
                run::wait_since(run.fault, 2 * FAILOVER_TIMEOUT + Duration::from_secs(1));
            }
            let healed = begun.elapsed() - measured;
            eprintln!(" ({:.1} + {:.1} s)", measured.as_secs_f64(), healed.as_secs_f64());
            runs.push(run);
        }
        Ok(runs)
    }

    fn options(&self) -> Options {
        let fast_fail = if self.fast_fail { "refused" } else { "off" };
        Options {
            down_after: self.down_after(),
            failover_timeout: FAILOVER_TIMEOUT,
            daemon: format!(
                "fast_fail = \"{fast_fail}\"\n[failover]\nfast_fail_interval_s = {}\n",
                FAST_FAIL_INTERVAL.as_secs()
            ),
            ..Options::mode(self.mode)
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scenario = self.scenario.what();
        let fast_fail = if self.fast_fail { "on" } else { "off" };
        let down_after = self.down_after().as_millis();
        write!(f, "{}, {scenario}, fast fail {fast_fail}, ", self.mode.name())?;
        write!(f, "down-after {down_after} ms")
    }
}
