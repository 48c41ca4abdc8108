//! What a reader must know first.

use maud::{Markup, html};

use crate::probe::figures::{Spread, ns_as_ms};
use crate::probe::numbers;
use crate::probe::report::{Layer, LayerName, Report, Run};

/// Target, circumstances, and the figures that matter.
pub fn headline(report: &Report) -> Markup {
    html! {
        header {
            p.kind { "vipd probe" }
            h1 { (report.target) }
            (circumstances(report))
        }
        section.figures aria-label="Headline figures" {
            (blackouts(report))
            (harm(report))
        }
        (expectations(report))
    }
}

fn circumstances(report: &Report) -> Markup {
    let runs = report.runs.len();
    let first = report.runs.first();
    let interrupted = report.runs.iter().filter(|it| it.interrupted).count();
    html! {
        dl.circumstances {
            div { dt { "Began" } dd { time { (report.started) } } }
            div { dt { "Runs" } dd {
                (runs)
                @if let Some(first) = first { " of " (numbers::plain(first.length_ns as f64 / 1e9, 1)) " s" }
                @if interrupted > 0 { ", " (interrupted) " ended early" }
            } }
            div { dt { "By" } dd { "vipd " (report.version) } }
            @if let Some(trigger) = first.and_then(|it| it.trigger.as_ref()) {
                div.wide { dt { "Trigger" } dd { code { (trigger.command) } } }
            }
        }
    }
}

/// One figure for each layer that can have a blackout.
fn blackouts(report: &Report) -> Markup {
    let mut names: Vec<LayerName> =
        report.runs.iter().flat_map(|run| &run.layers).map(|layer| layer.name).collect();
    names.sort_unstable();
    names.dedup();
    html! {
        @for name in names {
            @if name != LayerName::Idle { (blackout(report, name)) }
        }
    }
}

fn blackout(report: &Report, name: LayerName) -> Markup {
    let layers = || report.runs.iter().filter_map(|run| run.layer(name));
    let length = |layer: &Layer| layer.blackout_ns().map(ns_as_ms);
    let never_ended = layers().any(Layer::has_open_blackout);
    let is_any = layers().any(|layer| layer.blackout.is_some());
    let unanswered: u64 = layers().map(|layer| layer.lost).sum();
    let Some(spread) = Spread::of(layers().map(length)) else { return html! {} };
    let range = format!(
        "{} – {} ms",
        numbers::plain(spread.min, decimals(spread.min)),
        numbers::plain(spread.max, decimals(spread.max))
    );
    html! {
        div.figure data-blackout=(name.name()) {
            p.what { b { (name.name()) } " blackout" }
            @if is_any {
                p.value { (numbers::plain(spread.median, decimals(spread.median))) span.unit { " ms" } }
            } @else {
                p.value.none { "none" }
            }
            p.more {
                @if never_ended { "had not ended at the end" }
                @else if is_any && spread.count > 1 { "median; " (range) }
                @else if is_any { (change(report, name)) }
                @else if unanswered > 0 { (numbers::count(unanswered)) " unanswered" }
                @else { "every probe was answered" }
            }
        }
    }
}

/// From when to when, if there is but one run.
fn change(report: &Report, name: LayerName) -> String {
    let Some(run) = report.runs.first() else { return String::new() };
    let blackout = run.layer(name).and_then(|it| it.blackout.as_ref());
    let Some((blackout, to)) = blackout.and_then(|it| Some((it, it.to_ns?))) else {
        return String::new();
    };
    let zero = run.zero_ns();
    format!("{} to {} ms", numbers::since(blackout.from_ns, zero), numbers::since(to, zero))
}

/// What a blackout's length does not say. Worst of all runs; the sum would hide that.
fn harm(report: &Report) -> Markup {
    let runs = &report.runs;
    let lost: Vec<Option<u64>> = runs
        .iter()
        .filter_map(|run| run.layers.iter().find_map(|it| it.writes.as_ref()))
        .map(|it| it.lost)
        .collect();
    let unknown = lost.iter().any(Option::is_none);
    let acknowledged = runs
        .iter()
        .flat_map(|run| &run.layers)
        .filter_map(|it| Some(it.writes.as_ref()?.acknowledged))
        .sum::<u64>();
    let hung = sum(runs, |it| it.waiting.as_ref().map(|it| it.hung));
    let connections = sum(runs, |it| it.waiting.as_ref().map(|it| it.connections)).unwrap_or(0);
    let both = most(runs, |it| it.owners.as_ref().map(|it| it.both_ns));
    html! {
        @if !lost.is_empty() {
            @let total: u64 = lost.iter().flatten().sum();
            (tile("lost writes", &if unknown && total == 0 { "?".into() } else { numbers::count(total) }, "",
                total > 0 || unknown, &if unknown { "some could not be read back".to_owned() }
                    else { format!("of {} acknowledged", numbers::count(acknowledged)) }))
        }
        @if let Some(hung) = hung {
            (tile("hung", &numbers::count(hung), "", hung > 0,
                &format!("of {} connections", numbers::count(connections))))
        }
        @if let Some(both) = both {
            (tile("two owners", &if both == 0 { "none".into() } else { numbers::ms(both) },
                if both == 0 { "" } else { " ms" }, both > 0,
                if both == 0 { "one host at a time" } else { "both answered, in the worst run" }))
        }
    }
}

fn tile(what: &str, value: &str, unit: &str, is_bad: bool, more: &str) -> Markup {
    html! {
        div.figure {
            p.what { b { (what) } }
            p.value.bad[is_bad] { (value) @if !unit.is_empty() { span.unit { (unit) } } }
            p.more { (more) }
        }
    }
}

fn expectations(report: &Report) -> Markup {
    if report.expectations.is_empty() {
        return html! {};
    }
    html! {
        section.expectations {
            h2 { "Expected" }
            table {
                thead { tr { th scope="col" { "what" } th scope="col" { "found" } th scope="col" { "" } } }
                tbody {
                    @for it in &report.expectations {
                        tr {
                            td { code { (it.expected) } }
                            td { (it.found) }
                            @if it.holds { td.held { "✓ held" } } @else { td.missed { "✗ missed" } }
                        }
                    }
                }
            }
        }
    }
}

/// Over all layers of all runs; `None` if none has it.
fn sum(runs: &[Run], of: impl Fn(&Layer) -> Option<u64>) -> Option<u64> {
    values(runs, of).reduce(u64::saturating_add)
}

fn most(runs: &[Run], of: impl Fn(&Layer) -> Option<u64>) -> Option<u64> {
    values(runs, of).max()
}

fn values(runs: &[Run], of: impl Fn(&Layer) -> Option<u64>) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|run| &run.layers).filter_map(of)
}

fn decimals(value: f64) -> usize {
    usize::from(value < 1000.0) + usize::from(value < 10.0)
}
