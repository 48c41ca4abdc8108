//! The layers that are single packets: one thread sends them by the schedule, another one notes what
//! comes back, with the kernel's times.

mod describe;
mod icmp;
mod pace;
mod pcap;
mod socket;
mod syn;
mod volley;

pub use icmp::Icmp;
pub use pace::{End, Lateness, Pace, wait_until};
pub use pcap::{Capture, Captured, Ours};
pub use socket::PacketSocket;
pub use syn::Syn;
pub use volley::{Answer, Heard, MAX_PACKETS, Probe, Sent, Volley, VolleyRecord};
