//! The XDP program on single frames, in the kernel (`BPF_PROG_TEST_RUN`): verdict, counter and
//! every byte of what comes out.

mod arp;
mod differential;
mod director;
mod dsr;
mod flood;
mod frames;
mod icmp;
#[expect(dead_code, reason = "shared with the benchmark")]
mod kernel;
mod malformed;
mod nat;
mod refused;
mod vlan;
