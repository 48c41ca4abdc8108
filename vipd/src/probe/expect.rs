//! `--expect`: what must come out.
//!
//! ```text
//! EXPECTATIONS = EXPECTATION { "," EXPECTATION }
//! EXPECTATION  = [ LAYER "." ] METRIC OP VALUE
//! OP           = "<" | "<=" | "=" | ">=" | ">"
//! VALUE        = a time such as 500ms | a number, as the metric wants it
//! ```
//!
//! Without a layer, what counts is the greatest value of all layers that know the metric. An
//! expectation must hold in every run, and what was not found out misses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::figures::Latency;
use super::numbers;
use super::report::{Judgement, Layer, LayerName, Mark, Run};

/// What `--expect` says; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectations(Vec<Expectation>);

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// As it was written.
    pub text: String,
    /// Of this layer only.
    pub layer: Option<LayerName>,
    /// What is measured.
    pub metric: Metric,
    /// How it must be …
    pub op: Op,
    /// … to this: nanoseconds, or a count, as [`Metric::is_time`] says.
    pub limit: u64,
}

/// What can be expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// The longest time without a good answer.
    Blackout,
    /// Acknowledged writes that are gone.
    Lost,
    /// Writes that two masters acknowledged.
    Late,
    /// Connections that never learned.
    Hung,
    /// How long two hosts answered for the VIP.
    TwoOwners,
    /// Probes without a good answer.
    Unanswered,
    /// Errors of all kinds.
    Errors,
    /// Half of the answers were as quick.
    P50,
    /// 99 of 100 were.
    P99,
    /// 999 of 1,000 were.
    P999,
    /// The slowest answer.
    Max,
}

/// How a value must be to the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `=`
    Exactly,
    /// `>=`
    AtLeast,
    /// `>`
    Above,
}

/// Why `--expect` can't be understood, or can't be judged.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ExpectError {
    /// Nothing between two commas, or nothing at all.
    #[error("an expectation is missing; write for example 'blackout<500ms,lost=0'")]
    Empty,
    /// No `<`, `<=`, `=`, `>=` or `>`.
    #[error("{text:?} has no comparison; write for example {}", example(.text))]
    NoComparison {
        /// The expectation.
        text: String,
    },
    /// Nobody knows it.
    #[error("{text:?}: there is no metric {name:?}; there are {}", known_metrics())]
    UnknownMetric {
        /// The expectation.
        text: String,
        /// What is before the comparison.
        name: String,
    },
    /// Nobody knows it.
    #[error("{text:?}: there is no layer {name:?}; there are {}", listed(LAYERS))]
    UnknownLayer {
        /// The expectation.
        text: String,
        /// What is before the dot.
        name: String,
    },
    /// It is no time.
    #[error(
        "{text:?}: {metric} is a time, and {value:?} is none; write for example {metric}<500ms"
    )]
    NotATime {
        /// The expectation.
        text: String,
        /// Of what.
        metric: Metric,
        /// What is after the comparison.
        value: String,
    },
    /// It is no whole number.
    #[error("{text:?}: {metric} is a number, and {value:?} is none; write for example {metric}=0")]
    NotACount {
        /// The expectation.
        text: String,
        /// Of what.
        metric: Metric,
        /// What is after the comparison.
        value: String,
    },
    /// This layer never has this metric.
    #[error("{text:?}: {} has no {metric}; {} have", .layer.name(), listed(metric.layers()))]
    NotOfLayer {
        /// The expectation.
        text: String,
        /// Of what.
        metric: Metric,
        /// Which layer.
        layer: LayerName,
    },
    /// No layer that is probed has it.
    #[error("{text:?} can't be judged: probe {} too (--layers)", either(wanted))]
    NotProbed {
        /// The expectation.
        text: String,
        /// Layers that have it.
        wanted: Vec<LayerName>,
    },
}

const LAYERS: &[LayerName] = &[
    LayerName::Arp,
    LayerName::Nd,
    LayerName::Icmp,
    LayerName::Syn,
    LayerName::Redis,
    LayerName::Idle,
];

/// Those that send probes.
const SENDING: &[LayerName] =
    &[LayerName::Arp, LayerName::Nd, LayerName::Icmp, LayerName::Syn, LayerName::Redis];

const METRICS: [(&str, Metric); 11] = [
    ("blackout", Metric::Blackout),
    ("lost", Metric::Lost),
    ("late", Metric::Late),
    ("hung", Metric::Hung),
    ("two-owners", Metric::TwoOwners),
    ("unanswered", Metric::Unanswered),
    ("errors", Metric::Errors),
    ("p50", Metric::P50),
    ("p99", Metric::P99),
    ("p999", Metric::P999),
    ("max", Metric::Max),
];

/// Longer ones first: `<=` begins with `<`.
const OPS: [(&str, Op); 5] = [
    ("<=", Op::AtMost),
    (">=", Op::AtLeast),
    ("<", Op::Below),
    (">", Op::Above),
    ("=", Op::Exactly),
];

impl Expectations {
    /// Whether all can be judged if just these layers are probed.
    pub fn validate(&self, layers: &[LayerName]) -> Result<(), ExpectError> {
        for it in &self.0 {
            let wanted: Vec<LayerName> = match it.layer {
                Some(layer) => vec![layer],
                None => it.metric.layers().to_vec(),
            };
            if !wanted.iter().any(|layer| layers.contains(layer)) {
                return Err(ExpectError::NotProbed { text: it.text.clone(), wanted });
            }
        }
        Ok(())
    }

    /// Each of them, over all runs.
    pub fn judge(&self, runs: &[Run]) -> Vec<Judgement> {
        self.0.iter().map(|it| it.judge(runs)).collect()
    }
}

impl FromStr for Expectations {
    type Err = ExpectError;

    fn from_str(text: &str) -> Result<Self, ExpectError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Expectation {
    type Err = ExpectError;

    fn from_str(text: &str) -> Result<Self, ExpectError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ExpectError::Empty);
        }
        let owned = || text.to_owned();
        let no_comparison = || ExpectError::NoComparison { text: owned() };
        let at = text.find(['<', '=', '>']).ok_or_else(no_comparison)?;
        let (name, rest) = text.split_at(at);
        let (sign, op) = OPS.iter().find(|it| rest.starts_with(it.0)).ok_or_else(no_comparison)?;
        let value = rest[sign.len()..].trim();
        let (layer, name) = match name.trim().split_once('.') {
            Some((layer, name)) => (Some(layer.trim()), name.trim()),
            None => (None, name.trim()),
        };
        let layer = layer
            .map(|name| {
                let unknown = || ExpectError::UnknownLayer { text: owned(), name: name.to_owned() };
                LAYERS.iter().copied().find(|it| it.name() == name).ok_or_else(unknown)
            })
            .transpose()?;
        let unknown = || ExpectError::UnknownMetric { text: owned(), name: name.to_owned() };
        let metric = METRICS.iter().find(|it| it.0 == name).ok_or_else(unknown)?.1;
        if let Some(layer) = layer.filter(|it| !metric.layers().contains(it)) {
            return Err(ExpectError::NotOfLayer { text: owned(), metric, layer });
        }
        let limit = metric.limit(text, value)?;
        Ok(Self { text: owned(), layer, metric, op: *op, limit })
    }
}

/// What a run says about an expectation, better ones first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Finding {
    /// This, in this layer.
    Value(u64, LayerName),
    /// It can't be said.
    Unknown(&'static str),
}

impl Expectation {
    fn judge(&self, runs: &[Run]) -> Judgement {
        let is_triggered = runs.iter().any(|run| run.trigger.is_some());
        let findings: Vec<(u32, Finding)> =
            runs.iter().map(|run| (run.number, self.look(run, is_triggered))).collect();
        let holds = |finding: &Finding| match finding {
            Finding::Value(value, _) => self.op.holds(*value, self.limit),
            Finding::Unknown(_) => false,
        };
        // The run to tell of: the first of those that miss most, or came nearest to it.
        let worst = findings.iter().rev().max_by(|(_, one), (_, other)| match (one, other) {
            (Finding::Value(one, _), Finding::Value(other, _)) => self.op.compare(*one, *other),
            _ => one.cmp(other),
        });
        let found = match worst {
            None => "no run".to_owned(),
            Some((number, finding)) => self.say(finding, (runs.len() > 1).then_some(*number)),
        };
        let holds = worst.is_some() && findings.iter().all(|(_, finding)| holds(finding));
        Judgement { expected: self.text.clone(), found, holds }
    }

    fn look(&self, run: &Run, is_triggered: bool) -> Finding {
        if self.metric == Metric::Blackout && is_triggered && !run.has_seen_a_failover() {
            return Finding::Unknown(
                "not seen: the trigger caused no outage and no change of node",
            );
        }
        let wanted = |layer: &&Layer| match self.layer {
            Some(name) => layer.name == name,
            None => self.metric.layers().contains(&layer.name),
        };
        let of_layers = run.layers.iter().filter(wanted).filter_map(|layer| self.metric.of(layer));
        of_layers.max().unwrap_or(Finding::Unknown("not measured"))
    }

    fn say(&self, finding: &Finding, run: Option<u32>) -> String {
        let run_number = run.map(|number| format!("run {number}"));
        match finding {
            Finding::Value(value, layer) => {
                let value = match self.metric.is_time() {
                    true => format!("{} ms", numbers::ms(*value)),
                    false => numbers::count(*value),
                };
                let layer = self.layer.is_none().then(|| layer.name().to_owned());
                let wheres: Vec<String> = layer.into_iter().chain(run_number).collect();
                if wheres.is_empty() { value } else { format!("{value} ({})", wheres.join(", ")) }
            }
            Finding::Unknown(why) => match run_number {
                Some(run) => format!("{why} ({run})"),
                None => (*why).to_owned(),
            },
        }
    }
}

impl Run {
    /// Whether anything shows that the trigger did something: another node, a connection that ended,
    /// a Sentinel that says so. An outage alone shows it only where no layer could tell: a busy machine
    /// has short ones by itself.
    fn has_seen_a_failover(&self) -> bool {
        let Some(trigger) = &self.trigger else { return false };
        let after = |at_ns: u64| at_ns >= trigger.at_ns;
        let tells = |layer: &&Layer| layer.waiting.is_some() || layer.owners.is_some();
        let shows = |layer: &Layer| {
            let owners = layer.owners.iter().flat_map(|it| &it.changes);
            let ended = layer.waiting.iter().flat_map(|it| &it.ended);
            layer.outages.iter().any(|it| it.new.is_some() && it.to_ns.is_some_and(after))
                || owners.map(|it| it.at_ns).any(after)
                || ended.map(|it| it.at_ns).any(after)
        };
        let is_switch = |mark: &Mark| mark.what.starts_with("+switch-master") && after(mark.at_ns);
        let could_tell = self.layers.iter().any(|it| tells(&it));
        self.layers.iter().any(shows)
            || self.marks.iter().any(is_switch)
            || self
                .layers
                .iter()
                .any(|it| it.has_open_blackout() || (!could_tell && it.blackout.is_some()))
    }
}

impl Metric {
    /// The word for it.
    pub fn name(self) -> &'static str {
        METRICS.iter().find(|it| it.1 == self).map_or("", |it| it.0)
    }

    /// Whether it is a time; else it is a count.
    pub fn is_time(self) -> bool {
        match self {
            Self::Blackout | Self::TwoOwners | Self::P50 | Self::P99 | Self::P999 | Self::Max => {
                true
            }
            Self::Lost | Self::Late | Self::Hung | Self::Unanswered | Self::Errors => false,
        }
    }

    /// Layers that know it.
    pub fn layers(self) -> &'static [LayerName] {
        match self {
            Self::Lost | Self::Late => &[LayerName::Redis],
            Self::Hung => &[LayerName::Redis, LayerName::Idle],
            Self::TwoOwners => &[LayerName::Arp, LayerName::Nd],
            Self::Errors => LAYERS,
            Self::Blackout | Self::Unanswered => SENDING,
            Self::P50 | Self::P99 | Self::P999 | Self::Max => SENDING,
        }
    }

    fn limit(self, text: &str, value: &str) -> Result<u64, ExpectError> {
        let (text, metric, value) = (text.to_owned(), self, value.to_owned());
        if !self.is_time() {
            let number = value.parse().ok();
            return number.ok_or(ExpectError::NotACount { text, metric, value });
        }
        // Nothing is as long in every unit.
        let time = if value == "0" {
            Some(Duration::ZERO)
        } else {
            humantime::parse_duration(&value).ok()
        };
        let ns = time.and_then(|time| u64::try_from(time.as_nanos()).ok());
        ns.ok_or(ExpectError::NotATime { text, metric, value })
    }

    /// `None` if this layer was not asked for it.
    fn of(self, layer: &Layer) -> Option<Finding> {
        let value = |value: u64| Finding::Value(value, layer.name);
        let of_latency = |percentile: fn(&Latency) -> u64| {
            let is_asked = layer.schedule.is_some_and(|it| it.planned > 0);
            match &layer.latency {
                Some(latency) => Some(value(percentile(latency))),
                None => is_asked.then_some(Finding::Unknown("no answer to measure")),
            }
        };
        match self {
            Self::Blackout if layer.has_open_blackout() => {
                Some(Finding::Unknown("it had not ended at the end"))
            }
            Self::Blackout => layer.blackout_ns().map(value),
            Self::Lost => layer.writes.as_ref().map(|it| {
                it.lost.map_or(Finding::Unknown("the writes could not be read back"), value)
            }),
            Self::Late => layer.writes.as_ref().map(|it| value(it.late)),
            Self::Hung => layer.waiting.as_ref().map(|it| value(it.hung)),
            Self::TwoOwners => layer.owners.as_ref().map(|it| value(it.both_ns)),
            Self::Unanswered => layer.schedule.map(|_| value(layer.lost)),
            Self::Errors => Some(value(layer.errors.values().sum())),
            Self::P50 => of_latency(|it| it.p50_ns),
            Self::P99 => of_latency(|it| it.p99_ns),
            Self::P999 => of_latency(|it| it.p999_ns),
            Self::Max => of_latency(|it| it.max_ns),
        }
    }
}

impl Op {
    fn holds(self, value: u64, limit: u64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Exactly => value == limit,
            Self::AtLeast => value >= limit,
            Self::Above => value > limit,
        }
    }

    /// The worse value is the greater one, except where much is wanted.
    fn compare(self, one: u64, other: u64) -> std::cmp::Ordering {
        match self {
            Self::Below | Self::AtMost | Self::Exactly => one.cmp(&other),
            Self::AtLeast | Self::Above => other.cmp(&one),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn known_metrics() -> String {
    METRICS.map(|it| it.0).join(", ")
}

fn listed(layers: &[LayerName]) -> String {
    layers.iter().map(|it| it.name()).collect::<Vec<_>>().join(", ")
}

fn either(layers: &[LayerName]) -> String {
    layers.iter().map(|it| it.name()).collect::<Vec<_>>().join(" or ")
}

/// With what was written, if that is a metric.
fn example(text: &str) -> String {
    let metric = METRICS.iter().find(|it| it.0 == text).map(|it| it.1).unwrap_or(Metric::Blackout);
    format!("{metric}{}", if metric.is_time() { "<500ms" } else { "=0" })
}

#[cfg(test)]
mod tests;
