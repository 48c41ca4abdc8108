//! Any bytes, read as a history of frames and cutovers, through the program that the kernel runs.
#![no_main]

libfuzzer_sys::fuzz_target!(|history: &[u8]| vipd_ebpf::model::exercise(history));
