//! Where vipd is not the best.

use vipd::probe::figures::Spread;

use super::cell::Outcome;
use super::figures::{FIGURES, Figure};
use super::table::never;

/// A line for each figure of each scenario in which a median of a vipd is worse than one of somebody
/// else, from what was measured.
pub fn not_the_best(outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut scenarios: Vec<_> = outcomes.iter().map(|it| it.cell.scenario).collect();
    scenarios.dedup();
    for scenario in scenarios {
        for (number, figure) in FIGURES.iter().enumerate() {
            let of_scenario = outcomes.iter().filter(|it| it.cell.scenario == scenario);
            let standings: Vec<_> =
                of_scenario.filter_map(|it| Standing::of(it, figure, number == 0)).collect();
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
    never: usize,
}

impl<'a> Standing<'a> {
    fn of(outcome: &'a Outcome, figure: &'a Figure, is_blackout: bool) -> Option<Self> {
        let spread = figure.spread(&outcome.runs)?;
        let never = if is_blackout { never(&outcome.runs) } else { 0 };
        Some(Self { outcome, figure, spread, never })
    }

    fn is_vipd(&self) -> bool {
        self.outcome.cell.way.is_vipd()
    }

    /// Less is better.
    fn is_better_than(&self, other: &Self) -> bool {
        let never = self.never.cmp(&other.never);
        never.then(self.spread.median.total_cmp(&other.spread.median)).is_lt()
    }

    fn words(&self) -> String {
        let never = match self.never {
            0 => String::new(),
            never => format!(", never in {never}"),
        };
        let shown = self.figure.show_spread(&self.spread);
        format!("{} {shown}{never}", self.outcome.cell.way.name())
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
