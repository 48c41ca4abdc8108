//! Early cutover: from a leader's first word to the epoch that confirms it, and everything that can
//! happen instead.

use super::*;
use crate::failover::limit::HOLD_OFF;

fn record_of(record: &FailoverRecord) -> Command {
    crate::failover::record(record.clone())
}

const HEIR: Role = Role::Master(Lineage::Heir);

fn early(host: u8, epoch: u64) -> Lab {
    let policy = LossPolicy::director(OnSentinelLoss::Hold);
    let adopted = Some(adopt(target(host, epoch)));
    let mut lab = Lab::cutting_over(Cutover::Early, policy, adopted);
    for sentinel in S {
        lab.expect(claim(sentinel, host, epoch), &[]);
    }
    lab
}

fn seen(sentinel: SentinelId, what: Sighting) -> Event {
    Event::Seen { sentinel, master: MASTER, what }
}

fn selected(sentinel: SentinelId, host: u8) -> Event {
    seen(sentinel, Sighting::Selected(Some(node(host))))
}

fn aborted(sentinel: SentinelId) -> Event {
    seen(sentinel, Sighting::Aborted)
}

fn parked(target: Target) -> Desired {
    Desired { parked: true, ..desired(Some(target), true, State::Parked) }
}

fn provisional(target: Target, host: u8) -> Desired {
    let provisional = Some(node(host));
    Desired { provisional, ..desired(Some(target), true, State::Provisional) }
}

impl Lab {
    /// Notices only: what is on record has tests of its own.
    #[track_caller]
    fn notices(&mut self, event: Event) -> Vec<Notice> {
        let commands = self.failover.handle(self.now, event);
        let notice = |command| match command {
            Command::Notice { notice, .. } => Some(notice),
            _ => None,
        };
        commands.into_iter().filter_map(notice).collect()
    }

    #[track_caller]
    fn overdue(&mut self) -> Vec<Notice> {
        self.now = self.failover.deadline().expect("nothing is due");
        self.notices(Event::Tick)
    }
}

#[test]
fn a_selection_parks_and_the_promoted_replica_is_served_before_any_epoch_names_it() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    // Also when the old master comes back meanwhile.
    lab.expect(role(101, HEIR), &[]);
    lab.expect(role(102, Role::Replica), &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    // The others still name the old one, and it still calls itself master.
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(role(101, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    lab.expect(claim(S[0], 102, 4), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
    assert_eq!(lab.failover.deadline(), None);
}

#[test]
fn the_promotion_is_followed_whichever_of_its_events_comes_first() {
    for what in [Sighting::Promoting(Some(node(102))), Sighting::Promoted(Some(node(102)))] {
        let mut lab = early(101, 3);
        lab.expect(seen(S[2], what), &[ask(102)]);
        assert_eq!(lab.desired(), parked(target(101, 3)));
        lab.expect(role(102, HEIR), &[]);
        lab.expect(selected(S[2], 102), &[]);
        assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    }
}

#[test]
fn the_epoch_may_be_known_before_the_replica_answers() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    // Asked anew: now also a node without a known history counts.
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    lab.expect(role(102, Role::Master(Lineage::Stranger)), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
    // What comes late parks nobody.
    lab.expect(selected(S[1], 102), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn a_replica_that_was_restarted_empty_is_not_followed_before_an_epoch_names_it() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.expect(role(102, Role::NoAnswer), &[]);
    lab.expect(role(102, Role::Master(Lineage::Stranger)), &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
}

#[test]
fn a_leader_that_gives_up_ends_the_park_and_others_don_t() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.expect(aborted(S[0]), &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    let not_promoted =
        Notice::NotPromoted { candidate: Some(node(102)), serving: node(101), aborted: true };
    assert_eq!(lab.notices(aborted(S[1])), [not_promoted]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn a_promotion_that_does_not_come_ends_the_park_but_is_followed_when_it_does() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    assert_eq!(lab.failover.deadline(), Some(at(0) + PARK));
    let not_promoted =
        Notice::NotPromoted { candidate: Some(node(102)), serving: node(101), aborted: false };
    assert_eq!(lab.overdue(), [not_promoted]);
    assert_eq!(lab.desired(), desired(Some(target(101, 3)), true, State::Promoting));
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
}

#[test]
fn a_selection_after_a_park_that_came_to_nothing_parks_again_in_time() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.overdue();
    lab.expect(selected(S[2], 103), &[ask(103)]);
    assert!(!lab.desired().parked, "too soon");
    lab.now = lab.now + HOLD_OFF;
    lab.expect(selected(S[1], 102), &[ask(102)]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    assert_eq!(lab.failover.deadline(), Some(lab.now + PARK));
}

#[test]
fn a_host_that_was_withdrawn_does_not_announce_what_nobody_confirmed() {
    let policy = LossPolicy::host(OnSentinelLoss::Withdraw, LEASE);
    let adopted =
        Adopted { provisional: Some(node(102)), announced: false, ..adopt(target(101, 3)) };
    let mut lab = Lab::cutting_over(Cutover::Early, policy, Some(adopted));
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(claim(S[1], 101, 3), &[ask(101)]);
    lab.expect(role(102, HEIR), &[]);
    assert!(!lab.desired().announce);
    lab.notices(role(101, HEIR));
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn a_promotion_that_never_comes_is_forgotten() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.overdue();
    lab.overdue();
    assert_eq!(lab.failover.deadline(), None);
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn a_sentinel_that_lies_all_the_time_parks_for_a_fraction_of_it() {
    let mut lab = early(101, 3);
    let mut stood_still = Duration::ZERO;
    for _ in 0..6_000 {
        lab.now = lab.now + Duration::from_millis(10);
        lab.failover.handle(lab.now, Event::Tick);
        lab.failover.handle(lab.now, selected(S[1], 102));
        lab.failover.handle(lab.now, aborted(S[0]));
        if lab.desired().parked {
            stood_still += Duration::from_millis(10);
        }
    }
    let share = stood_still.as_secs_f64() / 60.0;
    let bound = PARK.as_secs_f64() / (PARK + HOLD_OFF).as_secs_f64();
    assert!(share > 0.0 && share <= bound * 1.3, "parked {share} of the time");
}

#[test]
fn two_elections_in_a_row_end_at_the_second_one_s_replica() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.now = at(100);
    lab.expect(selected(S[2], 103), &[ask(103)]);
    // The first one's leader is late.
    lab.expect(aborted(S[1]), &[]);
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    // The park is as long as the first one's.
    assert_eq!(lab.failover.deadline(), Some(at(0) + PARK));
    lab.expect(role(103, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 103));
}

#[test]
fn a_second_election_parks_what_was_provisional_and_its_abort_returns_there() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.expect(role(102, HEIR), &[]);
    lab.expect(selected(S[2], 103), &[ask(103)]);
    let doubly = Desired { parked: true, state: State::Parked, ..provisional(target(101, 3), 102) };
    assert_eq!(lab.desired(), doubly);
    lab.notices(aborted(S[2]));
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    lab.expect(claim(S[1], 102, 4), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn a_leader_that_dies_before_it_announces_leaves_the_promoted_replica_served() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.expect(role(102, HEIR), &[]);
    lab.expect(lost(S[1]), &[]);
    // Nobody confirms it, and the old master is gone: it is the only one there is.
    let doubted = Notice::Doubted { node: node(102), target: target(101, 3) };
    assert_eq!(lab.overdue(), [doubted]);
    lab.expect(role(101, Role::NoAnswer), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    // The next election chooses another.
    lab.expect(selected(S[2], 103), &[ask(103)]);
    lab.expect(role(103, HEIR), &[]);
    lab.expect(claim(S[2], 103, 5), &[]);
    assert_eq!(lab.desired(), serving(target(103, 5)));
}

#[test]
fn an_unconfirmed_flip_is_reverted_when_the_confirmed_master_answers() {
    for doubt in [aborted(S[1]), role(102, Role::Replica)] {
        let mut lab = early(101, 3);
        lab.expect(selected(S[1], 102), &[ask(102)]);
        lab.expect(role(102, HEIR), &[]);
        let doubted = Notice::Doubted { node: node(102), target: target(101, 3) };
        // Its own word that it is no master is news as well.
        assert!(lab.notices(doubt).contains(&doubted), "{doubt:?}");
        assert_eq!(lab.desired(), provisional(target(101, 3), 102));
        let reverted = Notice::Reverted { from: node(102), to: target(101, 3) };
        assert_eq!(lab.notices(role(101, HEIR)), [reverted]);
        assert_eq!(lab.desired(), serving(target(101, 3)));
    }
}

#[test]
fn without_a_majority_an_unconfirmed_flip_stays() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.expect(role(102, HEIR), &[]);
    for sentinel in &S[..2] {
        lab.expect(lost(*sentinel), &[]);
    }
    assert_eq!(lab.overdue(), []);
    lab.expect(role(101, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
}

#[test]
fn a_provisional_master_that_dies_is_followed_by_whomever_an_epoch_names() {
    let mut lab = early(101, 3);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.expect(role(102, HEIR), &[]);
    lab.expect(role(102, Role::NoAnswer), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    lab.expect(claim(S[0], 103, 5), &[ask(103)]);
    assert!(lab.desired().parked);
    lab.expect(role(103, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(103, 5)));
}

#[test]
fn an_epoch_fences_the_old_master_at_once_but_not_for_ever() {
    let mut lab = early(101, 3);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    assert_eq!(lab.overdue(), []);
    assert_eq!(lab.desired(), desired(Some(target(101, 3)), true, State::Confirming));
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn a_restart_goes_on_with_what_was_provisional() {
    let policy = LossPolicy::director(OnSentinelLoss::Hold);
    let adopted = Adopted { provisional: Some(node(102)), ..adopt(target(101, 3)) };
    let mut lab = Lab::cutting_over(Cutover::Early, policy, Some(adopted));
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(role(101, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));
    lab.expect(claim(S[1], 102, 4), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn a_restart_while_parked_stays_so_until_it_knows_or_for_a_while() {
    let policy = LossPolicy::director(OnSentinelLoss::Hold);
    let adopted = Some(Adopted { parked: true, ..adopt(target(101, 3)) });
    let mut lab = Lab::cutting_over(Cutover::Early, policy, adopted);
    lab.expect(claim(S[0], 101, 3), &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));

    let mut lab = Lab::cutting_over(Cutover::Early, policy, adopted);
    lab.overdue();
    assert_eq!(lab.now, at(0) + PARK);
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn claims_that_come_and_go_park_for_a_fraction_of_the_time() {
    let mut lab = early(101, 3);
    let mut stood_still = 0;
    for n in 0..6_000 {
        lab.now = lab.now + Duration::from_millis(10);
        lab.failover.handle(lab.now, Event::Tick);
        let claimed = if n % 2 == 0 { claim(S[1], 102, 4) } else { claim(S[1], 101, 3) };
        lab.failover.handle(lab.now, claimed);
        stood_still += u32::from(lab.desired().parked);
    }
    assert!((1..1_200).contains(&stood_still), "parked for {stood_still} of 6000");
}

#[test]
fn what_vipd_asks_for_parks_at_once_and_as_long_as_it_says() {
    let limit = Duration::from_secs(7);
    let ordered = Event::Ordered { master: MASTER, why: Trigger::Switchover, limit };
    let mut lab = early(101, 3);
    lab.expect(ordered, &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    assert_eq!(lab.failover.deadline(), Some(at(0) + limit));
    // From the selection on it is a failover like any other.
    lab.now = at(6_900);
    lab.expect(selected(S[0], 102), &[ask(102)]);
    assert_eq!(lab.failover.deadline(), Some(at(6_900) + PARK));
    // Too late: a Sentinel has taken it on.
    assert_eq!(lab.notices(Event::Cancelled { master: MASTER }), []);
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), provisional(target(101, 3), 102));

    let mut lab = early(101, 3);
    lab.expect(ordered, &[]);
    lab.notices(Event::Cancelled { master: MASTER });
    assert_eq!(lab.desired(), serving(target(101, 3)));
    // That was not a Sentinel's word: the next one's counts.
    lab.expect(selected(S[0], 102), &[ask(102)]);
    assert!(lab.desired().parked);

    let mut lab = early(101, 3);
    lab.expect(ordered, &[]);
    lab.overdue();
    assert_eq!(lab.desired(), serving(target(101, 3)));

    let mut lab = early(101, 3);
    lab.expect(ordered, &[]);
    lab.expect(Event::Taken { master: MASTER, sentinel: S[2] }, &[]);
    lab.notices(aborted(S[0]));
    assert!(lab.desired().parked);
    lab.notices(aborted(S[2]));
    assert_eq!(lab.desired(), serving(target(101, 3)));
}

#[test]
fn a_host_in_a_minority_withdraws_parked_or_not() {
    let policy = LossPolicy::host(OnSentinelLoss::Withdraw, LEASE);
    let mut lab = Lab::cutting_over(Cutover::Early, policy, Some(adopt(target(101, 3))));
    lab.expect(claim(S[0], 101, 3), &[]);
    lab.expect(selected(S[0], 102), &[ask(102)]);
    while lab.desired().announce {
        lab.overdue();
    }
    assert_eq!(lab.now, at(0) + LEASE);
    assert_eq!(lab.desired().state, State::Withdrawn);
}

#[test]
fn cutover_confirmed_waits_for_the_epoch_and_parks_nobody() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    lab.expect(selected(S[1], 102), &[]);
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(101, 3)));
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    assert!(!lab.desired().parked);
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn what_vipd_asks_for_stays_parked_until_its_flip_also_with_cutover_confirmed() {
    let mut lab = Lab::serving(OnSentinelLoss::Hold, 101, 3);
    let (why, limit) = (Trigger::FastFail, PARK);
    lab.expect(Event::Ordered { master: MASTER, why, limit }, &[]);
    lab.expect(selected(S[1], 102), &[]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), parked(target(101, 3)));
    lab.expect(role(102, HEIR), &[]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}

#[test]
fn the_record_of_an_early_flip_is_completed_by_its_epoch() {
    let mut lab = early(101, 3);
    lab.now = at(794);
    lab.expect(selected(S[1], 102), &[ask(102)]);
    lab.now = at(875);
    lab.expect(role(102, HEIR), &[]);
    lab.now = at(876);
    let mut record = FailoverRecord {
        id: 1,
        master: MASTER,
        trigger: Trigger::Planned,
        outcome: Outcome::Provisional,
        from: Some(node(101)),
        to: node(102),
        epoch: None,
        timeline: Timeline {
            selected: Some(at(794)),
            parked: Some(at(794)),
            role_confirmed: Some(at(875)),
            flip: Some(at(876)),
            ..Timeline::default()
        },
        clients: None,
    };
    let committed = Event::Committed { master: MASTER, node: node(102) };
    lab.expect(committed, &[record_of(&record)]);
    let clients = Clients { freed: 200, freed_at: Some(at(880)), ..Clients::default() };
    record.clients = Some(clients);
    let released = Event::Released { master: MASTER, flip: Some(at(876)), clients };
    lab.expect(released, &[record_of(&record)]);
    lab.now = at(1782);
    record.timeline.switch_master = Some(at(1782));
    lab.expect(seen(S[0], Sighting::SwitchMaster), &[record_of(&record)]);
    record.timeline.confirmed = Some(at(1782));
    (record.outcome, record.epoch) = (Outcome::Confirmed, Some(Epoch(4)));
    lab.expect(claim(S[0], 102, 4), &[record_of(&record)]);
}
