//! The XDP program on single frames, in the kernel (`BPF_PROG_TEST_RUN`): verdict, counter and
//! every byte of what comes out.

mod arp;
mod frames;
mod kernel;
