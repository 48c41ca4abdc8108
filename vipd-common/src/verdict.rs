//! Every way a frame can leave the XDP program.
//!
//! A verdict is a reason; what the kernel is told ([`Action`]) follows from it in one exhaustive
//! match. Each verdict has a counter of the same name, shown by `vipd status`.

/// What happens to the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Up the host's stack, unchanged.
    Pass,
    /// Away.
    Drop,
    /// Back out of the interface it came in by.
    Transmit,
    /// Out of wherever its next hop is: the same interface, or another one.
    Forward,
}

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal => $action:ident),* $(,)?) => {
        /// Why a frame left the program the way it did.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Verdict { $($(#[doc = $doc])* $variant),* }

        impl Verdict {
            /// All of them; the index is the key in `COUNTERS`.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What happens to the frame.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$variant => Action::$action),* }
            }
        }
    };
}

verdicts! {
    /// Neither IP nor ARP, or too short to say.
    NotOurs = "pass_not_ip" => Pass,
    /// IP for an address that is no VIP's.
    NotVip = "pass_not_vip" => Pass,
    /// ARP about another address, or somebody's probe for a VIP that is not announced now: the
    /// daemon may be probing at the same moment, and must hear it.
    ArpOther = "pass_arp_other" => Pass,
    /// A frame for a VIP that is addressed to another machine's link-layer address: a switch
    /// floods, or the interface is promiscuous.
    OtherHost = "pass_other_host" => Pass,
    /// For this host's own address, and no reply to a flow.
    HostTraffic = "pass_host" => Pass,
    /// Somebody else's ARP claims a VIP. The stack sees it too, and the daemon gets an event.
    ArpRival = "arp_rival" => Pass,
    /// ARP request for a VIP, answered.
    ArpReply = "arp_reply" => Transmit,
    /// ARP request for a VIP that is not announced now, or (mode `real`) never by this host.
    ArpSilent = "arp_silent" => Drop,
    /// Neighbour discovery about another address, or what [`Self::ArpOther`] is besides.
    NdpOther = "pass_ndp_other" => Pass,
    /// Somebody else's advertisement, or solicitation, claims a VIP; see [`Self::ArpRival`].
    NdpRival = "ndp_rival" => Pass,
    /// Neighbour solicitation for a VIP, answered.
    NdpReply = "ndp_reply" => Transmit,
    /// Neighbour solicitation for a VIP that is not announced now; see [`Self::ArpSilent`].
    NdpSilent = "ndp_silent" => Drop,
    /// Neighbour discovery about a VIP that RFC 4861 has discarded: not from this link, or
    /// malformed.
    NdpInvalid = "ndp_invalid" => Drop,
    /// Echo request to a VIP, answered.
    EchoReply = "icmp_echo_reply" => Transmit,
    /// Echo request to a VIP none of whose services is up.
    EchoDown = "icmp_echo_down" => Drop,
    /// ICMP error about a packet to a client, carried to the backend.
    IcmpToBackend = "icmp_to_backend" => Forward,
    /// ICMP error about a packet to a backend, carried to the client.
    IcmpToClient = "icmp_to_client" => Forward,
    /// Any other ICMP to a VIP, and errors about nothing that is known.
    IcmpIgnored = "icmp_ignored" => Drop,
    /// First packet of a new connection, translated.
    NatNew = "nat_new" => Forward,
    /// Client to backend, translated.
    NatToBackend = "nat_to_backend" => Forward,
    /// Backend to client, translated.
    NatToClient = "nat_to_client" => Forward,
    /// A client spoke on a connection to an earlier master: reset.
    NatStaleReset = "nat_stale_reset" => Transmit,
    /// A reset, or anything from the backend, on a connection to an earlier master.
    NatStaleDrop = "nat_stale_drop" => Drop,
    /// A segment of a connection that is not known: reset.
    NoFlowReset = "no_flow_reset" => Transmit,
    /// A reset of a connection that is not known.
    NoFlowDrop = "no_flow_drop" => Drop,
    /// For a VIP in mode `host` of which nobody knows yet which host has it: up the stack, which
    /// drops it unless somebody has bound it here by hand.
    HostUndecided = "host_undecided" => Pass,
    /// For a VIP in mode `host` that this host holds: its stack's.
    HostLocal = "host_local" => Pass,
    /// For a VIP in mode `host` that another host holds, sent on to that one.
    HostStray = "host_stray" => Forward,
    /// For a VIP in mode `host`, from the very host that it would be sent on to: the two disagree.
    HostLoop = "host_loop" => Drop,
    /// For a VIP that this host serves behind a director.
    RealLocal = "real_local" => Pass,
    /// No free source port towards the backend was found.
    NoSourcePort = "no_source_port" => Drop,
    /// The kernel refused a new flow-table entry.
    FlowTableFull = "flow_table_full" => Drop,
    /// Carried to the backend with only its link-layer addresses rewritten.
    DsrToBackend = "dsr_to_backend" => Forward,
    /// The same as [`Self::NatStaleReset`] in mode `dsr`.
    DsrStaleReset = "dsr_stale_reset" => Transmit,
    /// A reset on a connection to an earlier master.
    DsrStaleDrop = "dsr_stale_drop" => Drop,
    /// A TCP port of a VIP that has no service: refused with a reset.
    NoServiceReset = "no_service_reset" => Transmit,
    /// A reset to a TCP port of a VIP that has no service.
    NoServiceDrop = "no_service_drop" => Drop,
    /// The service has no master now.
    ServiceDown = "service_down" => Drop,
    /// The service is between two masters.
    ServiceParked = "service_parked" => Drop,
    /// The active slot is empty: a defect, never a state.
    NoBackend = "no_backend" => Drop,
    /// IP version, header length, total length or source address that can't be.
    BadIpHeader = "bad_ip_header" => Drop,
    /// IPv4 options; no TCP stack sends them to a service.
    IpOptions = "ip_options" => Drop,
    /// A fragment; TCP's path MTU discovery avoids them.
    Fragment = "ip_fragment" => Drop,
    /// An IPv6 extension header; no TCP stack sends them to a service.
    Extension = "ip6_extension" => Drop,
    /// TTL ran out here.
    TtlExpired = "ttl_expired" => Drop,
    /// TCP header that can't be.
    BadTcpHeader = "bad_tcp_header" => Drop,
    /// Neither TCP nor ICMP.
    OtherProtocol = "other_protocol" => Drop,
    /// The interface towards the next hop can't be sent by: it is not in PORTS (any more).
    NoPort = "no_port" => Drop,
    /// The frame could not be resized or re-tagged.
    ResizeFailed = "resize_failed" => Drop,
}

impl Verdict {
    /// How many there are.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_indexes_follow_the_list() {
        let names: BTreeSet<_> = Verdict::ALL.iter().map(|v| v.name()).collect();
        assert_eq!(names.len(), Verdict::ALL.len());
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index);
        }
    }
}
