//! The table, as Markdown that can be read as it is.

use super::cell::Outcome;
use super::figures::FIGURES;

/// A row for each outcome.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows = vec![header()];
    rows.extend(outcomes.iter().map(row));
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0))
        .collect();
    let mut lines: Vec<String> = rows.iter().map(|row| line(row, &widths)).collect();
    lines.insert(1, rule(&widths));
    lines.join("\n")
}

/// What the columns are.
pub fn header() -> Vec<String> {
    let header = ["scenario", "way", "N"].into_iter().chain(FIGURES.iter().map(|it| it.name));
    header.map(str::to_owned).collect()
}

/// One row, as text.
pub fn row(outcome: &Outcome) -> Vec<String> {
    let Outcome { cell, runs, failures } = outcome;
    let count = match failures.as_slice() {
        [] => runs.len().to_string(),
        _ => format!("{} of {}, FAILED", runs.len(), cell.runs),
    };
    let mut row = vec![cell.scenario.name().to_owned(), cell.way.name().to_owned(), count];
    for figure in &FIGURES {
        let shown = figure.spread(runs).map_or("–".to_owned(), |it| figure.show_spread(&it));
        let remark = figure.remark(runs).map(|it| format!(", {it}"));
        row.push(shown + &remark.unwrap_or_default());
    }
    row
}

/// The failures, one a line; empty if there are none.
pub fn failures(outcomes: &[Outcome]) -> Vec<String> {
    let told = |outcome: &Outcome| {
        let Outcome { cell, runs, failures } = outcome;
        let (done, all) = (runs.len(), cell.runs);
        let told = move |why: &String| {
            let why = why.replace('\n', " ");
            (format!("{cell}"), format!("{done} of {all} runs succeeded"), why)
        };
        failures.iter().map(told).collect::<Vec<_>>()
    };
    let told = outcomes.iter().flat_map(told);
    told.map(|(cell, done, why)| format!("{cell} ({done}): {why}")).collect()
}

/// Columns of text, which are at the left; the others are at the right.
pub const TEXTS: usize = 2;

fn line(row: &[String], widths: &[usize]) -> String {
    let padded = row.iter().zip(widths).enumerate().map(|(column, (text, &width))| {
        let room = " ".repeat(width - self::width(text));
        if column < TEXTS { format!("{text}{room}") } else { format!("{room}{text}") }
    });
    format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
}

fn rule(widths: &[usize]) -> String {
    let column = |(column, &width): (usize, &usize)| {
        if column < TEXTS { "-".repeat(width) } else { format!("{}:", "-".repeat(width - 1)) }
    };
    let columns: Vec<String> = widths.iter().enumerate().map(column).collect();
    format!("| {} |", columns.join(" | "))
}

/// Columns on a terminal: there is nothing wider than one.
fn width(text: &str) -> usize {
    text.chars().count()
}
