//! What a terminal shows while a run is on its way: one steady line for each layer.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::live::Live;
use super::report::LayerName;
use crate::clock::Monotonic;

/// Lines that are kept up to date, if standard error is a terminal.
pub struct Progress {
    shown: Option<(MultiProgress, JoinHandle<()>)>,
}

/// A line of a layer, or without one the head.
type Line = (ProgressBar, Option<(LayerName, Arc<Live>)>);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(200);
/// Longer than a good answer takes to come, or the next one to be asked for.
const QUIET: Duration = Duration::from_millis(500);

impl Progress {
    /// Shows them.
    pub fn start(number: u32, lives: &[(LayerName, Arc<Live>)], duration: Duration) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { shown: None };
        }
        let lines = MultiProgress::new();
        // The template is constant, and right.
        let style =
            ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let mut bars: Vec<Line> = vec![];
        for layer in std::iter::once(None).chain(lives.iter().cloned().map(Some)) {
            let bar = lines.add(ProgressBar::new_spinner());
            bar.set_style(style.clone());
            bars.push((bar, layer));
        }
        let begun = Monotonic::now();
        let task = tokio::spawn(async move {
            let mut ticks = interval(GLANCE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let now = Monotonic::now();
                for (bar, layer) in &bars {
                    bar.set_message(match layer {
                        None => head(number, now.since(begun), duration),
                        Some((name, live)) => line(*name, live, now),
                    });
                    bar.tick();
                }
            }
        });
        Self { shown: Some((lines, task)) }
    }

    /// Removes them.
    pub async fn stop(self) {
        if let Some((lines, task)) = self.shown {
            task.abort();
            // Its end is all that is waited for.
            let _ = task.await;
            // A terminal that is gone needs no clearing.
            let _ = lines.clear();
        }
    }
}

fn head(number: u32, passed: Duration, duration: Duration) -> String {
    let (passed, duration) = (passed.as_secs_f64(), duration.as_secs_f64());
    format!(
        "run {number}: {:.1} of {duration:.1} s (Ctrl-C ends it and reports)",
        passed.min(duration)
    )
}

fn line(name: LayerName, live: &Live, now: Monotonic) -> String {
    let it = live.read();
    let state = match it.last_good {
        _ if name == LayerName::Idle => format!("{} know that their node is gone", it.bad),
        None => "no answer yet".to_owned(),
        Some(at) if now.since(at) > QUIET => {
            format!("NO GOOD ANSWER for {:.1} s", now.since(at).as_secs_f64())
        }
        Some(_) => "answered".to_owned(),
    };
    let what = if name == LayerName::Idle { "wait" } else { "sent" };
    format!(
        "  {:<6}{:>9} {what}  {:>9} good  {:>7} bad   {state}",
        name.name(),
        it.sent,
        it.good,
        it.bad
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_silent_says_for_how_long() {
        let live = Live::default();
        assert!(line(LayerName::Syn, &live, Monotonic(0)).ends_with("no answer yet"));
        live.sent();
        live.good(Monotonic(1_000_000_000));
        let at = |ms: u64| Monotonic(1_000_000_000 + ms * 1_000_000);
        assert!(line(LayerName::Syn, &live, at(100)).ends_with("answered"));
        assert!(line(LayerName::Syn, &live, at(2_500)).ends_with("NO GOOD ANSWER for 2.5 s"));
        assert_eq!(
            line(LayerName::Syn, &live, at(0)).len() - "answered".len(),
            line(LayerName::Icmp, &live, at(2_500)).len() - "NO GOOD ANSWER for 2.5 s".len()
        );
    }
}
