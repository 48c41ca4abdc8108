//! Ethernet and 802.1Q: where a frame came from, and sending it on.

use vipd_common::addr::MacAddr;
use vipd_common::wire::Header;
use vipd_common::wire::eth::{self, EthHeader, VlanTag};

use crate::frame::{Frame, ResizeFailed};

/// The link-layer facts of a frame that came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Sender: the client or a router.
    pub src: MacAddr,
    /// Whom it is addressed to.
    pub dst: MacAddr,
    /// EtherType after the tag, if there is one.
    pub ethertype: [u8; 2],
    /// 802.1Q VLAN id, 0 for none.
    pub vlan: u16,
    /// Offset of the network header.
    pub l3: usize,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Link-layer address of the next hop.
    pub dst: MacAddr,
    /// Link-layer address of the interface it leaves by.
    pub src: MacAddr,
    /// 802.1Q VLAN id, 0 for none.
    pub vlan: u16,
    /// Index of that interface.
    pub ifindex: u32,
}

/// Reads the Ethernet header and one 802.1Q tag. `None` if the frame is too short for them.
#[inline(always)]
pub fn arrival(frame: &mut impl Frame) -> Option<Arrival> {
    let eth = *frame.at::<EthHeader>(0)?;
    let mut arrival = Arrival {
        src: eth.src,
        dst: eth.dst,
        ethertype: eth.ethertype,
        vlan: 0,
        l3: EthHeader::LEN,
    };
    if eth.ethertype == eth::VLAN {
        let tag = frame.at::<VlanTag>(EthHeader::LEN)?;
        arrival.vlan = tag.vid();
        arrival.ethertype = tag.ethertype;
        arrival.l3 = EthHeader::LEN + VlanTag::LEN;
    }
    Some(arrival)
}

/// Addresses the frame to its sender, from `own`. A tag stays as it is.
#[inline(always)]
pub fn turn_around(frame: &mut impl Frame, own: MacAddr) {
    if let Some(eth) = frame.at::<EthHeader>(0) {
        eth.dst = eth.src;
        eth.src = own;
    }
}

/// Addresses the frame to its next hop; adds, changes or removes the tag where the VLANs differ.
///
/// # Errors
///
/// [`ResizeFailed`] if a tag had to be added or removed and couldn't.
#[inline(always)]
pub fn depart(
    frame: &mut impl Frame,
    arrival: &Arrival,
    to: &Departure,
) -> Result<(), ResizeFailed> {
    let tagged = arrival.l3 != EthHeader::LEN;
    match (tagged, to.vlan != 0) {
        (false, false) => {}
        (true, true) => {
            let tag = frame.at::<VlanTag>(EthHeader::LEN).ok_or(ResizeFailed)?;
            let priority = tag.tci[0] & 0xf0;
            let [high, low] = to.vlan.to_be_bytes();
            tag.tci = [priority | (high & 0x0f), low];
        }
        (true, false) => {
            frame.move_start(VlanTag::LEN as i32)?;
            frame.at::<EthHeader>(0).ok_or(ResizeFailed)?.ethertype = arrival.ethertype;
        }
        (false, true) => {
            frame.move_start(-(VlanTag::LEN as i32))?;
            frame.at::<EthHeader>(0).ok_or(ResizeFailed)?.ethertype = eth::VLAN;
            let tag = frame.at::<VlanTag>(EthHeader::LEN).ok_or(ResizeFailed)?;
            *tag = VlanTag { tci: to.vlan.to_be_bytes(), ethertype: arrival.ethertype };
        }
    }
    let eth = frame.at::<EthHeader>(0).ok_or(ResizeFailed)?;
    eth.dst = to.dst;
    eth.src = to.src;
    Ok(())
}
