//! The page of `vipd probe`, in a real browser. What is measured is what a reader sees: places,
//! colours and words as Chromium has laid them out.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use vipd::probe::page::{page, sample};
use vipd::probe::{LayerName, Report};
use vipd_tests::browser::{Scheme, measure, visit};

/// Reads the page: see there.
const MEASURE: &str = include_str!("measure.js");
/// Of text, by WCAG 2 AA.
const LEAST_CONTRAST: f64 = 4.5;
const WIDE: u32 = 1200;
/// A telephone.
const NARROW: u32 = 375;

/// What [`MEASURE`] returns.
#[derive(Debug, Deserialize)]
struct Measured {
    /// Whether the browser says so.
    dark: bool,
    /// The ground's colour.
    ground: String,
    /// How much wider the page is than its window.
    overflow: f64,
    timelines: Vec<Timeline>,
    /// Words that cover each other, or stick out of their drawing.
    collisions: Vec<String>,
    /// The words that are the hardest to read.
    faintest: Vec<Faint>,
    /// Headline figures of blackouts, by layer.
    headlines: Vec<(String, String)>,
    /// Numbers of the marks in each run's list.
    lists: Vec<Vec<String>>,
    /// Drawings, with whether they have a name for those who can't see them.
    named: Vec<bool>,
    /// All words.
    text: String,
}

#[derive(Debug, Deserialize)]
struct Timeline {
    layers: Vec<String>,
    /// The marks that have a number, as in `4` or `4–6`.
    badges: Vec<String>,
    /// Lengths of the blackouts, by layer.
    lengths: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
struct Faint {
    contrast: f64,
    words: String,
}

#[test]
fn the_page_loads_without_a_complaint_or_a_request() -> Result<()> {
    for report in [sample::nat(), sample::script()] {
        let visit = visit(&page(&report), Scheme::Light)?;
        ensure!(visit.console.is_empty(), "{:?}", visit.console);
        ensure!(visit.requests.is_empty(), "{:?}", visit.requests);
        ensure!(visit.dom.contains(&report.target), "it is not the page:\n{}", visit.dom);
    }
    Ok(())
}

#[test]
fn a_page_that_asks_for_something_or_errs_would_be_noticed() -> Result<()> {
    let bad = r#"<!doctype html><img src="http://198.18.77.1/x.png"><script>nowhere()</script>"#;
    let seen = visit(bad, Scheme::Light)?;
    ensure!(seen.requests == ["http://198.18.77.1/x.png"], "{:?}", seen.requests);
    ensure!(seen.console.iter().any(|it| it.contains("nowhere")), "{:?}", seen.console);

    // The page's own policy does not let it.
    let page = page(&sample::script()).replace("<main>", &format!("<main>{bad}"));
    let seen = visit(&page, Scheme::Light)?;
    ensure!(seen.requests.is_empty(), "{:?}", seen.requests);
    ensure!(
        seen.console.iter().any(|it| it.contains("Content Security Policy")),
        "{:?}",
        seen.console
    );
    Ok(())
}

#[test]
fn everything_is_there_and_can_be_read_in_light_and_dark_wide_and_narrow() -> Result<()> {
    for report in [sample::nat(), sample::script()] {
        let html = page(&report);
        let mut grounds = BTreeSet::new();
        for (width, scheme) in
            [(WIDE, Scheme::Light), (WIDE, Scheme::Dark), (NARROW, Scheme::Light)]
        {
            let found = measured(&html, width, scheme)?;
            let context = || format!("{} at {width} px, {scheme:?}", report.target);
            check(&report, &found, scheme).with_context(context)?;
            grounds.insert(found.ground);
        }
        ensure!(grounds.len() == 2, "light and dark have the same ground: {grounds:?}");
    }
    Ok(())
}

#[test]
fn a_page_that_is_wrong_would_be_noticed() -> Result<()> {
    let report = sample::script();
    let good = page(&report);
    let style = |rule: &str| good.replace("</style>", &format!("{rule}</style>"));
    let cases = [
        ("it can be scrolled sideways", style("main { min-width: 700px }")),
        ("hard to read", style("figcaption { color: #999 }")),
        ("cover each other", style("svg .badge text { font-size: 26px }")),
        ("no lane", good.replace("data-layer=\"icmp\"", "data-layer=\"imcp\"")),
        (
            "a mark is not",
            good.replace("g class=\"badge by-trigger\"", "g class=\"badge\" display=\"none\""),
        ),
        ("not shown", good.replace("1,791.0 ms", "1,791.5 ms")),
    ];
    for (problem, wrong) in cases {
        ensure!(wrong != good, "nothing was changed for {problem:?}");
        let found = measured(&wrong, NARROW, Scheme::Light)?;
        let error = check(&report, &found, Scheme::Light).err();
        let error = error.with_context(|| format!("nobody noticed: {problem}"))?.to_string();
        ensure!(error.contains(problem), "instead of {problem:?}: {error}");
    }
    Ok(())
}

fn measured(html: &str, width: u32, scheme: Scheme) -> Result<Measured> {
    let found = measure(html, width, scheme, MEASURE)?;
    serde_json::from_value(found).context("the script and the test disagree")
}

fn check(report: &Report, found: &Measured, scheme: Scheme) -> Result<()> {
    ensure!(found.dark == (scheme == Scheme::Dark), "the switch for {scheme:?} does not work");
    ensure!(found.overflow <= 0.0, "it can be scrolled sideways, by {} px", found.overflow);
    for faint in &found.faintest {
        let Faint { contrast, words } = faint;
        ensure!(*contrast >= LEAST_CONTRAST, "hard to read: {words:?}, at {contrast:.2}");
    }
    ensure!(found.collisions.is_empty(), "words cover each other: {:#?}", found.collisions);
    ensure!(found.named.iter().all(|it| *it), "a drawing has no name");
    blackouts(report, found)?;
    timelines(report, found)
}

fn blackouts(report: &Report, found: &Measured) -> Result<()> {
    let layers: Vec<&str> = found.headlines.iter().map(|it| it.0.as_str()).collect();
    ensure!(layers == ["arp", "icmp", "syn", "redis"], "{layers:?}");
    for (layer, value) in &found.headlines {
        let any = report.runs.iter().flat_map(|run| &run.layers);
        let has_one = any.filter(|it| it.name.name() == layer).any(|it| it.blackout.is_some());
        ensure!(has_one == (value != "none"), "{layer}: {value:?}");
    }
    for run in &report.runs {
        for blackout in run.layers.iter().filter_map(|it| it.blackout.as_ref()) {
            let length = vipd::probe::numbers::ms(blackout.length_ns);
            ensure!(found.text.contains(&length), "{length} is not shown");
        }
    }
    Ok(())
}

/// Two for each run: the blackout, and all of it.
fn timelines(report: &Report, found: &Measured) -> Result<()> {
    ensure!(found.timelines.len() == 2 * report.runs.len(), "{:?}", found.timelines.len());
    for (run, timelines) in report.runs.iter().zip(found.timelines.chunks(2)) {
        for timeline in timelines {
            for layer in &run.layers {
                let name = layer.name.name();
                ensure!(timeline.layers.iter().any(|it| it == name), "no lane for {name}");
                let shown = timeline.lengths.iter().find(|it| it.0 == name);
                let length =
                    layer.blackout.as_ref().map(|it| vipd::probe::numbers::ms(it.length_ns));
                let length = length.map(|it| format!("{it} ms"));
                ensure!(
                    shown.map(|it| &it.1) == length.as_ref(),
                    "{name}: {length:?} is not shown: {shown:?}"
                );
            }
        }
        let expected = 1..=run.marks.len();
        let whole = timelines.last().context("a timeline")?;
        let shown: BTreeSet<usize> = whole.badges.iter().flat_map(|it| numbers(it)).collect();
        for number in expected.clone() {
            ensure!(shown.contains(&number), "a mark is not in the drawing: {number} of {shown:?}");
        }
        let zoomed: BTreeSet<usize> =
            timelines[0].badges.iter().flat_map(|it| numbers(it)).collect();
        ensure!(zoomed.contains(&1), "a mark is not in the drawing: the trigger of {zoomed:?}");
    }
    for (run, list) in report.runs.iter().zip(&found.lists) {
        let expected: Vec<String> = (1..=run.marks.len()).map(|it| it.to_string()).collect();
        ensure!(*list == expected, "the list of run {} has {list:?}", run.number);
        let idle = run.layer(LayerName::Idle).and_then(|it| it.waiting.as_ref());
        ensure!(
            idle.is_none_or(|it| found
                .text
                .contains(&format!("{} of {}", it.hung, it.connections)))
        );
    }
    Ok(())
}

/// `4–6` are three.
fn numbers(badge: &str) -> Vec<usize> {
    let ends: Vec<usize> = badge.split('–').filter_map(|it| it.parse().ok()).collect();
    match ends.as_slice() {
        [first, .., last] => (*first..=*last).collect(),
        ends => ends.to_vec(),
    }
}
