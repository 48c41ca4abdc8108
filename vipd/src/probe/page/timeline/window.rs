//! Which part of a run a timeline shows.

use crate::probe::numbers::milliseconds_since;
use crate::probe::report::{Outage, Run};

/// From and to, in milliseconds since the run's zero.
pub type Window = (f64, f64);

/// What is longer than this share of the run can be read without a drawing of its own.
const READABLE: f64 = 0.3;
/// Room beside the blackouts, as a share of them, and at least in milliseconds.
const MARGIN: f64 = 0.08;
const LEAST_MARGIN_MS: f64 = 5.0;

/// All of it.
pub fn whole(run: &Run) -> Window {
    let zero = run.zero_ns();
    (milliseconds_since(0, zero), milliseconds_since(run.length_ns, zero))
}

/// From just before the trigger to just after the last layer's recovery. If that is no small part of
/// the run, the longest blackout that ended and those at the same time; `None` if there are none, or
/// if the whole run shows them well enough.
pub fn around_blackouts(run: &Run) -> Option<Window> {
    let zero = run.zero_ns();
    let (first, last) = whole(run);
    let all: Vec<Window> = run
        .layers
        .iter()
        .filter_map(|layer| layer.blackout.as_ref())
        .filter_map(|it: &Outage| Some((it.from_ns, it.to_ns?)))
        .map(|(from, to)| (milliseconds_since(from, zero), milliseconds_since(to, zero)))
        .collect();
    let triggered = run.trigger.is_some().then_some((0.0, 0.0));
    let readable = |&(from, to): &Window| to - from <= READABLE * (last - first);
    let around = |it: Window| {
        let margin = ((it.1 - it.0) * MARGIN).max(LEAST_MARGIN_MS);
        ((it.0 - margin).max(first), (it.1 + margin).min(last))
    };
    let union = |some: &mut dyn Iterator<Item = Window>| {
        some.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    };
    let length = |it: &Window| it.1 - it.0;
    let longest = *all.iter().max_by(|one, other| length(one).total_cmp(&length(other)))?;
    let everything = union(&mut all.iter().copied().chain(triggered));
    let main = union(&mut all.iter().copied().filter(|it| it.0 <= longest.1 && it.1 >= longest.0));
    [everything, main, Some(longest)].into_iter().flatten().map(around).find(readable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::page::sample;

    #[test]
    fn a_short_blackout_in_a_long_run_is_enlarged_from_the_trigger_to_the_last_recovery() {
        let run = &sample::nat().runs[0];
        let (from, to) = around_blackouts(run).unwrap();
        assert!((-200.0..0.0).contains(&from), "{from}");
        assert!((900.0..1100.0).contains(&to), "{to}");
    }

    #[test]
    fn a_long_blackout_needs_no_drawing_of_its_own() {
        let mut run = sample::nat().runs.swap_remove(0);
        run.length_ns = run.zero_ns() + 1_000_000_000;
        assert_eq!(around_blackouts(&run), None);
    }

    #[test]
    fn blackouts_that_are_far_apart_leave_the_longest() {
        let mut run = sample::nat().runs.swap_remove(0);
        let zero = run.zero_ns();
        let far = Outage {
            from_ns: zero + 27_000_000_000,
            to_ns: Some(zero + 27_010_000_000),
            length_ns: 10_000_000,
            old: None,
            new: None,
        };
        run.layers[0].blackout = Some(far);
        let (from, to) = around_blackouts(&run).unwrap();
        assert!(from < 0.0 && to < 1100.0, "{from} {to}");
    }

    #[test]
    fn what_never_came_back_is_not_waited_for() {
        let mut run = sample::nat().runs.swap_remove(0);
        for layer in &mut run.layers {
            if let Some(blackout) = &mut layer.blackout {
                blackout.to_ns = None;
            }
        }
        assert_eq!(around_blackouts(&run), None);
    }
}
