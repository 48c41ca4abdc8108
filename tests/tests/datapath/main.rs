//! The XDP program on single frames, in the kernel (`BPF_PROG_TEST_RUN`): verdict, counter and
//! every byte of what comes out.

mod arp;
mod director;
mod dsr;
mod flood;
mod frames;
mod icmp;
mod kernel;
mod malformed;
mod nat;
mod refused;
mod vlan;
