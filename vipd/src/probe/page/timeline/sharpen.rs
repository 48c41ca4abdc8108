//! Lanes are made of pieces that are as wide as a run is long; outages and nodes are known to the
//! nanosecond. Where the two meet, the lanes take the better time.

use crate::probe::report::{Node, Outage, Span, State};

/// A layer's own lane: what went wrong begins and ends with its outages.
pub fn by_outages(spans: &[Span], outages: &[Outage]) -> Vec<Span> {
    let mut spans = spans.to_vec();
    for nth in 0..spans.len() {
        let span = spans[nth];
        if span.state < State::Refused {
            continue;
        }
        // A piece may hold several outages, or the end of one and the beginning of the next.
        let overlapping = || {
            let ends_after = |it: &&Outage| it.to_ns.is_none_or(|to| to > span.from_ns);
            outages.iter().filter(|it| it.from_ns < span.to_ns).filter(ends_after)
        };
        let from = overlapping().map(|it| it.from_ns).min().filter(|&it| it > span.from_ns);
        let to = overlapping().map(|it| it.to_ns.unwrap_or(u64::MAX)).max();
        let to = to.filter(|&it| it < span.to_ns);
        if let Some(from) = from {
            spans[nth].from_ns = from;
            if let Some(before) = nth.checked_sub(1).and_then(|it| spans.get_mut(it))
                && before.to_ns == span.from_ns
            {
                before.to_ns = from;
            }
        }
        if let Some(to) = to {
            spans[nth].to_ns = to;
            if let Some(after) = spans.get_mut(nth + 1)
                && after.from_ns == span.to_ns
            {
                after.from_ns = to;
            }
        }
    }
    spans
}

/// A node's lane: it begins with its first answer and ends with its last.
pub fn by_node(spans: &[Span], node: Option<&Node>) -> Vec<Span> {
    let mut spans = spans.to_vec();
    if let (Some(node), Some(first)) = (node, spans.first_mut())
        && node.first_ns < first.to_ns
    {
        first.from_ns = first.from_ns.max(node.first_ns);
    }
    if let (Some(node), Some(last)) = (node, spans.last_mut())
        && node.last_ns > last.from_ns
    {
        last.to_ns = last.to_ns.min(node.last_ns);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from_ns: u64, to_ns: u64, state: State) -> Span {
        Span { from_ns, to_ns, state }
    }

    fn outage(from_ns: u64, to_ns: Option<u64>) -> Outage {
        Outage { from_ns, to_ns, length_ns: 0, old: None, new: None }
    }

    #[test]
    fn what_went_wrong_begins_with_the_last_good_answer_and_ends_with_the_next() {
        let lane =
            [span(0, 30, State::Good), span(30, 90, State::Silent), span(90, 120, State::Good)];
        let sharp = by_outages(&lane, &[outage(38, Some(82))]);
        assert_eq!(
            sharp,
            [span(0, 38, State::Good), span(38, 82, State::Silent), span(82, 120, State::Good)]
        );
    }

    #[test]
    fn a_piece_between_two_outages_stays_as_it_is() {
        let lane = [span(0, 30, State::Silent)];
        assert_eq!(by_outages(&lane, &[outage(0, Some(5)), outage(25, None)]), lane);
    }

    #[test]
    fn a_single_error_that_was_no_outage_stays_as_it_is() {
        let lane = [span(0, 30, State::Good), span(30, 45, State::Refused)];
        assert_eq!(by_outages(&lane, &[]), lane);
    }

    #[test]
    fn a_node_is_there_from_its_first_answer_to_its_last() {
        let node =
            Node { id: "a".into(), label: "a".into(), answers: 2, first_ns: 12, last_ns: 33 };
        let lane = [span(0, 15, State::Good), span(30, 45, State::Good)];
        assert_eq!(
            by_node(&lane, Some(&node)),
            [span(12, 15, State::Good), span(30, 33, State::Good)]
        );
        assert_eq!(by_node(&lane, None), lane);
    }
}
