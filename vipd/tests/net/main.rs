//! vipd against the real kernel, in network namespaces: neighbours, ARP, interfaces, the pinned
//! program. Needs root, `ip` and `nsenter`; without them every test fails and says so.
//!
//! | file | topology | what |
//! | --- | --- | --- |
//! | neighbour | director -- router -- far | next hops on the link and by a router, followed |
//! | neighbour6 | director -- router -- far | the same in IPv6: NDP, routers by link-local address |
//! | announce | own -- peer | probing for a VIP, ARP and NDP announcements as they arrive at the peer |
//! | check | own -- peer | `vipd check` of VIPs in both families and every mode |
//! | possession | own -- peer | which VIPs may be announced, rivals, interfaces that come back |
//! | datapath | own -- peer | load, pin, attach, take over, undo, refuse, detach |
//! | daemon | own -- peer | `vipd run` on a host that changes under it; no Sentinel, adopted maps |
//! | exec | own -- peer | processes under `ip netns exec` and `nsenter`, killed with -9 |
//! | host_address | own -- peer | VIPs as addresses of the host: what arrives, what leaves |
//! | netdev | own -- peer | what `vipd check` reads |
//! | sysctl | own -- peer | kernel parameters changed, remembered and put back |
//!
//! Not covered: 802.1Q devices on a real kernel (the one this was written on has none; their
//! parsing and resolution have unit tests), XDP links before Linux 5.9, a readable /proc/1 in
//! another mount namespace (it takes the same way as an ancestor, which is covered).

mod announce;
mod check;
mod daemon;
mod datapath;
mod exec;
mod host_address;
mod lab;
mod neighbour;
mod neighbour6;
mod netdev;
mod possession;
mod sysctl;
