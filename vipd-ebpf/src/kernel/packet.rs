//! Packet bytes, checked.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use vipd_common::maps::MAX_SYN;
use vipd_common::wire::Header;
use vipd_ebpf::frame::{Frame, ResizeFailed};

/// Whether the kernel has `bpf_xdp_load_bytes`: it came with Linux 5.18, as did what it is for here.
/// For an older one the daemon sets zero before it loads the program, and the verifier doesn't look at
/// the call.
#[unsafe(no_mangle)]
static CAN_COPY_FRAMES: u8 = 1;

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

    /// By the kernel: one call, where the verifier would follow a loop of accesses to the frame
    /// through each of its ends.
    #[inline(always)]
    fn copy(&mut self, to: &mut [u8; MAX_SYN], length: usize) -> bool {
        // SAFETY: a constant that is never written.
        if unsafe { (&raw const CAN_COPY_FRAMES).read_volatile() } == 0 {
            return false;
        }
        // Read anew, so that the compiler doesn't know its bounds, and leaves them to be seen.
        // SAFETY: a local variable.
        let length = unsafe { (&raw const length).read_volatile() };
        let length = (length.wrapping_sub(1) & (MAX_SYN - 1)) as u32 + 1;
        // SAFETY: `to` has as many bytes; the helper checks the frame's end.
        let result = unsafe {
            bpf_xdp_load_bytes(self.ctx.as_ptr().cast(), 0, to.as_mut_ptr().cast(), length)
        };
        result == 0
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
