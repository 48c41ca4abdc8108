//! Whether a VIP is free.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::time::Duration;

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;
use vipd_common::addr::MacAddr;

use super::{Claim, Port, arp, link, ndp};

/// Probes sent before an address counts as free.
pub const PROBES: u32 = 3;
/// Wait for an answer after each.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Frames read while one probe waits; a storm ends it early.
const MAX_FRAMES: usize = 10_000;

/// What probing found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occupancy {
    /// Nobody answered.
    Free,
    /// Somebody uses the address, or is probing for it at the same moment and goes first.
    InUse {
        /// Who.
        mac: MacAddr,
    },
}

/// Asks the link whether anybody uses `vip` (RFC 5227 section 2.1.1, RFC 4862 section 5.4). Takes
/// [`PROBES`] x [`PROBE_INTERVAL`] if nobody does, and returns at once if somebody does. Needs a
/// tokio runtime and CAP_NET_RAW.
///
/// What this host's own XDP program answers isn't heard: it answers others' frames only.
///
/// # Errors
///
/// The interface is gone or down, or CAP_NET_RAW is missing.
pub async fn probe(port: Port, vip: IpAddr) -> io::Result<Occupancy> {
    probe_beside(port, &[port.mac], vip).await
}

/// [`probe`] by a host with several interfaces, whose link-layer addresses are `own`: where two of
/// them are on one link, they hear each other.
///
/// # Errors
///
/// As for [`probe`].
pub async fn probe_beside(port: Port, own: &[MacAddr], vip: IpAddr) -> io::Result<Occupancy> {
    let socket = link::listen(port, vip)?;
    // SAFETY: a Socket's descriptor stays open and the same for as long as the AsyncFd owns it.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    let frame = match vip {
        IpAddr::V4(vip) => arp::probe(port.mac, vip),
        IpAddr::V6(vip) => ndp::probe(port.mac, vip),
    };
    for _ in 0..PROBES {
        link::send(socket.get_ref(), port.ifindex, &frame)?;
        let heard = tokio::time::timeout(PROBE_INTERVAL, rival(&socket, port, own, vip)).await;
        if let Ok(mac) = heard {
            return Ok(Occupancy::InUse { mac: mac? });
        }
    }
    Ok(Occupancy::Free)
}

/// The link-layer address of whoever uses, or probes for, `vip`.
async fn rival(
    socket: &AsyncFd<Socket>,
    port: Port,
    own: &[MacAddr],
    vip: IpAddr,
) -> io::Result<MacAddr> {
    let mut buffer = [MaybeUninit::uninit(); 256];
    for _ in 0..MAX_FRAMES {
        let mut guard = socket.readable().await?;
        match guard.try_io(|socket| socket.get_ref().recv(&mut buffer)) {
            Ok(Ok(length)) => {
                // SAFETY: recv initialised the first `length` bytes of the buffer.
                let bytes = unsafe { buffer[..length.min(buffer.len())].assume_init_ref() };
                if let Some(mac) = claimant(bytes, own, vip) {
                    return Ok(mac);
                }
            }
            // ENETDOWN: the interface went down under the socket.
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    warn!(%vip, ifindex = port.ifindex, "a storm of frames; the probe is not reliable");
    std::future::pending().await
}

/// Who uses `vip`, as this frame says, or is about to. Our own frames don't count.
///
/// Of two that probe at once the RFCs let neither have the address, and rely on chance for the
/// next time. Here the one with the lower link-layer address goes on: two directors that start
/// together would otherwise refuse each other for ever, at the same pace.
fn claimant(bytes: &[u8], own: &[MacAddr], vip: IpAddr) -> Option<MacAddr> {
    let claim = match vip {
        IpAddr::V4(vip) => arp::claim(bytes, vip),
        IpAddr::V6(vip) => ndp::claim(bytes, vip),
    };
    match claim? {
        Claim::Uses(mac) | Claim::Probes(mac) if own.contains(&mac) => None,
        Claim::Uses(mac) => Some(mac),
        Claim::Probes(mac) => own.iter().all(|own| mac < *own).then_some(mac),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 50]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);

    /// A VIP of each family, with a probe and an announcement of it by somebody.
    fn vips(by: MacAddr) -> [(IpAddr, Vec<u8>, Vec<u8>); 2] {
        let v4 = std::net::Ipv4Addr::new(198, 18, 0, 250);
        let v6 = "fd98:18::250".parse().expect("an address");
        [
            (v4.into(), arp::probe(by, v4), arp::announcements(by, v4).remove(0)),
            (IpAddr::V6(v6), ndp::probe(by, v6), ndp::announcement(by, v6)),
        ]
    }

    #[test]
    fn who_announces_it_has_it_unless_it_is_ourselves() {
        for (vip, _, announcement) in vips(OTHER) {
            assert_eq!(claimant(&announcement, &[OWN], vip), Some(OTHER));
            assert_eq!(claimant(&announcement, &[OWN, OTHER], vip), None);
        }
    }

    #[test]
    fn of_two_that_probe_at_once_the_lower_address_goes_on() {
        for (vip, probe, _) in vips(OTHER) {
            assert_eq!(claimant(&probe, &[OWN], vip), None);
            assert_eq!(claimant(&probe, &[OTHER], vip), None, "our own");
        }
        for (vip, probe, _) in vips(OWN) {
            assert_eq!(claimant(&probe, &[OTHER], vip), Some(OWN));
        }
    }
}
