//! Events in, commands out. A command that a test doesn't expect fails it.

mod early;
mod host;

use super::*;
use crate::config::OnSentinelLoss;
use crate::timeline::{Outcome, Timeline};

const MASTER: MasterId = MasterId(0);
const S: [SentinelId; 3] = [SentinelId(0), SentinelId(1), SentinelId(2)];
/// Named by another Sentinel, not configured.
const DISCOVERED: SentinelId = SentinelId(3);

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn target(host: u8, epoch: u64) -> Target {
    Target { addr: node(host), epoch: Epoch(epoch) }
}

/// Asked at the very beginning: only where a lease depends on it that matters, see [`claim_at`].
fn claim(sentinel: SentinelId, host: u8, epoch: u64) -> Event {
    claim_at(at(0), sentinel, target(host, epoch))
}

/// Asked at this time.
fn claim_at(asked: Monotonic, sentinel: SentinelId, target: Target) -> Event {
    Event::Claim { sentinel, master: MASTER, target, asked }
}

fn lost(sentinel: SentinelId) -> Event {
    Event::SentinelLost { sentinel }
}

fn role(host: u8, role: Role) -> Event {
    Event::Role { node: node(host), role }
}

fn ask(host: u8) -> Command {
    Command::AskRole { master: MASTER, node: node(host) }
}

/// Without a word about its history.
const AS_MASTER: Role = Role::Master(Lineage::Unknown);

const STOP: Command = Command::StopAsking { master: MASTER };

fn notice(notice: Notice) -> Command {
    Command::Notice { master: MASTER, notice }
}

fn desired(target: Option<Target>, announce: bool, state: State) -> Desired {
    Desired { target, announce, state, ..Desired::default() }
}

fn serving(target: Target) -> Desired {
    desired(Some(target), true, State::Serving)
}

fn adopt(target: Target) -> Adopted {
    Adopted { target, provisional: None, parked: false, announced: true, heard: None }
}

/// Of mode `host`.
const LEASE: Duration = Duration::from_secs(3);

/// The longest park.
const PARK: Duration = Duration::from_secs(2);

/// A machine with one master and three Sentinels, and a clock.
struct Lab {
    failover: Failover,
    now: Monotonic,
}

impl Lab {
    fn new(on_sentinel_loss: OnSentinelLoss, adopted: Option<Target>) -> Self {
        Self::with(LossPolicy::director(on_sentinel_loss), adopted.map(adopt))
    }

    fn with(policy: LossPolicy, adopted: Option<Adopted>) -> Self {
        Self::cutting_over(Cutover::Confirmed, policy, adopted)
    }

    fn cutting_over(cutover: Cutover, policy: LossPolicy, adopted: Option<Adopted>) -> Self {
        let settings =
            Settings { configured_sentinels: 3, policies: vec![policy], cutover, park: PARK };
        Self { failover: Failover::new(&settings, &[adopted], at(0)), now: at(0) }
    }

    /// Confirmed through a start, with the claims of all three.
    fn serving(on_sentinel_loss: OnSentinelLoss, host: u8, epoch: u64) -> Self {
        let mut lab = Self::new(on_sentinel_loss, None);
        lab.expect(claim(S[0], host, epoch), &[]);
        lab.expect(claim(S[1], host, epoch), &[ask(host)]);
        lab.expect(claim(S[2], host, epoch), &[]);
        lab.expect(role(host, AS_MASTER), &[]);
        assert_eq!(lab.desired(), serving(target(host, epoch)));
        lab
    }

    fn desired(&self) -> Desired {
        self.failover.desired()[0]
    }

    #[track_caller]
    fn expect(&mut self, event: Event, commands: &[Command]) {
        assert_eq!(self.failover.handle(self.now, event), commands, "on {event:?}");
    }

    /// Lets time pass to the deadline, which must be there.
    #[track_caller]
    fn expect_overdue(&mut self, commands: &[Command]) {
        self.now = self.failover.deadline().unwrap();
        self.expect(Event::Tick, commands);
        assert!(self.failover.deadline().is_none_or(|deadline| deadline > self.now));
    }
}

#[test]
fn a_start_needs_a_majority_and_the_master_s_own_word() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, None);
    assert_eq!(lab.desired(), desired(None, false, State::Learning));
    lab.expect(claim(S[0], 101, 3), &[]);
    assert_eq!(lab.desired(), desired(None, false, State::Learning));
    lab.expect(claim(S[1], 101, 3), &[ask(101)]);
    assert_eq!(lab.desired(), desired(None, false, State::Confirming));
    lab.expect(role(101, Role::NoAnswer), &[]);
    lab.expect(role(101, Role::Replica), &[]);
    assert_eq!(lab.desired(), desired(None, false, State::Confirming));
    lab.expect(role(101, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
    assert_eq!(lab.failover.deadline(), None);
}

#[test]
fn a_start_takes_the_highest_epoch_though_a_minority_says_it() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, None);
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    lab.expect(claim(S[2], 101, 3), &[]);
    // A restarted old master calls itself master for seconds.
    lab.expect(role(101, AS_MASTER), &[]);
    lab.expect(role(102, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn discovered_sentinels_and_repetitions_make_no_majority() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, None);
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(claim(DISCOVERED, 101, 3), &[]);
    lab.expect(claim(SentinelId(7), 101, 3), &[]);
    assert_eq!(lab.desired(), desired(None, false, State::Learning));
}

#[test]
fn a_lost_sentinel_does_not_count_towards_the_majority() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, None);
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(lost(S[0]), &[]);
    lab.expect(claim(S[1], 101, 3), &[]);
    lab.expect(claim(S[0], 101, 3), &[ask(101)]);
    lab.expect(lost(S[1]), &[STOP]);
    lab.expect(role(101, AS_MASTER), &[]);
    assert_eq!(lab.desired(), desired(None, false, State::Learning));
}

#[test]
fn a_start_without_a_majority_is_reported_once() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, None);
    lab.expect(claim(S[2], 101, 3), &[]);
    lab.expect_overdue(&[notice(Notice::NoMajority { live: 1, needed: 2 })]);
    assert_eq!(lab.failover.deadline(), None);
}

#[test]
fn one_sentinel_s_higher_epoch_moves_the_master_once_it_confirms() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(claim(DISCOVERED, 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), desired(Some(target(101, 3)), true, State::Confirming));
    lab.expect(role(101, AS_MASTER), &[]);
    lab.expect(role(102, Role::Replica), &[]);
    assert_eq!(lab.desired(), desired(Some(target(101, 3)), true, State::Confirming));
    lab.expect(role(102, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn a_lower_epoch_never_replaces_a_higher_one() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 102, 4);
    let refused = |sentinel, host, epoch| {
        let (claimed, present) = (target(host, epoch), target(102, 4));
        notice(Notice::LowerEpoch { sentinel, claimed, present })
    };
    for sentinel in S {
        lab.expect(claim(sentinel, 101, 3), &[refused(sentinel, 101, 3)]);
        lab.expect(claim(sentinel, 101, 3), &[]);
    }
    lab.expect(role(101, AS_MASTER), &[]);
    lab.expect(claim(S[0], 101, 2), &[refused(S[0], 101, 2)]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn an_equal_epoch_with_another_address_needs_a_majority_at_the_same_time() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 0);
    let split = Notice::Split { epoch: Epoch(0), present: Some(target(101, 0)) };
    lab.expect(claim(S[0], 102, 0), &[]);
    lab.expect(lost(S[0]), &[]);
    lab.expect(claim(S[1], 102, 0), &[notice(split)]);
    lab.expect(claim(DISCOVERED, 102, 0), &[]);
    assert_eq!(lab.desired(), serving(target(101, 0)));
    lab.expect(claim(S[0], 102, 0), &[ask(102)]);
    lab.expect(role(102, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(102, 0)));
    // The third is late, and can't take it back alone.
    lab.expect(claim(S[2], 101, 0), &[]);
    assert_eq!(lab.desired(), serving(target(102, 0)));
}

#[test]
fn two_nodes_at_the_newest_epoch_are_settled_by_a_majority() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    let split = Notice::Split { epoch: Epoch(4), present: Some(target(101, 3)) };
    lab.expect(claim(S[1], 103, 4), &[notice(split), STOP]);
    lab.expect(role(102, AS_MASTER), &[]);
    lab.expect(role(103, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
    lab.expect(claim(S[2], 103, 4), &[ask(103)]);
    lab.expect(role(103, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(103, 4)));
}

#[test]
fn a_newer_claim_supersedes_the_candidate() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    lab.expect(claim(S[1], 103, 5), &[ask(103)]);
    lab.expect(role(102, AS_MASTER), &[]);
    assert_eq!(lab.desired().target, Some(target(101, 3)));
    // The same node with a newer epoch is being asked already.
    lab.expect(claim(S[2], 103, 6), &[]);
    lab.expect(role(103, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(103, 6)));
}

#[test]
fn a_withdrawn_claim_takes_its_candidate_back() {
    for withdrawal in
        [lost(S[0]), Event::UnknownMaster { sentinel: S[0], master: MASTER }, claim(S[0], 101, 3)]
    {
        let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
        lab.expect(claim(S[0], 102, 4), &[ask(102)]);
        let commands = lab.failover.handle(at(0), withdrawal);
        assert_eq!(commands.last(), Some(&STOP));
        assert_eq!(lab.desired(), serving(target(101, 3)));
        lab.expect(role(102, AS_MASTER), &[]);
        assert_eq!(lab.desired(), serving(target(101, 3)));
    }
}

#[test]
fn a_candidate_that_never_answers_is_reported_and_the_old_master_goes_on() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    let (candidate, present) = (target(102, 4), Some(target(101, 3)));
    assert_eq!(lab.failover.deadline(), Some(at(0) + PATIENCE));
    lab.expect_overdue(&[notice(Notice::Unconfirmed { candidate, present })]);
    assert_eq!(lab.failover.deadline(), None);
    assert_eq!(lab.desired(), desired(present, true, State::Confirming));
    lab.expect(role(102, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(candidate));
}

#[test]
fn a_higher_epoch_for_the_same_node_raises_the_fence() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(claim(S[0], 101, 5), &[ask(101)]);
    lab.expect(role(101, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(101, 5)));
    let (claimed, present) = (target(102, 4), target(101, 5));
    lab.expect(
        claim(S[1], 102, 4),
        &[notice(Notice::LowerEpoch { sentinel: S[1], claimed, present })],
    );
}

#[test]
fn a_restart_serves_on_at_once_and_follows_one_sentinel() {
    let mut lab = Lab::new(OnSentinelLoss::Withdraw, Some(target(101, 3)));
    assert_eq!(lab.desired(), serving(target(101, 3)));
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    lab.expect(role(102, AS_MASTER), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn without_sentinels_hold_goes_on_and_says_so() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    for sentinel in S {
        lab.expect(lost(sentinel), &[]);
    }
    let policy = LossPolicy::director(OnSentinelLoss::Hold);
    let present = target(101, 3);
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
    assert_eq!(lab.desired(), serving(present));
    assert_eq!(lab.failover.deadline(), None);
    lab.expect(lost(S[0]), &[]);
    lab.expect(claim(S[1], 101, 3), &[notice(Notice::SentinelsBack)]);
    assert_eq!(lab.desired(), serving(present));
}

#[test]
fn without_sentinels_withdraw_stops_announcing_until_a_majority_is_back() {
    let mut lab = Lab::serving(OnSentinelLoss::Withdraw, 101, 3);
    for sentinel in S {
        lab.expect(lost(sentinel), &[]);
    }
    let present = target(101, 3);
    assert_eq!(lab.desired(), serving(present));
    let policy = LossPolicy::director(OnSentinelLoss::Withdraw);
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(claim(DISCOVERED, 101, 3), &[]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    lab.expect(claim(S[1], 101, 3), &[notice(Notice::AnnouncedAgain { present })]);
    assert_eq!(lab.desired(), serving(present));
}

#[test]
fn sentinels_that_are_back_within_the_grace_change_nothing() {
    let mut lab = Lab::serving(OnSentinelLoss::Withdraw, 101, 3);
    for sentinel in S {
        lab.expect(lost(sentinel), &[]);
    }
    lab.now = at(4999);
    lab.expect(Event::Tick, &[]);
    lab.expect(claim(S[0], 101, 3), &[]);
    assert_eq!(lab.failover.deadline(), None);
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn sentinels_that_come_back_with_a_newer_master_are_not_answered_with_the_old_one() {
    let mut lab = Lab::serving(OnSentinelLoss::Withdraw, 101, 3);
    for sentinel in S {
        lab.expect(lost(sentinel), &[]);
    }
    let present = target(101, 3);
    let policy = LossPolicy::director(OnSentinelLoss::Withdraw);
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
    lab.expect(claim(S[0], 102, 4), &[]);
    lab.expect(role(102, AS_MASTER), &[]);
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    lab.expect(role(102, AS_MASTER), &[notice(Notice::AnnouncedAgain { present: target(102, 4) })]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn a_restart_without_sentinels_is_a_loss_too() {
    let mut lab = Lab::new(OnSentinelLoss::Withdraw, Some(target(101, 3)));
    let present = target(101, 3);
    let policy = LossPolicy::director(OnSentinelLoss::Withdraw);
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
}

#[test]
fn a_name_that_no_sentinel_knows_is_reported_once_for_each() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, None);
    let unknown = |sentinel| Event::UnknownMaster { sentinel, master: MASTER };
    for sentinel in S {
        lab.expect(unknown(sentinel), &[notice(Notice::UnknownMaster { sentinel })]);
        lab.expect(unknown(sentinel), &[]);
    }
    assert_eq!(lab.desired(), desired(None, false, State::Learning));
}

#[test]
fn a_served_node_that_calls_itself_a_replica_is_reported_and_kept() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    let node = node(101);
    lab.expect(role(101, Role::Replica), &[notice(Notice::ServedIsReplica { node })]);
    lab.expect(role(101, Role::Replica), &[]);
    lab.expect(role(101, Role::NoAnswer), &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
    lab.expect(role(101, AS_MASTER), &[notice(Notice::ServedIsMasterAgain { node })]);
}

#[test]
fn the_old_master_s_demotion_in_a_failover_is_no_news() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    lab.expect(role(101, Role::Replica), &[]);
    lab.expect(role(102, AS_MASTER), &[]);
    lab.expect(role(101, Role::Replica), &[]);
}

#[test]
fn a_failover_leaves_a_record_with_its_timeline() {
    let mut lab = Lab::new(OnSentinelLoss::Hold, Some(target(101, 3)));
    for (ms, what) in
        [(522, Sighting::Sdown), (651, Sighting::Odown), (1782, Sighting::SwitchMaster)]
    {
        lab.now = at(ms);
        lab.expect(Event::Seen { sentinel: S[0], master: MASTER, what }, &[]);
    }
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    lab.now = at(1783);
    lab.expect(role(102, AS_MASTER), &[]);
    lab.now = at(1784);
    let mut record = FailoverRecord {
        id: 1,
        master: MASTER,
        trigger: Trigger::Down,
        outcome: Outcome::Confirmed,
        from: Some(node(101)),
        to: node(102),
        epoch: Some(Epoch(4)),
        timeline: Timeline {
            sdown: Some(at(522)),
            odown: Some(at(651)),
            switch_master: Some(at(1782)),
            role_confirmed: Some(at(1783)),
            flip: Some(at(1784)),
            ..Timeline::default()
        },
        clients: None,
    };
    let committed = Event::Committed { master: MASTER, node: node(102) };
    lab.expect(committed, &[super::record(record.clone())]);
    lab.expect(committed, &[]);
    record.timeline.first_packet = Some(at(1785));
    lab.now = at(1790);
    lab.expect(Event::FirstPacket { master: MASTER, at: at(1785) }, &[super::record(record)]);
}

#[test]
fn masters_do_not_mix() {
    let policies = vec![LossPolicy::director(OnSentinelLoss::Hold); 2];
    let cutover = Cutover::Early;
    let settings = Settings { configured_sentinels: 1, policies, cutover, park: PARK };
    let mut failover = Failover::new(&settings, &[], at(0));
    let second = MasterId(1);
    let first = target(101, 0);
    let claim = Event::Claim { sentinel: S[0], master: second, target: first, asked: at(0) };
    let ask = Command::AskRole { master: second, node: node(101) };
    assert_eq!(failover.handle(at(0), claim), [ask]);
    assert_eq!(failover.handle(at(0), role(101, AS_MASTER)), []);
    assert_eq!(failover.desired(), [desired(None, false, State::Learning), serving(first)]);
}

#[test]
fn an_event_about_a_master_that_does_not_exist_is_ignored() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    let master = MasterId(9);
    let newer = target(102, 9);
    lab.expect(Event::Claim { sentinel: S[0], master, target: newer, asked: at(0) }, &[]);
    lab.expect(Event::Committed { master, node: node(102) }, &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn sentinels_without_end_are_not_all_remembered() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    for n in 3..10_000 {
        lab.expect(claim(SentinelId(n), 101, 3), &[]);
    }
    lab.expect(claim(SentinelId(10_001), 102, 4), &[]);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
}
