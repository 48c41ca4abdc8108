//! A frame in memory.

use std::vec;
use std::vec::Vec;

use vipd_common::maps::MAX_SYN;
use vipd_common::wire::Header;
use vipd_common::wire::eth::EthHeader;

use crate::frame::{Frame, ResizeFailed};

/// What XDP leaves before a frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// What the kernel keeps there for itself (`struct xdp_frame`, rounded up).
const RESERVED: usize = 64;
/// What may be added behind a frame; a page has more left behind those that are lengthened.
const TAILROOM: usize = 64;

/// A frame with headroom, as XDP has it.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    ifindex: u32,
    egress: u32,
}

impl Buffer {
    /// A copy of `frame`, come in by interface `ifindex`.
    pub fn new(frame: &[u8], ifindex: u32) -> Self {
        let mut bytes = vec![0; HEADROOM];
        bytes.extend_from_slice(frame);
        Self { bytes, start: HEADROOM, ifindex, egress: 0 }
    }

    /// Index of the interface it leaves by, if it is forwarded.
    pub fn egress(&self) -> u32 {
        self.egress
    }

    /// The frame, without its headroom.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.split_off(self.start)
    }
}

impl Frame for Buffer {
    fn at<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let from = self.start + offset;
        let bytes = self.bytes.get_mut(from..from + T::LEN)?;
        // SAFETY: exactly as many bytes as `T` has; `T: Header` has alignment 1 and is valid for
        // any of them.
        Some(unsafe { &mut *bytes.as_mut_ptr().cast::<T>() })
    }

    fn copy(&mut self, to: &mut [u8; MAX_SYN], length: usize) -> bool {
        let Some(from) = self.bytes.get(self.start..self.start + length) else { return false };
        to[..length].copy_from_slice(from);
        true
    }

    fn length(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn set_egress(&mut self, ifindex: u32) {
        self.egress = ifindex;
    }

    fn resize(&mut self, length: usize) -> Result<(), ResizeFailed> {
        if length < EthHeader::LEN || length > self.length() + TAILROOM {
            return Err(ResizeFailed);
        }
        self.bytes.resize(self.start + length, 0);
        Ok(())
    }

    fn move_start(&mut self, delta: i32) -> Result<(), ResizeFailed> {
        let start = self.start.checked_add_signed(delta as isize).ok_or(ResizeFailed)?;
        if start < RESERVED || start + EthHeader::LEN > self.bytes.len() {
            return Err(ResizeFailed);
        }
        self.start = start;
        Ok(())
    }
}
