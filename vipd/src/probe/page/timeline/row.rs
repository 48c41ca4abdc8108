//! What is in a row of a timeline.

use maud::{Markup, html};

use super::bands::Moment;
use crate::probe::numbers::{self, milliseconds_since};
use crate::probe::page::scale::Scale;
use crate::probe::page::svg::{self, Px};
use crate::probe::report::{Span, State, Waiting};

/// What went wrong is at least so wide, however short it was.
const NARROWEST: f64 = 1.5;

/// How probes fared. What is worse is drawn later, so that nothing covers it.
pub fn spans(
    spans: &[Span],
    about: &str,
    scale: &Scale,
    zero: u64,
    top: f64,
    height: f64,
) -> Markup {
    let (first, last) = scale.ends();
    let mut pieces: Vec<_> = spans
        .iter()
        .map(|span| {
            (span, milliseconds_since(span.from_ns, zero), milliseconds_since(span.to_ns, zero))
        })
        .filter(|&(_, from, to)| from <= last && to >= first)
        .map(|(span, from, to)| (span, scale.place(from), scale.place(to)))
        .collect();
    // Those of one state at one pixel are one.
    pieces.dedup_by(|later, earlier| {
        let same = later.0.state == earlier.0.state && later.2 - earlier.1 < NARROWEST;
        if same {
            earlier.2 = later.2;
        }
        same
    });
    pieces.sort_by_key(|it| it.0.state);
    html! {
        @for (span, left, right) in pieces {
            @let least = if span.state == State::Good { 0.5 } else { NARROWEST };
            (svg::rect(class(span.state), (left, top), ((right - left).max(least), height),
                &said(span, about, zero)))
        }
    }
}

/// How many connections still wait: lower with each one that learned.
pub fn waiting(waiting: &Waiting, scale: &Scale, zero: u64, top: f64, height: f64) -> Markup {
    let (first, last) = scale.ends();
    let bottom = top + height;
    let all = waiting.connections.max(waiting.ended.len() as u64).max(1);
    let level = |left: u64| bottom - left as f64 / all as f64 * (height - 1.0);
    let mut left = all;
    let mut outline = vec![(scale.place(first), bottom), (scale.place(first), level(left))];
    for it in &waiting.ended {
        let at = milliseconds_since(it.at_ns, zero);
        let x = scale.place(at.min(last));
        outline.push((x, level(left)));
        if at <= last {
            left -= 1;
        }
        outline.push((x, level(left)));
    }
    outline.push((scale.place(last), level(left)));
    outline.push((scale.place(last), bottom));
    let title = format!(
        "{} connections wait; {} learned that their node is gone, {} never did",
        waiting.connections,
        waiting.ended.len(),
        waiting.hung
    );
    svg::path("waiting", &outline, &title)
}

/// A tick for each.
pub fn moments(moments: &[Moment], scale: &Scale, zero: u64, top: f64, height: f64) -> Markup {
    let inside = moments.iter().map(|it| (it, milliseconds_since(it.at_ns, zero)));
    html! {
        @for (moment, at) in inside.filter(|&(_, at)| scale.has(at)) {
            @let x = Px(scale.place(at));
            line.moment x1=(x) x2=(x) y1=(Px(top + 1.0)) y2=(Px(top + height - 1.0)) {
                title { (moment.title) }
            }
        }
    }
}

/// The class of a state.
pub fn class(state: State) -> &'static str {
    match state {
        State::Good => "good",
        State::Late => "late",
        State::Refused => "refused",
        State::Silent => "silent",
    }
}

/// A state in words.
pub fn meaning(state: State) -> &'static str {
    match state {
        State::Good => "good answers",
        State::Late => "good answers, but late",
        State::Refused => "refused",
        State::Silent => "silence",
    }
}

fn said(span: &Span, about: &str, zero: u64) -> String {
    let [from, to] = [span.from_ns, span.to_ns].map(|it| numbers::since(it, zero));
    format!("{about}: {} from {from} to {to} ms", meaning(span.state))
}
