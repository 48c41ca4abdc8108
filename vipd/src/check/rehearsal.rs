//! What the daemon would make of what was heard: the same machine that `vipd run` has is told
//! everything at once, and asked what it wants. So `check` and `run` can't disagree. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use vipd_common::maps::{ForwardMode, Interface};

use crate::clock::Monotonic;
use crate::config::Config;
use crate::failover::{
    Command, Desired, Event, Failover, Notice, PATIENCE, Role, Settings, State, Target,
};
use crate::model::{MasterId, NextHop, SentinelId, unmapped_ip};
use crate::plan::{self, Actual, OwnAddresses, Problem, Step, Topology, Wanted};
use crate::sentinel::{Inspection, MasterAnswer};

/// When everything is heard …
const START: Monotonic = Monotonic(0);
/// When all is said, for as long as the core is patient. The Sentinels go on to say the same.
const END: Monotonic = Monotonic(PATIENCE.as_nanos() as u64);

/// What the core concluded.
#[derive(Clone, Debug)]
pub(super) struct Outlook {
    /// By `MasterId`: whom the Sentinels name, whether or not it answers.
    pub(super) candidates: Vec<Option<Target>>,
    /// By `MasterId`.
    pub(super) desired: Vec<Desired>,
    /// What an operator would hear.
    pub(super) notices: Vec<(MasterId, Notice)>,
}

/// Tells the core what the Sentinels say, and then what the nodes answered.
pub(super) fn elect(
    config: &Config,
    pinned: Option<&Actual>,
    sentinels: &[Inspection],
    roles: &BTreeMap<SocketAddr, Role>,
) -> Outlook {
    let topology = Topology::new(config);
    // Whether a lease has run out makes no difference to whom the Sentinels name.
    let adopted = pinned.map(|actual| topology.adopted(actual, true)).unwrap_or_default();
    let mut failover = Failover::new(&Settings::new(config), &adopted, START);
    let mut candidates: Vec<Option<SocketAddr>> = vec![None; topology.masters.len()];
    let mut notices = Vec::new();
    let roles = roles.iter().map(|(&node, &role)| (START, Event::Role { node, role }));
    let silence = (END, Event::Tick);
    for (at, event) in claims(sentinels).map(|event| (START, event)).chain(roles).chain([silence]) {
        for command in failover.handle(at, event) {
            match command {
                Command::AskRole { master, node } => candidates[master.0] = Some(node),
                Command::Notice { master, notice } => notices.push((master, notice)),
                Command::StopAsking { .. } | Command::Record(_) => {}
            }
        }
    }
    let desired = failover.desired().to_vec();
    let named = |master: usize, addr| claimed(sentinels, MasterId(master), addr);
    let candidates = candidates
        .into_iter()
        .enumerate()
        .map(|(master, asked)| {
            asked.and_then(|addr| named(master, addr)).or(desired[master].target)
        })
        .collect();
    Outlook { candidates, desired, notices }
}

/// One claim for each Sentinel and master name; a Sentinel that is there twice counts once.
fn claims(sentinels: &[Inspection]) -> impl Iterator<Item = Event> {
    let mut seen = BTreeSet::new();
    let mut events = Vec::new();
    for (id, inspection) in sentinels.iter().enumerate() {
        let Ok(answer) = &inspection.answer else { continue };
        if !answer.run_id.is_empty() && !seen.insert(answer.run_id.as_str()) {
            continue;
        }
        let sentinel = SentinelId(id);
        for (master, answer) in answer.masters.iter().enumerate() {
            let master = MasterId(master);
            match answer {
                MasterAnswer::Unknown => events.push(Event::UnknownMaster { sentinel, master }),
                MasterAnswer::Known(known) => {
                    if let Ok(addr) = known.addr {
                        let target = Target { addr, epoch: known.epoch };
                        events.push(Event::Claim { sentinel, master, target, asked: END });
                    }
                }
                MasterAnswer::Changing => {}
            }
        }
    }
    events.into_iter()
}

/// The newest claim for `addr`.
fn claimed(sentinels: &[Inspection], master: MasterId, addr: SocketAddr) -> Option<Target> {
    claims(sentinels)
        .filter_map(|event| match event {
            Event::Claim { master: of, target, .. } if of == master && target.addr == addr => {
                Some(target)
            }
            _ => None,
        })
        .max_by_key(|target| target.epoch)
}

/// What the data plane would look like.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Preview {
    /// What could not be done.
    pub(super) problems: Vec<Problem>,
    /// NAT's source addresses other than the VIPs.
    pub(super) sources: BTreeSet<IpAddr>,
}

/// Plans from nothing for these masters and nodes, as if every master had answered.
pub(super) fn preview(
    config: &Config,
    candidates: &[Option<Target>],
    nodes: &[Vec<SocketAddr>],
    next_hops: &HashMap<IpAddr, NextHop>,
    interfaces: &BTreeMap<u32, Interface>,
    own: &OwnAddresses,
) -> Preview {
    let topology = Topology::new(config);
    let desired: Vec<Desired> = candidates
        .iter()
        .map(|&target| Desired {
            target,
            announce: true,
            state: State::Serving,
            ..Desired::default()
        })
        .collect();
    let may_announce: BTreeSet<IpAddr> = topology.vips.iter().map(|vip| vip.addr).collect();
    let may_announce = &may_announce;
    let replicas = &[];
    let wanted =
        Wanted { desired: &desired, nodes, replicas, next_hops, interfaces, own, may_announce };
    let plan = plan::diff(&topology, &wanted, &Actual::default());
    let sources = plan.steps.iter().filter_map(|step| match step {
        Step::WriteSlot { backend, .. } if backend.mode == ForwardMode::Nat as u32 => {
            Some(unmapped_ip(backend.source))
        }
        _ => None,
    });
    Preview {
        sources: sources.filter(|it| !may_announce.contains(it)).collect(),
        problems: plan.problems,
    }
}
