use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::probe::clients::Addresses;
use crate::probe::clients::fake::{Act, Fake, until};
use crate::probe::live::Progress;
use crate::probe::report::Layer;
use crate::probe::shots::Window;

/// A run against a fake.
struct Run {
    writers: Writers,
    live: Arc<Live>,
    begin: Monotonic,
}

impl Run {
    async fn start(settings: &ClientSettings) -> Self {
        let live = Arc::new(Live::default());
        let mut writers = Writers::open(settings, Arc::clone(&live)).await.unwrap();
        let begin = Monotonic::now();
        writers.start(begin).unwrap();
        Self { writers, live, begin }
    }

    fn progress(&self) -> Progress {
        self.live.read()
    }

    /// So many more writes are acknowledged.
    async fn goes_well_for(&self, writes: u64) {
        let enough = self.progress().good + writes;
        until("more writes are acknowledged", || self.progress().good >= enough).await;
    }

    async fn stop(self) -> (Layer, Written) {
        let window = Window { origin: self.begin, trigger: None, end: Monotonic::now() };
        let written = self.writers.stop().await;
        let layer = written.layer(&window, &Addresses::new());
        let told: u64 = layer.fates.values().sum();
        assert_eq!(layer.schedule.map(|it| it.sent), Some(told), "each write has one fate");
        (layer, written)
    }
}

fn persistent(fake: &Fake, connections: u32, write_rate: u32) -> ClientSettings {
    ClientSettings { connections, write_rate, ..fake.settings() }
}

#[tokio::test]
async fn a_node_that_keeps_everything_has_lost_nothing_and_is_left_clean() {
    let fake = Fake::start().await;
    let run = Run::start(&ClientSettings { fresh_rate: 200, ..persistent(&fake, 3, 200) }).await;
    run.goes_well_for(400).await;
    let given = fake.expires();
    assert_eq!(given.iter().filter(|(key, _)| key.contains(":persistent-")).count(), 3);
    assert!(given.iter().all(|(key, times)| *times == 1 || key.ends_with("fresh")), "{given:?}");
    let (layer, written) = run.stop().await;
    let writes = layer.writes.unwrap();
    assert!(writes.acknowledged >= 400);
    assert_eq!((writes.lost, writes.duplicated, writes.unacknowledged), (Some(0), 0, 0));
    assert_eq!((writes.late, writes.read_back_from.as_deref()), (0, Some("first")));
    assert_eq!(fake.keys(), 0, "all keys are removed");
    assert_eq!((layer.errors.len(), written.notes()), (0, vec![]));
    assert_eq!(layer.nodes.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["first"]);
    assert!(layer.latency.is_some() && layer.fresh.is_some() && layer.wire.is_none());
    let waiting = layer.waiting.unwrap();
    assert_eq!((waiting.connections, waiting.ended.len(), waiting.hung), (3, 0, 0));
}

#[tokio::test]
async fn what_a_node_acknowledges_and_forgets_is_counted_exactly() {
    let fake = Fake::start().await;
    let forgotten = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&forgotten);
    let mut seen = 0;
    fake.rule(move |command| {
        seen += u64::from(command.is_write());
        if command.is_write() && seen % 7 == 0 {
            count.fetch_add(1, Ordering::Relaxed);
            return Act::Forget;
        }
        Act::Usual
    });
    let run = Run::start(&ClientSettings { fresh_rate: 100, ..persistent(&fake, 2, 200) }).await;
    run.goes_well_for(350).await;
    let (layer, _) = run.stop().await;
    let writes = layer.writes.unwrap();
    let forgotten = forgotten.load(Ordering::Relaxed);
    assert!(forgotten >= 50);
    assert_eq!(writes.lost, Some(forgotten));
    assert_eq!((writes.lost_sample.len(), writes.duplicated), (20, 0));
    assert!(writes.lost_sample.iter().all(|it| it.by == "first" && it.at_ns > 0));
    let named: BTreeSet<_> = writes.lost_sample.iter().map(|it| it.connection.as_str()).collect();
    assert!(named.iter().all(|it| ["persistent-1", "persistent-2", "fresh"].contains(it)));
}

#[tokio::test]
async fn what_is_there_twice_is_counted_exactly() {
    let fake = Fake::start().await;
    fake.rule(|command| {
        let is_tenth = command.is_persistent() && command.words[2].ends_with('3');
        if is_tenth { Act::Twice } else { Act::Usual }
    });
    let run = Run::start(&persistent(&fake, 1, 500)).await;
    run.goes_well_for(200).await;
    let (layer, _) = run.stop().await;
    let writes = layer.writes.unwrap();
    let expected = (0..writes.acknowledged).filter(|it| it % 10 == 3).count() as u64;
    assert_eq!((writes.duplicated, writes.lost), (expected, Some(0)));
}

#[tokio::test]
async fn a_write_that_was_kept_and_not_acknowledged_is_neither_lost_nor_forgotten() {
    let fake = Fake::start().await;
    let run = Run::start(&persistent(&fake, 1, 200)).await;
    run.goes_well_for(20).await;
    let kept = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&kept);
    fake.rule(move |command| {
        if !command.is_persistent() {
            return Act::Usual;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Act::KeepAndReset
    });
    until("some were kept", || kept.load(Ordering::Relaxed) >= 5).await;
    fake.rule(|_| Act::Usual);
    run.goes_well_for(20).await;
    let (layer, _) = run.stop().await;
    let writes = layer.writes.unwrap();
    assert_eq!((writes.lost, writes.unacknowledged), (Some(0), kept.load(Ordering::Relaxed)));
    assert_eq!(layer.waiting.unwrap().ended.len() as u64, writes.unacknowledged);
}

#[tokio::test]
async fn readonly_ends_a_connection_and_the_next_one_writes_on() {
    let fake = Fake::start().await;
    let run = Run::start(&persistent(&fake, 1, 200)).await;
    run.goes_well_for(10).await;
    let mut said = false;
    fake.rule(move |command| {
        if command.is_persistent() && !std::mem::replace(&mut said, true) {
            return Act::Say("-READONLY You can't write against a read only replica.\r\n");
        }
        Act::Usual
    });
    until("an error is noticed", || run.progress().bad > 0).await;
    run.goes_well_for(20).await;
    let (layer, written) = run.stop().await;
    assert!(layer.errors["readonly"] >= 1, "{:?}", layer.errors);
    assert!(layer.errors.keys().all(|it| it == "readonly" || it == "no connection"));
    let waiting = layer.waiting.unwrap();
    let ended: Vec<_> = waiting.ended.iter().map(|it| (&*it.waiting_in, &*it.how)).collect();
    assert_eq!((ended, waiting.hung), (vec![("write", "readonly")], 0));
    assert_eq!((layer.writes.unwrap().lost, written.notes()), (Some(0), vec![]));
}

#[tokio::test]
async fn a_reset_ends_every_connection_and_all_come_back() {
    let fake = Fake::start().await;
    let run = Run::start(&persistent(&fake, 4, 100)).await;
    run.goes_well_for(40).await;
    fake.cut("", Act::Reset);
    run.goes_well_for(100).await;
    let (layer, _) = run.stop().await;
    let waiting = layer.waiting.unwrap();
    assert_eq!((waiting.ended.len(), waiting.hung), (4, 0));
    assert!(waiting.ended.iter().all(|it| it.how == "reset"), "{waiting:?}");
}

#[tokio::test]
async fn a_node_that_says_nothing_costs_time_outs_and_the_schedule_goes_on() {
    let fake = Fake::start().await;
    let run = Run::start(&ClientSettings { fresh_rate: 100, ..persistent(&fake, 2, 100) }).await;
    run.goes_well_for(30).await;
    fake.rule(|command| if command.is_write() { Act::Mute } else { Act::Usual });
    let begin = run.progress();
    until("all have waited in vain", || run.progress().bad >= begin.bad + 150).await;
    let (layer, _) = run.stop().await;
    let schedule = layer.schedule.unwrap();
    // Each write was sent at its time: none waited for those before, which took a second.
    assert!(schedule.late_p99_ns < 500_000_000 && schedule.rate == 300.0, "{schedule:?}");
    let is_known = |kind: &String| ["timeout", "no connection"].contains(&kind.as_str());
    assert!(layer.errors.keys().all(is_known), "{:?}", layer.errors);
    assert!(layer.errors["timeout"] >= 100, "{:?}", layer.errors);
    let ended = layer.waiting.unwrap().ended;
    assert!(ended.len() >= 2 && ended.iter().all(|it| it.how == "timeout"), "{ended:?}");
}

#[tokio::test]
async fn a_stall_costs_each_write_the_time_from_its_own_moment_on() {
    let fake = Fake::start().await;
    let settings = persistent(&fake, 1, 500);
    let run = Run::start(&settings).await;
    run.goes_well_for(50).await;
    let (begun, stalled) = (run.progress(), Monotonic::now());
    let moment = Instant::now() + Duration::from_millis(300);
    fake.rule(
        move |command| {
            if command.is_persistent() { Act::PauseUntil(moment) } else { Act::Usual }
        },
    );
    until("the schedule goes on", || run.progress().sent >= begun.sent + 100).await;
    run.goes_well_for(150).await;
    let (layer, written) = run.stop().await;
    assert_eq!(layer.errors.len(), 0, "a stall below the time-out is no error");
    let outage = layer.blackout.expect("the stall is seen");
    assert!((250_000_000..1_000_000_000).contains(&outage.length_ns), "{outage:?}");
    // A client that waits for each answer before it sends the next write would have had one slow
    // write; those who came meanwhile waited too.
    let slow = written.latencies_from(stalled).filter(|it| *it > Duration::from_millis(100));
    assert!(slow.count() >= 70);
}

#[tokio::test]
async fn two_masters_at_once_are_found_out_and_those_who_hang_on_to_the_old_one_counted() {
    let fake = Fake::start().await;
    let run = Run::start(&ClientSettings { fresh_rate: 100, ..persistent(&fake, 3, 100) }).await;
    run.goes_well_for(40).await;
    let before = run.progress().good;
    fake.lead_to("second");
    run.goes_well_for(100).await;
    let (layer, _) = run.stop().await;
    let writes = layer.writes.unwrap();
    assert_eq!(writes.read_back_from.as_deref(), Some("second"));
    let by = |id: &str| layer.nodes.iter().find(|it| it.id == id).unwrap().answers;
    assert_eq!(writes.lost, Some(by("first")), "the new one knows nothing of the old one's");
    assert!(writes.late > 0 && writes.late <= by("first") - (before - 20), "{writes:?}");
    assert_eq!(layer.waiting.unwrap().hung, 3);
    assert!(layer.outages.iter().any(|it| it.new.as_deref() == Some("second")));
}

#[tokio::test]
async fn while_there_is_no_connection_writes_fail_at_once_and_attempts_are_bounded() {
    let fake = Fake::start().await;
    let run = Run::start(&persistent(&fake, 1, 200)).await;
    run.goes_well_for(10).await;
    let attempts = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&attempts);
    fake.rule(move |command| {
        count.fetch_add(u64::from(command.words[0] == "PING"), Ordering::Relaxed);
        Act::Close
    });
    fake.cut("", Act::Close);
    let bad = run.progress().bad;
    until("many fail", || run.progress().bad >= bad + 50).await;
    fake.rule(|_| Act::Usual);
    run.goes_well_for(10).await;
    let (layer, written) = run.stop().await;
    assert!(layer.errors["no connection"] >= 50, "{:?}", layer.errors);
    let failed = layer.errors.values().sum::<u64>();
    let attempts = attempts.load(Ordering::Relaxed);
    assert!(attempts > 0 && attempts <= failed + 1, "{attempts} attempts, {failed} writes failed");
    let notes = written.notes();
    assert!(notes.iter().any(|it| it.contains("closed")), "{notes:?}");
}

#[tokio::test]
async fn a_node_that_takes_nothing_fills_the_backlog_and_no_more() {
    let fake = Fake::start().await;
    let run = Run::start(&persistent(&fake, 1, 10_000)).await;
    fake.rule(|command| if command.is_persistent() { Act::Mute } else { Act::Usual });
    until("the backlog is full", || run.progress().bad >= 100).await;
    let (layer, _) = run.stop().await;
    assert!(layer.errors["backlog"] >= 100, "{:?}", layer.errors);
    // Those that were under way, and hardly any that waited for their turn.
    assert!((1000..2500).contains(&layer.errors["timeout"]), "{:?}", layer.errors);
}

#[tokio::test]
async fn what_can_not_be_is_said_before_the_run() {
    let fake = Fake::start().await;
    let open = async |settings: ClientSettings| match Writers::open(&settings, Arc::default()).await
    {
        Ok(_) => panic!("opened"),
        Err(error) => format!("{error:#}"),
    };
    let usual = || persistent(&fake, 1, 100);
    for (settings, says) in [
        (ClientSettings { write_rate: 0, ..usual() }, "nothing to write"),
        (ClientSettings { connections: 10_001, ..usual() }, "up to 10000"),
        (ClientSettings { fresh_rate: 100_000, ..usual() }, "100100 writes a second"),
        (ClientSettings { timeout: Duration::ZERO, ..usual() }, "--timeout is zero"),
    ] {
        let error = open(settings).await;
        assert!(error.contains(says), "{error}");
    }
    fake.rule(|command| match command.words[0].as_str() {
        "LRANGE" => {
            Act::Say("-NOPERM this user has no permissions to run the 'lrange' command\r\n")
        }
        _ => Act::Usual,
    });
    let error = open(usual()).await;
    assert!(error.contains("lrange") && error.contains("127.0.0.1:"), "{error}");
    fake.rule(|command| match command.words[0].as_str() {
        "RPUSH" => Act::Say("-READONLY You can't write against a read only replica.\r\n"),
        _ => Act::Usual,
    });
    let error = open(usual()).await;
    assert!(error.contains("READONLY"), "{error}");
}
