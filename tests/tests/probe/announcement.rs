//! A host says that it has an address now, once.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use vipd_tests::host::Host;

/// Gratuitous ARP, or an unsolicited neighbour advertisement, of an address that the host has.
pub fn send(host: &Host, address: IpAddr) -> Result<()> {
    match address {
        IpAddr::V4(address) => {
            let mut arping = host.namespace.command("arping");
            arping.args(["-U", "-c", "1", "-I", "eth0"]).arg(address.to_string());
            // Nobody answers it, which arping takes for a failure in some versions.
            arping.output().context("cannot start arping").map(drop)
        }
        IpAddr::V6(address) => host.namespace.run(|| advertise(host, address))?,
    }
}

fn advertise(host: &Host, address: Ipv6Addr) -> Result<()> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let interface = if_nametoindex("eth0")?;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    // RFC 4861 section 7.1.2: else it is not believed.
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(interface)?;
    socket.bind(&SocketAddr::new(address.into(), 0).into())?;
    // Type, code, checksum (the kernel's), and "override".
    let mut advertisement = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    advertisement.extend(address.octets());
    advertisement.extend([2, 1]);
    advertisement.extend(host.mac.0);
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, interface);
    socket.send_to(&advertisement, &to.into())?;
    Ok(())
}
