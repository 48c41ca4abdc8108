//! All figures of a run.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::probe::figures::Latency;
use crate::probe::numbers;
use crate::probe::report::{Layer, LayerName, Outage, Run};

/// Rows of a list that is as long as what it lists.
const MOST_ROWS: usize = 40;

/// Every table that has something to say.
pub fn tables(run: &Run) -> Markup {
    html! {
        (layers(run))
        (percentiles(run))
        (outages(run))
        (writes(run))
        (connections(run))
        (owners(run))
    }
}

fn table(title: &str, note: &str, head: &[&str], rows: Vec<Vec<Cell>>) -> Markup {
    if rows.is_empty() {
        return html! {};
    }
    let left_out = rows.len().saturating_sub(MOST_ROWS);
    html! {
        div.scroll tabindex="0" role="group" aria-label=(title) {
            table {
                caption { b { (title) } @if !note.is_empty() { ". " (note) } }
                thead { tr {
                    @for (nth, name) in head.iter().enumerate() {
                        @let number = rows.iter().any(|row| matches!(row.get(nth), Some(Cell::Number(_))));
                        th.num[number] scope="col" { (name) }
                    }
                } }
                tbody {
                    @for row in rows.iter().take(MOST_ROWS) {
                        tr { @for cell in row { (cell.draw()) } }
                    }
                }
            }
            @if left_out > 0 { p.more { "and " (left_out) " more; the JSON document has all" } }
        }
    }
}

enum Cell {
    Head(String),
    Words(String),
    Number(String),
}

impl Cell {
    fn draw(&self) -> Markup {
        match self {
            Self::Head(words) => html! { th scope="row" { (words) } },
            Self::Words(words) => html! { td { (words) } },
            Self::Number(number) => html! { td.num { (number) } },
        }
    }

    fn count(number: u64) -> Self {
        Self::Number(numbers::count(number))
    }

    fn ms(ns: u64) -> Self {
        Self::Number(numbers::ms(ns))
    }

    fn none() -> Self {
        Self::Number("–".into())
    }
}

fn name(layer: &Layer) -> Cell {
    Cell::Head(layer.name.name().into())
}

fn layers(run: &Run) -> Markup {
    let row = |layer: &Layer| {
        let schedule = layer.schedule.map_or_else(
            || (0..5).map(|_| Cell::none()).collect::<Vec<_>>(),
            |it| {
                vec![
                    Cell::Number(numbers::shortest(it.rate)),
                    Cell::count(it.sent),
                    Cell::count(it.skipped),
                    Cell::ms(it.late_p99_ns),
                    Cell::ms(it.late_max_ns),
                ]
            },
        );
        let blackout = match &layer.blackout {
            Some(it) => Cell::ms(it.length_ns),
            None if layer.name == LayerName::Idle => Cell::none(),
            None => Cell::Number("none".into()),
        };
        let mut cells =
            vec![name(layer), blackout, Cell::count(layer.lost), Cell::count(layer.duplicated)];
        cells.extend(schedule);
        cells.push(Cell::Words(listed(&layer.fates)));
        cells.push(Cell::Words(listed(&layer.errors)));
        cells
    };
    table(
        "Layers",
        "Late is how long after its time a probe was sent: 99 of 100 were earlier, and the latest. Times are \
         in ms",
        &[
            "layer",
            "blackout",
            "unanswered",
            "duplicated",
            "a second",
            "sent",
            "left out",
            "late, p99",
            "late, max",
            "fates",
            "errors",
        ],
        run.layers.iter().map(row).collect(),
    )
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "–".into();
    }
    let each = counts.iter().map(|(kind, number)| format!("{kind} {}", numbers::count(*number)));
    each.collect::<Vec<_>>().join(", ")
}

fn percentiles(run: &Run) -> Markup {
    let mut rows = vec![];
    for layer in &run.layers {
        let kinds = [
            ("from when it was due", &layer.latency),
            ("on the wire", &layer.wire),
            ("on a fresh connection", &layer.fresh),
        ];
        for (what, latency) in kinds {
            rows.extend(latency.as_ref().map(|it| latency_row(layer, what, it)));
        }
    }
    table(
        "Latency",
        "Outside of outages, in ms",
        &["layer", "", "answers", "min", "p50", "p90", "p99", "p99.9", "max"],
        rows,
    )
}

fn latency_row(layer: &Layer, what: &str, it: &Latency) -> Vec<Cell> {
    let times = [it.min_ns, it.p50_ns, it.p90_ns, it.p99_ns, it.p999_ns, it.max_ns];
    let mut cells = vec![name(layer), Cell::Words(what.into()), Cell::count(it.count)];
    cells.extend(times.map(|it| Cell::Number(numbers::plain(it as f64 / 1e6, 3))));
    cells
}

fn outages(run: &Run) -> Markup {
    let zero = run.zero_ns();
    let moment = |at: u64| Cell::Number(numbers::since(at, zero));
    let node = |it: &Option<String>| Cell::Words(it.clone().unwrap_or_else(|| "–".into()));
    let row = |layer: &Layer, it: &Outage| {
        let to = it.to_ns.map_or_else(|| Cell::Number("no end".into()), moment);
        let is_blackout = layer.blackout.as_ref() == Some(it);
        let what = Cell::Words(if is_blackout { "blackout" } else { "" }.into());
        vec![
            name(layer),
            moment(it.from_ns),
            to,
            Cell::ms(it.length_ns),
            what,
            node(&it.old),
            node(&it.new),
        ]
    };
    table(
        "Outages",
        "From the last good answer to the next, in ms; by the old node and the new one if they can be told \
         apart",
        &["layer", "from", "to", "length", "", "node before", "node after"],
        run.layers
            .iter()
            .flat_map(|layer| layer.outages.iter().map(move |it| row(layer, it)))
            .collect(),
    )
}

fn writes(run: &Run) -> Markup {
    let row = |layer: &Layer| {
        let it = layer.writes.as_ref()?;
        Some(vec![
            name(layer),
            Cell::count(it.acknowledged),
            it.lost.map_or_else(|| Cell::Number("unknown".into()), Cell::count),
            Cell::count(it.late),
            Cell::count(it.duplicated),
            Cell::count(it.unacknowledged),
            Cell::Words(it.read_back_from.clone().unwrap_or_else(|| "nobody".into())),
        ])
    };
    let zero = run.zero_ns();
    let sample =
        run.layers.iter().filter_map(|it| it.writes.as_ref()).flat_map(|it| &it.lost_sample);
    let sample = sample.map(|it| {
        vec![
            Cell::Words(it.connection.clone()),
            Cell::count(it.number),
            Cell::Number(numbers::since(it.at_ns, zero)),
            Cell::Words(it.by.clone()),
        ]
    });
    html! {
        (table(
            "Writes",
            "Late ones were acknowledged by the old node though they were sent after the new one's first \
             acknowledgement: two masters",
            &["layer", "acknowledged", "lost", "late", "duplicated", "there, unacknowledged", "read back from"],
            run.layers.iter().filter_map(row).collect(),
        ))
        (table(
            "Lost writes",
            "The first of them; when they were acknowledged, in ms",
            &["connection", "number", "at", "acknowledged by"],
            sample.collect(),
        ))
    }
}

fn connections(run: &Run) -> Markup {
    let zero = run.zero_ns();
    let mut rows = vec![];
    for layer in &run.layers {
        let Some(waiting) = &layer.waiting else { continue };
        let mut kinds: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        for it in &waiting.ended {
            kinds.entry((&it.waiting_in, &it.how)).or_default().push(it.at_ns);
        }
        for ((waiting_in, how), moments) in kinds {
            let [first, last] = [moments.iter().min(), moments.iter().max()]
                .map(|it| it.map_or_else(Cell::none, |it| Cell::Number(numbers::since(*it, zero))));
            rows.push(vec![
                name(layer),
                Cell::Words(waiting_in.into()),
                Cell::Words(how.into()),
                Cell::count(moments.len() as u64),
                first,
                last,
            ]);
        }
        rows.push(vec![
            name(layer),
            Cell::Words("all".into()),
            Cell::Words("hung: never learned".into()),
            Cell::Number(format!(
                "{} of {}",
                numbers::count(waiting.hung),
                numbers::count(waiting.connections)
            )),
            Cell::none(),
            Cell::none(),
        ]);
    }
    table(
        "Connections",
        "When those that were open learned that their node is gone, and how; in ms",
        &["layer", "waiting in", "learned by", "connections", "first", "last"],
        rows,
    )
}

fn owners(run: &Run) -> Markup {
    let zero = run.zero_ns();
    let mut rows = vec![];
    for layer in &run.layers {
        let Some(owners) = &layer.owners else { continue };
        let lists = [("answers now", &owners.changes), ("announces itself", &owners.announcements)];
        for (what, list) in lists {
            rows.extend(list.iter().map(|it| {
                vec![
                    name(layer),
                    Cell::Number(numbers::since(it.at_ns, zero)),
                    Cell::Words(it.mac.clone()),
                    Cell::Words(what.into()),
                ]
            }));
        }
        let both = match owners.both_ns {
            0 if owners.answered_by_both == 0 => "never answered both".to_owned(),
            both => format!(
                "answered both for {} ms, {} questions",
                numbers::ms(both),
                numbers::count(owners.answered_by_both)
            ),
        };
        let two = Cell::Words("two hosts".into());
        rows.push(vec![name(layer), Cell::none(), two, Cell::Words(both)]);
    }
    table("Owners on the link", "", &["layer", "ms", "who", "what"], rows)
}
