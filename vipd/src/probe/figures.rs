//! Numbers of many: where they lie.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a figure of several runs lies.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// Values.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// A quarter is below.
    #[serde(rename = "q1")]
    pub lower: f64,
    /// Half is below.
    pub median: f64,
    /// A quarter is above.
    #[serde(rename = "q3")]
    pub upper: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of those values that there are; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().flatten().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let [lower, median, upper] = [0.25, 0.5, 0.75].map(|share| quantile(&values, share));
        Some(Self { count: values.len(), min, lower, median, upper, max })
    }
}

/// Of sorted values, at least one; between two of them in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

/// With three decimals.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Nanoseconds as milliseconds.
pub fn ns_as_ms(ns: u64) -> f64 {
    milliseconds(Duration::from_nanos(ns))
}

/// How long many answers took, in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Answers.
    pub count: u64,
    /// The quickest.
    pub min_ns: u64,
    /// Half was as quick.
    pub p50_ns: u64,
    /// 90 of 100 were as quick.
    pub p90_ns: u64,
    /// 99 of 100 were as quick.
    pub p99_ns: u64,
    /// 999 of 1,000 were as quick.
    pub p999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
    /// In order; each bucket ends where the next begins, eight to a doubling. Empty ones are left
    /// out.
    pub histogram: Vec<Bucket>,
}

/// How many answers took so long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// At least this long …
    pub from_ns: u64,
    /// … and less than this.
    pub to_ns: u64,
    /// Answers.
    pub count: u64,
}

impl Latency {
    /// `None` of no answers.
    pub fn of(mut times_ns: Vec<u64>) -> Option<Self> {
        times_ns.sort_unstable();
        let (&min_ns, &max_ns) = (times_ns.first()?, times_ns.last()?);
        let at = |share: f64| times_ns[nearest_rank(times_ns.len(), share)];
        let mut histogram: Vec<Bucket> = vec![];
        for &time in &times_ns {
            match histogram.last_mut() {
                Some(bucket) if time < bucket.to_ns => bucket.count += 1,
                _ => {
                    let (from_ns, to_ns) = bucket_of(time);
                    histogram.push(Bucket { from_ns, to_ns, count: 1 });
                }
            }
        }
        Some(Self {
            count: times_ns.len() as u64,
            min_ns,
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns,
            histogram,
        })
    }
}

/// The first of `count` sorted values that `share` of them don't exceed.
fn nearest_rank(count: usize, share: f64) -> usize {
    ((count as f64 * share).ceil() as usize).clamp(1, count) - 1
}

/// Powers of two, each cut into eight. Below eight every number has its own.
fn bucket_of(time: u64) -> (u64, u64) {
    let width = 1 << time.max(8).ilog2().saturating_sub(3);
    let from = time / width * width;
    (from, from.saturating_add(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let latency = Latency::of((1..=1000).rev().collect()).unwrap();
        assert_eq!(
            (latency.min_ns, latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p999_ns),
            (1, 500, 900, 990, 999)
        );
        assert_eq!((latency.max_ns, latency.count), (1000, 1000));
        assert_eq!(Latency::of(vec![7]).unwrap().p999_ns, 7);
        assert_eq!(Latency::of(vec![]), None);
    }

    #[test]
    fn the_histogram_has_every_answer_once_and_in_its_bucket() {
        let times: Vec<u64> = (0..40).map(|power| 3 << power).chain([0, 1, u64::MAX]).collect();
        let latency = Latency::of(times.clone()).unwrap();
        for window in latency.histogram.windows(2) {
            assert!(window[0].to_ns <= window[1].from_ns);
        }
        let held: u64 = latency.histogram.iter().map(|bucket| bucket.count).sum();
        assert_eq!(held, times.len() as u64);
        for time in times {
            let inside = |it: &&Bucket| it.from_ns <= time && (time < it.to_ns || time == u64::MAX);
            assert!(latency.histogram.iter().any(|it| inside(&it)), "{time}");
        }
    }

    #[test]
    fn a_spread_leaves_out_what_was_not_measured() {
        let spread = Spread::of([Some(4.0), None, Some(1.0), Some(2.0)]).unwrap();
        assert_eq!((spread.count, spread.min, spread.median, spread.max), (3, 1.0, 2.0, 4.0));
        assert_eq!(Spread::of([None]), None);
    }
}
