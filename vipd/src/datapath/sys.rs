//! Two things of bpf(2) that aya keeps to itself: which interface a pinned link is on, and
//! detaching a link whoever else holds it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// bpf(2). Each caller lays `attributes` out as its command wants and keeps alive what they
/// point to.
fn bpf<const N: usize>(command: libc::c_int, attributes: &[u64; N]) -> io::Result<i32> {
    // SAFETY: the attributes are as long as said, and pointers in them are valid for the
    // command's use during the call (see the callers above).
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes))
    };
    match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
