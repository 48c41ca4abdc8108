//! The whole transition table: one row for each input, one column for each phase.

use super::*;
use crate::failover::Lineage;
use crate::model::Epoch;

const LEADER: SentinelId = SentinelId(0);
const OTHER: SentinelId = SentinelId(1);

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn target(host: u8, epoch: u64) -> Target {
    Target { addr: node(host), epoch: Epoch(epoch) }
}

fn claims(support: Support, successor: Option<Target>) -> Input {
    Input::Claims { support, successor, park: true }
}

fn role(host: u8, role: Role) -> Input {
    Input::Role { node: node(host), role }
}

fn selected(leader: SentinelId, host: u8) -> Input {
    Input::Selected { leader, node: node(host), park: true }
}

fn overdue(action: OnSentinelLoss, support: Support) -> Input {
    Input::Overdue { action, support }
}

/// What is confirmed at first, whom a leader has selected, what an epoch names after it.
const PRESENT: u8 = 101;
const CHOSEN: u8 = 102;
const NEWER: u8 = 103;

const AS_MASTER: Role = Role::Master(Lineage::Heir);

/// Confirmed, and provisional in its place.
fn served() -> [Served; 2] {
    let target = target(PRESENT, 3);
    let provisional = Some(Provisional { node: node(CHOSEN), leader: Some(LEADER) });
    [Served::confirmed(target), Served { target, provisional }]
}

fn promotion(candidate: Option<u8>) -> Promotion {
    let leader = candidate.map(|_| LEADER);
    Promotion { candidate: candidate.map(node), leader, was_replica: false }
}

#[test]
fn the_whole_transition_table() {
    use Phase::{
        Confirming, Learning, Promoting, Replacing, Returning, Reverting, Serving, Withdrawn,
    };
    use Support::{Majority, Minority, Nobody};

    let [is, was] = served();
    let doubtful =
        Served { provisional: Some(Provisional { node: node(CHOSEN), leader: None }), ..was };
    let (chosen, newer) = (target(CHOSEN, 4), target(NEWER, 5));
    let promoting =
        |candidate, parked| Promoting { served: is, promotion: promotion(candidate), parked };
    let replacing = |served, candidate, parked| Replacing { served, candidate, parked };

    let l = Learning;
    let c = Confirming { candidate: chosen };
    let s = Serving { served: is };
    let v = Serving { served: was };
    let o = promoting(None, true);
    let p = promoting(Some(CHOSEN), true);
    let u = promoting(Some(CHOSEN), false);
    let r = replacing(is, chosen, true);
    let z = Reverting { target: is.target, provisional: node(CHOSEN) };
    let w = Withdrawn { served: is };
    let q = Returning { served: is, candidate: chosen };
    let phases = [l, c, s, v, o, p, u, r, z, w, q];
    // Withdrawn before anybody had confirmed it.
    let x = Withdrawn { served: was };
    let y = Returning { served: was, candidate: is.target };
    assert_eq!(x.next(claims(Majority, None)), y, "it is not announced on its own word");
    assert_eq!(y.next(claims(Majority, None)), y);
    assert_eq!(y.next(role(CHOSEN, AS_MASTER)), y);
    assert_eq!(y.next(role(PRESENT, AS_MASTER)), s);
    let confirmed = Returning { served: was, candidate: chosen };
    assert_eq!(y.next(claims(Majority, Some(chosen))), confirmed);

    // Superseded, confirmed, or on the way there.
    let c2 = Confirming { candidate: newer };
    let s2 = Serving { served: Served::confirmed(chosen) };
    let r2 = replacing(is, newer, true);
    let u2 = replacing(is, chosen, false);
    let v2 = replacing(was, newer, true);
    let z2 = replacing(doubtful, newer, true);
    let z3 = replacing(doubtful, chosen, false);
    let d = Serving { served: doubtful };
    let q2 = Returning { served: is, candidate: newer };
    let known = Promotion { was_replica: true, ..promotion(Some(CHOSEN)) };
    let p2 = Promoting { served: is, promotion: known, parked: true };
    let u3 = Promoting { served: is, promotion: known, parked: false };
    let other = |served, parked| {
        let promotion = Promotion { leader: Some(OTHER), ..promotion(Some(NEWER)) };
        Promoting { served, promotion, parked }
    };
    let now_of_other = Served {
        provisional: Some(Provisional { node: node(CHOSEN), leader: Some(OTHER) }),
        ..was
    };
    let same = |parked| Promoting {
        served: is,
        promotion: Promotion { leader: Some(OTHER), ..promotion(Some(CHOSEN)) },
        parked,
    };
    let (v3, o3) = (Serving { served: now_of_other }, same(true));

    let taken = Promotion { leader: Some(LEADER), ..promotion(None) };
    let taken = Promoting { served: is, promotion: taken, parked: true };
    assert_eq!(taken.next(Input::Aborted { leader: OTHER }), taken);
    assert_eq!(taken.next(Input::Aborted { leader: LEADER }), s);
    // Who leads is not known after a restart.
    assert_eq!(d.next(Input::Aborted { leader: OTHER }), z);

    let table = [
        (claims(Nobody, None), [l, l, s, v, o, p, u, s, d, w, w]),
        (claims(Minority, None), [l, l, s, v, o, p, u, s, d, w, w]),
        (claims(Majority, None), [l, l, s, v, o, p, u, s, z, s, s]),
        (claims(Nobody, Some(newer)), [l, l, r2, v2, r2, r2, r2, r2, z2, w, w]),
        (claims(Minority, Some(newer)), [l, l, r2, v2, r2, r2, r2, r2, z2, w, w]),
        (claims(Majority, Some(newer)), [c2, c2, r2, v2, r2, r2, r2, r2, z2, q2, q2]),
        // What is served provisionally is confirmed by its epoch alone.
        (claims(Majority, Some(chosen)), [c, c, r, s2, r, r, r, r, z3, q, q]),
        (role(CHOSEN, AS_MASTER), [l, s2, s, v, o, v, v, s2, z, w, s2]),
        (role(CHOSEN, Role::Replica), [l, c, s, z, o, p2, u3, r, z, w, q]),
        (role(CHOSEN, Role::NoAnswer), phases),
        (role(PRESENT, AS_MASTER), [l, c, s, v, o, p, u, r, s, w, q]),
        (role(PRESENT, Role::Replica), phases),
        (role(PRESENT, Role::NoAnswer), phases),
        (role(NEWER, AS_MASTER), phases),
        (role(NEWER, Role::Replica), phases),
        (role(NEWER, Role::NoAnswer), phases),
        (selected(OTHER, NEWER), {
            let (fresh, before) = (other(is, true), other(was, true));
            [l, c, fresh, before, fresh, fresh, fresh, r, other(doubtful, true), w, q]
        }),
        (selected(OTHER, CHOSEN), [l, c, o3, v3, o3, o3, o3, r, v3, w, q]),
        // Late: it is served already.
        (selected(OTHER, PRESENT), {
            let back = Promotion { leader: Some(OTHER), ..promotion(Some(PRESENT)) };
            let back = |served| Promoting { served, promotion: back, parked: true };
            [l, c, s, back(was), o, p, u, r, back(doubtful), w, q]
        }),
        (Input::Aborted { leader: LEADER }, [l, c, s, z, o, s, s, r, z, w, q]),
        (Input::Aborted { leader: OTHER }, phases),
        (Input::Ordered, {
            let again = Promoting { served: was, promotion: promotion(None), parked: true };
            [l, c, o, again, o, p, p, r, z, w, q]
        }),
        (Input::Taken { leader: LEADER }, [l, c, s, v, taken, p, u, r, z, w, q]),
        (Input::Cancelled, [l, c, s, v, s, p, u, r, z, w, q]),
        (Input::Expired { support: Majority }, [l, c, s, z, s, u, s, u2, z, w, q]),
        (Input::Expired { support: Minority }, [l, c, s, v, s, u, s, u2, z, w, q]),
        (Input::Expired { support: Nobody }, [l, c, s, v, s, u, s, u2, z, w, q]),
        (overdue(OnSentinelLoss::Hold, Majority), phases),
        (overdue(OnSentinelLoss::Hold, Nobody), phases),
        (overdue(OnSentinelLoss::Withdraw, Majority), {
            [l, c, w, Withdrawn { served: was }, w, w, w, q, Withdrawn { served: doubtful }, w, q]
        }),
        (overdue(OnSentinelLoss::Withdraw, Nobody), {
            [l, c, w, Withdrawn { served: was }, w, w, w, w, Withdrawn { served: doubtful }, w, q]
        }),
    ];

    for (input, expected) in table {
        for (before, after) in phases.into_iter().zip(expected) {
            assert_eq!(before.next(input), after, "{before:?} on {input:?}");
        }
    }
}

#[test]
fn in_a_hold_off_a_selection_is_watched_and_not_parked() {
    let served = Served::confirmed(target(PRESENT, 3));
    let input = Input::Selected { leader: LEADER, node: node(CHOSEN), park: false };
    let promotion = promotion(Some(CHOSEN));
    let expected = Phase::Promoting { served, promotion, parked: false };
    assert_eq!(Phase::Serving { served }.next(input), expected);
}

#[test]
fn a_candidate_that_was_restarted_as_a_master_is_no_heir() {
    let served = Served::confirmed(target(PRESENT, 3));
    let phase = |was_replica| {
        let promotion = Promotion { was_replica, ..promotion(Some(CHOSEN)) };
        Phase::Promoting { served, promotion, parked: true }
    };
    for (was_replica, lineage, follows) in [
        (false, Lineage::Heir, true),
        (true, Lineage::Heir, true),
        (false, Lineage::Unknown, false),
        (true, Lineage::Unknown, true),
        (false, Lineage::Stranger, false),
        (true, Lineage::Stranger, false),
    ] {
        let after = phase(was_replica).next(role(CHOSEN, Role::Master(lineage)));
        let flips = after.served().map(Served::addr) == Some(node(CHOSEN));
        assert_eq!(flips, follows, "was replica: {was_replica}, {lineage:?}");
        // An epoch vouches for it.
        let candidate = target(CHOSEN, 4);
        let named = Phase::Replacing { served, candidate, parked: true };
        let after = named.next(role(CHOSEN, Role::Master(lineage)));
        assert_eq!(after, Phase::Serving { served: Served::confirmed(candidate) });
    }
}

#[test]
fn nobody_is_fenced_where_only_the_epoch_is_new() {
    let served = Served::confirmed(target(PRESENT, 3));
    let candidate = target(PRESENT, 4);
    let after = Phase::Serving { served }.next(claims(Support::Minority, Some(candidate)));
    assert_eq!(after, Phase::Replacing { served, candidate, parked: false });
}

#[test]
fn the_first_of_two_elections_in_a_row_is_confirmed_while_the_second_goes_on() {
    let [_, provisional] = served();
    let promotion = promotion(Some(NEWER));
    let before = Phase::Promoting { served: provisional, promotion, parked: true };
    let after = before.next(claims(Support::Majority, Some(target(CHOSEN, 4))));
    let served = Served::confirmed(target(CHOSEN, 4));
    assert_eq!(after, Phase::Promoting { served, promotion, parked: true });
}

#[test]
fn the_same_host_on_another_port_confirms_nothing() {
    let candidate = target(CHOSEN, 4);
    let phase = Phase::Confirming { candidate };
    let mut node = candidate.addr;
    node.set_port(6379);
    assert_eq!(phase.next(Input::Role { node, role: AS_MASTER }), phase);
}
