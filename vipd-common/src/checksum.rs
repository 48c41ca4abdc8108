//! The Internet checksum: incremental updates as in RFC 1624, and the full sum for headers that
//! vipd writes itself.

/// A change to data that a checksum covers, gathered word by word and applied once.
///
/// RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`. One's complement sums are the same in either byte
/// order, and of 32-bit words as of 16-bit ones (RFC 1071 section 2), so words are added as this
/// machine reads them. The sum is kept unfolded: 2^30 words can be replaced before it could
/// overflow.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// One 16-bit word, at an even offset, became another.
    #[inline(always)]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        let old = !u16::from_ne_bytes(old);
        Self(self.0 + old as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// Two words, such as an IPv4 address or a sequence number, became others.
    #[inline(always)]
    pub const fn dword(self, old: [u8; 4], new: [u8; 4]) -> Self {
        let old = !u32::from_ne_bytes(old);
        Self(self.0 + old as u64 + u32::from_ne_bytes(new) as u64)
    }

    /// An IPv6 address became another.
    #[inline(always)]
    pub const fn address(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        let (old, new) = (dwords(old), dwords(new));
        let delta = self.dword(old[0], new[0]).dword(old[1], new[1]);
        delta.dword(old[2], new[2]).dword(old[3], new[3])
    }

    /// Both changes.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change, as it stands on the wire.
    #[inline(always)]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = !u16::from_ne_bytes(checksum);
        (!fold(self.0 + sum as u64)).to_ne_bytes()
    }
}

/// The one's complement sum of words as this machine reads them, not yet inverted.
#[derive(Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds one word.
    #[inline(always)]
    pub const fn word(self, word: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(word) as u64)
    }

    /// Adds two words.
    #[inline(always)]
    pub const fn dword(self, dword: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(dword) as u64)
    }

    /// Adds an IPv6 address.
    #[inline(always)]
    pub const fn address(self, address: &[u8; 16]) -> Self {
        let words = dwords(address);
        self.dword(words[0]).dword(words[1]).dword(words[2]).dword(words[3])
    }

    /// Adds a header of `N` bytes; `N` must be even.
    #[inline(always)]
    pub fn bytes<const N: usize>(self, bytes: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(2)) };
        let mut sum = self;
        let mut i = 0;
        while i < N {
            sum = sum.word([bytes[i], bytes[i + 1]]);
            i += 2;
        }
        sum
    }

    /// The checksum field's value, as it stands on the wire.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }
}

/// In whole words: taken apart into bytes, they would not be put together again by the compiler.
#[inline(always)]
const fn dwords(bytes: &[u8; 16]) -> &[[u8; 4]] {
    bytes.as_chunks().0
}

#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// RFC 1071, written without regard for the code under test.
    fn reference(data: &[u8]) -> [u8; 2] {
        let mut sum: u64 = 0;
        for pair in data.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        // HC = 0xdd2f, m = 0x5555, m' = 0x3285 -> HC' = 0x0000
        let delta = Delta::new().word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(delta.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn a_full_sum_of_a_header() {
        // The example header of RFC 1071's common illustration: a 20-byte IPv4 header.
        let header: [u8; 20] = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(Sum::new().bytes(&header).checksum(), [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn an_incremental_update_equals_a_full_sum(
            mut data in proptest::collection::vec(any::<u8>(), 8..1501),
            at in any::<prop::sample::Index>(),
            new in any::<[u8; 4]>(),
        ) {
            // An all-zero datagram has no valid one's complement sum other than 0xffff; IP and
            // TCP headers are never all zero.
            data[0] |= 1;
            let before = reference(&data);
            let at = 2 + at.index((data.len() - 6) / 2) * 2;
            let old: [u8; 4] = data[at..at + 4].try_into().unwrap();
            data[at..at + 4].copy_from_slice(&new);
            let after = reference(&data);
            prop_assert_eq!(Delta::new().dword(old, new).apply(before), after);
        }

        #[test]
        fn deltas_add_up(words in proptest::collection::vec(any::<([u8; 2], [u8; 2])>(), 1..40)) {
            let old: Vec<u8> = words.iter().flat_map(|w| w.0).chain([1, 1]).collect();
            let new: Vec<u8> = words.iter().flat_map(|w| w.1).chain([1, 1]).collect();
            let mut delta = Delta::new();
            for (old, new) in &words {
                delta = delta.and(Delta::new().word(*old, *new));
            }
            prop_assert_eq!(delta.apply(reference(&old)), reference(&new));
        }
    }
}
