//! The three calls of bpf(2) that a [tap](super::tap) needs. Its program is made for each test, and
//! aya loads programs from object files only.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;

use anyhow::{Context as _, Result, bail};

const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const MMAPABLE: u32 = 1 << 10;
/// In front of the stack, with the kernel's own buffers: what a program costs doesn't matter, and
/// the same works on every device.
const GENERIC: u32 = 1 << 1;
const LOG: usize = 1 << 16;

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// A map with one value of type `T`, in memory that programs and this process share.
#[derive(Debug)]
pub struct Shared<T> {
    map: OwnedFd,
    value: NonNull<T>,
}

// SAFETY: it is nothing but memory, of which only shared references are given out; `T` says by `Sync`
// that it may be read and written through those from anywhere.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: see above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// All zero.
    ///
    /// # Safety
    ///
    /// All zero must be a valid `T`, and whatever a program writes there too; `T` is changed by
    /// atomic operations only.
    pub unsafe fn zeroed() -> Result<Self> {
        let attributes = MapCreate {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: u32::try_from(size_of::<T>())?,
            max_entries: 1,
            flags: MMAPABLE,
        };
        let map = bpf(MAP_CREATE, &attributes).context("cannot make a BPF map")?;
        // SAFETY: a new mapping, anywhere, of a map that is at least as long.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map a BPF map");
        }
        let value = NonNull::new(address.cast()).context("mapped at zero")?;
        Ok(Self { map, value })
    }

    /// For a program's instructions.
    pub fn descriptor(&self) -> i32 {
        self.map.as_raw_fd()
    }
}

impl<T> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping lives as long as this, is aligned to a page, and holds a `T` by the
        // promise of `zeroed`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: it is this mapping, and nobody refers to it any more.
        unsafe { libc::munmap(self.value.as_ptr().cast(), size_of::<T>()) };
    }
}

/// Loads an XDP program.
pub fn load(instructions: &[u64]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; LOG];
    let attributes = ProgLoad {
        prog_type: PROG_TYPE_XDP,
        instructions: u32::try_from(instructions.len())?,
        code: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr() as u64,
    };
    match bpf(PROG_LOAD, &attributes) {
        Ok(program) => Ok(program),
        Err(error) => {
            let said = log.split(|&byte| byte == 0).next().unwrap_or_default();
            bail!("the verifier refused: {error}\n{}", String::from_utf8_lossy(said))
        }
    }
}

/// Attaches an XDP program to an interface of the calling thread's namespace, until the link is
/// dropped.
pub fn attach(program: &OwnedFd, ifindex: u32) -> Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    let attributes = LinkCreate { program, ifindex, attach_type: ATTACH_XDP, flags: GENERIC };
    bpf(LINK_CREATE, &attributes).with_context(|| format!("cannot attach to interface {ifindex}"))
}

/// `T` must be the beginning of what `command` takes.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads so many bytes of the attributes, and takes the rest for zero. What
    // they point to lives, by the callers, until the call has returned.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    match i32::try_from(result) {
        // SAFETY: it is new, and nobody else's.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}
