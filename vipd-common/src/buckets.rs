//! Small tables in BPF arrays: what every packet is looked up in.
//!
//! A look-up in a BPF array is inlined by the kernel's JIT; one in a BPF hash map is four calls,
//! and returns are dear on CPUs that need mitigations for them: 40 ns a look-up on an AMD EPYC with
//! "Safe RET", which is more than all the rest of a packet costs. So tables that only the daemon
//! writes, and that are small, are arrays of buckets: a key is in the bucket that its hash names or
//! nowhere. Flows, which the kernel must evict, stay in hash maps.

/// One key and its value. The key whose bytes are all zero is no key: an array's initial value is
/// an empty table.
pub trait Entry: Copy + PartialEq {
    /// What it is found by.
    type Key: Copy + PartialEq;
    /// What is found.
    type Value: Copy;
    /// Buckets in the table; a power of two.
    const BUCKETS: u32;
    /// Nothing.
    const EMPTY: Self;

    /// An entry.
    fn new(key: Self::Key, value: Self::Value) -> Self;
    /// Its key.
    fn key(&self) -> Self::Key;
    /// Its value.
    fn value(&self) -> Self::Value;
    /// A number that differs in its upper bits wherever keys differ.
    fn hash(key: &Self::Key) -> u32;

    /// The index of the bucket that `key` is in, or nowhere.
    #[inline(always)]
    fn bucket(key: &Self::Key) -> u32 {
        Self::hash(key) >> (32 - Self::BUCKETS.trailing_zeros())
    }
}

/// Fibonacci hashing: multiplication by 2^32 over the golden ratio.
#[inline(always)]
pub const fn mix(word: u32) -> u32 {
    word.wrapping_mul(0x9e37_79b1)
}

/// Entries in a bucket. With [`SPARE`] it is enough: were keys random, one bucket in 150,000 of a full
/// table would need more, and addresses that follow one another are spread better than that. (Each
/// way is another path for the verifier to follow to the program's end.)
pub const WAYS: usize = 4;
/// Buckets a table has for each entry that it may hold.
pub const SPARE: u32 = 4;

/// The element of the array.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket<E>([E; WAYS]);

/// The bucket that a key belongs in has no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl<E: Entry> Bucket<E> {
    /// No entries.
    pub const EMPTY: Self = Self([E::EMPTY; WAYS]);

    /// The value of `key`.
    #[inline(always)]
    pub fn get(&self, key: &E::Key) -> Option<E::Value> {
        let mut way = 0;
        while way < WAYS {
            if self.0[way].key() == *key {
                // An address from a frame may be all zero, as what is empty is.
                let is_key = *key != E::EMPTY.key();
                return is_key.then_some(self.0[way].value());
            }
            way += 1;
        }
        None
    }

    /// Adds or replaces a value.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no room for another key; there is none for zero.
    pub fn insert(&mut self, key: E::Key, value: E::Value) -> Result<(), Full> {
        let empty = E::EMPTY.key();
        if key == empty {
            return Err(Full);
        }
        let at = self.0.iter().position(|entry| entry.key() == key);
        let at = at.or_else(|| self.0.iter().position(|entry| entry.key() == empty)).ok_or(Full)?;
        self.0[at] = E::new(key, value);
        Ok(())
    }

    /// Removes a key; whether it was there.
    pub fn remove(&mut self, key: &E::Key) -> bool {
        match self.0.iter_mut().find(|entry| entry.key() == *key) {
            Some(entry) => {
                *entry = E::EMPTY;
                true
            }
            None => false,
        }
    }

    /// What is in it.
    pub fn entries(&self) -> impl Iterator<Item = E> {
        self.0.iter().copied().filter(|entry| entry.key() != E::EMPTY.key())
    }
}

#[cfg(feature = "user")]
mod user {
    extern crate std;

    use core::borrow::{Borrow, BorrowMut};
    use std::io;
    use std::vec::Vec;

    use aya::Pod;
    use aya::maps::{Array, MapData, MapError};

    use super::{Bucket, Entry};

    // SAFETY: an array of a type that is itself `Pod`.
    unsafe impl<E: Pod> Pod for Bucket<E> {}

    /// A table, from user space. Its methods are those of [`aya::maps::HashMap`].
    pub struct Buckets<T, E: Entry + Pod>(Array<T, Bucket<E>>);

    impl<T: Borrow<MapData>, E: Entry + Pod> Buckets<T, E> {
        /// The table in this array.
        pub fn new(array: Array<T, Bucket<E>>) -> Self {
            Self(array)
        }

        /// The value of `key`.
        ///
        /// # Errors
        ///
        /// [`MapError::KeyNotFound`], or what the kernel says.
        pub fn get(&self, key: &E::Key) -> Result<E::Value, MapError> {
            self.0.get(&E::bucket(key), 0)?.get(key).ok_or(MapError::KeyNotFound)
        }

        /// What is in it.
        ///
        /// # Errors
        ///
        /// What the kernel says.
        pub fn entries(&self) -> Result<Vec<E>, MapError> {
            let mut entries = Vec::new();
            for bucket in self.0.iter() {
                entries.extend(bucket?.entries());
            }
            Ok(entries)
        }
    }

    impl<T: BorrowMut<MapData>, E: Entry + Pod> Buckets<T, E> {
        /// Adds or replaces a value.
        ///
        /// # Errors
        ///
        /// `ENOSPC` if the key's bucket is full, or what the kernel says.
        pub fn insert(&mut self, key: E::Key, value: E::Value) -> Result<(), MapError> {
            let index = E::bucket(&key);
            let mut bucket = self.0.get(&index, 0)?;
            bucket
                .insert(key, value)
                .map_err(|_| io::Error::from_raw_os_error(ENOSPC))
                .map_err(MapError::IoError)?;
            self.0.set(index, bucket, 0)
        }

        /// Removes a key.
        ///
        /// # Errors
        ///
        /// [`MapError::KeyNotFound`], or what the kernel says.
        pub fn remove(&mut self, key: &E::Key) -> Result<(), MapError> {
            let index = E::bucket(key);
            let mut bucket = self.0.get(&index, 0)?;
            if !bucket.remove(key) {
                return Err(MapError::KeyNotFound);
            }
            self.0.set(index, bucket, 0)
        }
    }

    const ENOSPC: i32 = 28;
}

#[cfg(feature = "user")]
pub use user::Buckets;

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::addr::{Ipv4Bytes, Ipv6Bytes, MacAddr};
    use crate::maps::{
        Address, AddressEntry, Interface, InterfaceEntry, MAX_VIPS, ServiceEntry, ServiceKey,
    };

    #[test]
    fn a_bucket_keeps_finds_replaces_and_forgets() {
        let mut bucket = Bucket::<AddressEntry<Ipv4Bytes>>::EMPTY;
        let keys: Vec<_> = (1..=WAYS as u8).map(|host| [10, 0, 0, host]).collect();
        for (flags, key) in (1..).zip(&keys) {
            assert_eq!(bucket.get(key), None);
            assert_eq!(bucket.insert(*key, Address::new(flags)), Ok(()));
        }
        assert_eq!(bucket.insert([10, 0, 1, 1], Address::new(1)), Err(Full));
        assert_eq!(bucket.insert(keys[3], Address::new(77)), Ok(()));
        assert_eq!(bucket.get(&keys[3]), Some(Address::new(77)));
        assert!(bucket.remove(&keys[0]) && !bucket.remove(&keys[0]));
        assert_eq!(bucket.get(&keys[0]), None);
        assert_eq!(bucket.insert([10, 0, 1, 1], Address::new(1)), Ok(()));
        assert_eq!(bucket.entries().count(), WAYS);
    }

    #[test]
    fn zero_is_never_found() {
        let mut bucket = Bucket::<AddressEntry<Ipv4Bytes>>::EMPTY;
        assert_eq!(bucket.get(&[0; 4]), None);
        assert_eq!(bucket.insert([0; 4], Address::new(1)), Err(Full));
    }

    #[test]
    fn values_come_back_as_they_went_in() {
        let key = ServiceKey::new([198, 18, 0, 250], [0x18, 0xeb]);
        for index in [0, 1023] {
            assert_eq!(
                (ServiceEntry::new(key, index).key(), ServiceEntry::new(key, index).value()),
                (key, index)
            );
        }
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let interface = Interface { mac, zero: [0; 2] };
        let entry = InterfaceEntry::new(7, interface);
        assert_eq!((entry.key(), entry.value()), (7, interface));
    }

    #[test]
    fn no_key_is_ever_outside_the_table() {
        for word in [0, 1, u32::MAX, 0x8000_0000] {
            assert!(
                AddressEntry::<Ipv4Bytes>::bucket(&word.to_be_bytes())
                    < AddressEntry::<Ipv4Bytes>::BUCKETS
            );
            assert!(InterfaceEntry::bucket(&word) < InterfaceEntry::BUCKETS);
            let key = ServiceKey::new(word.to_be_bytes(), [0xff, 0xff]);
            assert!(ServiceEntry::bucket(&key) < ServiceEntry::<Ipv4Bytes>::BUCKETS);
        }
    }

    /// Two words, each all zero, one or any: the ends of what can be hashed.
    #[test]
    fn no_ipv6_key_is_ever_outside_the_table() {
        for fill in [0, 1, 0x80, 0xff] {
            let addr = [fill; 16];
            let buckets = AddressEntry::<Ipv6Bytes>::BUCKETS;
            assert!(AddressEntry::<Ipv6Bytes>::bucket(&addr) < buckets);
            let key = ServiceKey::new(addr, [fill; 2]);
            assert!(ServiceEntry::bucket(&key) < ServiceEntry::<Ipv6Bytes>::BUCKETS);
        }
    }

    #[test]
    fn as_many_ipv6_vips_as_are_allowed_find_room() {
        let hosts = |prefix: u8, at: usize| {
            (0..MAX_VIPS as u16).map(move |host| {
                let mut addr = [0xfd, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
                addr[at..at + 2].copy_from_slice(&host.to_be_bytes());
                addr
            })
        };
        // One after the other; a VIP in each of as many subnets; in each of as many sites.
        for at in [14, 6, 4] {
            let mut table = vec![
                Bucket::<AddressEntry<Ipv6Bytes>>::EMPTY;
                AddressEntry::<Ipv6Bytes>::BUCKETS as usize
            ];
            for key in hosts(0x98, at) {
                let bucket = &mut table[AddressEntry::<Ipv6Bytes>::bucket(&key) as usize];
                assert_eq!(bucket.insert(key, Address::new(1)), Ok(()), "{at}");
                assert_eq!(bucket.get(&key), Some(Address::new(1)));
            }
        }
    }

    #[test]
    fn as_many_vips_as_are_allowed_find_room() {
        let mut table = vec![
            Bucket::<AddressEntry<Ipv4Bytes>>::EMPTY;
            AddressEntry::<Ipv4Bytes>::BUCKETS as usize
        ];
        for host in 0..MAX_VIPS as u16 {
            let [high, low] = host.to_be_bytes();
            let key = [198, 18, high, low];
            let bucket = &mut table[AddressEntry::<Ipv4Bytes>::bucket(&key) as usize];
            assert_eq!(bucket.insert(key, Address::new(1)), Ok(()));
        }
    }
}
