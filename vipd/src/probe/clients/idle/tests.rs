use std::collections::BTreeMap;

use super::*;
use crate::probe::clients::Addresses;
use crate::probe::clients::fake::{Act, Fake, until};
use crate::probe::report::{Layer, State};
use crate::probe::shots::Window;

struct Run {
    idle: Idle,
    live: Arc<Live>,
    begin: Monotonic,
}

impl Run {
    async fn start(fake: &Fake, idle: u32) -> Self {
        let live = Arc::new(Live::default());
        let settings = ClientSettings { idle, ..fake.settings() };
        let idle = Idle::start(&settings, Arc::clone(&live)).await.unwrap();
        Self { idle, live, begin: Monotonic::now() }
    }

    async fn learned(&self, count: u64) {
        until("clients have learned", || self.live.read().bad >= count).await;
        let are_noted = || {
            let waiters = self.idle.waiters.lock().unwrap();
            waiters.iter().filter(|it| it.end.is_some()).count() as u64 >= count
        };
        until("that is noted", are_noted).await;
    }

    async fn stop(self) -> (Layer, Vec<String>) {
        let window = Window { origin: self.begin, trigger: None, end: Monotonic::now() };
        let waited = self.idle.stop().await;
        (waited.layer(&window, &Addresses::new()), waited.notes())
    }
}

fn ended(layer: &Layer) -> BTreeMap<(&str, &str), u64> {
    let mut counts = BTreeMap::new();
    for it in &layer.waiting.as_ref().unwrap().ended {
        *counts.entry((&*it.waiting_in, &*it.how)).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn each_way_to_learn_is_told_from_the_others_and_who_never_learns_hangs() {
    let fake = Fake::start().await;
    let run = Run::start(&fake, 12).await;
    fake.lead_to("second");
    fake.cut("INFO", Act::Reset);
    fake.cut("BLPOP", Act::Say("-UNBLOCKED force unblock from blocking operation\r\n"));
    run.learned(8).await;
    let (layer, notes) = run.stop().await;
    let expected = [(("blpop", "told"), 4), (("read", "reset"), 4)];
    assert_eq!(ended(&layer), expected.into());
    let waiting = layer.waiting.as_ref().unwrap();
    assert_eq!((waiting.connections, waiting.hung), (12, 4));
    let fates = [("hung", 4), ("reset", 4), ("told", 4)].map(|(name, it)| (name.to_owned(), it));
    assert_eq!((&layer.fates, notes), (&fates.into(), vec![]));
    let states: Vec<_> = layer.lanes[0].spans.iter().map(|it| it.state).collect();
    assert_eq!(states, [State::Good, State::Refused, State::Silent]);
    assert_eq!((layer.lanes.len(), layer.nodes.len()), (2, 1));
}

#[tokio::test]
async fn who_still_waits_at_the_right_node_does_not_hang() {
    let fake = Fake::start().await;
    let run = Run::start(&fake, 6).await;
    fake.cut("SUBSCRIBE", Act::Close);
    run.learned(2).await;
    let (layer, _) = run.stop().await;
    assert_eq!(ended(&layer), [(("subscribe", "closed"), 2)].into());
    assert_eq!((layer.waiting.as_ref().unwrap().hung, layer.fates["waiting"]), (0, 4));
}

#[tokio::test]
async fn who_may_not_wait_is_told_before_the_run() {
    let fake = Fake::start().await;
    let start = async || {
        let settings = ClientSettings { idle: 3, ..fake.settings() };
        match Idle::start(&settings, Arc::default()).await {
            Ok(_) => panic!("started"),
            Err(error) => error.to_string(),
        }
    };
    for command in ["BLPOP", "SUBSCRIBE"] {
        fake.rule(move |it| {
            let is_it = it.words[0] == command;
            if is_it { Act::Say("-NOPERM no permissions\r\n") } else { Act::Usual }
        });
        let error = start().await;
        assert!(error.contains("lacks a permission"), "{command}: {error}");
    }
    fake.rule(|_| Act::Say("-NOAUTH Authentication required.\r\n"));
    let error = start().await;
    assert!(error.contains("password"), "{error}");
}
