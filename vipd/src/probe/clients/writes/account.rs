//! Which of the acknowledged writes are there. Pure.

use std::collections::HashMap;

use super::journal::{Entries, Record};
use super::read_back::ReadBack;
use crate::clock::Monotonic;
use crate::probe::report::{LostWrite, Writes};
use crate::probe::shots::Fate;

/// Lost writes that are named.
const SAMPLE: usize = 20;

/// What one must know to name things.
pub(super) trait Names {
    /// Of a connection.
    fn connection(&self, number: u32) -> String;
    /// Of a node.
    fn node(&self, number: Option<u16>) -> String;
    /// Of a moment.
    fn at(&self, moment: Monotonic) -> u64;
}

/// Compares what was acknowledged with what is there.
pub(super) fn account(entries: &Entries, back: Option<&ReadBack>, names: &impl Names) -> Writes {
    let good: Vec<&Record> = entries.records.iter().filter(|it| it.fate == Fate::Good).collect();
    let current = back.and_then(|it| entries.nodes.iter().position(|node| *node == it.run_id));
    let mut writes = Writes {
        acknowledged: good.len() as u64,
        late: late(&good, current.and_then(|it| u16::try_from(it).ok())),
        ..Writes::default()
    };
    let Some(back) = back else { return writes };

    let mut there: Vec<HashMap<u64, u64>> = vec![];
    for numbers in &back.numbers {
        let mut counts = HashMap::with_capacity(numbers.len());
        for &number in numbers {
            *counts.entry(number).or_default() += 1;
        }
        there.push(counts);
    }
    writes.duplicated = there.iter().flat_map(HashMap::values).filter(|&&it| it > 1).count() as u64;

    let mut lost: Vec<&Record> = vec![];
    for record in good {
        let list = there.get_mut(record.write.connection as usize);
        if list.and_then(|list| list.remove(&record.write.number)).is_none() {
            lost.push(record);
        }
    }
    // Whatever is left, nobody acknowledged.
    writes.unacknowledged = there.iter().map(|it| it.len() as u64).sum();
    writes.lost = Some(lost.len() as u64);
    lost.sort_by_key(|it| it.answered);
    writes.lost_sample = lost.iter().take(SAMPLE).map(|it| sample(it, names)).collect();
    writes
}

fn sample(record: &Record, names: &impl Names) -> LostWrite {
    LostWrite {
        connection: names.connection(record.write.connection),
        number: record.write.number,
        at_ns: names.at(record.answered.unwrap_or(record.sent)),
        by: names.node(record.node),
    }
}

/// Writes that were sent after the newest node's first acknowledgement, and acknowledged by an
/// earlier one. If that node was replaced again, by one that was master before (`current`), only up
/// to the last write that it took: what the other one acknowledged after that is no wonder.
fn late(good: &[&Record], current: Option<u16>) -> u64 {
    let mut first: HashMap<u16, Monotonic> = HashMap::new();
    for it in good {
        if let (Some(node), Some(at)) = (it.node, it.answered) {
            let first = first.entry(node).or_insert(at);
            *first = at.min(*first);
        }
    }
    let Some((&newest, &since)) = first.iter().max_by_key(|(node, at)| (**at, **node)) else {
        return 0;
    };
    let of_newest = good.iter().filter(|it| it.node == Some(newest));
    let until = match current {
        Some(current) if current != newest => of_newest.map(|it| it.sent).max(),
        _ => None,
    };
    let is_late = |it: &&&Record| {
        it.node.is_some_and(|node| node != newest)
            && it.sent > since
            && until.is_none_or(|until| it.answered.is_some_and(|at| at < until))
    };
    good.iter().filter(is_late).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::clients::writes::journal::Due;

    struct Plain;

    impl Names for Plain {
        fn connection(&self, number: u32) -> String {
            format!("c{number}")
        }

        fn node(&self, number: Option<u16>) -> String {
            format!("{number:?}")
        }

        fn at(&self, moment: Monotonic) -> u64 {
            moment.0
        }
    }

    fn good(connection: u32, number: u64, sent: u64, answered: u64, node: u16) -> Record {
        Record {
            write: Due { connection, number, due: Monotonic(sent) },
            sent: Monotonic(sent),
            answered: Some(Monotonic(answered)),
            fate: Fate::Good,
            node: Some(node),
        }
    }

    fn entries(records: &[Record]) -> Entries {
        let nodes = vec!["old".to_owned(), "new".to_owned()];
        Entries { records: records.to_vec(), nodes, ..Entries::default() }
    }

    fn back(from: &str, numbers: &[&[u64]]) -> ReadBack {
        let numbers = numbers.iter().map(|it| it.to_vec()).collect();
        ReadBack { run_id: from.to_owned(), numbers, not_removed: None }
    }

    #[test]
    fn each_write_is_counted_once_and_for_what_it_is() {
        let failed =
            Record { fate: Fate::Silent, answered: None, node: None, ..good(0, 2, 3, 0, 0) };
        let entries = entries(&[
            good(0, 0, 1, 2, 0),
            good(0, 1, 2, 9, 0),
            failed,
            good(1, 0, 2, 5, 0),
            good(1, 1, 10, 11, 1),
        ]);
        let writes = account(&entries, Some(&back("new", &[&[0, 0, 2], &[1]])), &Plain);
        assert_eq!((writes.acknowledged, writes.lost), (4, Some(2)));
        assert_eq!((writes.duplicated, writes.unacknowledged, writes.late), (1, 1, 0));
        let lost: Vec<_> =
            writes.lost_sample.iter().map(|it| (it.connection.as_str(), it.number)).collect();
        assert_eq!(lost, [("c1", 0), ("c0", 1)], "in the order of the acknowledgements");
    }

    #[test]
    fn what_was_not_read_back_is_not_called_lost() {
        let writes = account(&entries(&[good(0, 0, 1, 2, 0)]), None, &Plain);
        assert_eq!((writes.acknowledged, writes.lost), (1, None));
    }

    #[test]
    fn a_write_that_the_old_master_takes_after_the_new_one_is_late() {
        let first = good(0, 0, 1, 2, 0);
        let under_way = good(0, 1, 9, 12, 0);
        let new = good(1, 0, 8, 10, 1);
        let after = good(0, 2, 11, 13, 0);
        let there = back("new", &[&[0, 1, 2], &[0]]);
        let late = |records: &[Record]| account(&entries(records), Some(&there), &Plain).late;
        assert_eq!(late(&[first, under_way, new]), 0);
        assert_eq!(late(&[first, under_way, new, after]), 1);
    }

    #[test]
    fn a_master_that_comes_back_is_not_late() {
        let records = [
            good(0, 0, 1, 2, 0),
            good(0, 1, 10, 11, 1),
            good(0, 2, 12, 13, 0),
            good(0, 3, 14, 15, 1),
            good(0, 4, 20, 21, 0),
        ];
        let there = back("old", &[&[0, 1, 2, 3, 4]]);
        let writes = account(&entries(&records), Some(&there), &Plain);
        assert_eq!(writes.late, 1, "only the one between two of the other node's");
    }
}
