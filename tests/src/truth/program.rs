//! The tap's program, one rule behind the other, in BPF instructions.

use super::tap::{ENTRIES, GAPS, Layout, Rule};

/// XDP's verdicts.
const DROP: i32 = 1;
const PASS: i32 = 2;

const KTIME_GET_NS: i32 = 5;
/// The value of a map, for a 64-bit load.
const MAP_VALUE: u8 = 2;
const FETCH_ADD: i32 = 0x01;

/// Registers: 0 to 5 are anybody's, 6 to 9 survive calls.
const VERDICT: u8 = 0;
const A: u8 = 1;
const B: u8 = 2;
const ENTRY: u8 = 3;
const SHARED: u8 = 6;
const PACKET: u8 = 7;
const END: u8 = 8;
const NOW: u8 = 9;

/// Operation codes, as in linux/bpf.h.
const LOAD_IMMEDIATE: u8 = 0x18;
const LOAD_64: u8 = 0x79;
const LOAD_32: u8 = 0x61;
const LOAD_16: u8 = 0x69;
const LOAD_8: u8 = 0x71;
const STORE_64: u8 = 0x7b;
const STORE_32: u8 = 0x63;
const ATOMIC_64: u8 = 0xdb;
const MOVE: u8 = 0xb7;
const MOVE_X: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_X: u8 = 0x0f;
const SHIFT_LEFT: u8 = 0x67;
const REMAINDER_X: u8 = 0x9f;
const TO_BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;
const IF_EQUAL: u8 = 0x15;
const UNLESS_EQUAL: u8 = 0x55;
const IF_AT_LEAST: u8 = 0x35;
const IF_AT_LEAST_X: u8 = 0x3d;
const IF_ABOVE_X: u8 = 0x2d;

/// Where a jump goes.
type Label = usize;

/// Instructions, and jumps whose ends are not known yet.
#[derive(Default)]
struct Assembler {
    code: Vec<u64>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

/// The program that does what `rules` say; the maps of their values by descriptor.
pub fn assemble(rules: &[(Rule, i32)]) -> Vec<u64> {
    let mut it = Assembler::default();
    // struct xdp_md begins with data and data_end.
    it.load(LOAD_32, PACKET, 1, 0);
    it.load(LOAD_32, END, 1, 4);
    for (rule, map) in rules {
        let next = it.label();
        rule_block(&mut it, rule, *map, next);
        it.here(next);
    }
    it.immediate(MOVE, VERDICT, PASS);
    it.put(EXIT, 0, 0, 0, 0);
    it.finish()
}

fn rule_block(it: &mut Assembler, rule: &Rule, map: i32, next: Label) {
    it.register(MOVE_X, A, PACKET);
    it.immediate(ADD, A, i32::from(rule.length()));
    it.jump(IF_ABOVE_X, A, END, 0, next);
    for field in rule.fields() {
        let (load, value) = match *field.bytes {
            [byte] => (LOAD_8, u32::from(byte)),
            [a, b] => (LOAD_16, u32::from(u16::from_ne_bytes([a, b]))),
            [a, b, c, d] => (LOAD_32, u32::from_ne_bytes([a, b, c, d])),
            _ => unreachable!("fields have 1, 2 or 4 bytes"),
        };
        it.load(load, A, PACKET, field.offset);
        // The comparison extends its constant's sign, which the load has not.
        match i32::try_from(value) {
            Ok(value) => it.jump(UNLESS_EQUAL, A, 0, value, next),
            Err(_) => {
                let yes = it.label();
                it.constant(B, u64::from(value));
                it.jump(0x1d, A, B, 0, yes);
                it.jump(JUMP, 0, 0, 0, next);
                it.here(yes);
            }
        }
    }
    it.put(CALL, 0, 0, 0, KTIME_GET_NS);
    it.register(MOVE_X, NOW, VERDICT);
    it.map_value(SHARED, map);
    it.immediate(MOVE, A, 1);
    it.put(ATOMIC_64, SHARED, A, Layout::COUNT, FETCH_ADD);
    it.jump(IF_AT_LEAST, A, 0, ENTRIES as i32, next);
    it.register(MOVE_X, ENTRY, A);
    it.immediate(SHIFT_LEFT, ENTRY, Layout::ENTRY.ilog2() as i32);
    it.register(ADD_X, ENTRY, SHARED);
    it.put(STORE_64, ENTRY, NOW, Layout::ENTRIES, 0);
    it.load(LOAD_32, B, PACKET, rule.key());
    it.put(TO_BIG_ENDIAN, B, 0, 0, 32);
    it.put(STORE_32, ENTRY, B, Layout::ENTRIES + 8, 0);

    let (drop, out) = (it.label(), it.label());
    for gap in 0..GAPS {
        let (after, bounds) = (it.label(), Layout::GAPS + 16 * gap as i16);
        it.load(LOAD_64, B, SHARED, bounds as u16);
        it.jump(IF_ABOVE_X, B, NOW, 0, after);
        it.load(LOAD_64, B, SHARED, bounds as u16 + 8);
        it.jump(IF_AT_LEAST_X, NOW, B, 0, after);
        it.jump(JUMP, 0, 0, 0, drop);
        it.here(after);
    }
    it.immediate(MOVE, VERDICT, PASS);
    it.load(LOAD_64, B, SHARED, Layout::EVERY as u16);
    it.jump(IF_EQUAL, B, 0, 0, out);
    it.immediate(ADD, A, 1);
    it.register(REMAINDER_X, A, B);
    it.jump(UNLESS_EQUAL, A, 0, 0, out);
    it.here(drop);
    it.immediate(MOVE, VERDICT, DROP);
    it.here(out);
    it.put(STORE_32, ENTRY, VERDICT, Layout::ENTRIES + 12, 0);
    it.put(EXIT, 0, 0, 0, 0);
}

impl Assembler {
    fn put(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        let registers = source << 4 | destination;
        let [a, b] = offset.to_le_bytes();
        let [c, d, e, f] = immediate.to_le_bytes();
        self.code.push(u64::from_le_bytes([code, registers, a, b, c, d, e, f]));
    }

    fn load(&mut self, code: u8, to: u8, from: u8, offset: u16) {
        self.put(code, to, from, offset.cast_signed(), 0);
    }

    fn immediate(&mut self, code: u8, register: u8, value: i32) {
        self.put(code, register, 0, 0, value);
    }

    fn register(&mut self, code: u8, to: u8, from: u8) {
        self.put(code, to, from, 0, 0);
    }

    fn constant(&mut self, to: u8, value: u64) {
        self.put(LOAD_IMMEDIATE, to, 0, 0, value as u32 as i32);
        self.put(0, 0, 0, 0, (value >> 32) as i32);
    }

    fn map_value(&mut self, to: u8, map: i32) {
        self.put(LOAD_IMMEDIATE, to, MAP_VALUE, 0, map);
        self.put(0, 0, 0, 0, 0);
    }

    fn jump(&mut self, code: u8, register: u8, other: u8, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(code, register, other, 0, value);
    }

    fn label(&mut self) -> Label {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn here(&mut self, label: Label) {
        self.labels[label] = Some(self.code.len());
    }

    fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let to = self.labels[label].expect("every label is placed");
            let distance = i16::try_from(to - at - 1).expect("programs are short");
            self.code[at] |= u64::from(distance.cast_unsigned()) << 16;
        }
        self.code
    }
}
