//! The report as text, for a terminal: a block for each run, then all runs together. No line is
//! longer than [`WIDTH`], and nothing that a server sent can move the cursor.

use std::collections::BTreeMap;
use std::fmt;

use super::figures::Latency;
use super::numbers;
use super::report::{Ended, Figure, Layer, LayerName, Owners, Report, Run, Source, Waiting};

/// Columns.
const WIDTH: usize = 100;
/// Names of what a line is about.
const NAMES: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut page = Lines::default();
        page.add(&format!(
            "vipd probe of {}, {}, vipd {}",
            self.target, self.started, self.version
        ));
        for run in &self.runs {
            block(run, self.runs.len(), &mut page);
        }
        all_runs(self, &mut page);
        expectations(self, &mut page);
        f.write_str(&page.0)
    }
}

/// Text so far.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, line: &str) {
        let line = line.trim_end();
        // Controls, and those that turn the direction of a line.
        let is_harmless = |it: char| {
            !it.is_control()
                && !matches!(it, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        let clean = |it: char| if is_harmless(it) { it } else { '\u{fffd}' };
        let fits = line.chars().count() <= WIDTH;
        let keep = if fits { WIDTH } else { WIDTH - 1 };
        self.0.extend(line.chars().take(keep).map(clean));
        if !fits {
            self.0.push('…');
        }
        self.0.push('\n');
    }

    /// A name, and words that go on below each other where the line is full.
    fn wrapped(&mut self, name: &str, words: &str) {
        let indent = NAMES + 2;
        let mut line = format!("  {name:<NAMES$}");
        let mut is_empty = true;
        for word in words.split(' ') {
            if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.add(&line);
                line = " ".repeat(indent);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.add(&line);
    }

    /// Rows below a head; the first `words` columns are words, the others numbers.
    fn table(&mut self, words: usize, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let mut line = String::new();
            for (nth, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = match nth < words {
                    true => format!("  {cell:<width$}"),
                    false => format!("  {cell:>width$}"),
                };
                line.push_str(&cell);
            }
            self.add(&line);
        }
    }
}

fn block(run: &Run, of: usize, page: &mut Lines) {
    let length = numbers::plain(run.length_ns as f64 / 1e9, 1);
    let of = if of > 1 { format!(" of {of}") } else { String::new() };
    let early = if run.interrupted { ", ended early" } else { "" };
    page.add("");
    page.add(&format!("Run {}{of}, {length} s{early}; times are in ms", run.number));
    if let Some(trigger) = &run.trigger {
        let at = numbers::ms(trigger.at_ns);
        page.add(&format!("Trigger at {at}: {} ({})", trigger.command, trigger.outcome));
    }
    page.add("");
    page.table(1, &layers(run));
    page.add("");
    let zero = run.zero_ns();
    for layer in &run.layers {
        details(layer, zero, page);
    }
    for note in &run.notes {
        page.wrapped("note", note);
    }
    marks(run, page);
}

fn layers(run: &Run) -> Vec<Vec<String>> {
    let head = ["", "blackout", "from", "to", "unanswered", "errors", "p50", "p99", "max"];
    let zero = run.zero_ns();
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for layer in run.layers.iter().filter(|it| it.name != LayerName::Idle) {
        let mut row = vec![layer.name.name().to_owned()];
        row.extend(match &layer.blackout {
            None => ["none".to_owned(), String::new(), String::new()],
            Some(it) => [
                numbers::ms(it.length_ns),
                numbers::since(it.from_ns, zero),
                it.to_ns.map_or_else(|| "no end".to_owned(), |to| numbers::since(to, zero)),
            ],
        });
        row.push(numbers::count(layer.lost));
        row.push(numbers::count(layer.errors.values().sum()));
        row.extend(latency(layer.latency.as_ref()));
        rows.push(row);
        if let Some(fresh) = &layer.fresh {
            let mut row = vec![format!("{}, fresh", layer.name.name())];
            row.extend((0..5).map(|_| String::new()));
            row.extend(latency(Some(fresh)));
            rows.push(row);
        }
    }
    rows
}

fn latency(latency: Option<&Latency>) -> [String; 3] {
    match latency {
        None => ["–", "–", "–"].map(str::to_owned),
        Some(it) => [it.p50_ns, it.p99_ns, it.max_ns].map(numbers::ms),
    }
}

fn details(layer: &Layer, zero: u64, page: &mut Lines) {
    let name = layer.name.name();
    if let Some(it) = layer.schedule.filter(|it| it.skipped > 0) {
        let [skipped, planned] = [it.skipped, it.planned].map(numbers::count);
        page.wrapped(
            name,
            &format!("{skipped} of {planned} probes were left out: this host was too late"),
        );
    }
    if !layer.errors.is_empty() {
        page.wrapped(name, &format!("errors: {}", counted(&layer.errors)));
    }
    if layer.duplicated > 0 {
        page.wrapped(name, &format!("{} answers came twice", numbers::count(layer.duplicated)));
    }
    if layer.nodes.len() > 1 {
        let nodes = layer.nodes.iter().map(|it| {
            let [first, last] = [it.first_ns, it.last_ns].map(|at| numbers::since(at, zero));
            format!("{} from {first} to {last}", it.label)
        });
        page.wrapped(name, &format!("answered by {}", nodes.collect::<Vec<_>>().join(", ")));
    }
    if let Some(owners) = &layer.owners {
        page.wrapped(name, &owned(owners, zero));
    }
    if let Some(it) = &layer.writes {
        let [acknowledged, late, twice, extra] =
            [it.acknowledged, it.late, it.duplicated, it.unacknowledged].map(numbers::count);
        let lost = it.lost.map_or_else(|| "unknown how many".to_owned(), numbers::count);
        let from = it.read_back_from.as_deref().unwrap_or("nobody");
        page.wrapped(
            name,
            &format!(
                "writes: {acknowledged} acknowledged, {lost} of them lost, {late} late (two masters), {twice} \
                 there twice, {extra} there without acknowledgement; read back from {from}"
            ),
        );
    }
    if let Some(waiting) = &layer.waiting {
        page.wrapped(name, &waited(waiting, zero));
    }
}

fn counted(counts: &BTreeMap<String, u64>) -> String {
    let each = counts.iter().map(|(kind, number)| format!("{kind} {}", numbers::count(*number)));
    each.collect::<Vec<_>>().join(", ")
}

fn owned(owners: &Owners, zero: u64) -> String {
    let owner = |it: &super::report::OwnerChange| {
        format!("{} at {}", it.mac, numbers::since(it.at_ns, zero))
    };
    let mut said = match owners.changes.as_slice() {
        [] => "nobody had the VIP".to_owned(),
        [first, later @ ..] => {
            let first = format!("owner {}", first.mac);
            let all = [first].into_iter().chain(later.iter().map(owner));
            all.collect::<Vec<_>>().join(", then ")
        }
    };
    if owners.both_ns > 0 || owners.answered_by_both > 0 {
        let (both, questions) =
            (numbers::ms(owners.both_ns), numbers::count(owners.answered_by_both));
        said += &format!("; two owners for {both}, {questions} questions answered by both");
    }
    if !owners.announcements.is_empty() {
        let all: Vec<String> = owners.announcements.iter().take(3).map(owner).collect();
        let more = if owners.announcements.len() > all.len() { ", …" } else { "" };
        said +=
            &format!("; {} announcements: {}{more}", owners.announcements.len(), all.join(", "));
    }
    said
}

fn waited(waiting: &Waiting, zero: u64) -> String {
    let mut ways: BTreeMap<&str, Vec<&Ended>> = BTreeMap::new();
    for it in &waiting.ended {
        ways.entry(&it.how).or_default().push(it);
    }
    let mut parts = vec![format!("{} connections waited", numbers::count(waiting.connections))];
    for (how, ended) in ways {
        let moment = |it: Option<u64>| it.map_or_else(String::new, |it| numbers::since(it, zero));
        let first = moment(ended.iter().map(|it| it.at_ns).min());
        let last = moment(ended.iter().map(|it| it.at_ns).max());
        let count = numbers::count(ended.len() as u64);
        parts.push(match first == last {
            true => format!("{how} {count} (at {first})"),
            false => format!("{how} {count} ({first} to {last})"),
        });
    }
    parts.push(format!("{} hung", numbers::count(waiting.hung)));
    parts.join(", ")
}

fn marks(run: &Run, page: &mut Lines) {
    if run.marks.is_empty() {
        return;
    }
    let zero = run.zero_ns();
    let rows: Vec<Vec<String>> = run
        .marks
        .iter()
        .map(|it| {
            let who = match it.source {
                Source::Trigger => "trigger",
                Source::Vipd if it.who.is_empty() => "vipd",
                Source::Vipd | Source::Sentinel => &it.who,
            };
            vec![who.to_owned(), it.what.clone(), numbers::since(it.at_ns, zero)]
        })
        .collect();
    // Times first, as numbers; words after.
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (who, at) = (width(0).min(40), width(2));
    page.add("");
    for row in &rows {
        page.add(&format!("  {:>at$}  {:<who$}  {}", row[2], row[0], row[1]));
    }
}

fn all_runs(report: &Report, page: &mut Lines) {
    if report.runs.len() < 2 || report.summary.is_empty() {
        return;
    }
    page.add("");
    page.add("All runs");
    page.add("");
    let head = ["", "", "", "median", "min", "q1", "q3", "max", "N"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.summary.iter().map(figure));
    page.table(3, &rows);
}

fn figure(it: &Figure) -> Vec<String> {
    let spread = &it.spread;
    let whole = it.values.iter().all(|value| *value == value.trunc());
    let decimals = if whole {
        0
    } else if spread.max < 10.0 {
        3
    } else {
        1
    };
    let mut row = vec![it.layer.name().to_owned(), it.name.clone(), it.unit.clone()];
    let values = [spread.median, spread.min, spread.lower, spread.upper, spread.max];
    row.extend(values.map(|value| numbers::plain(value, decimals)));
    row.push(spread.count.to_string());
    row
}

fn expectations(report: &Report, page: &mut Lines) {
    if report.expectations.is_empty() {
        return;
    }
    page.add("");
    page.add("Expected");
    page.add("");
    let row = |it: &super::report::Judgement| {
        let held = if it.holds { "held" } else { "MISSED" };
        vec![it.expected.clone(), held.to_owned(), it.found.clone()]
    };
    page.table(3, &report.expectations.iter().map(row).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::page::sample;

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide() {
        for report in [sample::nat(), sample::script()] {
            for line in report.to_string().lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert_eq!(line, line.trim_end(), "{line:?}");
            }
        }
    }

    #[test]
    fn every_figure_that_matters_is_there() {
        let text = sample::script().to_string();
        for said in [
            "vipd probe of 198.18.0.250:8000",
            "Trigger at 2,003.4: ip netns exec",
            "1,791.0",
            "14 of them lost",
            "9 hung",
            "owner 02:42:c6:12:00:65, then 02:42:c6:12:00:66 at +1,752.0",
            "two owners for 41.3",
            "3 announcements",
            "+522.0  198.18.0.101:26379  +sdown",
            "lost=0       MISSED",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        assert!(!text.contains("All runs"), "{text}");
        assert!(sample::nat().to_string().contains("All runs"));
    }

    #[test]
    fn what_a_server_sent_can_not_move_the_cursor() {
        let mut report = sample::nat();
        report.runs[0].marks[1].what = "+sdown \u{1b}[2J\r\n\u{9b}31m\u{202e}".into();
        report.runs[0].layers[3].errors.insert("\u{1b}]0;x\u{7}".into(), 1);
        let text = report.to_string();
        assert!(text.chars().all(|it| it == '\n' || !it.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'));
    }

    #[test]
    fn a_report_of_nothing_is_a_report() {
        let empty = Report { runs: vec![], summary: vec![], expectations: vec![], ..sample::nat() };
        assert_eq!(empty.to_string().lines().count(), 1);
    }
}
