//! A hint from outside: the Sentinels are read again at once.

use tokio::time::Instant;
use vipd::model::MasterId;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_reads_every_sentinel_again_without_waiting_for_the_second() {
    const TIMES: u32 = 20;
    let lab = Lab::new(1, 2).await;
    let (followers, mut reports) = follow(lab.sentinels.iter().map(Server::endpoint).collect());
    for sentinel in 0..2 {
        report(&mut reports, "a claim", claim_of(sentinel)).await;
    }
    let start = Instant::now();
    for _ in 0..TIMES {
        while reports.try_recv().is_ok() {}
        followers.refresh(MasterId(0));
        let mut missing = [true; 2];
        report(&mut reports, "a claim of each", |report| {
            for (sentinel, missing) in missing.iter_mut().enumerate() {
                *missing &= claim_of(sentinel)(report).is_none();
            }
            (missing == [false; 2]).then_some(())
        })
        .await;
    }
    // Without a refresh each reading takes until the next full second.
    assert!(start.elapsed() < TIMES * Duration::from_secs(1) / 2, "{:?}", start.elapsed());
}
