//! Packet sockets.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tracing::debug;
use vipd_common::addr::MacAddr;

use super::{Port, ndp};

/// Ethertypes, as `sll_protocol` wants them.
const ARP: u16 = libc::ETH_P_ARP as u16;
const IPV6: u16 = libc::ETH_P_IPV6 as u16;

/// Only ICMPv6 types 135 and 136 without extension headers, which neighbour discovery has none of
/// (RFC 4861 section 4 and RFC 6980): the other traffic of a busy host would drown them.
const NEIGHBOUR_DISCOVERY: [SockFilter; 7] = {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        // Next header, behind 14 bytes of Ethernet.
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(EQUAL, 0, 3, 58),
        // Types 135 and 136 are 0x87 and 0x88.
        SockFilter::new(LOAD_BYTE, 0, 0, 54),
        SockFilter::new(EQUAL, 2, 0, 135),
        SockFilter::new(EQUAL, 1, 0, 136),
        // Nothing of it, or all.
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

/// A socket that only sends: protocol 0 hears nothing.
pub(super) fn sender() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)
}

/// Sends an Ethernet frame by an interface.
pub(super) fn send(socket: &Socket, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    let ethertype = frame.get(12..14).map_or([0; 2], |bytes| [bytes[0], bytes[1]]);
    let to = address(ifindex, u16::from_be_bytes(ethertype));
    socket.send_to(frame, &to).map(drop)
}

/// A socket that hears the ARP or neighbour discovery about `vip` on one interface, not what this
/// host sends.
pub(crate) fn listen(port: Port, vip: IpAddr) -> io::Result<Socket> {
    // Protocol 0 until it is bound, or it would hear other interfaces in between.
    let socket = sender()?;
    let on: libc::c_int = 1;
    if let Err(error) = set(&socket, libc::PACKET_IGNORE_OUTGOING, &on) {
        // Before Linux 4.20: our own frames are told apart by their sender.
        debug!(%error, "PACKET_IGNORE_OUTGOING");
    }
    match vip {
        IpAddr::V4(_) => socket.bind(&address(port.ifindex, ARP))?,
        IpAddr::V6(vip) => {
            socket.attach_filter(&NEIGHBOUR_DISCOVERY)?;
            socket.bind(&address(port.ifindex, IPV6))?;
            // The answer to a probe goes to all nodes, somebody else's probe to the VIP's group; the
            // interface drops both unless somebody wants them.
            for group in [ndp::ALL_NODES, ndp::solicited_node(vip)] {
                accept(&socket, port.ifindex, ndp::multicast_mac(group))?;
            }
        }
    }
    Ok(socket)
}

/// A socket that hears everything on one interface that is ARP, to or from `address`, or (for IPv6)
/// ICMPv6: what this host sends as well.
pub(crate) fn capture(ifindex: u32, address: IpAddr) -> io::Result<Socket> {
    let socket = sender()?;
    socket.attach_filter(&about(address))?;
    socket.bind(&self::address(ifindex, libc::ETH_P_ALL as u16))?;
    Ok(socket)
}

/// Classic BPF on frames. Of an IPv6 address its last four bytes have to do.
fn about(address: IpAddr) -> [SockFilter; 11] {
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Ethernet has 14 bytes. IPv4: protocol at 9, addresses at 12 and 16; IPv6: 6, 8 and 24.
    let (ethertype, protocol, always, [from, to], word) = match address {
        // No protocol is 256.
        IpAddr::V4(it) => (libc::ETH_P_IP as u32, 14 + 9, 256, [14 + 12, 14 + 16], it.to_bits()),
        IpAddr::V6(it) => {
            (libc::ETH_P_IPV6 as u32, 14 + 6, 58, [14 + 20, 14 + 36], it.to_bits() as u32)
        }
    };
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(EQUAL, 7, 0, u32::from(ARP)),
        SockFilter::new(EQUAL, 0, 7, ethertype),
        SockFilter::new(LOAD_BYTE, 0, 0, protocol),
        SockFilter::new(EQUAL, 4, 0, always),
        SockFilter::new(LOAD_WORD, 0, 0, from),
        SockFilter::new(EQUAL, 2, 0, word),
        SockFilter::new(LOAD_WORD, 0, 0, to),
        SockFilter::new(EQUAL, 0, 1, word),
        // All of it, or nothing.
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Has the interface pass frames for a multicast address, for as long as the socket is open.
fn accept(socket: &Socket, ifindex: u32, group: MacAddr) -> io::Result<()> {
    let mut mr_address = [0; 8];
    mr_address[..6].copy_from_slice(&group.0);
    let request = libc::packet_mreq {
        mr_ifindex: ifindex as libc::c_int,
        mr_type: libc::PACKET_MR_MULTICAST as libc::c_ushort,
        mr_alen: 6,
        mr_address,
    };
    set(socket, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// `T` must be what the option takes.
fn set<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is read during the call; its address and size are given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `sockaddr_ll` for a protocol on an interface; the link-layer addresses are in the frames.
fn address(ifindex: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is an address structure that fits; the storage is zeroed, which is a
    // valid sockaddr_ll.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = ifindex as libc::c_int;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll of that length.
    unsafe { SockAddr::new(storage, length) }
}
