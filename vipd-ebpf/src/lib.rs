//! The parts of vipd's XDP program that need no kernel.
#![no_std]
