//! Labels that must not cover each other.

/// Places for labels as wide as `widths`, as near as possible (by least squares) to where they are
/// `wanted`, in the same order, and within `from ..= to`, as far as they fit there at all. `wanted`
/// must be sorted, and as many as `widths`; places are of the labels' middles.
pub fn apart(wanted: &[f64], widths: &[f64], from: f64, to: f64) -> Vec<f64> {
    let offsets = offsets(widths);
    // If each label is pulled back by those before it, all that is asked for is that places don't
    // fall: pools of neighbours that do take their mean.
    let mut pools: Vec<(f64, usize)> = Vec::with_capacity(wanted.len());
    for (place, offset) in wanted.iter().zip(&offsets) {
        let (mut sum, mut count) = (place - offset, 1);
        while let Some(&(before, members)) = pools.last()
            && before / members as f64 >= sum / count as f64
        {
            (sum, count) = (sum + before, count + members);
            pools.pop();
        }
        pools.push((sum, count));
    }
    let half = |width: Option<&f64>| width.map_or(0.0, |it| it / 2.0);
    let first = from + half(widths.first());
    let last = to - half(widths.last()) - offsets.last().unwrap_or(&0.0);
    pools
        .into_iter()
        .flat_map(|(sum, count)| std::iter::repeat_n(sum / count as f64, count))
        .zip(offsets)
        .map(|(place, offset)| place.min(last).max(first) + offset)
        .collect()
}

/// How far from the first label each one is if they stand side by side.
fn offsets(widths: &[f64]) -> Vec<f64> {
    let mut offset = 0.0;
    let mut before = None;
    widths
        .iter()
        .map(|width| {
            offset += before.replace(width).map_or(0.0, |it| (it + width) / 2.0);
            offset
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn of_twenty(wanted: &[f64]) -> Vec<f64> {
        apart(wanted, &vec![20.0; wanted.len()], 0.0, 100.0)
    }

    #[test]
    fn labels_with_room_stay_where_they_are() {
        assert_eq!(of_twenty(&[10.0, 50.0, 90.0]), [10.0, 50.0, 90.0]);
    }

    #[test]
    fn labels_that_collide_give_way_to_both_sides() {
        assert_eq!(of_twenty(&[50.0, 50.0]), [40.0, 60.0]);
        assert_eq!(of_twenty(&[0.0, 1.0]), [10.0, 30.0]);
        assert_eq!(of_twenty(&[99.0, 100.0]), [70.0, 90.0]);
    }

    proptest! {
        #[test]
        fn labels_never_cover_each_other(
            mut labels in vec((0.0..1000.0f64, 5.0..25.0f64), 0..40)
        ) {
            labels.sort_by(|one, other| one.0.total_cmp(&other.0));
            let (wanted, widths): (Vec<_>, Vec<_>) = labels.into_iter().unzip();
            let placed = apart(&wanted, &widths, 0.0, 1000.0);
            let edges = placed.iter().zip(&widths).map(|(at, width)| (at - width / 2.0, at + width / 2.0));
            let edges: Vec<_> = edges.collect();
            prop_assert!(edges.windows(2).all(|it| it[1].0 - it[0].1 > -1e-6));
            prop_assert!(edges.iter().all(|it| it.0 > -1e-6 && it.1 < 1000.0 + 1e-6));
        }
    }
}
