//! `vipd probe`: what a failover costs clients, measured in packets and milliseconds from a client's
//! place, whatever moves the VIP. No vipd is needed at the other end.
//!
//! Each layer sends by a schedule that never waits for answers, and notes what came back when, by
//! CLOCK_MONOTONIC. After a run, [`shots`] finds out what that says about the VIP; [`report`] is the
//! document, from which the text and the page are made.

pub mod expect;
pub mod figures;
pub mod numbers;
pub mod page;
pub mod report;
pub mod settings;
pub mod shots;
mod text;

pub use report::{LayerName, Report};
pub use settings::{SourcePorts, TargetFlag};
