//! Whatever goes wrong, nothing is left behind: nobody paused, nobody parked, every priority as it
//! was; and nothing that a pause held back is executed by a node that may be demoted.

mod fake;
mod review;

use std::time::Duration;

use self::fake::{Deed, Fake, OLD, Promotion, Watch, World, node, order};
use super::{Order, Preferred, pause_limit};
use crate::connect::Error;
use crate::order::Refusal;

/// What must hold however it ended.
fn assert_clean(fake: &Fake, what: &str) {
    let world = fake.world();
    let deeds = &world.deeds;
    assert!(!world.paused, "{what}: still paused after {deeds:?}");
    let flipped = fake_serves_new(fake);
    assert!(!world.parked || flipped, "{what}: still parked after {deeds:?}");
    assert!(world.priorities.values().all(|it| *it == 100), "{what}: {:?}", world.priorities);
    assert!(world.record.is_empty(), "{what}: {:?}", world.record);
    assert!(world.unnoted.is_empty(), "{what}: not noted before: {:?}", world.unnoted);
    // From the order on, the pause ends only after its clients were killed.
    if let Some(ordered) = deeds.iter().position(|it| *it == Deed::Order)
        && world.refusal.is_none()
    {
        let since = &deeds[ordered..];
        let killed = since.iter().position(|it| *it == Deed::Kill);
        let ended = since.iter().position(|it| *it == Deed::Unpause);
        assert!(killed.is_some() && killed < ended, "{what}: not killed before: {deeds:?}");
        let cancelled = since.iter().position(|it| *it == Deed::Cancel);
        assert!(cancelled.is_none_or(|it| ended < Some(it)), "{what}: unparked early: {deeds:?}");
    }
}

fn fake_serves_new(fake: &Fake) -> bool {
    use super::site::Site as _;
    fake.view().borrow().serves == Some(node(102))
}

fn preferring(host: u8) -> Order {
    Order { to: Some(Preferred::Node(node(host))), ..order() }
}

#[tokio::test(start_paused = true)]
async fn the_steps_come_in_their_order() {
    let fake = Fake::new(World::default());
    let switched = fake.switch_over(&order()).await.unwrap().unwrap();
    assert_eq!((switched.from, switched.to), (node(OLD), node(102)));
    assert!(switched.demoted && switched.warnings.is_empty(), "{switched:?}");
    use Deed::{Demote, Kill, Order, Park, Pause, Taken, Unpause};
    let expected = [Pause, Park, Order, Taken, Kill, Demote, Kill, Unpause];
    assert_eq!(fake.world().deeds, expected);
    assert_clean(&fake, "success");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_does_nothing() {
    let fake = Fake::new(World::default());
    let order = Order { dry_run: true, ..preferring(103) };
    assert_eq!(fake.switch_over(&order).await.unwrap(), None);
    assert_eq!(fake.world().deeds, []);
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_unless_a_confirmed_master_is_served() {
    let fake = Fake::new(World::default());
    fake.show(|view| view.steady = false);
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    assert!(failure.contains("vipd status"), "{failure}");
    assert_eq!(fake.world().deeds, []);
}

#[tokio::test(start_paused = true)]
async fn the_preferred_replica_is_hinted_at_and_every_priority_restored() {
    let fake = Fake::new(World::default());
    fake.switch_over(&preferring(103)).await.unwrap().unwrap();
    let deeds = fake.world().deeds.clone();
    assert_eq!(deeds[..2], [Deed::Priority(103, 1), Deed::Pause]);
    assert!(deeds.contains(&Deed::Priority(103, 100)), "{deeds:?}");
    assert_clean(&fake, "--to");
}

#[tokio::test(start_paused = true)]
async fn a_sentinel_that_never_hears_of_the_hint_ends_it_before_anybody_is_paused() {
    let fake = Fake::new(World { obedient: false, ..World::default() });
    let failure = fake.switch_over(&preferring(103)).await.unwrap_err().to_string();
    assert!(failure.contains("prefers 198.18.0.103:8000"), "{failure}");
    assert_eq!(fake.world().deeds, [Deed::Priority(103, 1), Deed::Priority(103, 100)]);
    assert_clean(&fake, "no hint");
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_is_undone_whether_or_not_it_was_done() {
    use Deed::{Demote, Kill, Order, Park, Pause, Priority};
    for deed in [Priority(103, 1), Pause, Park, Order, Kill, Demote] {
        for done in [false, true] {
            let fake = Fake::new(World { fails: Some((deed, done)), ..World::default() });
            let outcome = fake.switch_over(&preferring(103)).await;
            let what = format!("{deed:?}, done: {done}");
            assert_clean(&fake, &what);
            match deed {
                // Nothing before the flip may fail; and whether an order arrived shows by itself.
                Priority(..) | Pause | Park => {
                    assert!(outcome.unwrap_err().to_string().ends_with("as it was"), "{what}");
                }
                Order => assert!(outcome.unwrap_err().to_string().contains("promoted"), "{what}"),
                _ => assert!(!outcome.unwrap().unwrap().warnings.is_empty(), "{what}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_cut_short_is_undone() {
    use Deed::{Demote, Kill, Order, Park, Pause, Priority};
    for deed in [Priority(103, 1), Pause, Park, Order, Kill, Demote, Priority(103, 100)] {
        let fake = Fake::new(World { hangs: Some(deed), ..World::default() });
        let failure = fake.switch_over(&preferring(103)).await.unwrap_err().to_string();
        assert!(failure.contains("stopping"), "{deed:?}: {failure}");
        assert_clean(&fake, &format!("{deed:?}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stands_still_ends_the_pause_and_nothing_is_ordered() {
    let fake = Fake::new(World { stuck: Some(103), ..World::default() });
    let watch = Watch::start();
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    assert!(failure.contains("198.18.0.103:8000 is 100 bytes behind"), "{failure}");
    assert!(failure.ends_with("everything is as it was"), "{failure}");
    use Deed::{Cancel, Park, Pause, Unpause};
    assert_eq!(fake.world().deeds, [Pause, Park, Cancel, Unpause], "and nobody killed");
    assert!(watch.elapsed() < Duration::from_millis(2200), "{:?}", watch.elapsed());
    assert_clean(&fake, "stuck");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_returns_everything_and_kills_nobody() {
    let sentinel = || "198.18.0.101:26379".parse().unwrap();
    let refusal = Refusal::Denied(sentinel(), Error::NoPerm("sentinel|failover".into()));
    let fake = Fake::new(World { refusal: Some(refusal), ..World::default() });
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    assert!(failure.contains("sentinel|failover"), "{failure}");
    use Deed::{Cancel, Order, Park, Pause, Unpause};
    assert_eq!(fake.world().deeds, [Pause, Park, Order, Cancel, Unpause]);
    assert_clean(&fake, "refused");
}

#[tokio::test(start_paused = true)]
async fn an_abort_returns_to_the_old_master_whose_held_back_writes_are_killed() {
    let fake = Fake::new(World { promotion: Promotion::Aborted, ..World::default() });
    let failure = fake.switch_over(&order()).await.unwrap_err().to_string();
    assert!(failure.contains("aborted"), "{failure}");
    assert_clean(&fake, "aborted");
}

#[tokio::test(start_paused = true)]
async fn the_pause_ends_in_time_however_long_the_promotion_takes() {
    for promotion in [Promotion::Never, Promotion::After(Duration::from_secs(8))] {
        let fake = Fake::new(World { promotion, ..World::default() });
        let outcome = fake.switch_over(&order()).await;
        assert_eq!(outcome.is_ok(), promotion != Promotion::Never, "{outcome:?}");
        if let Ok(Some(switched)) = outcome {
            let paused = Duration::from_micros(switched.paused_us);
            assert!(paused < Duration::from_millis(2500), "{paused:?}");
        }
        assert_clean(&fake, &format!("{promotion:?}"));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_behind_the_new_master_the_old_one_is_not_demoted() {
    let fake = Fake::new(World { hearing: 1, ..World::default() });
    let switched = fake.switch_over(&order()).await.unwrap().unwrap();
    assert!(!switched.demoted);
    assert!(switched.warnings[0].contains("no majority"), "{switched:?}");
    assert!(!fake.world().deeds.contains(&Deed::Demote));
    assert_clean(&fake, "no majority");
}

#[tokio::test(start_paused = true)]
async fn another_failover_in_between_is_noticed() {
    let fake = Fake::new(World { stuck: Some(103), ..World::default() });
    let order = order();
    let (outcome, ()) = tokio::join!(fake.switch_over(&order), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fake.show(|view| view.serves = Some(node(102)));
    });
    let failure = outcome.unwrap_err().to_string();
    assert!(failure.contains("another failover"), "{failure}");
    assert!(!fake.world().paused);
    let deeds = fake.world().deeds.clone();
    assert!(deeds.ends_with(&[Deed::Kill, Deed::Unpause]), "{deeds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_can_not_be_ended_is_told() {
    let fake = Fake::new(World { stuck: Some(103), ..World::default() });
    let order = order();
    let (outcome, ()) = tokio::join!(fake.switch_over(&order), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fake.world().fails = Some((Deed::Unpause, false));
    });
    let failure = outcome.unwrap_err().to_string();
    assert!(failure.contains("ends by itself"), "{failure}");
    assert!(!fake.world().parked, "and the park ended all the same");
}

#[test]
fn a_pause_is_shorter_than_down_after() {
    let ms = Duration::from_millis;
    for (timeout, down_after, expected) in [
        (ms(5000), ms(30_000), Some((ms(8350), ms(5000)))),
        (ms(5000), ms(3000), Some((ms(2400), ms(2050)))),
        (ms(1000), ms(30_000), Some((ms(4350), ms(1000)))),
        (ms(5000), ms(500), Some((ms(400), ms(50)))),
        (ms(5000), ms(460), None),
        (ms(5000), ms(100), None),
    ] {
        assert_eq!(pause_limit(timeout, down_after), expected, "{timeout:?} {down_after:?}");
    }
}
