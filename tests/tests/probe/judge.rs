//! What a layer says, held against what taps have seen.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd::probe::report::{Layer, Outage, Run};
use vipd_tests::truth::{Entry, Measured};

/// What the issue promises of moments, and of lengths at 1,000 packets a second.
pub const EXACT: Duration = Duration::from_millis(2);
/// The probe takes no shorter silence for an outage.
const SHORTEST_OUTAGE: Duration = Duration::from_millis(10);

/// Packets and answers of one layer, as the taps on either side have seen them.
#[derive(Debug)]
pub struct Exchange {
    /// In order of time, by the kernel.
    pub probes: Vec<Entry>,
    answers: HashMap<u32, Vec<Monotonic>>,
}

/// A probe that came through, and its first answer.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// At the server.
    pub there: Monotonic,
    /// Back at the client.
    pub back: Monotonic,
}

impl Exchange {
    /// Answers belong to probes whose key is less by `step`. Those that the client's tap dropped are
    /// none.
    pub fn new(probes: Vec<Entry>, answers: &[Entry], step: u32) -> Self {
        let mut by_key: HashMap<u32, Vec<Monotonic>> = HashMap::new();
        for answer in answers.iter().filter(|it| it.passed) {
            by_key.entry(answer.key.wrapping_sub(step)).or_default().push(answer.at);
        }
        Self { probes, answers: by_key }
    }

    /// The answers to a probe.
    pub fn answers(&self, key: u32) -> &[Monotonic] {
        self.answers.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Those that came through.
    pub fn answered(&self) -> impl DoubleEndedIterator<Item = Answered> {
        self.probes.iter().filter_map(|probe| {
            let &back = self.answers(probe.key).first()?;
            Some(Answered { there: probe.at, back })
        })
    }

    /// Fails unless `layer` tells of each of these gaps what the taps saw.
    pub fn judge_gaps(
        &self,
        measured: &Measured,
        layer: &Layer,
        gaps: &[(Monotonic, Monotonic)],
    ) -> Result<()> {
        let run = measured.run()?;
        for &(from, to) in gaps {
            let before = self.answered().rfind(|it| it.there < from).context("none before")?;
            let after = self.answered().find(|it| it.there >= to).context("none after")?;
            let middle = from + to.since(from) / 2;
            let outage = outage_at(run, layer, middle)
                .with_context(|| format!("no outage at {middle:?}: {:?}", layer.outages))?;
            let told = (at(run, outage.from_ns), outage.to_ns.map(|it| at(run, it)));
            let (begin, end) = (told.0, told.1.context("it has no end")?);
            println!(
                "{}: {:?} dropped; {:?} told; beginning {:?} and end {:?} after the server",
                layer.name.name(),
                to.since(from),
                Duration::from_nanos(outage.length_ns),
                begin.since(before.there),
                end.since(after.there),
            );
            between(before.there, begin, before.back).context("its beginning")?;
            between(after.there, end, after.back).context("its end")?;
            ensure!(outage.length_ns == end.0 - begin.0, "a length that is none: {outage:?}");
            // How late the probe says it was, and how long the answer took that ended it.
            let late = layer.schedule.context("no schedule")?.late_max_ns;
            let late = Duration::from_nanos(late) + after.back.since(after.there);
            let (told, truth) = (end.since(begin), to.since(from));
            ensure!(
                truth <= told + EXACT && told <= truth + EXACT + late,
                "{truth:?} are told to be {told:?} (the probe was late by {late:?})"
            );
        }
        Ok(())
    }

    /// Fails if `layer` tells of an outage in which answers came.
    pub fn judge_outages(&self, run: &Run, layer: &Layer) -> Result<()> {
        let mut backs: Vec<_> = self.answered().map(|it| it.back).collect();
        backs.sort_unstable();
        for outage in &layer.outages {
            let (from, to) = (at(run, outage.from_ns), outage.to_ns.map(|it| at(run, it)));
            let to = to.unwrap_or(Monotonic(u64::MAX));
            let within = backs.iter().filter(|&&it| it > from + EXACT && it + EXACT < to).count();
            ensure!(within == 0, "{within} answers came during {outage:?}");
            ensure!(to.since(from) + EXACT >= SHORTEST_OUTAGE, "{outage:?} is too short");
        }
        Ok(())
    }
}

/// A moment of a run, by the clock.
pub fn at(run: &Run, ns: u64) -> Monotonic {
    Monotonic(run.origin_ns + ns)
}

/// The outage that a moment is in.
pub fn outage_at<'a>(run: &Run, layer: &'a Layer, moment: Monotonic) -> Option<&'a Outage> {
    layer.outages.iter().find(|it| {
        let to = it.to_ns.map_or(Monotonic(u64::MAX), |to| at(run, to));
        (at(run, it.from_ns)..=to).contains(&moment)
    })
}

/// Fails unless `told` is between the two moments, give or take what is promised.
pub fn between(from: Monotonic, told: Monotonic, to: Monotonic) -> Result<()> {
    ensure!(
        from <= told + EXACT && told <= to + EXACT,
        "{} is told, but it was between {} and {}",
        told.0,
        from.0,
        to.0
    );
    Ok(())
}
