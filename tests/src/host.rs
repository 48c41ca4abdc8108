//! A host of the lab: a namespace with its cable to the switch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use vipd_common::addr::MacAddr;

use crate::address::{Family, Segment, v6_address};
use crate::namespace::{Namespace, output};

/// A second switch, which [`Host::move_cable`] makes.
const OTHER_SWITCH: &str = "br2";

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its IPv4 address on `eth0`.
    pub address: Ipv4Addr,
    /// Its IPv6 address on `eth0`, if the lab has IPv6.
    pub v6_address: Option<Ipv6Addr>,
    /// The link-layer address of `eth0`.
    pub mac: MacAddr,
    family: Family,
    segment: Segment,
    switch: Namespace,
    port: String,
}

impl Host {
    /// Makes the host `name` and plugs its `eth0` into the switch.
    pub fn plug(
        lab: &str,
        name: &str,
        number: u8,
        switch: &Namespace,
        segment: Segment,
        family: Family,
    ) -> Result<Self> {
        let namespace = Namespace::create(&format!("{lab}-{name}"))?;
        let port = format!("p-{name}");
        cable(&namespace, "eth0", switch, &port, segment, number)?;
        let v6_address = family.has_v6().then(|| v6_address(number));
        if let Some(address) = v6_address {
            // Without `nodad` it could not be used for a second.
            namespace.ip_batch(&format!("addr add {address}/64 dev eth0 nodad\n"))?;
        }
        Ok(Self {
            namespace,
            address: segment.address(number),
            v6_address,
            mac: segment.mac(number),
            family,
            segment,
            switch: switch.clone(),
            port,
        })
    }

    /// Plugs a second interface, `eth1`, into another segment.
    pub fn plug_second(&self, number: u8, segment: Segment) -> Result<()> {
        cable(&self.namespace, "eth1", &self.switch, &self.second_port(), segment, number)
    }

    /// The address by which the lab's programs know each other.
    pub fn service_address(&self) -> IpAddr {
        match self.v6_address {
            Some(v6) if self.family == Family::V6 => v6.into(),
            _ => self.address.into(),
        }
    }

    /// All its addresses on `eth0`.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::from(self.address)].into_iter().chain(self.v6_address.map(IpAddr::from))
    }

    /// The switch's end of the cable of `eth0`.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// The switch's end of the cable of `eth1`.
    pub fn second_port(&self) -> String {
        format!("{}-1", self.port)
    }

    /// Pulls the cable at the switch: the host sees its carrier go, others see nothing at all.
    pub fn link_down(&self) -> Result<()> {
        self.switch.ip_batch(&format!("link set {} down\n", self.port))
    }

    /// Puts the cable back.
    pub fn link_up(&self) -> Result<()> {
        self.switch.ip_batch(&format!("link set {} up\n", self.port))
    }

    /// Moves the cable to another switch, which hangs off the first.
    pub fn move_cable(&self) -> Result<()> {
        let (bridge, port) = (self.segment.bridge(), &self.port);
        self.switch.ip_batch(&format!(
            "link add {OTHER_SWITCH} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {OTHER_SWITCH} up\n\
             link add trunk0 type veth peer name trunk1\n\
             link set trunk0 master {bridge} up\n\
             link set trunk1 master {OTHER_SWITCH} up\n\
             link set {port} master {OTHER_SWITCH}\n"
        ))
    }

    /// Moves it back. The first switch goes on looking for the host behind the other one, until it
    /// hears from it.
    pub fn move_cable_back(&self) -> Result<()> {
        self.switch.ip_batch(&format!("link set {} master {}\n", self.port, self.segment.bridge()))
    }

    /// From now on drops whatever comes from or goes to any other host than `friends`. Its link
    /// works on, and so does what XDP answers.
    pub fn cut_off_except(&self, friends: &[&Host]) -> Result<()> {
        let friends: Vec<_> = friends.iter().flat_map(|host| host.addresses()).collect();
        self.cut_off_except_addresses(&friends)
    }

    /// The same by addresses, which may be such as NAT puts in.
    pub fn cut_off_except_addresses(&self, friends: &[IpAddr]) -> Result<()> {
        let addresses = || friends.iter();
        let rules = |direction, interface, address| {
            let of = |it: IpAddr| if it.is_ipv4() { "ip" } else { "ip6" };
            let accept = addresses().map(|&it| format!("{} {address} {it} accept\n", of(it)));
            format!(
                "chain {direction} {{
                    type filter hook {direction} priority 0; policy drop;
                    {interface} lo accept
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                    {}
                }}\n",
                accept.collect::<String>()
            )
        };
        self.namespace.nft(&format!(
            "table inet cut {{\n{}{}}}\n",
            rules("input", "iifname", "saddr"),
            rules("output", "oifname", "daddr")
        ))
    }

    /// Ends [`Self::cut_off_except_addresses`].
    pub fn rejoin(&self) -> Result<()> {
        self.namespace.nft("delete table inet cut\n")
    }

    /// Drops gratuitous ARP and unsolicited neighbour advertisements before this host's kernel
    /// sees them, as some stacks and hypervisors do.
    pub fn ignore_announcements(&self, vips: &[IpAddr]) -> Result<()> {
        let drop = vips.iter().map(|vip| match vip {
            IpAddr::V4(vip) => {
                format!("ether type arp arp saddr ip {vip} arp daddr ip {vip} drop\n")
            }
            IpAddr::V6(_) => "ip6 daddr ff02::1 icmpv6 type nd-neighbor-advert drop\n".to_owned(),
        });
        self.namespace.nft(&format!(
            "table netdev deaf {{
                chain ingress {{
                    type filter hook ingress device eth0 priority 0; policy accept;
                    {}
                }}
            }}\n",
            drop.collect::<String>()
        ))
    }

    /// Nails the neighbour entry of `address` to `mac`, whatever is heard.
    pub fn pin_neighbour(&self, address: IpAddr, mac: MacAddr) -> Result<()> {
        self.namespace
            .ip_batch(&format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n"))
    }

    /// Whether `address` is on any interface of this host.
    pub fn has_address(&self, address: IpAddr) -> Result<bool> {
        self.lists_address(address, &[])
    }

    /// Whether `address` is on this interface.
    pub fn has_address_on(&self, interface: &str, address: IpAddr) -> Result<bool> {
        self.lists_address(address, &["dev", interface])
    }

    fn lists_address(&self, address: IpAddr, of: &[&str]) -> Result<bool> {
        let wanted = address.to_string();
        let mut ip = std::process::Command::new("ip");
        ip.args(["-n", self.namespace.name(), "-oneline", "addr", "show"]).args(of);
        let listed = output(&mut ip)?;
        let mut words = listed.split_whitespace();
        Ok(words.any(|word| word.split('/').next() == Some(&wanted)))
    }
}

/// A veth pair between a host and a bridge of the switch.
fn cable(
    host: &Namespace,
    interface: &str,
    switch: &Namespace,
    port: &str,
    segment: Segment,
    number: u8,
) -> Result<()> {
    let (address, mac) = (segment.address(number), segment.mac(number));
    switch.ip_batch(&format!(
        "link add {port} type veth peer name {interface} address {mac} netns {}\n\
         link set {port} master {} up\n",
        host.name(),
        segment.bridge()
    ))?;
    host.ip_batch(&format!("addr add {address}/24 dev {interface}\nlink set {interface} up\n"))?;
    // veth leaves TCP checksums to the receiver, and XDP would send them on unfinished.
    output(host.command("ethtool").args(["-K", interface, "tx", "off"]))?;
    Ok(())
}
