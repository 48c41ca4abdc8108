//! The drawing itself: bands from top to bottom, time from left to right.

use maud::{Markup, html};

use super::badges::{Badge, badges};
use super::bands::{Band, Content, Row};
use super::window::Window;
use super::{bracket, row};
use crate::probe::numbers::{self, milliseconds_since};
use crate::probe::page::scale::{Axis, Scale};
use crate::probe::page::svg::{self, Anchor, Px};
use crate::probe::report::{Run, Source};

/// What to draw.
pub struct Drawing<'a> {
    pub run: &'a Run,
    pub bands: &'a [Band<'a>],
    /// The part of the run that is shown.
    pub window: Window,
    /// A part of it that another drawing enlarges.
    pub marked: Option<Window>,
    pub detail: Detail,
}

/// How much of a band there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Everything.
    Full,
    /// Lanes only, and low ones.
    Overview,
}

/// Room for the labels of rows.
const LEFT: f64 = 208.0;
const RIGHT: f64 = 1030.0;
/// A badge's.
const BADGE_TOP: f64 = 2.0;
const BADGE_HEIGHT: f64 = 17.0;
/// Where the lines below the badges become upright.
const UPRIGHT: f64 = 40.0;
const TOP: f64 = 46.0;

impl Drawing<'_> {
    /// The drawing and its height.
    pub fn draw(&self) -> (Markup, f64) {
        let scale = Scale::new(Axis::Linear, self.window, (LEFT, RIGHT));
        let (lanes, outages, bottom) = self.bands(&scale);
        let badges = self.badges(&scale);
        let drawing = html! {
            (svg::axis(&scale, 10, TOP, bottom, self.unit()))
            @if let Some((from, to)) = self.marked {
                @let (left, right) = (scale.place(from), scale.place(to));
                (svg::rect("marked", (left, TOP), (right - left, bottom - TOP), "enlarged above"))
            }
            (lanes)
            @for badge in &badges { (self.lines(badge, bottom)) }
            @if scale.has(0.0) {
                (svg::line("zero", (scale.place(0.0), UPRIGHT), (scale.place(0.0), bottom)))
            }
            @for badge in &badges { (self.badge(badge)) }
            // Nothing goes through their figures.
            (outages)
        };
        (drawing, bottom + svg::AXIS_HEIGHT)
    }

    fn unit(&self) -> &'static str {
        match self.run.trigger {
            Some(_) => "ms since the trigger",
            None => "ms since the beginning",
        }
    }

    /// Lanes, the outages above them, and where it ends.
    fn bands(&self, scale: &Scale) -> (Markup, Markup, f64) {
        let zero = self.run.zero_ns();
        let mut bottom = TOP;
        let (mut drawn, mut brackets) = (vec![], vec![]);
        for band in self.bands {
            let heights = Heights::of(self.detail);
            let top = bottom + if band.layer.outages.is_empty() { 0.0 } else { heights.bracket };
            let outages = match self.detail {
                Detail::Full => bracket::all(band.layer, scale, zero, top),
                Detail::Overview => bracket::blackout(band.layer, scale, zero, top),
            };
            bottom = top;
            let mut rows = vec![];
            for (nth, row) in band.rows.iter().enumerate() {
                let Some(height) = heights.row(nth, row) else { continue };
                rows.push(self.row(row, nth == 0, scale, bottom, height));
                bottom += height + heights.gap;
            }
            bottom += heights.below;
            let name = band.layer.name.name();
            drawn.push(html! { g.band data-layer=(name) { @for row in rows { (row) } } });
            brackets.push(html! { g data-outages=(name) { (outages) } });
        }
        let all = |parts: Vec<Markup>| html! { @for part in parts { (part) } };
        (all(drawn), all(brackets), bottom)
    }

    fn row(&self, it: &Row<'_>, is_first: bool, scale: &Scale, top: f64, height: f64) -> Markup {
        let zero = self.run.zero_ns();
        let is_labelled = is_first || self.detail == Detail::Full;
        let class = if is_first { "label layer" } else { "label" };
        let label = svg::shortened(&it.label, LEFT - 12.0);
        let baseline = top + height.min(18.0) / 2.0 + 4.0;
        html! {
            g.row {
                @if is_labelled {
                    g {
                        title { (it.title) }
                        (svg::text(class, (LEFT - 10.0, baseline), Anchor::End, &label))
                    }
                }
                @match &it.content {
                    Content::Spans(spans) => (row::spans(spans, &it.title, scale, zero, top, height)),
                    Content::Waiting(waiting) => (row::waiting(waiting, scale, zero, top, height)),
                    Content::Moments(moments) => (row::moments(moments, scale, zero, top, height)),
                }
            }
        }
    }

    fn badges(&self, scale: &Scale) -> Vec<Badge> {
        let zero = self.run.zero_ns();
        let marks = self.run.marks.iter().enumerate();
        let at = marks.map(|(number, mark)| (number, milliseconds_since(mark.at_ns, zero)));
        let mut places: Vec<_> = at
            .filter(|&(_, at)| scale.has(at))
            .map(|(number, at)| (number, scale.place(at)))
            .collect();
        places.sort_by(|one, other| one.1.total_cmp(&other.1));
        badges(&places, LEFT, RIGHT + 8.0)
    }

    /// From a badge to its marks, and down through all bands.
    fn lines(&self, badge: &Badge, bottom: f64) -> Markup {
        html! {
            @for (&mark, &line) in badge.marks.iter().zip(&badge.lines) {
                @let class = format!("mark {}", class(Some(self.run.marks[mark].source)));
                (svg::path(&class, &[(badge.at, BADGE_TOP + BADGE_HEIGHT), (line, UPRIGHT), (line, bottom)], ""))
            }
        }
    }

    fn badge(&self, badge: &Badge) -> Markup {
        let marks = &self.run.marks;
        let zero = self.run.zero_ns();
        let source = badge.source(marks);
        let width = badge.width();
        // Sentinels' are round, vipd's are not.
        let radius = if source == Some(Source::Sentinel) { BADGE_HEIGHT / 2.0 } else { 2.0 };
        html! {
            g.badge.(class(source)) {
                title {
                    @for &it in &badge.marks {
                        (it + 1) ": " (numbers::since(marks[it].at_ns, zero)) " ms " (marks[it].who)
                        " " (marks[it].what) "\n"
                    }
                }
                rect x=(Px(badge.at - width / 2.0)) y=(Px(BADGE_TOP)) width=(Px(width))
                    height=(Px(BADGE_HEIGHT)) rx=(Px(radius)) {}
                (svg::text("num", (badge.at, BADGE_TOP + 12.5), Anchor::Middle, &badge.label()))
            }
        }
    }
}

/// The class of what a source said; marks of several have one of their own.
pub fn class(source: Option<Source>) -> &'static str {
    match source {
        Some(Source::Trigger) => "by-trigger",
        Some(Source::Sentinel) => "by-sentinel",
        Some(Source::Vipd) => "by-vipd",
        None => "by-several",
    }
}

struct Heights {
    detail: Detail,
    /// Above a band that has outages.
    bracket: f64,
    /// Between rows.
    gap: f64,
    /// Below a band.
    below: f64,
}

impl Heights {
    fn of(detail: Detail) -> Self {
        match detail {
            Detail::Full => Self { detail, bracket: 19.0, gap: 3.0, below: 11.0 },
            Detail::Overview => Self { detail, bracket: 16.0, gap: 1.5, below: 7.0 },
        }
    }

    /// `None` if it is left out.
    fn row(&self, nth: usize, row: &Row<'_>) -> Option<f64> {
        match (&row.content, self.detail) {
            (Content::Waiting(_), Detail::Full) => Some(30.0),
            (Content::Moments(_), Detail::Full) => Some(12.0),
            (Content::Spans(_), Detail::Full) => Some(if nth == 0 { 18.0 } else { 11.0 }),
            (Content::Waiting(_), Detail::Overview) => Some(14.0),
            (Content::Moments(_), Detail::Overview) => None,
            (Content::Spans(_), Detail::Overview) => Some(if nth == 0 { 10.0 } else { 4.0 }),
        }
    }
}
