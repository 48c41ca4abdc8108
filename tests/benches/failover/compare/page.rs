//! The same as a page with plots.

use maud::{Markup, html};
use vipd::probe::page::{Axis, Strip, document, strips};

use super::cell::Outcome;
use super::figures::{FIGURES, HOW};
use super::table;
use crate::scenario::Scenario;

/// The whole page, as HTML.
pub fn page(
    versions: &[String],
    outcomes: &[Outcome],
    not_the_best: &[String],
    schedules: &str,
) -> String {
    let mut scenarios: Vec<Scenario> = outcomes.iter().map(|it| it.cell.scenario).collect();
    scenarios.dedup();
    let failures = table::failures(outcomes);
    let title = "What a failover costs clients";
    let body = html! {
        p.kind { "vipd and what people use today" }
        h1 { (title) }
        @for scenario in scenarios {
            (section(scenario, outcomes))
        }
        section {
            h2 { "What the figures are" }
            p { (HOW) }
            ul.notes {
                @for figure in &FIGURES {
                    li { b { (figure.name) } ": " (figure.meaning) "." }
                }
            }
        }
        (list("Where vipd is not the best", not_the_best))
        @if !failures.is_empty() {
            (list("What failed", &failures))
        }
        (list("What was measured with what", versions))
        p.more { (schedules) }
    };
    document(title, &body)
}

/// Plots and the table of one scenario.
fn section(scenario: Scenario, outcomes: &[Outcome]) -> Markup {
    let rows: Vec<&Outcome> = outcomes.iter().filter(|it| it.cell.scenario == scenario).collect();
    let header = table::header();
    html! {
        section id=(scenario.name()) {
            h2 { (scenario.name()) ": " (scenario.what()) }
            @for figure in FIGURES.iter().filter(|figure| figure.is_plotted) {
                @let strips_of: Vec<Strip> = rows.iter().map(|outcome| Strip {
                    label: outcome.cell.way.name().to_owned(),
                    values: outcome.runs.iter().filter_map(figure.of).collect(),
                }).collect();
                (strips(&format!("{}, {}", scenario.name(), figure.name), "ms", Axis::Linear, &strips_of))
            }
            div.scroll {
                table {
                    thead { tr { @for (column, name) in header.iter().enumerate().skip(1) {
                        th.num[column >= table::TEXTS] scope="col" { (name) }
                    } } }
                    tbody { @for outcome in &rows {
                        @let row = table::row(outcome);
                        tr { @for (column, cell) in row.iter().enumerate().skip(1) {
                            @if column < table::TEXTS { th scope="row" { (cell) } }
                            @else { td.num { (cell) } }
                        } }
                    } }
                }
            }
        }
    }
}

fn list(title: &str, lines: &[String]) -> Markup {
    html! {
        section {
            h2 { (title) }
            @if lines.is_empty() { p { "nowhere" } }
            ul.notes { @for line in lines { li { (line) } } }
        }
    }
}
