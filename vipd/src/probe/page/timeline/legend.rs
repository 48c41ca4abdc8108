//! What the timeline's signs mean.

use maud::{Markup, html};

use super::draw;
use super::row::{class, meaning};
use crate::probe::numbers;
use crate::probe::report::{Mark, Run, Source, State};

/// Marks that a column of the list holds at least.
const COLUMN: usize = 8;
const MOST_COLUMNS: usize = 2;

/// The fillings of lanes, and the rest.
pub fn states() -> Markup {
    html! {
        ul.key aria-label="Key" {
            @for state in [State::Good, State::Late, State::Refused, State::Silent] {
                li {
                    svg width="26" height="12" aria-hidden="true" {
                        rect.(class(state)) x="0.5" y="0.5" width="25" height="11" {}
                    }
                    (meaning(state))
                }
            }
            li {
                svg width="26" height="12" aria-hidden="true" { path.waiting d="M0.5 11.5V1H13V8H25.5V11.5" {} }
                "connections that still wait"
            }
        }
    }
}

/// All marks, with the numbers that they have in the drawings.
pub fn marks(run: &Run) -> Markup {
    if run.marks.is_empty() {
        return html! {};
    }
    let columns = run.marks.len().div_ceil(COLUMN).clamp(1, MOST_COLUMNS);
    let height = run.marks.len().div_ceil(columns);
    let numbered: Vec<_> = (1..).zip(&run.marks).collect();
    html! {
        div.marks role="group" aria-label="What happened" {
            @for part in numbered.chunks(height) {
                table {
                    thead { tr {
                        th scope="col" { span.unseen { "Number" } }
                        th.num scope="col" { "ms" }
                        th scope="col" { "who" }
                        th scope="col" { "what" }
                    } }
                    tbody { @for (number, mark) in part { (row(*number, mark, run.zero_ns())) } }
                }
            }
        }
    }
}

fn row(number: usize, mark: &Mark, zero: u64) -> Markup {
    let who = match mark.source {
        Source::Trigger => "trigger",
        Source::Vipd if mark.who.is_empty() => "vipd",
        Source::Vipd | Source::Sentinel => &mark.who,
    };
    html! {
        tr.(draw::class(Some(mark.source))) {
            td { span.badge { (number) } }
            td.num { (numbers::since(mark.at_ns, zero)) }
            td.who { (who) }
            td.what { (mark.what) }
        }
    }
}
