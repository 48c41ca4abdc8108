//! Packet bytes, checked.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use vipd_common::wire::Header;
use vipd_ebpf::frame::{Frame, ResizeFailed};

/// The frame of an XDP context.
pub struct XdpFrame {
    ctx: XdpContext,
    egress: u32,
}

impl XdpFrame {
    pub fn new(ctx: XdpContext) -> Self {
        Self { ctx, egress: 0 }
    }

    /// What the kernel gave the program.
    #[inline(always)]
    pub fn context(&self) -> &XdpContext {
        &self.ctx
    }

    /// Index of the interface it leaves by, if it is forwarded.
    #[inline(always)]
    pub fn egress(&self) -> u32 {
        self.egress
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn at<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let start = self.ctx.data() + offset;
        if start + T::LEN > self.ctx.data_end() {
            return None;
        }
        // SAFETY: the kernel maps no packet at address zero. Said because `Option` would otherwise
        // test for it, at every access.
        unsafe { core::hint::assert_unchecked(start != 0) };
        // SAFETY: the bytes lie within the frame, as the verifier demands to see compared just
        // above; `T: Header` is valid for any bytes at any alignment; `&mut self` makes this the
        // only reference, and no other CPU has the frame.
        Some(unsafe { &mut *(start as *mut T) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn set_egress(&mut self, ifindex: u32) {
        self.egress = ifindex;
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Result<(), ResizeFailed> {
        // Kept from being reckoned together with `length`, in an order that the verifier, for which
        // the ends are pointers, would refuse.
        // SAFETY: a local variable.
        let present = unsafe { (&raw const *&self.length()).read_volatile() };
        let delta = length as i32 - present as i32;
        // SAFETY: the helper checks the bounds; pointers into the frame are re-read by `at`.
        match unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), delta) } {
            0 => Ok(()),
            _ => Err(ResizeFailed),
        }
    }

    #[inline(always)]
    fn move_start(&mut self, delta: i32) -> Result<(), ResizeFailed> {
        // SAFETY: the helper checks the bounds; pointers into the frame are re-read by `at`.
        match unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), delta) } {
            0 => Ok(()),
            _ => Err(ResizeFailed),
        }
    }
}
