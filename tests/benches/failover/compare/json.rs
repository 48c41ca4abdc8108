//! The same for programs.

use serde_json::{Map, Value, json};

use super::cell::Outcome;
use super::figures::FIGURES;

/// Everything.
pub fn document(versions: &[String], outcomes: &[Outcome], not_the_best: &[String]) -> Value {
    json!({
        "versions": versions,
        "cells": outcomes.iter().map(cell).collect::<Value>(),
        "not_the_best": not_the_best,
    })
}

fn cell(outcome: &Outcome) -> Value {
    let Outcome { cell, runs, failures } = outcome;
    let spreads = FIGURES.iter().map(|figure| (figure.name.to_owned(), json!(figure.spread(runs))));
    json!({
        "scenario": cell.scenario.name(),
        "way": cell.way.name(),
        "wanted": cell.runs,
        "failures": failures,
        "spreads": Value::Object(Map::from_iter(spreads)),
        "runs": runs,
    })
}
