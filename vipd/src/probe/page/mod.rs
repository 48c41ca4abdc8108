//! The report as one page for a browser or a printer: drawings in SVG, no script, nothing from the
//! network. What is in the report is text, never markup.
//!
//! Other pages can be made of the same parts: [`document`] is the page around a body, [`strips`]
//! shows distributions beside each other.

mod apart;
mod headline;
mod latency;
#[doc(hidden)]
pub mod sample;
mod scale;
mod shell;
mod strips;
mod summary;
mod svg;
mod tables;
mod timeline;

use maud::{Markup, html};

pub use self::scale::Axis;
pub use self::shell::document;
pub use self::strips::{Strip, strips};

use super::numbers;
use super::report::{Report, Run};

/// The whole page, as HTML.
pub fn page(report: &Report) -> String {
    let title = format!("vipd probe of {}", report.target);
    let body = html! {
        (headline::headline(report))
        (summary::summary(report))
        @for (nth, run) in report.runs.iter().enumerate() {
            (one_of(run, nth == 0, report.runs.len()))
        }
    };
    document(&title, &body)
}

/// A run; the first one is open.
fn one_of(it: &Run, is_first: bool, of: usize) -> Markup {
    html! {
        details.run open[is_first] id={ "run-" (it.number) } {
            summary {
                h2 { "Run " (it.number) @if of > 1 { " of " (of) } }
                p { (in_short(it)) }
            }
            (run(it))
        }
    }
}

fn run(it: &Run) -> Markup {
    html! {
        @if !it.notes.is_empty() {
            ul.notes { @for note in &it.notes { li { (note) } } }
        }
        (timeline::timeline(it))
        (latency::latency(it))
        (tables::tables(it))
    }
}

/// One line.
fn in_short(run: &Run) -> String {
    let blackouts = run.layers.iter().filter_map(|layer| {
        let it = layer.blackout.as_ref()?;
        Some(format!("{} {} ms", layer.name.name(), numbers::ms(it.length_ns)))
    });
    let mut parts: Vec<String> = blackouts.collect();
    if parts.is_empty() {
        parts.push("no blackout".into());
    }
    if let Some(trigger) = run.trigger.as_ref().filter(|it| !it.succeeded) {
        parts.push(format!("the trigger failed: {}", trigger.outcome));
    }
    if run.interrupted {
        parts.push("ended early".into());
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests;
