//! Running an XDP program a million times on the same frame.
//!
//! `BPF_PROG_TEST_RUN` with `repeat` gives each run the frame that the run before left: an answered
//! ARP request is a reply, and a forwarded packet's TTL runs out. So a small program goes first: it
//! writes the frame anew, and makes a tail call to the program that is measured. The floor is the
//! same with the empty program.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};

/// `enum bpf_cmd`.
const MAP_CREATE: i64 = 0;
const MAP_UPDATE_ELEM: i64 = 2;
const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
/// `BPF_MAP_TYPE_PROG_ARRAY`, `BPF_PROG_TYPE_XDP`, `BPF_XDP`.
const PROG_ARRAY: u32 = 3;
const XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// Helpers.
const GET_PRANDOM_U32: i32 = 7;
const TAIL_CALL: i32 = 12;

/// What differs from run to run.
#[derive(Clone, Copy)]
pub enum Vary {
    /// Nothing.
    Nothing,
    /// The low half of the IPv4 source address and the TCP source port, at random: hardly ever the
    /// same connection twice.
    Connection,
}

/// A frame, and a program to run on it.
pub struct Repeat {
    program: OwnedFd,
    _targets: OwnedFd,
    frame: Vec<u8>,
}

impl Repeat {
    /// `frame` begins with an untagged Ethernet header; at most its first 256 bytes are written
    /// anew.
    pub fn new(target: BorrowedFd<'_>, frame: &[u8], vary: Vary) -> Result<Self> {
        let targets = program_array(target)?;
        let program = load(&rewriter(frame, vary, targets.as_raw_fd()))?;
        Ok(Self { program, _targets: targets, frame: frame.to_vec() })
    }

    /// Mean ns a run, as the kernel measures it. It cuts the fraction off.
    pub fn time(&self, repeat: u32) -> Result<u32> {
        let mut attr = TestRun {
            program: self.program.as_raw_fd() as u32,
            data_size_in: self.frame.len() as u32,
            data_in: self.frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        bpf(PROG_TEST_RUN, &mut attr).context("BPF_PROG_TEST_RUN")?;
        ensure!(attr.return_value != 0, "the program aborted: no tail call was made");
        Ok(attr.duration)
    }
}

/// Part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context: [u64; 3],
    flags_cpu_batch: [u32; 4],
}

fn program_array(target: BorrowedFd<'_>) -> Result<OwnedFd> {
    // Type, key size, value size, entries, flags.
    let array = fd(bpf(MAP_CREATE, &mut [PROG_ARRAY, 4, 4, 1, 0]).context("BPF_MAP_CREATE")?);
    let (key, value) = (0_u32, target.as_raw_fd());
    let pointers = [(&raw const key) as u64, (&raw const value) as u64];
    let mut attr = [array.as_raw_fd() as u64, pointers[0], pointers[1], 0];
    bpf(MAP_UPDATE_ELEM, &mut attr).context("BPF_MAP_UPDATE_ELEM")?;
    Ok(array)
}

fn load(program: &[u64]) -> Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(XDP) | (program.len() as u64) << 32;
    attr[1] = program.as_ptr() as u64;
    attr[2] = license.as_ptr() as u64;
    // Offset 68 of the attributes: the expected attach type.
    attr[8] = u64::from(ATTACH_XDP) << 32;
    Ok(fd(bpf(PROG_LOAD, &mut attr).context("BPF_PROG_LOAD")?))
}

/// The instructions: write `frame` over the packet, vary it, go on in the program array's first.
fn rewriter(frame: &[u8], vary: Vary, targets: i32) -> Vec<u64> {
    /// Offsets of the low half of the IPv4 source address and of the TCP source port.
    const VARIED: [i16; 2] = [28, 34];
    let bytes = &frame[..frame.len().min(256)];
    // r6 = context; r7 = random; r2 = data; r3 = data_end
    let mut program = vec![insn(0xbf, 6, 1, 0, 0), insn(0xb7, 7, 0, 0, 0)];
    if let Vary::Connection = vary {
        program.extend([insn(0x85, 0, 0, 0, GET_PRANDOM_U32), insn(0xbf, 7, 0, 0, 0)]);
    }
    program.extend([insn(0x61, 2, 6, 0, 0), insn(0x61, 3, 6, 4, 0)]);
    // if data + length > data_end, abort
    program.extend([insn(0xbf, 4, 2, 0, 0), insn(0x07, 4, 0, 0, bytes.len() as i32)]);
    let check = program.len();
    program.push(0);
    // Stores no larger than the program's loads and in step with its fields, so that the CPU can
    // forward one to the other, as it would not have to for a frame that came from a NIC.
    let mut at = 0;
    while at < bytes.len() {
        let left = bytes.len() - at;
        let size = if matches!(at, 4 | 10 | 12) { 2 } else { left.min(4) };
        let size = if size == 3 { 2 } else { size };
        let mut word = [0; 4];
        word[..size].copy_from_slice(&bytes[at..at + size]);
        let opcode = match size {
            4 => 0x62,
            2 => 0x6a,
            _ => 0x72,
        };
        program.push(insn(opcode, 2, 0, at as i16, i32::from_le_bytes(word)));
        at += size;
    }
    if let Vary::Connection = vary {
        program.push(insn(0x6b, 2, 7, VARIED[0], 0));
        program.extend([insn(0x77, 7, 0, 0, 16), insn(0x6b, 2, 7, VARIED[1], 0)]);
    }
    // tail_call(context, targets, 0)
    program.push(insn(0xbf, 1, 6, 0, 0));
    program.extend([insn(0x18, 2, 1, 0, targets), 0]);
    program.extend([insn(0xb7, 3, 0, 0, 0), insn(0x85, 0, 0, 0, TAIL_CALL)]);
    let exit = program.len();
    program[check] = insn(0x2d, 4, 3, (exit - check - 1) as i16, 0);
    program.extend([insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)]);
    program
}

/// `struct bpf_insn`, little-endian.
fn insn(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(opcode)
        | u64::from(destination | source << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

fn bpf<T>(command: i64, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is this command's part of `union bpf_attr`, and the pointers in it are of
    // values that the caller keeps alive until this returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn fd(number: i64) -> OwnedFd {
    // SAFETY: the kernel just made it for us.
    unsafe { OwnedFd::from_raw_fd(number as i32) }
}
