//! The kernel's list of XDP features: generic netlink family `netdev` (Linux 6.3;
//! Documentation/netlink/specs/netdev.yaml). Asking does not touch the NIC.

use std::io;

use rtnetlink::packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};

use super::NativeXdp;
use super::netlink::Netlink;

const NETLINK_GENERIC: isize = 16;
/// The generic netlink controller's fixed family id.
const CONTROLLER: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the driver runs programs (PASS, DROP, ABORTED, TX).
const XDP_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`: it can be the target of a redirect.
const XDP_TARGET: u64 = 1 << 2;

/// Whether the driver of `ifindex` runs XDP.
pub(super) fn native_xdp(ifindex: u32) -> NativeXdp {
    match features(ifindex) {
        Ok(features) if features & XDP_BASIC != 0 => {
            NativeXdp::Supported { redirect_target: features & XDP_TARGET != 0 }
        }
        Ok(_) => NativeXdp::Unsupported,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => NativeXdp::Unknown(
            "the kernel does not tell (it has no netlink family `netdev`, which came with 6.3)"
                .to_owned(),
        ),
        Err(error) => NativeXdp::Unknown(format!("the kernel does not tell: {error}")),
    }
}

fn features(ifindex: u32) -> io::Result<u64> {
    let mut netlink = Netlink::open(NETLINK_GENERIC)?;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = netlink.get(Generic::new(CONTROLLER, CTRL_CMD_GETFAMILY, 2, &name))?;
    let id = family
        .attribute(CTRL_ATTR_FAMILY_ID)
        .and_then(|bytes| bytes.get(..2)?.try_into().ok().map(u16::from_ne_bytes))
        .ok_or_else(malformed)?;
    let device = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
    let answer = netlink.get(Generic::new(id, NETDEV_CMD_DEV_GET, 1, &device))?;
    answer
        .attribute(NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|bytes| bytes.get(..8)?.try_into().ok().map(u64::from_ne_bytes))
        .ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed generic netlink answer")
}

/// A generic netlink message: family (the netlink type), command, version, raw attributes.
#[derive(Clone, Debug)]
struct Generic {
    family: u16,
    payload: Vec<u8>,
}

impl Generic {
    fn new(family: u16, command: u8, version: u8, attributes: &[u8]) -> Self {
        let mut payload = vec![command, version, 0, 0];
        payload.extend_from_slice(attributes);
        Self { family, payload }
    }

    /// The value of the first attribute of that type.
    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        let mut rest = self.payload.get(4..)?;
        while let Some(header) = rest.get(..4) {
            let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
            let this = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
            let value = rest.get(4..length)?;
            if this == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

/// One attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.payload.len()].copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { family: header.message_type, payload: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_a_bad_length_ends_the_search() {
        let mut bytes = attribute(1, &[7]);
        bytes.extend(attribute(3, &[1, 2, 3, 4, 5, 6, 7, 8]));
        let message = Generic::new(20, 1, 1, &bytes);
        assert_eq!(message.attribute(3), Some(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
        assert_eq!(message.attribute(1), Some(&[7][..]));
        assert_eq!(message.attribute(2), None);
        for length in [0_u16, 3, 200] {
            let mut bad = Generic::new(20, 1, 1, &bytes);
            bad.payload[4..6].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(bad.attribute(3), None, "length {length}");
        }
    }
}
