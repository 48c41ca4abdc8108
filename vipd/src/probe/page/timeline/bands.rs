//! What the timeline shows of each layer.

use std::collections::BTreeMap;

use super::sharpen;
use crate::probe::numbers;
use crate::probe::report::{Layer, LayerName, Owners, Run, Span, Waiting};

/// A layer.
pub struct Band<'a> {
    pub layer: &'a Layer,
    pub rows: Vec<Row<'a>>,
}

/// A line of it. The first one is the layer's own.
pub struct Row<'a> {
    pub label: String,
    /// The label with all that there is no room for.
    pub title: String,
    pub content: Content<'a>,
}

pub enum Content<'a> {
    /// How probes fared.
    Spans(Vec<Span>),
    /// How many connections still wait.
    Waiting(&'a Waiting),
    /// Single moments, in order.
    Moments(Vec<Moment>),
}

pub struct Moment {
    pub at_ns: u64,
    pub title: String,
}

/// Kinds of endings that have a line of their own; the others share one.
const MOST_WAYS: usize = 6;

/// All layers of a run.
pub fn bands(run: &Run) -> Vec<Band<'_>> {
    let zero = run.zero_ns();
    run.layers.iter().map(|layer| Band { layer, rows: rows(layer, zero) }).collect()
}

fn rows(layer: &Layer, zero: u64) -> Vec<Row<'_>> {
    let name = layer.name.name();
    let mut rows = vec![];
    let (own, nodes): (Vec<_>, Vec<_>) = layer.lanes.iter().partition(|lane| lane.label.is_empty());
    let own = own.first().map_or(&[][..], |lane| &lane.spans);
    let own = sharpen::by_outages(own, &layer.outages);
    match &layer.waiting {
        Some(waiting) if layer.name == LayerName::Idle && own.is_empty() => rows.push(Row {
            label: name.into(),
            title: format!("idle: connections that wait, {} at first", waiting.connections),
            content: Content::Waiting(waiting),
        }),
        _ => rows.push(Row {
            label: name.into(),
            title: format!("{name}: all probes"),
            content: Content::Spans(own),
        }),
    }
    for lane in nodes {
        rows.push(Row {
            label: lane.label.clone(),
            title: format!("{name}, answered by {}", lane.label),
            content: Content::Spans(sharpen::by_node(
                &lane.spans,
                layer.nodes.iter().find(|it| it.label == lane.label),
            )),
        });
    }
    rows.extend(layer.owners.iter().flat_map(|owners| owner_rows(owners, zero)));
    rows.extend(layer.waiting.iter().flat_map(|waiting| ended_rows(waiting, zero)));
    rows.extend(lost_row(layer, zero));
    rows
}

fn owner_rows<'a>(owners: &Owners, zero: u64) -> impl Iterator<Item = Row<'a>> {
    // Who had it at first is no change.
    let changes = owners.changes.get(1..).unwrap_or_default();
    let lists = [("owner changes", changes), ("announcements", &owners.announcements[..])];
    lists.into_iter().filter(|(_, list)| !list.is_empty()).map(move |(label, list)| Row {
        label: format!("{label} ×{}", list.len()),
        title: label.into(),
        content: Content::Moments(list.iter().map(|it| moment(it.at_ns, zero, &it.mac)).collect()),
    })
}

fn ended_rows<'a>(waiting: &Waiting, zero: u64) -> Vec<Row<'a>> {
    let mut ways: BTreeMap<&str, Vec<Moment>> = BTreeMap::new();
    for it in &waiting.ended {
        let known = ways.contains_key(it.how.as_str()) || ways.len() < MOST_WAYS;
        let way = if known { it.how.as_str() } else { "other" };
        let said = format!("{}, waiting in {}", it.how, it.waiting_in);
        ways.entry(way).or_default().push(moment(it.at_ns, zero, &said));
    }
    ways.into_iter()
        .map(|(how, moments)| Row {
            label: format!("{how} ×{}", moments.len()),
            title: format!("connections that learned it: {how}"),
            content: Content::Moments(moments),
        })
        .collect()
}

fn lost_row<'a>(layer: &Layer, zero: u64) -> Option<Row<'a>> {
    let writes = layer.writes.as_ref().filter(|it| !it.lost_sample.is_empty())?;
    let mut moments: Vec<Moment> = writes
        .lost_sample
        .iter()
        .map(|it| {
            let said = format!(
                "write {} of {}, acknowledged by {} and lost",
                it.number, it.connection, it.by
            );
            moment(it.at_ns, zero, &said)
        })
        .collect();
    moments.sort_by_key(|it| it.at_ns);
    Some(Row {
        label: format!("lost writes ×{}", writes.lost.unwrap_or(moments.len() as u64)),
        title: "writes that were acknowledged and are gone (the first of them)".into(),
        content: Content::Moments(moments),
    })
}

fn moment(at_ns: u64, zero: u64, said: &str) -> Moment {
    Moment { at_ns, title: format!("{} ms: {said}", numbers::since(at_ns, zero)) }
}
