//! Distributions beside each other: each value as a point, and a box over the middle half.

use maud::{Markup, html};

use super::scale::{Axis, Scale};
use super::svg::{self, Anchor, Px};
use crate::probe::figures::Spread;
use crate::probe::numbers;

/// A row of [`strips`].
#[derive(Clone, PartialEq, Debug)]
pub struct Strip {
    /// What was measured.
    pub label: String,
    /// The values in any order; none if there are none, which is shown as such.
    pub values: Vec<f64>,
}

/// A drawing with a row for each of `rows`, on one axis in `unit`: a point for each value, a box from
/// the first quartile to the third with a line at the median, and whiskers to the least and the
/// greatest; the median in figures at the right. `title` says what is shown, for those who can't see
/// it too. A linear axis begins at zero.
pub fn strips(title: &str, unit: &str, axis: Axis, rows: &[Strip]) -> Markup {
    let all = || rows.iter().flat_map(|row| &row.values).copied().filter(|it| it.is_finite());
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    let from = match axis {
        Axis::Linear => 0.0f64.min(least),
        Axis::Log => all().filter(|&it| it > 0.0).fold(f64::MAX, f64::min).min(most) / 1.3,
    };
    let longest = rows.iter().map(|row| svg::width_of(&row.label)).fold(0.0, f64::max);
    let left = (longest + 16.0).clamp(LABELS, MOST_LABELS);
    let scale = Scale::new(axis, (from, most * 1.04), (left, svg::WIDTH - MEDIANS));
    let bottom = TOP + rows.len() as f64 * ROW;
    let caption = html! {
        (title) ". Points are single values; the box holds the middle half, its line is the median, \
        the whiskers reach the least and the greatest."
    };
    let drawing = html! {
        (svg::axis(&scale, 10, TOP - 4.0, bottom, unit))
        (svg::text("head", (svg::WIDTH, TOP - 8.0), Anchor::End, "median"))
        @for (number, row) in rows.iter().enumerate() {
            (strip(row, unit, &scale, left, TOP + number as f64 * ROW))
        }
    };
    svg::figure(title, (svg::WIDTH, bottom + svg::AXIS_HEIGHT), caption, drawing)
}

const TOP: f64 = 22.0;
const ROW: f64 = 34.0;
/// Room for the labels at the left: at least, and at most.
const LABELS: f64 = 110.0;
const MOST_LABELS: f64 = 330.0;
/// Room for the medians at the right.
const MEDIANS: f64 = 100.0;
/// A point's.
const RADIUS: f64 = 2.6;

fn strip(row: &Strip, unit: &str, scale: &Scale, left: f64, top: f64) -> Markup {
    let middle = top + ROW / 2.0;
    let label = svg::shortened(&row.label, left - 8.0);
    let spread = Spread::of(row.values.iter().map(|&it| Some(it)));
    html! {
        g.strip {
            title { (about(row, unit, spread.as_ref())) }
            (svg::text("label", (0.0, middle + 4.0), Anchor::Start, &label))
            @if let Some(spread) = spread {
                (box_of(&spread, scale, middle))
                @for (x, y) in points(&row.values, scale, middle) {
                    circle.point cx=(Px(x)) cy=(Px(y)) r=(RADIUS) {}
                }
                (svg::text("num value", (svg::WIDTH, middle + 4.0), Anchor::End,
                    &with_unit(spread.median, unit)))
            } @else {
                (svg::text("none", (left + 6.0, middle + 4.0), Anchor::Start, "not measured"))
            }
        }
    }
}

fn box_of(spread: &Spread, scale: &Scale, middle: f64) -> Markup {
    let [min, lower, median, upper, max] =
        [spread.min, spread.lower, spread.median, spread.upper, spread.max]
            .map(|it| scale.place(it));
    html! {
        @if spread.count > 1 {
            (svg::line("whisker", (min, middle), (max, middle)))
            (svg::rect("box", (lower, middle - 9.0), ((upper - lower).max(1.0), 18.0), ""))
        }
        (svg::line("median", (median, middle - 9.0), (median, middle + 9.0)))
    }
}

/// Values that would cover each other are moved up and down.
fn points(values: &[f64], scale: &Scale, middle: f64) -> Vec<(f64, f64)> {
    let mut places: Vec<f64> = values.iter().map(|&it| scale.place(it)).collect();
    places.sort_by(f64::total_cmp);
    let mut last: Option<(f64, u32)> = None;
    let mut points = Vec::with_capacity(places.len());
    for x in places {
        let nth = match last {
            Some((near, nth)) if x - near < RADIUS => nth + 1,
            _ => 0,
        };
        last = Some((x, nth));
        // 0, 1 up, 1 down, 2 up, …; beyond what a row can hold they do cover each other.
        let steps = f64::from(nth.div_ceil(2) % 4) * RADIUS;
        points.push((x, if nth % 2 == 0 { middle + steps } else { middle - steps }));
    }
    points
}

fn about(row: &Strip, unit: &str, spread: Option<&Spread>) -> String {
    let Some(it) = spread else { return format!("{}: not measured", row.label) };
    let [min, lower, median, upper, max] =
        [it.min, it.lower, it.median, it.upper, it.max].map(|it| with_unit(it, unit));
    format!(
        "{}: median {median}, half between {lower} and {upper}, least {min}, greatest {max}, N = {}",
        row.label, it.count
    )
}

fn with_unit(value: f64, unit: &str) -> String {
    let decimals = match value.abs() {
        it if it == it.trunc() => 0,
        it if it < 10.0 => 2,
        it if it < 10_000.0 => 1,
        _ => 0,
    };
    format!("{} {unit}", numbers::plain(value, decimals)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_point() {
        let rows = [
            Strip { label: "a <b>".into(), values: vec![1.0, 1.0, 1.0, 900.0, 1800.0] },
            Strip { label: "nobody measured it".into(), values: vec![] },
        ];
        for axis in [Axis::Linear, Axis::Log] {
            let drawn = strips("Blackout", "ms", axis, &rows).into_string();
            assert_eq!(drawn.matches("<circle").count(), 5);
            assert!(drawn.contains("not measured") && drawn.contains("a &lt;b&gt;"));
            assert!(drawn.contains("median 1 ms"), "{drawn}");
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }

    #[test]
    fn a_drawing_of_nothing_is_a_drawing() {
        let drawn = strips("Blackout", "ms", Axis::Log, &[]).into_string();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
}
