//! How long outages were, above their lane.

use maud::{Markup, html};

use crate::probe::numbers::{self, milliseconds_since};
use crate::probe::page::scale::Scale;
use crate::probe::page::svg::{self, Anchor};
use crate::probe::report::{Layer, Outage};

/// The blackout, and those other outages that there is room for.
pub fn all(layer: &Layer, scale: &Scale, zero: u64, bottom: f64) -> Markup {
    let mut others: Vec<_> =
        layer.outages.iter().filter(|it| Some(*it) != layer.blackout.as_ref()).collect();
    others.sort_by_key(|it| std::cmp::Reverse(it.length_ns));
    let mut taken = vec![];
    html! {
        @for outage in layer.blackout.iter().chain(others) {
            @let is_blackout = Some(outage) == layer.blackout.as_ref();
            (one(outage, is_blackout, scale, zero, bottom, &mut taken))
        }
    }
}

/// The blackout only.
pub fn blackout(layer: &Layer, scale: &Scale, zero: u64, bottom: f64) -> Markup {
    html! {
        @if let Some(outage) = &layer.blackout {
            (one(outage, true, scale, zero, bottom, &mut vec![]))
        }
    }
}

/// `taken` are the places that have something already, from and to.
fn one(
    outage: &Outage,
    is_blackout: bool,
    scale: &Scale,
    zero: u64,
    bottom: f64,
    taken: &mut Vec<(f64, f64)>,
) -> Markup {
    let (first, last) = scale.ends();
    let from = milliseconds_since(outage.from_ns, zero);
    let to = outage.to_ns.map_or(last, |to| milliseconds_since(to, zero));
    if from > last || to < first {
        return html! {};
    }
    let (left, right) = (scale.place(from), scale.place(to));
    let label = match outage.to_ns {
        Some(_) => format!("{} ms", numbers::ms(outage.length_ns)),
        None => format!("{} ms, and no end", numbers::ms(outage.length_ns)),
    };
    let (words, anchor, place) = place(&label, left, right, scale);
    let whole = (left.min(words.0), right.max(words.1));
    if taken.iter().any(|it| it.0 < whole.1 && whole.0 < it.1) {
        return html! {};
    }
    taken.push(whole);
    let class = if is_blackout { "bracket blackout" } else { "bracket" };
    let (y, foot) = (bottom - 9.0, bottom - 3.0);
    let split = anchor == Anchor::Middle;
    html! {
        g.(class) {
            title { (about(outage, zero)) }
            @if split {
                (svg::path("", &[(left, foot), (left, y), (words.0, y)], ""))
                (svg::path("", &[(words.1, y), (right, y), (right, foot)], ""))
            } @else {
                (svg::path("", &[(left, foot), (left, y), (right, y), (right, foot)], ""))
            }
            (svg::text("num length", (place, y + 4.0), anchor, &label))
        }
    }
}

/// Where the words are: from and to, and how they are set. In the middle if there is room, else
/// after it, or before if it is at the end.
fn place(label: &str, left: f64, right: f64, scale: &Scale) -> ((f64, f64), Anchor, f64) {
    let width = svg::width_of(label) + 12.0;
    let end = scale.place(scale.ends().1);
    if right - left > width + 12.0 {
        let middle = f64::midpoint(left, right);
        ((middle - width / 2.0, middle + width / 2.0), Anchor::Middle, middle)
    } else if right + width <= end {
        ((right, right + width), Anchor::Start, right + 6.0)
    } else {
        ((left - width, left), Anchor::End, left - 6.0)
    }
}

fn about(outage: &Outage, zero: u64) -> String {
    let from = numbers::since(outage.from_ns, zero);
    let length = numbers::ms(outage.length_ns);
    let mut said = match outage.to_ns {
        Some(to) => format!(
            "no good answer for {length} ms: the last one at {from} ms, the next at {} ms",
            numbers::since(to, zero)
        ),
        None => format!("no good answer from {from} ms to the end of the run, {length} ms"),
    };
    if let (Some(old), Some(new)) = (&outage.old, &outage.new) {
        said += &format!("; {old} before, {new} after");
    }
    said
}
