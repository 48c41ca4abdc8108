//! What aya keeps to itself of bpf(2): which interface a pinned link is on, detaching a link whoever
//! else holds it, reading a hash map by the thousand, and running a program on live frames.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;

const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;

/// What a pinned XDP link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkInfo {
    /// The program's id.
    pub(super) program_id: u32,
    /// The interface; 0 once it was deleted.
    pub(super) ifindex: u32,
}

/// Opens the link pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // union bpf_attr, for BPF_OBJ_GET: pathname, bpf_fd, file_flags.
    let attributes = [path.as_ptr() as u64, 0];
    let fd = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: BPF_OBJ_GET returned a new descriptor, which belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads an XDP link.
pub(super) fn link_info(link: &OwnedFd) -> io::Result<LinkInfo> {
    /// The head of `struct bpf_link_info`; the union with the interface index is 8-aligned.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program_id: u32,
        pad: u32,
        ifindex: u32,
        rest: [u32; 11],
    }
    let mut info = Info::default();
    // union bpf_attr: bpf_fd and info_len, then the pointer.
    let lengths = u64::from(link.as_raw_fd() as u32) | (size_of::<Info>() as u64) << 32;
    let lengths = if cfg!(target_endian = "big") { lengths.rotate_left(32) } else { lengths };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &[lengths, (&raw mut info) as u64])?;
    if info.kind != LINK_TYPE_XDP {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an XDP link"));
    }
    Ok(LinkInfo { program_id: info.program_id, ifindex: info.ifindex })
}

/// Takes the program off the interface at once.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    let fd = u64::from(link.as_raw_fd() as u32);
    let fd = if cfg!(target_endian = "big") { fd << 32 } else { fd };
    bpf(BPF_LINK_DETACH, &[fd]).map(|_| ())
}

/// Reads entries of a hash map, up to as many as fit: `keys` and `values` get theirs one after the
/// other. `position` is where to go on, `None` at the beginning. Returns how many there are, and
/// whether they were the last ones.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    position: &mut Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, bool)> {
    /// `union bpf_attr`, for BPF_MAP_LOOKUP_BATCH.
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    let from = position.unwrap_or(0);
    let mut next = 0_u32;
    let mut attributes = Attributes {
        in_batch: position.as_ref().map_or(0, |_| (&raw const from) as u64),
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()).try_into().unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    let last = match bpf_mut(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    *position = Some(next);
    Ok((attributes.count as usize, last))
}

/// Runs an XDP program `repeat` times on frames of these bytes that come in by an interface, and has
/// the kernel do with each what the program says (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). Frames
/// are recycled: what the program changes in one, a later run sees.
///
/// Interrupted by a signal it ends early with an error.
pub(super) fn run_live(
    program: BorrowedFd<'_>,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
) -> io::Result<()> {
    const LIVE_FRAMES: u32 = 1 << 1;
    /// `struct xdp_md`.
    #[repr(C)]
    struct Context {
        data: u32,
        data_end: u32,
        data_meta: u32,
        ingress_ifindex: u32,
        rx_queue_index: u32,
        egress_ifindex: u32,
    }
    /// `union bpf_attr`, for BPF_PROG_TEST_RUN.
    #[repr(C)]
    struct Attributes {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        zero: u32,
    }
    let size = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let context = Context {
        data: 0,
        data_end: size,
        data_meta: 0,
        ingress_ifindex: ifindex,
        rx_queue_index: 0,
        egress_ifindex: 0,
    };
    let mut attributes = Attributes {
        prog_fd: program.as_raw_fd() as u32,
        retval: 0,
        data_size_in: size,
        data_size_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat,
        duration: 0,
        ctx_size_in: size_of::<Context>() as u32,
        ctx_size_out: 0,
        ctx_in: (&raw const context) as u64,
        ctx_out: 0,
        flags: LIVE_FRAMES,
        cpu: 0,
        batch_size: 0,
        zero: 0,
    };
    bpf_mut(BPF_PROG_TEST_RUN, &mut attributes).map(|_| ())
}

/// bpf(2) for commands that write nothing back.
fn bpf<const N: usize>(command: libc::c_int, attributes: &[u64; N]) -> io::Result<i32> {
    bpf_mut(command, &mut attributes.clone())
}

/// bpf(2). Each caller lays `attributes` out as its command wants and keeps alive what they
/// point to.
fn bpf_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are as long as said, and pointers in them are valid for the
    // command's use during the call (see the callers above).
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
