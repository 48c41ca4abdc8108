//! A host of the lab: a namespace with its cable to the switch.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::namespace::{Namespace, output};

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its address on `eth0`.
    pub address: Ipv4Addr,
    switch: Namespace,
    port: String,
}

/// Which bridge of the switch a cable goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// 198.18.0.0/24: clients and the VIP, and everything else where the director has one NIC.
    Front,
    /// 198.19.0.0/24: the Redis hosts, where the director has two NICs.
    Back,
}

impl Segment {
    /// The bridge's name in the switch's namespace.
    pub fn bridge(self) -> &'static str {
        match self {
            Self::Front => "br0",
            Self::Back => "br1",
        }
    }

    /// The address of host number `host`.
    pub fn address(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Front => Ipv4Addr::new(198, 18, 0, host),
            Self::Back => Ipv4Addr::new(198, 19, 0, host),
        }
    }
}

impl Host {
    /// Makes the host `name` and plugs its `eth0` into the switch.
    pub fn plug(
        lab: &str,
        name: &str,
        number: u8,
        switch: &Namespace,
        segment: Segment,
    ) -> Result<Self> {
        let namespace = Namespace::create(&format!("{lab}-{name}"))?;
        let port = format!("p-{name}");
        cable(&namespace, "eth0", switch, &port, segment, number)?;
        Ok(Self { namespace, address: segment.address(number), switch: switch.clone(), port })
    }

    /// Plugs a second interface, `eth1`, into another segment.
    pub fn plug_second(&self, number: u8, segment: Segment) -> Result<()> {
        cable(&self.namespace, "eth1", &self.switch, &self.second_port(), segment, number)
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

    /// From now on drops whatever comes from or goes to any other host than `friends`.
    pub fn cut_off_except(&self, friends: &[Ipv4Addr]) -> Result<()> {
        let friends: Vec<_> = friends.iter().map(Ipv4Addr::to_string).collect();
        let friends = friends.join(", ");
        self.namespace.nft(&format!(
            "table ip cut {{
                chain input {{
                    type filter hook input priority 0; policy drop;
                    iifname lo accept
                    ip saddr {{ {friends} }} accept
                }}
                chain output {{
                    type filter hook output priority 0; policy drop;
                    oifname lo accept
                    ip daddr {{ {friends} }} accept
                }}
            }}\n"
        ))
    }

    /// Ends [`Self::cut_off_except`].
    pub fn rejoin(&self) -> Result<()> {
        self.namespace.nft("delete table ip cut\n")
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
    let address = segment.address(number);
    let [_, segment_byte, _, host_byte] = address.octets();
    let mac = format!("02:00:00:{segment_byte:02x}:00:{host_byte:02x}");
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
