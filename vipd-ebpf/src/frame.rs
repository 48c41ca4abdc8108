//! The one way to touch packet bytes.

use vipd_common::maps::MAX_SYN;
use vipd_common::wire::Header;

/// A frame under the program's hands, beginning with its Ethernet header.
pub trait Frame {
    /// The header at `offset`, or `None` if the frame ends before it does. Every access to packet
    /// bytes goes through here.
    fn at<T: Header>(&mut self, offset: usize) -> Option<&mut T>;

    /// Copies the first `length` bytes, from 1 to [`MAX_SYN`], into `to`; false if the frame has
    /// fewer, or the kernel can't.
    fn copy(&mut self, to: &mut [u8; MAX_SYN], length: usize) -> bool;

    /// Bytes in the frame, padding included.
    fn length(&self) -> usize;

    /// Index of the interface it came in by.
    fn ifindex(&self) -> u32;

    /// Chooses the interface it leaves by, if the verdict is to forward it.
    fn set_egress(&mut self, ifindex: u32);

    /// Cuts the frame to `length` bytes, or lengthens it with zeroes.
    ///
    /// # Errors
    ///
    /// [`ResizeFailed`] when the driver refuses.
    fn resize(&mut self, length: usize) -> Result<(), ResizeFailed>;

    /// Adds (negative `delta`) or removes bytes before the first one, as
    /// `bpf_xdp_adjust_head` counts.
    ///
    /// # Errors
    ///
    /// [`ResizeFailed`] when there is no headroom.
    fn move_start(&mut self, delta: i32) -> Result<(), ResizeFailed>;
}

/// The frame could not be made longer or shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResizeFailed;
