//! Packet headers as byte arrays: no field is aligned or converted, so a header can be laid over
//! a frame wherever it stands, in the kernel and on the host alike.
//!
//! Each type is a fixed-size header with accessors; [`Header`] marks those that may be laid over
//! raw bytes.

pub mod arp;
pub mod eth;
pub mod icmp;
pub mod icmp6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod tcp;

/// A header that may be laid over any bytes of its size.
///
/// # Safety
///
/// The type must have alignment 1, no padding, and be valid for every bit pattern.
pub unsafe trait Header: Copy + Sized {
    /// Bytes on the wire.
    const LEN: usize = size_of::<Self>();

    /// Its bytes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the type has no padding, so every byte of it is initialised; borrowed as `self` is.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

// SAFETY: byte arrays have alignment 1, no padding, and every pattern is valid.
unsafe impl<const N: usize> Header for [u8; N] {}

/// Declares a header: a byte-array struct that is [`Header`], with its size asserted.
macro_rules! header {
    ($(#[$meta:meta])* $name:ident, $len:literal, { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }

        const _: () = assert!(size_of::<$name>() == $len && align_of::<$name>() == 1);

        // SAFETY: only byte arrays and wrappers of them; the size assertion rules padding out.
        unsafe impl $crate::wire::Header for $name {}
    };
}
pub(crate) use header;
