//! Ethernet and 802.1Q: where a frame came from, and sending it on.

use vipd_common::addr::MacAddr;
use vipd_common::wire::Header;
use vipd_common::wire::eth::{self, EthHeader, VlanTag};

use crate::frame::{Frame, ResizeFailed};

/// The link-layer facts of a frame that came in. (The order of the fields keeps the addresses
/// aligned; see [`vipd_common::maps`].)
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Sender: the client or a router.
    pub src: MacAddr,
    /// 802.1Q VLAN id, 0 for none.
    pub vlan: u16,
    /// Whom it is addressed to.
    pub dst: MacAddr,
    /// Offset of the network header.
    l3: u16,
}

impl Arrival {
    /// Offset of the network header: 14 or 18. The mask changes neither; it lets the verifier,
    /// which has lost sight of where the number came from, see that it is small.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.l3 as usize & 0x1f
    }

    #[inline(always)]
    const fn is_tagged(&self) -> bool {
        self.l3() != EthHeader::LEN
    }
}

/// Where a frame goes. (For the order of the fields see [`Arrival`].)
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Link-layer address of the next hop.
    pub dst: MacAddr,
    /// 802.1Q VLAN id, 0 for none.
    pub vlan: u16,
    /// Link-layer address of the interface it leaves by.
    pub src: MacAddr,
    /// Index of that interface.
    pub ifindex: u32,
}

/// Reads the Ethernet header and one 802.1Q tag, and the EtherType of what follows them. `None`
/// if the frame is too short for them.
#[inline(always)]
pub fn arrival(frame: &mut impl Frame) -> Option<(Arrival, [u8; 2])> {
    let eth = frame.at::<EthHeader>(0)?;
    let mut arrival = Arrival { src: eth.src, dst: eth.dst, vlan: 0, l3: EthHeader::LEN as u16 };
    let mut ethertype = eth.ethertype;
    if ethertype == eth::VLAN {
        let tag = frame.at::<VlanTag>(EthHeader::LEN)?;
        ethertype = tag.ethertype;
        arrival.vlan = tag.vid();
        arrival.l3 = (EthHeader::LEN + VlanTag::LEN) as u16;
    }
    Some((arrival, ethertype))
}

/// Addresses the frame to its sender, from `own`. A tag stays as it is.
#[inline(always)]
pub fn turn_around(frame: &mut impl Frame, own: MacAddr) {
    if let Some(eth) = frame.at::<EthHeader>(0) {
        eth.dst = eth.src;
        eth.src = own;
    }
}

/// Addresses the frame to its next hop and chooses its interface; adds, changes or removes the tag
/// where the VLANs differ.
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
    match (arrival.is_tagged(), to.vlan != 0) {
        (false, false) => {}
        (true, true) => {
            let tag = frame.at::<VlanTag>(EthHeader::LEN).ok_or(ResizeFailed)?;
            let priority = tag.tci[0] & 0xf0;
            let [high, low] = to.vlan.to_be_bytes();
            tag.tci = [priority | (high & 0x0f), low];
        }
        (true, false) => {
            let ethertype = frame.at::<VlanTag>(EthHeader::LEN).ok_or(ResizeFailed)?.ethertype;
            frame.move_start(VlanTag::LEN as i32)?;
            frame.at::<EthHeader>(0).ok_or(ResizeFailed)?.ethertype = ethertype;
        }
        (false, true) => {
            let ethertype = frame.at::<EthHeader>(0).ok_or(ResizeFailed)?.ethertype;
            frame.move_start(-(VlanTag::LEN as i32))?;
            frame.at::<EthHeader>(0).ok_or(ResizeFailed)?.ethertype = eth::VLAN;
            let tag = frame.at::<VlanTag>(EthHeader::LEN).ok_or(ResizeFailed)?;
            *tag = VlanTag { tci: to.vlan.to_be_bytes(), ethertype };
        }
    }
    let eth = frame.at::<EthHeader>(0).ok_or(ResizeFailed)?;
    eth.dst = to.dst;
    eth.src = to.src;
    frame.set_egress(to.ifindex);
    Ok(())
}
