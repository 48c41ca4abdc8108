//! A model of a deployment: Redis nodes that die and come back, and Sentinels that elect a leader, fail
//! over, give up, lie and are cut off. It tells the machine what real ones would, late, twice or not
//! at all, and asks what it serves.
//!
//! The steps of a failover and their times are those of sentinel.c (`sentinelFailoverStateMachine`)
//! with a short `failover-timeout`.

use std::collections::BinaryHeap;

use super::*;

pub(super) const NODES: usize = 3;
pub(super) const SENTINELS: usize = 3;

/// From the death of a master to an election that somebody wins.
const DOWN_AFTER_MS: u64 = 700;
/// From `+selected-slave` to SLAVEOF NO ONE, and from there to the leader's INFO.
const PROMOTE_MS: u64 = 100;
const INFO_MS: u64 = 900;
/// From the leader's new epoch to the others', and to the leader's own `+switch-master`.
const GOSSIP_MS: u64 = 100;
const RECONFIGURE_MS: u64 = 1_000;
const FAILOVER_TIMEOUT_MS: u64 = 5_000;
/// A node that calls itself master and is none is made a replica after this long.
const CONVERT_MS: u64 = 10_000;
/// The machine reads everything again this often, and whom it asks this often.
const LEVEL_MS: u64 = 1_000;
const ASK_MS: u64 = 5;
const LINK_MS: u64 = 1;

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Kill(usize),
    Restart(usize),
    /// The Sentinel's process.
    KillSentinel(usize),
    RestartSentinel(usize),
    /// The link between it and vipd only.
    Cut(usize),
    Mend(usize),
    /// `SENTINEL FAILOVER`.
    Manual(usize),
    /// `+selected-slave` of a failover that doesn't exist.
    Lie(usize, usize),
    /// `-failover-abort-not-elected`, as those publish who were not.
    GiveUp(usize),
}

#[derive(Clone, Copy, Debug)]
struct Node {
    is_alive: bool,
    is_master: bool,
    /// It was promoted, and not started as a master.
    is_heir: bool,
    /// A master that no Sentinel names, since when.
    stray_since: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sentinel {
    is_alive: bool,
    is_cut: bool,
    view: (usize, u64),
}

/// A failover that a leader is at.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    leader: usize,
    candidate: usize,
    epoch: u64,
    begun: u64,
    told: bool,
    seen: Option<u64>,
}

/// What reaches the machine, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Delivery {
    at: u64,
    order: u64,
    event: Event,
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

pub(super) struct Deployment {
    pub(super) machine: Checked,
    nodes: [Node; NODES],
    sentinels: [Sentinel; SENTINELS],
    epoch: u64,
    attempt: Option<Attempt>,
    master_down_since: Option<u64>,
    now: u64,
    deliveries: BinaryHeap<Delivery>,
    ordered: u64,
    /// Where chance comes from, round and round.
    chances: Vec<u8>,
    chance: usize,
    /// Who was confirmed at each epoch.
    owners: BTreeMap<Epoch, SocketAddr>,
    parked_since: Option<u64>,
    unreliable: bool,
}

impl Deployment {
    pub(super) fn new(settings: &Settings, chances: Vec<u8>) -> Self {
        let node =
            |n| Node { is_alive: true, is_master: n == 0, is_heir: n != 0, stray_since: None };
        let sentinel = Sentinel { is_alive: true, is_cut: false, view: (0, 0) };
        Self {
            machine: Checked::new(settings, None),
            nodes: std::array::from_fn(node),
            sentinels: [sentinel; SENTINELS],
            epoch: 0,
            attempt: None,
            master_down_since: None,
            now: 0,
            deliveries: BinaryHeap::new(),
            ordered: 0,
            chances,
            chance: 0,
            owners: BTreeMap::new(),
            parked_since: None,
            unreliable: true,
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1;
            self.act();
            self.ask();
            self.deliver();
        }
    }

    pub(super) fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(n) => self.nodes[n].is_alive = false,
            Fault::Restart(n) if !self.nodes[n].is_alive => {
                // It has its configuration, and its data; not the role that it was given meanwhile.
                let is_heir = !self.nodes[n].is_master;
                self.nodes[n] = Node { is_alive: true, is_heir, ..self.nodes[n] };
            }
            Fault::Restart(_) => {}
            Fault::KillSentinel(s) => {
                self.sentinels[s].is_alive = false;
                self.lost(s);
            }
            Fault::RestartSentinel(s) => self.sentinels[s].is_alive = true,
            Fault::Cut(s) => {
                self.sentinels[s].is_cut = true;
                self.lost(s);
            }
            Fault::Mend(s) => self.sentinels[s].is_cut = false,
            Fault::Manual(s) => self.begin(s),
            Fault::Lie(s, n) => {
                self.publish(s, Sighting::Selected(Some(self.addr(n))));
            }
            Fault::GiveUp(s) => self.publish(s, Sighting::Aborted),
        }
    }

    /// Everybody is back, everybody is heard, and nothing is lost any more.
    pub(super) fn mend_everything(&mut self) {
        self.unreliable = false;
        for n in 0..NODES {
            self.inflict(Fault::Restart(n));
        }
        for s in 0..SENTINELS {
            self.inflict(Fault::RestartSentinel(s));
            self.inflict(Fault::Mend(s));
        }
    }

    /// The master that every Sentinel names, if it is one.
    pub(super) fn master(&self) -> Option<SocketAddr> {
        let (n, _) = self.sentinels[0].view;
        let agreed = self.sentinels.iter().all(|it| it.view == self.sentinels[0].view);
        (agreed && self.nodes[n].is_alive && self.nodes[n].is_master).then(|| self.addr(n))
    }

    fn addr(&self, n: usize) -> SocketAddr {
        node(101 + n as u8)
    }

    /// What Redis and Sentinel do in this millisecond.
    fn act(&mut self) {
        let newest = self.sentinels.iter().map(|it| it.view).max_by_key(|it| it.1).unwrap();
        self.elect_if_down();
        if let Some(attempt) = self.attempt {
            self.go_on(attempt);
        }
        // Hello messages.
        if self.now.is_multiple_of(GOSSIP_MS) {
            for s in 0..SENTINELS {
                if self.sentinels[s].is_alive && self.sentinels[s].view.1 < newest.1 {
                    self.sentinels[s].view = newest;
                    self.publish(s, Sighting::SwitchMaster);
                }
            }
        }
        let promoted = self.attempt.map(|it| it.candidate);
        for n in 0..NODES {
            let node = &mut self.nodes[n];
            let is_stray = node.is_alive && node.is_master && n != newest.0 && Some(n) != promoted;
            let named = &self.sentinels.iter().find(|it| it.is_alive);
            if !is_stray || named.is_none() {
                node.stray_since = None;
                continue;
            }
            let since = *node.stray_since.get_or_insert(self.now);
            let sane = self.nodes[newest.0].is_alive && self.nodes[newest.0].is_master;
            if sane && self.now - since >= CONVERT_MS {
                self.nodes[n].is_master = false;
                self.nodes[n].is_heir = true;
            }
        }
    }

    fn elect_if_down(&mut self) {
        let Some(s) = self.sentinels.iter().position(|it| it.is_alive) else { return };
        let alive = self.sentinels.iter().filter(|it| it.is_alive).count();
        let (master, _) = self.sentinels[s].view;
        if self.nodes[master].is_alive && self.nodes[master].is_master {
            self.master_down_since = None;
            return;
        }
        let since = *self.master_down_since.get_or_insert(self.now);
        if self.attempt.is_none() && alive > SENTINELS / 2 && self.now - since >= DOWN_AFTER_MS {
            self.publish(s, Sighting::Sdown);
            self.publish(s, Sighting::Odown);
            let start = self.draw();
            let mut others = (0..SENTINELS).map(|n| (n + start) % SENTINELS);
            let leader = others.find(|s| self.sentinels[*s].is_alive);
            self.begin(leader.unwrap_or(s));
        }
    }

    fn begin(&mut self, leader: usize) {
        if self.attempt.is_some() || !self.sentinels[leader].is_alive {
            return;
        }
        let (master, _) = self.sentinels[leader].view;
        let start = self.draw();
        let candidate = (0..NODES)
            .map(|n| (n + start) % NODES)
            .find(|&n| n != master && self.nodes[n].is_alive && !self.nodes[n].is_master);
        // -failover-abort-no-good-slave
        let Some(candidate) = candidate else { return };
        self.epoch += 1;
        let (epoch, begun) = (self.epoch, self.now);
        self.attempt = Some(Attempt { leader, candidate, epoch, begun, told: false, seen: None });
        self.publish(leader, Sighting::Selected(Some(self.addr(candidate))));
    }

    fn go_on(&mut self, attempt: Attempt) {
        let Attempt { leader, candidate, epoch, begun, told, seen } = attempt;
        if !self.sentinels[leader].is_alive {
            // Nobody finishes what it began.
            self.attempt = None;
            return;
        }
        let age = self.now - begun;
        let node = self.nodes[candidate];
        if !told && age >= PROMOTE_MS && node.is_alive {
            self.nodes[candidate].is_master = true;
            self.attempt = Some(Attempt { told: true, ..attempt });
            self.publish(leader, Sighting::Promoting(Some(self.addr(candidate))));
        } else if told && seen.is_none() && age >= PROMOTE_MS + INFO_MS && node.is_alive {
            self.attempt = Some(Attempt { seen: Some(self.now), ..attempt });
            self.sentinels[leader].view = (candidate, epoch);
            self.publish(leader, Sighting::Promoted(Some(self.addr(candidate))));
        } else if seen.is_some_and(|seen| self.now - seen >= RECONFIGURE_MS) {
            self.attempt = None;
            self.publish(leader, Sighting::End);
            self.publish(leader, Sighting::SwitchMaster);
        } else if seen.is_none() && age >= FAILOVER_TIMEOUT_MS {
            self.attempt = None;
            self.publish(leader, Sighting::Aborted);
        }
    }

    /// What vipd asks by itself.
    fn ask(&mut self) {
        if self.now.is_multiple_of(LEVEL_MS) {
            for s in 0..SENTINELS {
                self.claim(s);
            }
        }
        for n in 0..NODES {
            let pressed = self.machine.asking == Some(self.addr(n));
            let pace = if pressed { ASK_MS } else { LEVEL_MS };
            if (self.now + 7 * n as u64).is_multiple_of(pace) {
                self.answer(n);
            }
        }
    }

    fn answer(&mut self, n: usize) {
        let it = self.nodes[n];
        let role = match (it.is_alive, it.is_master, it.is_heir) {
            (false, ..) => Role::NoAnswer,
            (true, false, _) => Role::Replica,
            (true, true, true) => Role::Master(Lineage::Heir),
            (true, true, false) => Role::Master(Lineage::Stranger),
        };
        self.send(LINK_MS, Event::Role { node: self.addr(n), role });
    }

    fn claim(&mut self, s: usize) {
        let it = self.sentinels[s];
        if it.is_alive && !it.is_cut {
            let (n, epoch) = it.view;
            let target = Target { addr: self.addr(n), epoch: Epoch(epoch) };
            // Answers of one connection come in their order.
            let sentinel = SentinelId(s);
            let asked = Monotonic(self.now * 1_000_000);
            self.send(LINK_MS, Event::Claim { sentinel, master: MASTER, target, asked });
        }
    }

    fn lost(&mut self, s: usize) {
        self.send(LINK_MS, Event::SentinelLost { sentinel: SentinelId(s) });
    }

    /// Pub/sub: late, twice, or never; and a reason to read.
    fn publish(&mut self, s: usize, what: Sighting) {
        let it = self.sentinels[s];
        if !it.is_alive || it.is_cut {
            return;
        }
        let event = Event::Seen { sentinel: SentinelId(s), master: MASTER, what };
        let (late, fate) = (self.draw() as u64, self.draw());
        if !self.unreliable {
            self.send(LINK_MS, event);
            self.claim(s);
            return;
        }
        if fate % 8 == 0 {
            return;
        }
        self.send(LINK_MS + late % 40, event);
        if fate % 8 == 1 {
            self.send(LINK_MS + late * 20, event);
        }
        self.claim(s);
    }

    fn send(&mut self, after: u64, event: Event) {
        self.ordered += 1;
        self.deliveries.push(Delivery { at: self.now + after, order: self.ordered, event });
    }

    fn deliver(&mut self) {
        let now = Monotonic(self.now * 1_000_000);
        while self.deliveries.peek().is_some_and(|next| next.at <= self.now) {
            let Some(Delivery { event, .. }) = self.deliveries.pop() else { break };
            self.machine.handle_at(now, event);
            self.look();
        }
        if self.machine.failover.deadline().is_some_and(|deadline| deadline <= now) {
            self.machine.handle_at(now, Event::Tick);
            self.look();
        }
    }

    /// What must hold after everything that happens.
    fn look(&mut self) {
        let desired = self.machine.desired();
        if let Some(target) = desired.target {
            let owner = *self.owners.entry(target.epoch).or_insert(target.addr);
            assert_eq!(owner, target.addr, "two owners at epoch {}", target.epoch);
        }
        if !desired.parked {
            self.parked_since = None;
            return;
        }
        let since = *self.parked_since.get_or_insert(self.now);
        // For a promotion, and then for the node that an epoch names.
        let longest = 2 * PARK.as_millis() as u64 + 10;
        assert!(self.now - since <= longest, "parked for {} ms", self.now - since);
    }

    fn draw(&mut self) -> usize {
        self.chance += 1;
        let at = self.chance % self.chances.len();
        usize::from(self.chances[at])
    }
}
