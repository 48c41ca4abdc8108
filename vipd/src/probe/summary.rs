//! All runs together.

use super::figures::{Spread, ns_as_ms};
use super::report::{Figure, Layer, LayerName, Report, Run};

/// A number of a layer, with its name and unit.
type Number = (&'static str, &'static str, fn(&Layer) -> Option<f64>);

const NUMBERS: [Number; 7] = [
    ("blackout", "ms", |layer| layer.blackout_ns().map(ns_as_ms)),
    ("p50", "ms", |layer| layer.latency.as_ref().map(|it| ns_as_ms(it.p50_ns))),
    ("p99", "ms", |layer| layer.latency.as_ref().map(|it| ns_as_ms(it.p99_ns))),
    ("lost writes", "", |layer| layer.writes.as_ref()?.lost.map(|it| it as f64)),
    ("late writes", "", |layer| layer.writes.as_ref().map(|it| it.late as f64)),
    ("hung", "", |layer| layer.waiting.as_ref().map(|it| it.hung as f64)),
    ("two owners", "ms", |layer| layer.owners.as_ref().map(|it| ns_as_ms(it.both_ns))),
];

impl Report {
    /// Of these runs; nothing is expected yet.
    pub fn of(target: &str, started: String, runs: Vec<Run>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target: target.to_owned(),
            started,
            summary: summary(&runs),
            runs,
            expectations: vec![],
        }
    }
}

fn summary(runs: &[Run]) -> Vec<Figure> {
    let mut layers: Vec<LayerName> =
        runs.iter().flat_map(|run| &run.layers).map(|layer| layer.name).collect();
    layers.sort_unstable();
    layers.dedup();
    let figure = |layer: LayerName, (name, unit, number): Number| {
        let values: Vec<f64> =
            runs.iter().filter_map(|run| run.layer(layer)).filter_map(number).collect();
        let spread = Spread::of(values.iter().copied().map(Some))?;
        let open =
            runs.iter().filter_map(|run| run.layer(layer)).filter(|it| it.has_open_blackout());
        let open = if name == "blackout" { open.count() } else { 0 };
        Some(Figure { layer, name: name.to_owned(), unit: unit.to_owned(), values, spread, open })
    };
    layers
        .into_iter()
        .flat_map(|layer| NUMBERS.into_iter().filter_map(move |number| figure(layer, number)))
        .collect()
}
