//! Mode `host`: a host that hears from no majority for its lease.

use super::*;

/// A host that serves its own node, and has just heard of all three Sentinels.
fn owner(action: OnSentinelLoss) -> (Lab, LossPolicy, Target) {
    let policy = LossPolicy::host(action, LEASE);
    let present = target(101, 3);
    let mut lab = Lab::with(policy, Some(adopt(present)));
    for sentinel in S {
        lab.expect(claim(sentinel, 101, 3), &[]);
    }
    (lab, policy, present)
}

#[test]
fn a_host_withdraws_when_no_majority_was_heard_for_the_lease_whether_they_are_connected_or_not() {
    for are_lost in [true, false] {
        let (mut lab, policy, present) = owner(OnSentinelLoss::Withdraw);
        lab.now = at(1000);
        lab.expect(claim_at(at(900), S[0], present), &[]);
        lab.expect(claim_at(at(950), S[1], present), &[]);
        for sentinel in &S[1..] {
            if are_lost {
                lab.expect(lost(*sentinel), &[]);
            }
        }
        // One alone, such as the host's own, is heard on.
        for ms in (1100..3900).step_by(100) {
            lab.now = at(ms);
            lab.expect(claim_at(at(ms - 1), S[0], present), &[]);
        }
        lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
        assert_eq!(lab.now, at(950) + LEASE);
        assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
        // What was said before counts no more, and what it says alone is not enough.
        lab.now = at(4000);
        lab.expect(claim_at(at(3999), S[0], present), &[]);
        assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
        let back = [notice(Notice::AnnouncedAgain { present })];
        lab.expect(claim_at(at(3999), S[2], present), &back);
        assert_eq!(lab.desired(), serving(present));
        assert_eq!(lab.failover.deadline(), Some(at(3999) + LEASE));
    }
}

#[test]
fn an_answer_is_as_old_as_its_question() {
    let (mut lab, policy, present) = owner(OnSentinelLoss::Withdraw);
    lab.now = at(2900);
    lab.expect(claim_at(at(1200), S[1], present), &[]);
    lab.expect(claim_at(at(1000), S[2], present), &[]);
    assert_eq!(lab.failover.deadline(), Some(at(1000) + LEASE));
    // Too old when it comes: the two that are left are no majority, and neither does it bring it back.
    lab.now = at(4000);
    lab.expect(
        claim_at(at(999), S[0], present),
        &[notice(Notice::SentinelsLost { present, policy })],
    );
    lab.now = at(4500);
    for sentinel in S {
        lab.expect(claim_at(at(1500), sentinel, present), &[]);
    }
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
}

#[test]
fn whatever_a_host_waits_for_its_lease_ends() {
    let (mut lab, policy, present) = owner(OnSentinelLoss::Withdraw);
    lab.now = at(2500);
    lab.expect(claim_at(at(2500), S[0], target(102, 4)), &[ask(102)]);
    assert_eq!(lab.desired(), desired(Some(present), true, State::Confirming));
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy }), STOP]);
    assert_eq!(lab.now, at(0) + LEASE);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
}

#[test]
fn a_host_that_was_busy_withdraws_at_the_first_event_after_its_lease() {
    let (mut lab, policy, present) = owner(OnSentinelLoss::Withdraw);
    lab.now = at(5000);
    lab.expect(role(101, AS_MASTER), &[notice(Notice::SentinelsLost { present, policy })]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
}

#[test]
fn a_host_does_not_come_back_on_the_word_of_a_majority_that_has_grown_old() {
    let (mut lab, policy, present) = owner(OnSentinelLoss::Withdraw);
    let lost = notice(Notice::SentinelsLost { present, policy });
    lab.expect_overdue(std::slice::from_ref(&lost));
    let newer = target(102, 4);
    lab.expect(claim_at(lab.now, S[0], newer), &[]);
    lab.expect(claim_at(lab.now, S[1], newer), &[ask(102)]);
    lab.now = lab.now + LEASE;
    let lost = Notice::SentinelsLost { present: newer, policy };
    lab.expect(
        role(102, AS_MASTER),
        &[notice(Notice::AnnouncedAgain { present: newer }), notice(lost)],
    );
    assert_eq!(lab.desired(), desired(Some(newer), false, State::Withdrawn));
}

#[test]
fn a_vipd_that_is_restarted_or_reloaded_goes_on_with_the_lease_that_there_was() {
    let policy = LossPolicy::host(OnSentinelLoss::Withdraw, LEASE);
    let settings = Settings {
        configured_sentinels: 3,
        policies: vec![policy],
        cutover: Cutover::Early,
        park: PARK,
    };
    let present = target(101, 3);
    let adopted = Adopted { heard: Some(at(7000)), ..adopt(present) };
    let mut failover = Failover::new(&settings, &[Some(adopted)], at(9000));
    assert_eq!(failover.deadline(), Some(at(7000) + LEASE));
    failover.handle(at(9100), claim_at(at(9050), S[0], present));
    assert_eq!(failover.heard(MASTER), Some(at(7000)), "one alone");
    failover.handle(at(9100), claim_at(at(9040), S[1], present));
    assert_eq!(failover.heard(MASTER), Some(at(9040)));
    assert_eq!(failover.deadline(), Some(at(9040) + LEASE));
}

#[test]
fn a_host_that_can_t_reach_the_new_master_lets_go_all_the_same() {
    let (mut lab, _, present) = owner(OnSentinelLoss::Withdraw);
    let candidate = target(102, 4);
    lab.expect(claim(S[0], 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), desired(Some(present), true, State::Confirming));
    // They are heard on.
    lab.now = at(2000);
    for sentinel in S {
        lab.expect(claim_at(at(1999), sentinel, candidate), &[]);
    }
    lab.expect_overdue(&[notice(Notice::Unconfirmed { candidate, present: None })]);
    assert_eq!(lab.now, at(0) + LEASE);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    lab.expect(role(102, AS_MASTER), &[notice(Notice::AnnouncedAgain { present: candidate })]);
    assert_eq!(lab.desired(), serving(candidate));
}

#[test]
fn a_host_may_be_told_to_hold_in_a_minority() {
    let (mut lab, policy, present) = owner(OnSentinelLoss::Hold);
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
    assert_eq!(lab.desired(), serving(present));
    assert_eq!(lab.failover.deadline(), None, "said once");
    // What was seen before and is told of after is no news.
    let ended = lab.now;
    lab.now = at(2990);
    lab.expect(role(101, AS_MASTER), &[]);
    lab.now = ended;
    lab.now = at(9000);
    lab.expect(claim_at(at(8999), S[0], present), &[]);
    lab.expect(claim_at(at(8999), S[1], present), &[notice(Notice::SentinelsBack)]);
    lab.expect_overdue(&[notice(Notice::SentinelsLost { present, policy })]);
    assert_eq!(lab.now, at(8999) + LEASE);
}

#[test]
fn a_host_whose_lease_ran_out_waits_for_a_majority_before_it_answers_again() {
    let policy = LossPolicy::host(OnSentinelLoss::Hold, LEASE);
    let present = target(101, 3);
    let mut lab = Lab::with(policy, Some(Adopted { announced: false, ..adopt(present) }));
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    lab.expect(claim(S[0], 101, 3), &[]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    lab.expect(claim(S[1], 102, 4), &[ask(102)]);
    assert_eq!(lab.desired(), desired(Some(present), false, State::Withdrawn));
    let announced = Notice::AnnouncedAgain { present: target(102, 4) };
    lab.expect(role(102, AS_MASTER), &[notice(announced)]);
    assert_eq!(lab.desired(), serving(target(102, 4)));
}
