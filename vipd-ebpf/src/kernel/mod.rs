//! Where the program meets the kernel.

mod maps;
mod packet;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use vipd_common::maps::MAX_SYN;
use vipd_common::verdict::{Action, Verdict};
use vipd_ebpf::frame::Frame;
use vipd_ebpf::program;

use maps::Maps;
use packet::XdpFrame;

/// The program that `vipd run` attaches.
#[xdp]
pub fn vipd(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(ctx);
    run(&mut frame, |frame| {
        program::run(frame, &Maps).unwrap_or_else(|| {
            maps::run_ipv6_program(frame.context());
            // It isn't there: only before the daemon has opened its maps.
            Verdict::NotOurs
        })
    })
}

/// Where [`vipd`] goes on with IPv6.
#[xdp]
pub fn vipd6(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(ctx);
    run(&mut frame, |frame| program::run_ipv6(frame, &Maps))
}

/// Injects one frame after the other into [`vipd`]: never attached, but run by the daemon on live
/// frames (`BPF_F_TEST_XDP_LIVE_FRAMES`) of [`MAX_SYN`] bytes, whose content it replaces. The frames
/// stand in REPLAY.
#[xdp]
pub fn vipd_replay(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(ctx);
    let Some(replay) = maps::next_replay() else { return XDP_DROP };
    let Some(bytes) = frame.at::<[u8; MAX_SYN]>(0) else { return XDP_DROP };
    *bytes = replay.frame;
    if frame.resize((replay.len & 0xff) as usize).is_err() {
        return XDP_DROP;
    }
    maps::run_main_program(frame.context());
    XDP_DROP
}

/// Counts a frame's verdict and does what it says.
#[inline(always)]
fn run(frame: &mut XdpFrame, program: impl FnOnce(&mut XdpFrame) -> Verdict) -> u32 {
    let (arrived, ingress) = (frame.length() as u64, frame.ifindex());
    let verdict = program(frame);
    let (verdict, action) = match verdict.action() {
        Action::Pass => (verdict, XDP_PASS),
        Action::Drop => (verdict, XDP_DROP),
        Action::Transmit => (verdict, XDP_TX),
        Action::Forward if frame.egress() == ingress => (verdict, XDP_TX),
        Action::Forward => match maps::redirect(frame.egress()) {
            XDP_REDIRECT => (verdict, XDP_REDIRECT),
            _ => (Verdict::NoPort, XDP_DROP),
        },
    };
    maps::count(verdict, arrived);
    action
}

/// Passes everything: the floor of `cargo xtask bench datapath`, and what the lab attaches to the
/// far end of a veth, which drops transmitted XDP frames if it has no program.
#[xdp]
pub fn pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the program panics; if something came to, this loop would not verify.
    loop {}
}

/// Some helpers, `bpf_ktime_get_coarse_ns` among them, are for programs under a GPL-compatible
/// licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
