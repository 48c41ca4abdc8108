use super::*;

const MASTER: MasterId = MasterId(0);

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn target(host: u8, epoch: u64) -> Target {
    Target { addr: node(host), epoch: Epoch(epoch) }
}

fn serving(host: u8) -> Timelines {
    Timelines::new([Some(node(host))])
}

fn flip(timelines: &mut Timelines, ms: u64, to: Target) -> FailoverRecord {
    timelines.committed(at(ms), MASTER, to.addr, Some(to.epoch)).unwrap()
}

fn selected(host: u8) -> Sighting {
    Sighting::Selected(Some(node(host)))
}

#[test]
fn a_flip_takes_the_first_sighting_of_each_kind() {
    let mut timelines = serving(101);
    for (ms, what) in [
        (522, Sighting::Sdown),
        (530, Sighting::Sdown),
        (651, Sighting::Odown),
        (794, selected(102)),
        (1782, Sighting::SwitchMaster),
        (1783, Sighting::SwitchMaster),
    ] {
        assert_eq!(timelines.seen(at(ms), MASTER, what), None);
    }
    timelines.promoted(at(1784), MASTER, node(102));
    let mut record = flip(&mut timelines, 1785, target(102, 1));
    assert_eq!(
        record,
        FailoverRecord {
            id: 1,
            master: MASTER,
            trigger: Trigger::Down,
            outcome: Outcome::Confirmed,
            from: Some(node(101)),
            to: node(102),
            epoch: Some(Epoch(1)),
            timeline: Timeline {
                sdown: Some(at(522)),
                odown: Some(at(651)),
                selected: Some(at(794)),
                switch_master: Some(at(1782)),
                role_confirmed: Some(at(1784)),
                flip: Some(at(1785)),
                ..Timeline::default()
            },
            clients: None,
        }
    );
    record.timeline.first_packet = Some(at(1786));
    assert_eq!(timelines.first_packet(MASTER, at(1786)), Some(record));
}

#[test]
fn an_early_flip_is_amended_by_what_follows() {
    let mut timelines = serving(101);
    timelines.seen(at(794), MASTER, selected(102));
    timelines.parked(at(795), MASTER);
    timelines.seen(at(860), MASTER, Sighting::Promoting(Some(node(102))));
    timelines.promoted(at(875), MASTER, node(102));
    let record = timelines.committed(at(876), MASTER, node(102), None).unwrap();
    assert_eq!((record.trigger, record.outcome), (Trigger::Planned, Outcome::Provisional));
    assert_eq!(record.epoch, None);
    // A Sentinel that has not heard of it yet.
    assert_eq!(timelines.seen(at(900), MASTER, Sighting::Sdown), None);
    assert!(timelines.seen(at(1671), MASTER, Sighting::Promoted(Some(node(102)))).is_some());
    assert!(timelines.seen(at(1782), MASTER, Sighting::SwitchMaster).is_some());
    assert_eq!(timelines.seen(at(2795), MASTER, Sighting::SwitchMaster), None);
    let record = timelines.confirmed(at(1783), MASTER, target(102, 4)).unwrap();
    assert_eq!((record.outcome, record.epoch), (Outcome::Confirmed, Some(Epoch(4))));
    assert_eq!(record.timeline.parked_for(), Some(Duration::from_millis(81)));
    assert_eq!(record.timeline.ahead(), Some(Duration::from_millis(906)));
    assert_eq!(record.timeline.confirmed, Some(at(1783)));
    // What came late is not the next one's.
    let next = flip(&mut timelines, 60_000, target(103, 5));
    assert_eq!((next.timeline.sdown, next.timeline.switch_master), (None, None));
    assert_eq!(next.trigger, Trigger::Claim);
}

#[test]
fn a_park_without_a_promotion_is_on_record() {
    let mut timelines = serving(101);
    timelines.seen(at(100), MASTER, selected(102));
    timelines.parked(at(101), MASTER);
    let record = timelines.unparked(at(2101), MASTER, false).unwrap();
    assert_eq!(record.outcome, Outcome::Abandoned);
    assert_eq!((record.from, record.to), (Some(node(101)), node(101)));
    assert_eq!(record.timeline.parked_for(), Some(Duration::from_secs(2)));
    assert_eq!(timelines.first_packet(MASTER, at(2102)), None);
    let clients = Clients { syns_replayed: 3, ..Clients::default() };
    let record = timelines.released(MASTER, None, clients).unwrap();
    assert_eq!(record.clients, Some(clients));
}

#[test]
fn a_flip_after_a_park_that_was_too_long_is_the_same_failover_s() {
    let mut timelines = serving(101);
    timelines.seen(at(50), MASTER, Sighting::Sdown);
    timelines.seen(at(100), MASTER, selected(102));
    timelines.parked(at(101), MASTER);
    timelines.unparked(at(2101), MASTER, true).unwrap();
    let record = timelines.committed(at(3000), MASTER, node(102), None).unwrap();
    assert_eq!((record.trigger, record.timeline.selected), (Trigger::Down, Some(at(100))));
    assert_eq!(record.timeline.parked, None);
}

#[test]
fn a_reverted_flip_is_told_from_the_flip_back() {
    let mut timelines = serving(101);
    timelines.seen(at(100), MASTER, selected(102));
    timelines.committed(at(200), MASTER, node(102), None).unwrap();
    let back = flip(&mut timelines, 9000, target(101, 3));
    assert_eq!((back.trigger, back.outcome), (Trigger::Revert, Outcome::Confirmed));
    assert_eq!(timelines.tracks[0].records[0].1.outcome, Outcome::Reverted);
}

#[test]
fn what_vipd_asked_for_is_named_as_the_trigger_once() {
    let mut timelines = serving(101);
    timelines.ordered(at(10), MASTER, Trigger::FastFail);
    timelines.seen(at(100), MASTER, selected(102));
    assert_eq!(flip(&mut timelines, 200, target(102, 1)).trigger, Trigger::FastFail);
    timelines.seen(at(20_000), MASTER, Sighting::Sdown);
    assert_eq!(flip(&mut timelines, 21_000, target(103, 2)).trigger, Trigger::Down);
}

#[test]
fn what_was_done_for_the_clients_adds_up() {
    let mut timelines = serving(101);
    flip(&mut timelines, 1000, target(102, 1));
    let some =
        Clients { syns_replayed: 2, replayed: Some(at(1001)), freed: 5, freed_at: Some(at(1002)) };
    assert_eq!(timelines.released(MASTER, Some(at(7)), some), None);
    timelines.released(MASTER, Some(at(1000)), some);
    let record = timelines.released(MASTER, Some(at(1000)), some).unwrap();
    let all = Clients { syns_replayed: 4, freed: 10, ..some };
    assert_eq!(record.clients, Some(all));
    let text = record.to_string();
    assert!(text.ends_with("4 SYNs replayed, 10 clients reset"), "{text}");
}

#[test]
fn the_first_start_has_no_from() {
    let mut timelines = Timelines::new([None]);
    assert_eq!(flip(&mut timelines, 10, target(101, 0)).from, None);
}

#[test]
fn a_commit_of_the_same_node_is_no_failover() {
    let mut timelines = serving(101);
    assert_eq!(timelines.committed(at(5), MASTER, node(101), Some(Epoch(7))), None);
}

#[test]
fn what_is_older_than_ten_minutes_is_forgotten() {
    let mut timelines = serving(101);
    timelines.seen(at(0), MASTER, Sighting::Sdown);
    let record = flip(&mut timelines, 600_001, target(102, 1));
    assert_eq!(record.timeline.sdown, None);
}

#[test]
fn the_leaders_late_switch_is_not_taken_for_the_next_failover() {
    let mut timelines = serving(101);
    timelines.seen(at(1782), MASTER, Sighting::SwitchMaster);
    flip(&mut timelines, 1783, target(102, 1));
    assert_eq!(timelines.seen(at(2795), MASTER, Sighting::SwitchMaster), None);
    let record = flip(&mut timelines, 60_000, target(103, 2));
    assert_eq!(record.timeline.switch_master, None);
}

#[test]
fn a_switch_announced_after_the_flip_amends_its_record() {
    let mut timelines = serving(101);
    let mut record = flip(&mut timelines, 1000, target(102, 1));
    record.timeline.switch_master = Some(at(1100));
    assert_eq!(timelines.seen(at(1100), MASTER, Sighting::SwitchMaster), Some(record));
}

#[test]
fn an_early_stage_clears_what_an_earlier_failover_left() {
    let mut timelines = serving(101);
    timelines.seen(at(0), MASTER, Sighting::SwitchMaster);
    timelines.seen(at(100_000), MASTER, selected(102));
    let record = flip(&mut timelines, 100_500, target(102, 1));
    assert_eq!(record.timeline.switch_master, None);
    assert_eq!(record.timeline.selected, Some(at(100_000)));
}

#[test]
fn a_first_packet_goes_to_the_flip_before_it_and_the_earliest_stays() {
    let mut timelines = serving(101);
    flip(&mut timelines, 1000, target(102, 1));
    flip(&mut timelines, 5000, target(103, 2));
    // The second service of the same master reports later than the first.
    assert_eq!(timelines.first_packet(MASTER, at(5010)).map(|record| record.id), Some(2));
    assert_eq!(timelines.first_packet(MASTER, at(5020)), None);
    assert_eq!(timelines.first_packet(MASTER, at(1500)).map(|record| record.id), Some(1));
    assert_eq!(timelines.first_packet(MASTER, at(10)), None);
}

#[test]
fn a_first_packet_may_overtake_the_daemon_s_look_at_the_clock() {
    let mut timelines = serving(101);
    flip(&mut timelines, 1000, target(102, 1));
    let at = Monotonic(at(1000).0 - 20_000);
    assert_eq!(timelines.first_packet(MASTER, at).map(|record| record.id), Some(1));
}

#[test]
fn the_list_of_records_is_bounded() {
    let mut timelines = serving(101);
    for n in 1..100 {
        flip(&mut timelines, n * 1000, target(n as u8, n));
    }
    assert_eq!(timelines.tracks[0].records.len(), AMENDABLE);
}

#[test]
fn an_unknown_master_is_ignored() {
    let mut timelines = serving(101);
    assert_eq!(timelines.seen(at(1), MasterId(9), Sighting::Sdown), None);
    assert_eq!(timelines.committed(at(1), MasterId(9), node(1), None), None);
    assert_eq!(timelines.first_packet(MasterId(9), at(1)), None);
}
