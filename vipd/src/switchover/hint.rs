//! `--to`: which priorities make Sentinel prefer one replica. Pure.
//!
//! `sentinelSelectSlave` sorts by priority first, the lowest wins, and 0 is never selected; then by
//! offset, then by run id.

use std::net::SocketAddr;

/// What to set where, so that `to` has the lowest priority of all; nothing if it has.
pub fn changes(priorities: &[(SocketAddr, u32)], to: SocketAddr) -> Vec<(SocketAddr, u32)> {
    if prefers(priorities, to) {
        return vec![];
    }
    let others = || priorities.iter().filter(|(node, _)| *node != to);
    let lowest_other = others().map(|(_, priority)| *priority).filter(|it| *it > 0).min();
    match lowest_other {
        None => vec![],
        Some(2..) => vec![(to, 1)],
        // There is nothing lower than 1 but never.
        Some(_) => {
            let raised =
                others().filter(|(_, priority)| *priority == 1).map(|(node, _)| (*node, 2));
            raised.chain([(to, 1)]).filter(|change| !priorities.contains(change)).collect()
        }
    }
}

/// Whether Sentinel selects `to` before all the others, whatever their offsets are.
pub fn prefers(priorities: &[(SocketAddr, u32)], to: SocketAddr) -> bool {
    let of = |node| priorities.iter().find(|(other, _)| *other == node).map(|(_, it)| *it);
    let Some(own) = of(to).filter(|own| *own > 0) else { return false };
    priorities.iter().all(|(node, priority)| *node == to || *priority == 0 || *priority > own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_one_gets_the_lowest_priority_and_the_rest_is_left_alone() {
        let node = |n: u8| SocketAddr::from(([198, 18, 0, n], 8000));
        let (a, b, c) = (node(1), node(2), node(3));
        for (present, expected) in [
            (vec![(a, 100), (b, 100)], vec![(a, 1)]),
            (vec![(a, 10), (b, 100)], vec![]),
            (vec![(a, 100)], vec![]),
            (vec![(a, 100), (b, 0)], vec![]),
            (vec![(a, 100), (b, 1), (c, 50)], vec![(b, 2), (a, 1)]),
            (vec![(a, 1), (b, 1)], vec![(b, 2)]),
            (vec![(a, 1), (b, 1), (c, 1)], vec![(b, 2), (c, 2)]),
        ] {
            let changes = changes(&present, a);
            assert_eq!(changes, expected, "{present:?}");
            let after: Vec<_> = present
                .iter()
                .map(|&(node, old)| {
                    let new = changes.iter().find(|(changed, _)| *changed == node);
                    (node, new.map_or(old, |(_, new)| *new))
                })
                .collect();
            assert!(prefers(&after, a), "{present:?}");
        }
        assert!(!prefers(&[(a, 0), (b, 100)], a), "0 is never selected");
    }
}
