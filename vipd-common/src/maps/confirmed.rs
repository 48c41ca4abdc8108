//! The daemon's memory across a restart.

/// Value of [`super::CONFIRMED`]: what Sentinel last confirmed, so that the epoch fence and the present
/// master survive a restart of the daemon.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Confirmed {
    /// Sentinel's config-epoch.
    pub epoch: u64,
    /// The master's address, IPv4 mapped.
    pub addr: [u8; 16],
    /// [`name_hash`] of the Sentinel master name it was confirmed for: a service whose
    /// configuration names another master now doesn't take over the old one's.
    pub master: u64,
    /// The master's port, native order.
    pub port: u32,
    /// 1 if the rest means something.
    pub valid: u32,
    /// Who is served although no epoch has confirmed it yet, IPv4 mapped.
    pub provisional_addr: [u8; 16],
    /// Its port, native order; 0 if nobody is.
    pub provisional_port: u32,
    /// Always zero.
    pub zero: u32,
}

/// FNV-1a, 64 bits, of a Sentinel master name. (`std`'s hashes may change between versions.)
pub const fn name_hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_s_hash_is_fnv_1a() {
        // The reference vectors of draft-eastlake-fnv.
        assert_eq!(name_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(name_hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
