//! All runs together.

use maud::{Markup, html};

use super::scale::Axis;
use super::strips::{Strip, strips};
use crate::probe::numbers;
use crate::probe::report::{Figure, Report};

/// The figure that is drawn.
const BLACKOUT: &str = "blackout";

/// The distribution of the blackouts, and a table of everything; nothing of a single run.
pub fn summary(report: &Report) -> Markup {
    if report.runs.len() < 2 || report.summary.is_empty() {
        return html! {};
    }
    let blackouts = report.summary.iter().filter(|it| it.name == BLACKOUT);
    let rows: Vec<Strip> = blackouts
        .map(|it| Strip { label: it.layer.name().into(), values: it.values.clone() })
        .collect();
    html! {
        section {
            h2 { "All runs" }
            @if !rows.is_empty() {
                (strips("Blackout by layer", "ms", Axis::Linear, &rows))
            }
            div.scroll tabindex="0" role="group" aria-label="All runs" {
                table {
                    thead { tr {
                        th scope="col" { "layer" }
                        th scope="col" { "figure" }
                        th scope="col" { "unit" }
                        @for name in ["median", "min", "q1", "q3", "max", "N"] {
                            th.num scope="col" { (name) }
                        }
                    } }
                    tbody { @for figure in &report.summary { (row(figure)) } }
                }
            }
        }
    }
}

fn row(it: &Figure) -> Markup {
    let spread = &it.spread;
    html! {
        tr {
            th scope="row" { (it.layer.name()) }
            td { (it.name) }
            td { (if it.unit.is_empty() { "–" } else { &it.unit }) }
            @for value in [spread.median, spread.min, spread.lower, spread.upper, spread.max] {
                td.num { (numbers::plain(value, decimals(it))) }
            }
            td.num { (spread.count) }
        }
    }
}

/// As many for each number of a row, so that they stand below each other.
fn decimals(it: &Figure) -> usize {
    match it.spread.max {
        _ if it.values.iter().all(|value| *value == value.trunc()) => 0,
        max if max < 10.0 => 3,
        _ => 1,
    }
}
