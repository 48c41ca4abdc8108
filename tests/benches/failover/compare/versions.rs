//! What was measured with what.

use std::collections::BTreeMap;

use anyhow::Result;
use vipd::probe::LayerName;

use super::cell::{Cell, Outcome};
use super::way::{DOWN_AFTER, Way};
use crate::machine;

/// A line for each program and each way.
pub fn all(cells: &[Cell]) -> Result<Vec<String>> {
    let mut lines: Vec<String> = machine::introduction()?.lines().map(str::to_owned).collect();
    let vipd = vipd_tests::daemon::binary()?;
    lines.push(machine::version(&vipd.to_string_lossy(), "--version")?);
    let mut ways: Vec<Way> = Vec::new();
    for cell in cells {
        if !ways.contains(&cell.way) {
            ways.push(cell.way);
        }
    }
    for (program, argument, users) in [
        ("keepalived", "-v", Way::Keepalived),
        ("haproxy", "-v", Way::Haproxy),
        ("nft", "--version", Way::Nftables),
        ("conntrack", "--version", Way::Nftables),
        ("arping", "-V", Way::Script),
    ] {
        if ways.contains(&users) {
            lines.push(machine::version(program, argument)?);
        }
    }
    let down_after = DOWN_AFTER.as_millis();
    lines.push(format!("three Sentinels, quorum 2, down-after-milliseconds {down_after}"));
    lines.extend(ways.iter().map(|way| format!("{}: {}", way.name(), way.set_up())));
    Ok(lines)
}

/// The rates of the probes, and how well they were kept, over all runs.
pub fn schedules(outcomes: &[Outcome]) -> String {
    let mut layers: BTreeMap<LayerName, (f64, u64, u64, f64)> = BTreeMap::new();
    for schedule in outcomes.iter().flat_map(|it| &it.runs).flat_map(|run| &run.schedules) {
        let (rate, sent, skipped, late) = layers.entry(schedule.layer).or_default();
        *rate = rate.max(schedule.rate);
        *sent += schedule.sent;
        *skipped += schedule.skipped;
        *late = late.max(schedule.late_p99_ms);
    }
    let told = layers.iter().map(|(layer, (rate, sent, skipped, late))| {
        let whence = if *layer == LayerName::Arp { " from a third host" } else { "" };
        format!(
            "{}{whence} {rate:.0}/s ({sent} sent, {skipped} left out, in the worst run 1 of 100 more \
             than {late:.1} ms late)",
            layer.name()
        )
    });
    let told: Vec<String> = told.collect();
    format!("Probes: {}.", told.join("; "))
}
