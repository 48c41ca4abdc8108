//! While a Sentinel may still promote somebody, nothing is given up to the old master; and what would
//! outlast vipd is on disk.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::fake::{Deed, Fake, OLD, Promotion, Watch, World, node, order};
use super::{assert_clean, preferring};
use crate::switchover::record::{Owed, Record, pay};
use crate::switchover::site::Priorities as _;

/// The plan's: four fifths of 3 s.
const PAUSE: Duration = Duration::from_millis(2400);

fn owed(now: u32) -> Owed {
    Owed { node: node(103), before: 100, now }
}

#[tokio::test(start_paused = true)]
async fn an_order_of_which_nothing_came_is_not_told_as_if_nothing_could_come_of_it() {
    for promotion in [Promotion::Never, Promotion::Aborted] {
        let fake = Fake::new(World { promotion, ..World::default() });
        let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
        assert!(failure.contains("a Sentinel may still promote a replica"), "{failure}");
        assert!(!failure.contains("as it was"), "{failure}");
        assert_clean(&fake, &failure);
    }
}

#[tokio::test(start_paused = true)]
async fn a_park_that_ends_with_a_candidate_known_does_not_end_the_pause() {
    let fake = Fake::new(World { promotion: Promotion::Never, ..World::default() });
    let order = order();
    let (outcome, ()) = tokio::join!(fake.switch_over(&order), async {
        sleep(Duration::from_secs(1)).await;
        // Promoting, and for too long: packets go to the old master again.
        fake.show(|view| (view.parked, view.steady) = (false, false));
        sleep(Duration::from_secs(1)).await;
        assert!(fake.world().paused, "given up: {:?}", fake.world().deeds);
        fake.show(|view| view.serves = Some(node(102)));
    });
    assert_eq!(outcome.unwrap().unwrap().to, node(102));
    assert_clean(&fake, "promoted late");
}

#[tokio::test(start_paused = true)]
async fn the_same_while_the_replicas_catch_up() {
    let fake = Fake::new(World { stuck: Some(103), ..World::default() });
    let order = order();
    let (outcome, ()) = tokio::join!(fake.switch_over(&order), async {
        sleep(Duration::from_millis(500)).await;
        fake.show(|view| (view.parked, view.steady) = (false, false));
        sleep(Duration::from_secs(1)).await;
        assert!(fake.world().paused, "given up: {:?}", fake.world().deeds);
        fake.show(|view| view.serves = Some(node(102)));
    });
    let failure = outcome.unwrap_err().to_string();
    assert!(failure.contains("another failover") && failure.contains("is served"), "{failure}");
    let deeds = fake.world().deeds.clone();
    assert!(!deeds.contains(&Deed::Order), "{deeds:?}");
    assert!(deeds.ends_with(&[Deed::Kill, Deed::Unpause]), "{deeds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_vipd_that_stops_after_its_order_waits_for_the_promotion_a_little() {
    use Deed::{Cancel, Kill, Order, Park, Pause, Unpause};
    // Nobody is promoted: the clients are killed, the pause ends, and then the park.
    let fake = Fake::new(World { hangs: Some(Order), ..World::default() });
    let watch = Watch::start();
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    assert!(watch.elapsed() >= Duration::from_secs(1), "{:?}", watch.elapsed());
    assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
    assert!(failure.contains("may still promote"), "{failure}");
    assert_eq!(fake.world().deeds, [Pause, Park, Order, Kill, Unpause, Cancel]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ordered_if_the_clients_are_not_parked() {
    let fake = Fake::new(World { deaf: true, ..World::default() });
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    assert!(failure.contains("could not be parked"), "{failure}");
    assert!(!fake.world().deeds.contains(&Deed::Order), "{:?}", fake.world().deeds);
    assert_clean(&fake, "deaf");
}

#[tokio::test(start_paused = true)]
async fn a_failover_that_another_sentinel_has_begun_is_waited_for_and_no_second_one_ordered() {
    for stuck in [None, Some(103)] {
        let fake = Fake::new(World { foreign: Some(2), stuck, ..World::default() });
        let order = order();
        let (outcome, ()) = tokio::join!(fake.switch_over(&order), async {
            sleep(Duration::from_millis(2200)).await;
            assert!(fake.world().paused, "given up: {:?}", fake.world().deeds);
            fake.world().promoted = true;
            fake.show(|view| (view.serves, view.parked) = (Some(node(102)), false));
        });
        // Whom it promotes has everything only if all of them have.
        assert_eq!(outcome.is_ok(), stuck.is_none(), "{outcome:?}");
        let deeds = fake.world().deeds.clone();
        assert!(!deeds.contains(&Deed::Order), "{deeds:?}");
        assert!(deeds.ends_with(&[Deed::Kill, Deed::Unpause]), "{deeds:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_pause_ends_in_time_whatever_hangs_after_the_flip() {
    let slow = Duration::from_secs(4);
    let world = World { hearing: 1, slow, priorities: [(102, 100)].into(), ..World::default() };
    let fake = Fake::new(world);
    let switched = fake.switch_over(&order()).await.unwrap().unwrap();
    assert!(!switched.demoted);
    let lasted = fake.world().pause_lasted.unwrap();
    assert!(lasted <= PAUSE + Duration::from_millis(10), "{lasted:?}");
    assert_clean(&fake, "slow Sentinels");
}

#[tokio::test(start_paused = true)]
async fn killing_the_old_masters_clients_is_tried_again() {
    let fake = Fake::new(World { fails: Some((Deed::Kill, false)), ..World::default() });
    let order = order();
    let (outcome, ()) = tokio::join!(fake.switch_over(&order), async {
        sleep(Duration::from_millis(150)).await;
        fake.world().fails = None;
    });
    let switched = outcome.unwrap().unwrap();
    assert!(switched.warnings.is_empty(), "{switched:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_pause_that_can_not_be_ended_is_told_as_it_is() {
    // It fails early, long before the pause is over.
    let fake = Fake::new(World { fails: Some((Deed::Unpause, false)), ..World::default() });
    fake.world().deaf = true;
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    let (_, left) = failure.rsplit_once("within ").unwrap();
    let left: u64 = left.split_once(" ms").unwrap().0.parse().unwrap();
    // Less the five attempts.
    assert!((2400..=2900).contains(&left), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_past_is_not_waited_for_again_and_again() {
    let world = World { promotion: Promotion::Never, ..World::default() };
    let fake = Fake::new(World { fails: Some((Deed::Unpause, false)), ..world });
    fake.switch_over(&order()).await.unwrap_err();
    let deeds = fake.world().deeds.clone();
    assert!(deeds.len() < 20, "{deeds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_was_not_begun_is_not_ended() {
    // An operator's own would end with it.
    for world in
        [World { stuck: Some(103), ..World::default() }, World { deaf: true, ..World::default() }]
    {
        let fake = Fake::new(world);
        let _ = fake.switch_over(&order()).await;
        let deeds = fake.world().deeds.clone();
        let paused = deeds.iter().position(|it| *it == Deed::Pause);
        assert!(deeds.iter().position(|it| *it == Deed::Unpause) > paused, "{deeds:?}");
    }
    let fake = Fake::new(World { refuses_pause: true, ..World::default() });
    fake.switch_over(&order()).await.unwrap_err();
    assert_eq!(fake.world().deeds, [Deed::Pause], "refused: nobody is paused by vipd");
}

#[tokio::test(start_paused = true)]
async fn priorities_that_can_not_be_noted_are_not_changed() {
    let fake = Fake::new(World { full: true, ..World::default() });
    let failure = fake.switch_over(&preferring(103)).await.unwrap_err().to_string();
    assert!(failure.contains("can't be noted"), "{failure}");
    assert_eq!(fake.world().deeds, []);
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_could_not_be_set_back_stays_noted() {
    let back = Deed::Priority(103, 100);
    let fake = Fake::new(World { fails: Some((back, false)), ..World::default() });
    let switched = fake.switch_over(&preferring(103)).await.unwrap().unwrap();
    assert!(switched.warnings[0].contains("103:8000 back to 100"), "{switched:?}");
    assert_eq!(fake.world().record[&103], owed(1));
    // The next switchover doesn't take what was left for what is to be restored.
    fake.world().fails = None;
    fake.world().promoted = false;
    fake.show(|view| (view.serves, view.steady) = (Some(node(OLD)), true));
    fake.switch_over(&preferring(103)).await.unwrap().unwrap();
    assert_clean(&fake, "once more");
}

#[tokio::test(start_paused = true)]
async fn the_next_start_pays_what_is_owed_and_leaves_alone_what_somebody_has_changed_since() {
    let directory = std::env::temp_dir().join(format!("vipd-priorities-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("control.sock");
    let turn = Mutex::default();
    for (present, expected) in [(1, 100), (100, 100), (7, 7)] {
        Record::open(&socket).owe(&[owed(1)]).unwrap();
        let fake = Fake::new(World::default());
        fake.world().priorities.insert(103, present);
        let record = Record::open(&socket);
        assert_eq!(record.owed(), [owed(1)]);
        pay(&record, &fake, &turn).await;
        assert_eq!(fake.priority(node(103)).await.unwrap(), expected);
        assert_eq!(Record::open(&socket).owed(), [], "{present}");
    }
    // Nobody there: it gives up, and the debt remains.
    Record::open(&socket).owe(&[owed(1)]).unwrap();
    let fails = Some((Deed::Priority(103, 100), false));
    let fake = Fake::new(World { fails, ..World::default() });
    fake.world().priorities.insert(103, 1);
    pay(&Record::open(&socket), &fake, &turn).await;
    assert_eq!(fake.world().deeds.len(), 6);
    assert_eq!(Record::open(&socket).owed(), [owed(1)]);
    std::fs::remove_dir_all(&directory).unwrap();
}
