//! The timeline of a run: a lane per layer and per node, what happened as numbered lines across them,
//! and how long each blackout was.

mod badges;
mod bands;
mod bracket;
mod draw;
mod legend;
mod row;
mod sharpen;
mod window;

use maud::{Markup, html};

use self::draw::{Detail, Drawing};
use super::svg;
use crate::probe::report::Run;

/// The drawings of one run, with their legends. If what matters is short, there is one of the whole
/// run and one of just that.
pub fn timeline(run: &Run) -> Markup {
    let bands = bands::bands(run);
    let whole = window::whole(run);
    let close = window::around_blackouts(run);
    let draw = |window, other, detail| {
        let drawing = Drawing { run, bands: &bands, window, marked: other, detail };
        drawing.draw()
    };
    html! {
        @if let Some(close) = close {
            (figure(run, "The blackout, enlarged", BRACKETS, draw(close, None, Detail::Full)))
            (figure(run, "The whole run", "The shaded part is the one above",
                draw(whole, Some(close), Detail::Overview)))
        } @else {
            (figure(run, "The whole run", BRACKETS, draw(whole, None, Detail::Full)))
        }
        (legend::states())
        (legend::marks(run))
    }
}

const BRACKETS: &str = "Brackets reach from the last good answer to the next; from the old node's to the \
    new one's where they can be told apart";

fn figure(run: &Run, title: &str, note: &str, (drawing, height): (Markup, f64)) -> Markup {
    let about = format!("Timeline of run {}: {}", run.number, title.to_lowercase());
    let caption = html! { b { (title) } ". " (note) "." };
    svg::figure(&about, (svg::WIDTH, height), caption, drawing)
}
