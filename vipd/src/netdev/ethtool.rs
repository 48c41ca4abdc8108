//! The two ethtool questions that matter here, asked by ioctl: that works in any network
//! namespace, whatever /sys shows.

use std::ffi::{c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GDRVINFO` of linux/ethtool.h.
const GET_DRIVER_INFO: u32 = 0x03;
/// `ETHTOOL_GTXCSUM` of linux/ethtool.h: whether any transmit checksum offload is on.
const GET_TX_CHECKSUM: u32 = 0x16;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Value>() == 8);

/// The driver's name.
pub(super) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GET_DRIVER_INFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    ioctl(interface, &mut info)?;
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Whether transmit checksum offload is on.
pub(super) fn tx_checksum(interface: &str) -> io::Result<bool> {
    let mut value = Value { command: GET_TX_CHECKSUM, data: 0 };
    ioctl(interface, &mut value)?;
    Ok(value.data != 0)
}

/// `T` must be the structure that its first field, the command, stands for.
fn ioctl<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    // SAFETY: ifreq is plain old data; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut *argument).cast::<c_char>();
    // SAFETY: socket() takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` is a valid ifreq whose data points to the structure that its command
    // names (both callers pair them), which the kernel fills and does not keep.
    let result = unsafe {
        libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, (&raw mut request).cast::<c_void>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
