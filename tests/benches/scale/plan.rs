//! What the plan costs, without anything around it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vipd::config::Config;
use vipd::failover::{Desired, State, Target};
use vipd::model::{Epoch, NextHop};
use vipd::plan::{self, Actual, OwnAddresses, Topology, Wanted};
use vipd_common::addr::MacAddr;
use vipd_common::maps::Interface;

use crate::VIPS;
use crate::site::{self, MASTERS};

const TIMES: usize = 200;
const LAN: u32 = 2;

/// Medians of a plan for all services, and for one.
pub fn print() -> Result<()> {
    for (vips, masters) in [(VIPS, MASTERS), (1, 1)] {
        let mut host = Host::new(vips, masters)?;
        let idle = median(|| {
            let begun = Instant::now();
            let plan = host.plan();
            ensure!(plan.steps.is_empty(), "there is something to do");
            Ok(begun.elapsed())
        })?;
        let mut round = 0;
        let flip = median(|| {
            round += 1;
            host.desired[0].target = Some(target(0, round % 2, round as u64));
            let begun = Instant::now();
            let plan = host.plan();
            let elapsed = begun.elapsed();
            ensure!(plan.steps.len() == 2 * vips, "{} steps", plan.steps.len());
            plan.steps.iter().for_each(|step| host.actual.apply(step));
            Ok(elapsed)
        })?;
        println!(
            "plan of {:>4} service(s): {:>7.1} µs with nothing to do, {:>7.1} µs for a failover",
            vips * masters,
            idle.as_secs_f64() * 1e6,
            flip.as_secs_f64() * 1e6
        );
    }
    println!();
    Ok(())
}

fn median(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..TIMES).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[TIMES / 2])
}

struct Host {
    topology: Topology,
    desired: Vec<Desired>,
    nodes: Vec<Vec<SocketAddr>>,
    next_hops: HashMap<IpAddr, NextHop>,
    interfaces: BTreeMap<u32, Interface>,
    own: OwnAddresses,
    may_announce: BTreeSet<IpAddr>,
    actual: Actual,
}

impl Host {
    /// All services served.
    fn new(vips: usize, masters: usize) -> Result<Self> {
        let text = site::vip_tables(0..vips, 0..masters);
        let topology = Topology::new(&Config::parse(&text, Path::new("bench"))?);
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let hop = |host: usize| {
            let own: IpAddr = "198.18.0.50".parse()?;
            let hop = NextHop {
                ifindex: LAN,
                own_mac: mac(50),
                mac: mac(u8::try_from(host)?),
                vlan: 0,
                router: None,
                source: own,
                on_link: vec![(own, 24)],
            };
            anyhow::Ok((site::redis_address(host).into(), hop))
        };
        let desired = (0..masters).map(|master| Desired {
            target: Some(target(master, 0, 0)),
            announce: true,
            state: State::Serving,
            ..Desired::default()
        });
        let mut host = Self {
            may_announce: topology.vips.iter().map(|vip| vip.addr).collect(),
            desired: desired.collect(),
            nodes: (0..masters)
                .map(|master| [0, 1].map(|n| site::node(master, n)).into())
                .collect(),
            next_hops: (0..3).map(hop).collect::<Result<_>>()?,
            interfaces: BTreeMap::from([(LAN, Interface { mac: mac(50), zero: [0; 2] })]),
            own: OwnAddresses::default(),
            actual: Actual::default(),
            topology,
        };
        let plan = host.plan();
        ensure!(plan.problems.is_empty(), "{:?}", plan.problems);
        plan.steps.iter().for_each(|step| host.actual.apply(step));
        Ok(host)
    }

    fn plan(&self) -> plan::Plan {
        let wanted = Wanted {
            desired: &self.desired,
            nodes: &self.nodes,
            replicas: &[],
            next_hops: &self.next_hops,
            interfaces: &self.interfaces,
            own: &self.own,
            may_announce: &self.may_announce,
        };
        plan::diff(&self.topology, &wanted, &self.actual)
    }
}

fn target(master: usize, node: usize, epoch: u64) -> Target {
    Target { addr: site::node(master, node), epoch: Epoch(epoch) }
}
