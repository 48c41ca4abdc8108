//! From values to places on a drawing, and where an axis has its ticks.

use crate::probe::numbers;

/// How an axis runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Axis {
    /// Equal steps.
    Linear,
    /// Equal factors; values of zero and less are at its beginning.
    Log,
}

/// Values of an interval to places of an interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scale {
    axis: Axis,
    from: f64,
    to: f64,
    left: f64,
    right: f64,
}

/// A value that an axis names.
#[derive(Clone, PartialEq, Debug)]
pub struct Tick {
    /// Where it is.
    pub at: f64,
    /// What to write there.
    pub label: String,
}

/// The least value of a logarithmic axis.
const LEAST: f64 = 1e-6;

impl Scale {
    /// From `values` (the first and the last) to `places`. An interval of no length is given one.
    pub fn new(axis: Axis, values: (f64, f64), places: (f64, f64)) -> Self {
        let (mut from, mut to) = values;
        if axis == Axis::Log {
            from = from.max(LEAST);
            to = to.max(from);
        }
        if to - from <= f64::EPSILON * to.abs() || !(to - from).is_finite() {
            (from, to) = match axis {
                Axis::Linear => (from - 1.0, from + 1.0),
                Axis::Log => (from / 2.0, from * 2.0),
            };
        }
        Self { axis, from, to, left: places.0, right: places.1 }
    }

    /// The place of a value; that of the nearer end if it is outside.
    pub fn place(&self, value: f64) -> f64 {
        let share = match self.axis {
            Axis::Linear => (value - self.from) / (self.to - self.from),
            Axis::Log => (value.max(LEAST) / self.from).ln() / (self.to / self.from).ln(),
        };
        self.left + share.clamp(0.0, 1.0) * (self.right - self.left)
    }

    /// Whether a value is on it.
    pub fn has(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// The values of its ends.
    pub fn ends(&self) -> (f64, f64) {
        (self.from, self.to)
    }

    /// Round values, about `wanted` of them and never more than twice as many.
    pub fn ticks(&self, wanted: usize) -> Vec<Tick> {
        match self.axis {
            Axis::Linear => self.linear_ticks(wanted),
            Axis::Log => self.log_ticks(wanted),
        }
    }

    fn linear_ticks(&self, wanted: usize) -> Vec<Tick> {
        let rough = (self.to - self.from) / wanted.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|it| it * power >= rough * 0.999);
        let step = factor.unwrap_or(10.0) * power;
        let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        let first = (self.from / step).ceil();
        (0..=2 * wanted)
            .map(|number| (first + number as f64) * step)
            .take_while(|&value| value <= self.to + step * 1e-9)
            .map(|value| Tick { at: self.place(value), label: numbers::plain(value, decimals) })
            .collect()
    }

    /// 1, 2 and 5 of each power of ten where there is room, else the powers, else some of them.
    fn log_ticks(&self, wanted: usize) -> Vec<Tick> {
        let (first, last) =
            (self.from.log10().floor() as i32, self.to.log10().floor().min(300.0) as i32);
        let decades = (last - first + 1).max(1) as usize;
        let factors: &[f64] = if decades * 3 <= wanted * 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = decades.div_ceil(2 * wanted.max(1)).max(1);
        (first..=last)
            .step_by(every)
            .flat_map(|power| factors.iter().map(move |factor| (factor * 10f64.powi(power), power)))
            .filter(|&(value, _)| self.has(value))
            .map(|(value, power)| {
                let decimals = (-power).clamp(0, 6) as usize;
                Tick { at: self.place(value), label: numbers::plain(value, decimals) }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn labels(axis: Axis, values: (f64, f64), wanted: usize) -> Vec<String> {
        let scale = Scale::new(axis, values, (0.0, 100.0));
        scale.ticks(wanted).into_iter().map(|it| it.label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            labels(Axis::Linear, (-120.0, 1080.0), 6),
            ["0", "200", "400", "600", "800", "1,000"]
        );
        assert_eq!(labels(Axis::Linear, (0.0, 0.5), 5), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(labels(Axis::Log, (0.08, 12.0), 4), ["0.1", "1", "10"]);
        assert_eq!(labels(Axis::Log, (0.9, 12.0), 6), ["1", "2", "5", "10"]);
    }

    #[test]
    fn what_is_outside_is_at_the_nearer_end() {
        let scale = Scale::new(Axis::Linear, (0.0, 10.0), (100.0, 200.0));
        assert_eq!([-5.0, 5.0, 50.0].map(|it| scale.place(it)), [100.0, 150.0, 200.0]);
    }

    proptest! {
        #[test]
        fn no_values_are_too_strange_for_an_axis(from in any::<f64>(), to in any::<f64>(), at in any::<f64>(), log in any::<bool>()) {
            let axis = if log { Axis::Log } else { Axis::Linear };
            let scale = Scale::new(axis, (from, to), (0.0, 100.0));
            let ticks = scale.ticks(8);
            prop_assert!(ticks.len() <= 17);
            let _drawn = scale.place(at);
        }
    }
}
