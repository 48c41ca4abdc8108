use super::*;

const MS: u64 = 1_000_000;
const WINDOW: Window = Window { origin: Monotonic(0), trigger: None, end: Monotonic(1000 * MS) };

/// One probe a millisecond for a second; `answer` says after how many µs each is answered, and by
/// whom.
fn shots(answer: impl Fn(u64) -> Option<(u64, u16)>) -> Shots {
    let shot = |ms: u64| {
        let due = Monotonic(ms * MS);
        let answer = answer(ms);
        Shot {
            due,
            sent: due,
            answered: answer.map(|(us, _)| Monotonic(due.0 + us * 1000)),
            fate: if answer.is_some() { Fate::Good } else { Fate::Silent },
            node: answer.map(|(_, node)| node),
        }
    };
    Shots {
        list: (0..1000).map(shot).collect(),
        nodes: ["a", "b"].map(|name| (name.to_owned(), name.to_uppercase())).into(),
        interval: Duration::from_millis(1),
    }
}

fn described(shots: &Shots, window: &Window) -> Layer {
    let mut layer = Layer::new(crate::probe::LayerName::Syn);
    shots.describe(window, &mut layer);
    layer
}

#[test]
fn without_a_gap_there_is_no_blackout() {
    let layer = described(&shots(|_| Some((100, 0))), &WINDOW);
    assert_eq!((layer.blackout, layer.outages.len(), layer.lost), (None, 0, 0));
    assert_eq!(layer.latency.unwrap().count, 1000);
    assert_eq!(layer.lanes[0].spans.len(), 1);
}

#[test]
fn a_short_loss_is_counted_and_is_no_blackout() {
    let layer = described(&shots(|ms| (ms % 7 != 0).then_some((100, 0))), &WINDOW);
    assert_eq!((layer.blackout, layer.lost), (None, 143));
}

#[test]
fn the_blackout_is_from_the_last_good_answer_to_the_next() {
    let layer = described(&shots(|ms| (!(400..450).contains(&ms)).then_some((100, 0))), &WINDOW);
    let blackout = layer.blackout.unwrap();
    assert_eq!((blackout.from_ns, blackout.to_ns), (399 * MS + 100_000, Some(450 * MS + 100_000)));
    assert_eq!((blackout.length_ns, blackout.new), (51 * MS, None));
}

#[test]
fn answers_that_were_held_back_are_a_blackout_too() {
    // As a VIP does that parks: everything is answered at 450.
    let held = |ms| if (400..450).contains(&ms) { (450 - ms) * 1000 } else { 100 };
    let layer = described(&shots(|ms| Some((held(ms), 0))), &WINDOW);
    assert_eq!((layer.lost, layer.blackout.unwrap().length_ns), (0, 51 * MS - 100_000));
    assert!(layer.latency.unwrap().max_ns <= 100_000, "outside of outages");
    assert!(layer.lanes[0].spans.iter().any(|span| span.state == State::Late));
}

#[test]
fn a_change_of_the_node_is_told_of_however_short() {
    let layer = described(&shots(|ms| Some((100, u16::from(ms >= 500)))), &WINDOW);
    let change = layer.blackout.unwrap();
    assert_eq!(
        (change.length_ns, change.old.as_deref(), change.new.as_deref()),
        (MS, Some("A"), Some("B"))
    );
    assert_eq!(layer.nodes.iter().map(|node| node.answers).collect::<Vec<_>>(), [500, 500]);
    assert_eq!(layer.lanes.len(), 3);
}

#[test]
fn two_nodes_in_turn_are_one_change() {
    let layer = described(&shots(|ms| Some((100, (ms / 10 % 2) as u16))), &WINDOW);
    assert_eq!(layer.outages.len(), 1);
}

#[test]
fn a_blackout_that_does_not_end_lasts_to_the_end() {
    let layer = described(&shots(|ms| (ms < 700).then_some((100, 0))), &WINDOW);
    let blackout = layer.blackout.unwrap();
    assert_eq!((blackout.to_ns, blackout.length_ns), (None, 1000 * MS - 699 * MS - 100_000));
    let never = described(&shots(|_| None), &WINDOW).blackout.unwrap();
    assert_eq!((never.from_ns, never.length_ns), (0, 1000 * MS));
}

#[test]
fn a_pause_of_the_probe_itself_is_no_blackout() {
    let mut paused = shots(|_| Some((100, 0)));
    paused.list.retain(|shot| !(300 * MS..400 * MS).contains(&shot.due.0));
    assert_eq!(described(&paused, &WINDOW).blackout, None);
    // Also if it catches up afterwards.
    let mut late = shots(|_| Some((100, 0)));
    for shot in &mut late.list {
        if (300 * MS..400 * MS).contains(&shot.due.0) {
            shot.sent = Monotonic(400 * MS);
            shot.answered = Some(Monotonic(400 * MS + 100_000));
        }
    }
    assert_eq!(described(&late, &WINDOW).blackout, None);
}

#[test]
fn a_pause_of_the_probe_is_no_part_of_the_blackout_behind_it() {
    let mut paused = shots(|ms| (!(400..450).contains(&ms)).then_some((100, 0)));
    paused.list.retain(|shot| !(100 * MS..400 * MS).contains(&shot.due.0));
    let blackout = described(&paused, &WINDOW).blackout.unwrap();
    assert_eq!((blackout.from_ns, blackout.length_ns), (400 * MS, 50 * MS + 100_000));
}

#[test]
fn only_what_ends_after_the_trigger_is_its_blackout() {
    let gaps = |ms| !(100..200).contains(&ms) && !(600..640).contains(&ms);
    let shots = shots(|ms| gaps(ms).then_some((100, 0)));
    assert_eq!(described(&shots, &WINDOW).blackout.unwrap().length_ns, 101 * MS);
    let window = Window { trigger: Some(Monotonic(500 * MS)), ..WINDOW };
    let layer = described(&shots, &window);
    assert_eq!((layer.blackout.unwrap().length_ns, layer.outages.len()), (41 * MS, 2));
}

#[test]
fn a_lane_has_at_most_so_many_pieces() {
    let shots = shots(|ms| (ms % 2 == 0).then_some((100, 0)));
    let window = Window { end: Monotonic(1_000_000 * MS), ..WINDOW };
    assert!(described(&shots, &window).lanes[0].spans.len() <= BINS as usize);
    let total: u64 =
        described(&shots, &WINDOW).lanes[0].spans.iter().map(|it| it.to_ns - it.from_ns).sum();
    assert_eq!(total, 1000 * MS);
}
