//! vipd against the real kernel, in network namespaces: neighbours, ARP, interfaces, the pinned
//! program. Needs root; without it every test fails and says so.

mod announce;
mod datapath;
mod exec;
mod lab;
mod neighbour;
mod netdev;
