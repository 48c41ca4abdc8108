//! Known truths to hold `vipd probe` against: a small network, a tap that decides by the kernel's
//! clock what passes and writes down every packet, and the probe as the real program.
//!
//! ```text
//!    client .10            server .101          server .102
//!   (vipd probe)            VIP .250             VIP .250
//!        │ tap: answers         │ tap: probes        │ tap: probes
//!   ═════╧══════════════════════╧════════════════════╧═════
//!        switch: br0, 198.18.0.0/24 and fd98:18::/64
//! ```
//!
//! Nothing here is judged by when a test got to run. A gap begins and ends in the kernel, at the
//! moments that the tap was told beforehand; a packet's true times are those of the taps on either
//! side of what the probe saw.

mod bpf;
pub mod probe;
mod program;
pub mod site;
pub mod tap;

pub use probe::{Measured, Running};
pub use site::Site;
pub use tap::{Entry, Rule, Tap};
