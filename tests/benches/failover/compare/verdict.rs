//! Where vipd is not the best.

use vipd::probe::figures::Spread;

use super::cell::Outcome;
use super::figures::{FIGURES, Figure};

/// A line for each figure of each scenario in which a median of a vipd is worse than one of somebody
/// else, from what was measured.
pub fn not_the_best(outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut scenarios: Vec<_> = outcomes.iter().map(|it| it.cell.scenario).collect();
    scenarios.dedup();
    for scenario in scenarios {
        for figure in &FIGURES {
            let of_scenario = outcomes.iter().filter(|it| it.cell.scenario == scenario);
            let standings: Vec<_> = of_scenario.filter_map(|it| Standing::of(it, figure)).collect();
            let what = format!("{}, {}", scenario.name(), figure.name);
            lines.extend(beaten(&standings).map(|words| format!("{what}: {words}")));
        }
    }
    lines
}

/// One way's figure.
struct Standing<'a> {
    outcome: &'a Outcome,
    figure: &'a Figure,
    spread: Spread,
    /// Runs that went worse than any figure can say.
    exceptions: usize,
}

impl<'a> Standing<'a> {
    fn of(outcome: &'a Outcome, figure: &'a Figure) -> Option<Self> {
        let spread = figure.spread(&outcome.runs)?;
        let exceptions = figure.exceptions(&outcome.runs);
        Some(Self { outcome, figure, spread, exceptions })
    }

    fn is_vipd(&self) -> bool {
        self.outcome.cell.way.is_vipd()
    }

    /// Less is better.
    fn is_better_than(&self, other: &Self) -> bool {
        let exceptions = self.exceptions.cmp(&other.exceptions);
        exceptions.then(self.spread.median.total_cmp(&other.spread.median)).is_lt()
    }

    fn words(&self) -> String {
        let Self { outcome, figure, spread, .. } = self;
        let remark = figure.remark(&outcome.runs).map(|it| format!(", {it}"));
        let shown = figure.show_spread(spread) + &remark.unwrap_or_default();
        format!("{} {shown}", outcome.cell.way.name())
    }

    /// Whether the difference of the medians may be chance: each is in the other's range.
    fn overlaps(&self, other: &Self) -> bool {
        self.spread.max >= other.spread.min && other.spread.max >= self.spread.min
    }
}

/// Each vipd that the best of the others beats, with that.
fn beaten<'a>(standings: &'a [Standing<'a>]) -> impl Iterator<Item = String> + 'a {
    let others = standings.iter().filter(|it| !it.is_vipd());
    let best = others.reduce(|best, it| if it.is_better_than(best) { it } else { best });
    let vipds = standings.iter().filter(|it| it.is_vipd());
    best.into_iter().flat_map(move |best| {
        vipds.clone().filter(|vipd| best.is_better_than(vipd)).map(|vipd| {
            let overlap = if best.overlaps(vipd) { " (their ranges overlap)" } else { "" };
            format!("{}; {}{overlap}", vipd.words(), best.words())
        })
    })
}
