//! One way and one kind of failover: a lab of its own, in which it happens again and again.

use std::fmt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vipd_tests::Lab;
use vipd_tests::client;
use vipd_tests::heal;
use vipd_tests::wait::{PATIENCE, wait_until};

use super::run::{self, Measured, Run};
use super::way::{FAILOVER_TIMEOUT, Way};
use crate::scenario::Scenario;

/// What is measured together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub way: Way,
    pub scenario: Scenario,
    /// Failovers.
    pub runs: usize,
}

/// What came of it.
pub struct Outcome {
    pub cell: Cell,
    /// Those that could be measured.
    pub runs: Vec<Run>,
    /// Why the others could not.
    pub failures: Vec<String>,
}

/// After so many failures the rest of a cell is left out.
const MOST_FAILURES: usize = 3;

impl Cell {
    /// Measures every run. One that fails costs its lab, and not the others.
    pub fn measure(&self, keep: Option<&Path>) -> Outcome {
        let (mut runs, mut failures) = (Vec::new(), Vec::new());
        let mut standing = None;
        for number in 1..=self.runs {
            if let Err(error) = self.measure_one(&mut standing, number, keep, &mut runs) {
                eprintln!("  {number}/{}: FAILED: {error:#}", self.runs);
                if let Some(lab) = standing.take() {
                    eprintln!("{}", lab.report());
                }
                failures.push(format!("run {number}: {error:#}"));
            }
            if failures.len() >= MOST_FAILURES {
                let left = self.runs - number;
                if left > 0 {
                    failures.push(format!("{left} more runs were not tried"));
                }
                break;
            }
        }
        Outcome { cell: *self, runs, failures }
    }

    /// What was measured counts even if the lab does not get well again.
    fn measure_one(
        &self,
        standing: &mut Option<Lab>,
        number: usize,
        keep: Option<&Path>,
        runs: &mut Vec<Run>,
    ) -> Result<()> {
        let lab = match standing {
            Some(lab) => lab,
            none => none.insert(self.set_up().context("the lab does not stand")?),
        };
        let begun = Instant::now();
        let measured = run::measure(lab, self, number, keep)?;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("  {number}/{}: {} ({took:.1} s)", self.runs, measured.run);
        runs.push(measured.run.clone());
        if number < self.runs {
            self.heal(lab, &measured).context("the lab does not heal")?;
        }
        Ok(())
    }

    fn set_up(&self) -> Result<Lab> {
        let mut lab = Lab::up(self.way.lab())?;
        lab.serve()?;
        heal::wait_ready(&lab)?;
        Ok(lab)
    }

    fn heal(&self, lab: &mut Lab, measured: &Measured) -> Result<()> {
        let Measured { old, new, fault, .. } = *measured;
        if !self.scenario.is_passing() {
            self.scenario.undo(lab, old)?;
        }
        heal::heal(lab, old, new)?;
        if self.way.has_vip() {
            self.heal_vip(lab, new)?;
        }
        let rest = 2 * FAILOVER_TIMEOUT + Duration::from_secs(1);
        thread::sleep(rest.saturating_sub(fault.elapsed()));
        Ok(())
    }

    /// The VIP is where it should be and nowhere else, and the clients find it there: what a failover
    /// did to their caches is a result of that one, not of the next.
    fn heal_vip(&self, lab: &Lab, owner: usize) -> Result<()> {
        let vip = lab.service().ip();
        for (number, node) in lab.nodes.iter().enumerate() {
            if self.way.moves_vip() && number != owner {
                let what = format!("{}'s host has given the VIP up", node.name());
                wait_until(what, PATIENCE, || Ok(!node.host().has_address(vip)?))?;
            }
        }
        for host in [&lab.client, &lab.observer] {
            host.namespace.ip_batch(&format!("neigh flush to {vip} dev eth0\n"))?;
        }
        wait_until("clients find the new master", PATIENCE, || {
            let run_id = client::run_id(&mut lab.dialer().connect()?)?;
            ensure!(run_id == lab.nodes[owner].run_id(), "they are at {run_id}");
            Ok(true)
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.scenario.name(), self.way.name())
    }
}
