//! How long answers took outside of outages: where they lie, and how much the slowest ones took.

use maud::{Markup, html};

use super::apart::apart;
use super::scale::{Axis, Scale};
use super::svg::{self, Anchor, Px};
use crate::probe::figures::{Bucket, Latency};
use crate::probe::numbers;
use crate::probe::report::Run;

/// Both drawings beside each other; nothing if no layer has a latency.
pub fn latency(run: &Run) -> Markup {
    let all = series(run);
    let Some(ends) = ends(&all) else { return html! {} };
    html! {
        div.pair {
            (histogram(run, &all, ends))
            (percentiles(run, &all, ends))
        }
    }
}

/// Answers of one kind.
struct Series<'a> {
    label: String,
    latency: &'a Latency,
}

const WIDTH: f64 = 510.0;
const TOP: f64 = 10.0;
/// Room for the labels of the histogram, and of the curves.
const LABELS: f64 = 96.0;
const NAMES: f64 = 128.0;
/// A piece of its curve before its name.
const SAMPLE: f64 = 20.0;
const ROW: f64 = 40.0;
/// Room for what the curves' axis says.
const SHARES: f64 = 52.0;
/// Kinds of lines that the style has.
const KINDS: usize = 6;
/// The greatest number of nines that is told apart.
const MOST_NINES: f64 = 6.0;

fn series(run: &Run) -> Vec<Series<'_>> {
    let mut all = vec![];
    for layer in &run.layers {
        let name = layer.name.name();
        let kinds = [(name.to_owned(), &layer.latency), (format!("{name}, fresh"), &layer.fresh)];
        for (label, latency) in kinds {
            let with_buckets =
                latency.as_ref().filter(|it| it.count > 0 && !it.histogram.is_empty());
            all.extend(with_buckets.map(|latency| Series { label, latency }));
        }
    }
    all
}

/// The quickest and the slowest of all, in milliseconds.
fn ends(all: &[Series<'_>]) -> Option<(f64, f64)> {
    let first = all.iter().map(|it| it.latency.min_ns).min()?;
    let last = all.iter().map(|it| it.latency.max_ns).max()?;
    Some((ms(first) / 1.1, ms(last) * 1.1))
}

fn histogram(run: &Run, all: &[Series<'_>], ends: (f64, f64)) -> Markup {
    let about = format!("Histogram of the steady latency of run {}, by layer", run.number);
    let scale = Scale::new(Axis::Log, ends, (LABELS, WIDTH - 6.0));
    let bottom = TOP + all.len() as f64 * ROW;
    let caption = html! {
        b { "How long answers took" } " outside of outages. Heights are logarithms of counts, each row \
        by its own greatest."
    };
    let drawing = html! {
        (svg::axis(&scale, 6, TOP, bottom, "ms"))
        @for (number, it) in all.iter().enumerate() {
            (ridge(it, &scale, TOP + (number + 1) as f64 * ROW))
        }
    };
    svg::figure(&about, (WIDTH, bottom + svg::AXIS_HEIGHT), caption, drawing)
}

/// One row of the histogram, standing on `bottom`.
fn ridge(it: &Series<'_>, scale: &Scale, bottom: f64) -> Markup {
    let most = it.latency.histogram.iter().map(|it| it.count).max().unwrap_or(1);
    let height =
        |bucket: &Bucket| (bucket.count as f64 + 1.0).ln() / (most as f64 + 1.0).ln() * (ROW - 8.0);
    html! {
        g.ridge {
            (svg::text("label", (LABELS - 8.0, bottom - 4.0), Anchor::End, &it.label))
            @for bucket in &it.latency.histogram {
                @let (left, right) = (scale.place(ms(bucket.from_ns)), scale.place(ms(bucket.to_ns)));
                @let title = format!("{}: {} answers from {} to {} ms", it.label,
                    numbers::count(bucket.count), numbers::ms(bucket.from_ns), numbers::ms(bucket.to_ns));
                (svg::rect("bar", (left, bottom - height(bucket)),
                    ((right - left - 0.5).max(0.6), height(bucket)), &title))
            }
            (svg::line("base", (LABELS, bottom), (WIDTH - 6.0, bottom)))
        }
    }
}

fn percentiles(run: &Run, all: &[Series<'_>], ends: (f64, f64)) -> Markup {
    let about = format!("Percentiles of the steady latency of run {}, by layer", run.number);
    let bottom = TOP + (all.len() as f64 * ROW).max(4.0 * ROW);
    let x = Scale::new(Axis::Log, ends, (SHARES, WIDTH - NAMES));
    let nines = all.iter().map(|it| nines_of(it.latency.count)).fold(1.0, f64::max);
    let y = Scale::new(Axis::Linear, (0.0, nines), (bottom, TOP));
    let caption = html! {
        b { "How many were as quick" } ": the share of answers that took no longer. The scale \
        stretches towards 100 %."
    };
    let drawing = html! {
        (svg::axis(&x, 5, TOP, bottom, "ms"))
        (shares(&y, x.place(ends.0), x.place(ends.1)))
        @for (number, it) in all.iter().enumerate() {
            (svg::path(&format!("curve s{}", number % KINDS), &curve(it.latency, &x, &y), &it.label))
        }
        (names(all, &x, &y))
    };
    svg::figure(&about, (WIDTH, bottom + svg::AXIS_HEIGHT), caption, drawing)
}

/// The lines of 50 %, 90 %, 99 %, ….
fn shares(y: &Scale, left: f64, right: f64) -> Markup {
    let shares = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999];
    html! {
        g.axis {
            @for share in shares {
                @let nines = nines(share);
                @if y.has(nines) {
                    (svg::line("grid", (left, y.place(nines)), (right, y.place(nines))))
                    (svg::text("num", (left - 6.0, y.place(nines) + 4.0), Anchor::End,
                        &format!("{} %", numbers::shortest_of(share * 100.0, 4))))
                }
            }
        }
    }
}

fn curve(latency: &Latency, x: &Scale, y: &Scale) -> Vec<(f64, f64)> {
    let mut points = vec![(x.place(ms(latency.min_ns)), y.place(0.0))];
    let mut so_far = 0;
    for bucket in &latency.histogram {
        so_far += bucket.count;
        let until = bucket.to_ns.min(latency.max_ns);
        let share = so_far as f64 / latency.count as f64;
        let height = nines(share).min(nines_of(latency.count));
        points.push((x.place(ms(until)), y.place(height)));
    }
    points
}

/// At the right of the curves' ends, in the order of their heights.
fn names(all: &[Series<'_>], x: &Scale, y: &Scale) -> Markup {
    let mut ends: Vec<(f64, f64, usize)> = all
        .iter()
        .enumerate()
        .map(|(number, it)| {
            (x.place(ms(it.latency.max_ns)), y.place(nines_of(it.latency.count)), number)
        })
        .collect();
    ends.sort_by(|one, other| one.1.total_cmp(&other.1).then(other.0.total_cmp(&one.0)));
    let wanted: Vec<f64> = ends.iter().map(|it| it.1).collect();
    let (bottom, top) = (y.place(0.0), y.place(y.ends().1) - 8.0);
    let placed = apart(&wanted, &vec![15.0; wanted.len()], top, bottom);
    let right = WIDTH - NAMES + 12.0;
    html! {
        @for (&(end, height, number), place) in ends.iter().zip(placed) {
            @let kind = number % KINDS;
            (svg::path("leader", &[(end, height), (right - 8.0, place), (right - 2.0, place)], ""))
            circle.end.(format!("s{kind}")) cx=(Px(end)) cy=(Px(height)) r="2" {}
            (svg::line(&format!("curve s{kind}"), (right, place), (right + SAMPLE, place)))
            (svg::text("name", (right + SAMPLE + 5.0, place + 4.0), Anchor::Start, &all[number].label))
        }
    }
}

/// 0.9 is one, 0.99 two.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(10f64.powf(-MOST_NINES)).log10()
}

/// So many answers can't tell more.
fn nines_of(count: u64) -> f64 {
    (count.max(1) as f64).log10().clamp(0.0, MOST_NINES)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
