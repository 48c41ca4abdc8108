//! The few shapes that the drawings are made of. Lengths are in units of the drawing: CSS pixels at
//! full width.

use std::fmt::Write as _;

use maud::{Markup, Render, html};

use super::scale::{Scale, Tick};

/// The width of a drawing over the whole page.
pub const WIDTH: f64 = 1040.0;

/// A coordinate, with as many decimals as can be seen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Px(pub f64);

impl Render for Px {
    fn render_to(&self, buffer: &mut String) {
        let rounded = (self.0 * 10.0).round() / 10.0;
        // To a String: can't fail.
        let _written = write!(buffer, "{rounded}");
    }
}

/// Where the words of a [`text`] are from its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// After it.
    Start,
    /// Around it.
    Middle,
    /// Before it.
    End,
}

/// A drawing with its caption. `about` is what those get to know who can't see it; on narrow screens
/// it can be scrolled.
pub fn figure(about: &str, size: (f64, f64), caption: Markup, drawing: Markup) -> Markup {
    let (width, height) = size;
    let class = if width < WIDTH { "half" } else { "full" };
    html! {
        figure {
            div.scroll tabindex="0" role="group" aria-label=(about) {
                svg.(class) viewBox={ "0 0 " (Px(width)) " " (Px(height)) } role="img" aria-label=(about)
                    xmlns="http://www.w3.org/2000/svg" {
                    title { (about) }
                    (drawing)
                }
            }
            figcaption { (caption) }
        }
    }
}

/// A straight line.
pub fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
    html! { line class=(class) x1=(Px(from.0)) y1=(Px(from.1)) x2=(Px(to.0)) y2=(Px(to.1)) {} }
}

/// A rectangle, which says `title` to who points at it.
pub fn rect(class: &str, place: (f64, f64), size: (f64, f64), title: &str) -> Markup {
    html! {
        rect class=(class) x=(Px(place.0)) y=(Px(place.1)) width=(Px(size.0)) height=(Px(size.1)) {
            @if !title.is_empty() { title { (title) } }
        }
    }
}

/// Words on their baseline.
pub fn text(class: &str, place: (f64, f64), anchor: Anchor, words: &str) -> Markup {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    html! {
        text class=(class) x=(Px(place.0)) y=(Px(place.1)) text-anchor=(anchor) { (words) }
    }
}

/// A line through points.
pub fn path(class: &str, points: &[(f64, f64)], title: &str) -> Markup {
    let mut way = String::new();
    for (number, (x, y)) in points.iter().enumerate() {
        way.push(if number == 0 { 'M' } else { 'L' });
        Px(*x).render_to(&mut way);
        way.push(' ');
        Px(*y).render_to(&mut way);
    }
    html! { path class=(class) d=(way) { @if !title.is_empty() { title { (title) } } } }
}

/// A horizontal axis at the height `bottom`, with lines up to `top`, and what it counts in.
pub fn axis(scale: &Scale, wanted: usize, top: f64, bottom: f64, unit: &str) -> Markup {
    let (first, last) = scale.ends();
    let (left, right) = (scale.place(first), scale.place(last));
    html! {
        g.axis {
            @for Tick { at, label } in scale.ticks(wanted) {
                (line("grid", (at, top), (at, bottom)))
                (line("tick", (at, bottom), (at, bottom + 4.0)))
                (text("num", (at, bottom + 16.0), Anchor::Middle, &label))
            }
            (line("base", (left, bottom), (right, bottom)))
            (text("unit", (right, bottom + 31.0), Anchor::End, unit))
        }
    }
}

/// The height that an [`axis`] needs below its line.
pub const AXIS_HEIGHT: f64 = 36.0;

/// How wide words of the drawings' small size are, at most: enough to keep them apart.
pub fn width_of(words: &str) -> f64 {
    words.chars().count() as f64 * 6.4
}

/// The words as far as there is room for them.
pub fn shortened(words: &str, room: f64) -> String {
    let fit = (room / 6.4) as usize;
    if words.chars().count() <= fit {
        return words.to_owned();
    }
    words.chars().take(fit.saturating_sub(1)).chain(['…']).collect()
}
