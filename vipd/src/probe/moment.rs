//! Something that happened, before it is known on which run's axis it belongs.

use super::report::{Mark, Source};
use super::shots::Window;
use crate::clock::Monotonic;

/// A [`Mark`] by the clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moment {
    /// When.
    pub at: Monotonic,
    /// Who says so.
    pub source: Source,
    /// Which Sentinel; empty for the others.
    pub who: String,
    /// What.
    pub what: String,
}

impl Moment {
    /// On the axis of a run; none if it happened outside of it.
    pub fn mark(self, window: &Window) -> Option<Mark> {
        let Self { at, source, who, what } = self;
        (window.origin..=window.end).contains(&at).then(|| Mark {
            at_ns: window.at(at),
            source,
            who,
            what,
        })
    }
}
