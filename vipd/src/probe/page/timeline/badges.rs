//! The numbers at the lines across a timeline: what happened close together shares one, and none
//! covers another.

use crate::probe::page::apart::apart;
use crate::probe::page::svg;
use crate::probe::report::{Mark, Source};

/// The numbers of one or more marks, as in `4` or `4–6`.
pub struct Badge {
    /// The marks: places in the run's list.
    pub marks: Vec<usize>,
    /// Where they happened, on the drawing.
    pub lines: Vec<f64>,
    /// Where the badge is.
    pub at: f64,
}

/// Between two badges.
const GAP: f64 = 3.0;
/// How far from its line a badge may be, before it is joined with its neighbour.
const FARTHEST: f64 = 110.0;

impl Badge {
    /// What it says.
    pub fn label(&self) -> String {
        match self.marks.as_slice() {
            [] => String::new(),
            [only] => (only + 1).to_string(),
            [first, .., last] => format!("{}–{}", first + 1, last + 1),
        }
    }

    /// Who says so, if it is one source only.
    pub fn source(&self, marks: &[Mark]) -> Option<Source> {
        let mut sources = self.marks.iter().map(|&it| marks[it].source);
        let first = sources.next()?;
        sources.all(|it| it == first).then_some(first)
    }

    /// How wide it is.
    pub fn width(&self) -> f64 {
        (svg::width_of(&self.label()) + 8.0).max(18.0)
    }

    fn middle(&self) -> f64 {
        self.lines.iter().sum::<f64>() / self.lines.len().max(1) as f64
    }
}

/// For marks at `places` (number and place, in order), between `from` and `to`.
pub fn badges(places: &[(usize, f64)], from: f64, to: f64) -> Vec<Badge> {
    let mut badges: Vec<Badge> = vec![];
    for &(mark, place) in places {
        match badges.last_mut() {
            // At the same pixel: they could not be told apart.
            Some(last) if place - last.lines[0] < 0.5 => {
                last.marks.push(mark);
                last.lines.push(place);
            }
            _ => badges.push(Badge { marks: vec![mark], lines: vec![place], at: place }),
        }
    }
    loop {
        let wanted: Vec<f64> = badges.iter().map(Badge::middle).collect();
        let widths: Vec<f64> = badges.iter().map(|it| it.width() + GAP).collect();
        let placed = apart(&wanted, &widths, from, to);
        let is_far = wanted.iter().zip(&placed).any(|(want, at)| (want - at).abs() > FARTHEST);
        for (badge, at) in badges.iter_mut().zip(placed) {
            badge.at = at;
        }
        if !is_far {
            return badges;
        }
        join_nearest(&mut badges, &wanted);
    }
}

/// The two badges next to each other whose marks are the nearest.
fn join_nearest(badges: &mut Vec<Badge>, wanted: &[f64]) {
    let gap = |it: &usize| wanted[it + 1] - wanted[*it];
    let nearest =
        (0..wanted.len().saturating_sub(1)).min_by(|one, other| gap(one).total_cmp(&gap(other)));
    let Some(nearest) = nearest else { return };
    let second = badges.remove(nearest + 1);
    badges[nearest].marks.extend(second.marks);
    badges[nearest].lines.extend(second.lines);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(places: &[f64]) -> Vec<String> {
        let places: Vec<_> = places.iter().copied().enumerate().collect();
        badges(&places, 0.0, 800.0).iter().map(Badge::label).collect()
    }

    #[test]
    fn marks_apart_have_a_number_each() {
        assert_eq!(labels(&[100.0, 101.0, 300.0]), ["1", "2", "3"]);
    }

    #[test]
    fn marks_at_the_same_place_share_one() {
        assert_eq!(labels(&[100.0, 100.1, 100.2, 300.0]), ["1–3", "4"]);
    }

    #[test]
    fn any_number_of_marks_finds_room() {
        let places: Vec<_> = (0..500).map(|it| f64::from(it) * 1.5).enumerate().collect();
        let badges = badges(&places, 0.0, 800.0);
        let edges = |it: &Badge| (it.at - it.width() / 2.0, it.at + it.width() / 2.0);
        assert!(badges.windows(2).all(|it| edges(&it[0]).1 < edges(&it[1]).0));
        assert_eq!(badges.iter().map(|it| it.marks.len()).sum::<usize>(), 500);
    }
}
