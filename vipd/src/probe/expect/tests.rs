use proptest::prelude::{prop_assert, proptest};

use super::*;
use crate::probe::page::sample;
use crate::probe::report::{Outage, OwnerChange, Owners, Waiting, Writes};

fn parsed(text: &str) -> Expectations {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn judged(text: &str, runs: &[Run]) -> (String, bool) {
    let mut all = parsed(text).judge(runs);
    assert_eq!(all.len(), 1, "{text}");
    let it = all.remove(0);
    (it.found, it.holds)
}

/// A run in which the trigger did nothing.
fn quiet() -> Run {
    let mut run = sample::nat().runs.swap_remove(0);
    for layer in &mut run.layers {
        layer.blackout = None;
        layer.outages.clear();
        if let Some(waiting) = &mut layer.waiting {
            waiting.ended.clear();
        }
    }
    run.marks.clear();
    run
}

#[test]
fn an_outage_without_any_other_sign_of_a_failover_is_none() {
    let mut run = quiet();
    let zero = run.zero_ns();
    let hiccup = Outage {
        from_ns: zero + 5,
        to_ns: Some(zero + 12_000_000),
        length_ns: 11_999_995,
        old: None,
        new: None,
    };
    run.layers[2].blackout = Some(hiccup);
    assert!(!judged("blackout<500ms", std::slice::from_ref(&run)).1);
    // Where no layer could show more, it has to do.
    run.layers.retain(|layer| layer.waiting.is_none() && layer.owners.is_none());
    assert!(judged("blackout<500ms", &[run]).1);
}

#[test]
fn a_blackout_that_has_not_ended_is_not_below_anything() {
    let mut runs = sample::nat().runs;
    for layer in &mut runs[0].layers {
        if let Some(blackout) = &mut layer.blackout {
            blackout.to_ns = None;
        }
    }
    let (found, holds) = judged("blackout<1h", &runs);
    assert!(found.contains("had not ended") && !holds, "{found}");
}

#[test]
fn an_expectation_is_a_metric_a_comparison_and_a_value() {
    let cases = [
        ("blackout<500ms", None, Metric::Blackout, Op::Below, 500_000_000),
        ("syn.blackout <= 1s", Some(LayerName::Syn), Metric::Blackout, Op::AtMost, 1_000_000_000),
        ("lost=0", None, Metric::Lost, Op::Exactly, 0),
        ("two-owners=0", None, Metric::TwoOwners, Op::Exactly, 0),
        ("redis.unanswered>=3", Some(LayerName::Redis), Metric::Unanswered, Op::AtLeast, 3),
        ("p999>1ms 500us", None, Metric::P999, Op::Above, 1_500_000),
        (" idle . hung = 0 ", Some(LayerName::Idle), Metric::Hung, Op::Exactly, 0),
    ];
    for (text, layer, metric, op, limit) in cases {
        let expected = Expectation { text: text.trim().to_owned(), layer, metric, op, limit };
        assert_eq!(parsed(text), Expectations(vec![expected]), "{text}");
    }
    assert_eq!(parsed("blackout<500ms, lost=0,hung=0").0.len(), 3);
}

#[test]
fn an_error_says_what_is_wrong_and_what_would_be_right() {
    let cases: [(&str, &[&str]); 13] = [
        ("", &["missing"]),
        ("lost=0,", &["missing"]),
        ("blackout", &["no comparison", "blackout<500ms"]),
        ("lost", &["no comparison", "lost=0"]),
        ("outage<1s", &["\"outage\"", "blackout", "two-owners", "p999"]),
        ("<1s", &["no metric \"\""]),
        ("tcp.blackout<1s", &["no layer \"tcp\"", "arp, nd, icmp, syn, redis, idle"]),
        ("blackout<500", &["blackout is a time", "\"500\"", "blackout<500ms"]),
        ("blackout<-1s", &["blackout is a time"]),
        ("blackout==1s", &["\"=1s\""]),
        ("lost=0ms", &["lost is a number", "\"0ms\"", "lost=0"]),
        ("syn.lost=0", &["syn has no lost", "redis have"]),
        ("p99<99999999999y", &["p99 is a time"]),
    ];
    for (text, said) in cases {
        let error = text.parse::<Expectations>().expect_err(text).to_string();
        for said in said {
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}

#[test]
fn what_no_probed_layer_knows_is_an_error_before_anything_is_sent() {
    let all = parsed("blackout<1s,lost=0");
    assert_eq!(all.validate(&[LayerName::Syn, LayerName::Redis]), Ok(()));
    let error = all.validate(&[LayerName::Syn, LayerName::Icmp]).unwrap_err();
    assert_eq!(error.to_string(), "\"lost=0\" can't be judged: probe redis too (--layers)");
    let error = parsed("arp.blackout<1s").validate(&[LayerName::Syn]).unwrap_err();
    assert!(error.to_string().contains("probe arp too"), "{error}");
    let error = parsed("hung=0").validate(&[LayerName::Syn]).unwrap_err();
    assert!(error.to_string().contains("redis or idle"), "{error}");
}

#[test]
fn the_worst_layer_of_the_worst_run_counts() {
    let runs = sample::nat().runs;
    let cases = [
        ("blackout<1s", "1,037.5 ms (redis, run 3)", false),
        ("syn.blackout<1033ms", "1,032.6 ms (run 3)", true),
        ("syn.blackout>874ms", "874.8 ms (run 2)", true),
        ("arp.blackout=0", "0.000 ms (run 1)", true),
        ("lost=0", "0 (redis, run 1)", true),
        ("hung=0", "0 (idle, run 1)", true),
        ("errors<=92", "92 (redis, run 1)", true),
        ("two-owners=0", "0.000 ms (arp, run 1)", true),
    ];
    for (text, found, holds) in cases {
        assert_eq!(judged(text, &runs), (found.to_owned(), holds), "{text}");
    }
}

#[test]
fn a_trigger_that_did_nothing_passes_no_check_of_the_blackout() {
    let (found, holds) = judged("blackout<500ms", &[quiet()]);
    assert!(found.contains("not seen") && !holds, "{found}");
    assert!(!judged("syn.blackout=0", &[quiet()]).1);
    // Other figures are what they are.
    assert!(judged("lost=0", &[quiet()]).1);
}

#[test]
fn one_run_without_a_failover_is_enough_to_miss() {
    let mut runs = sample::nat().runs;
    runs[1] = Run { number: 2, ..quiet() };
    let (found, holds) = judged("blackout<5s", &runs);
    assert!(found.contains("run 2") && !holds, "{found}");
    // Ended before its trigger.
    runs[1].trigger = None;
    assert!(!judged("blackout<5s", &runs).1);
}

#[test]
fn a_change_of_the_owner_is_a_failover_without_a_blackout() {
    let mut run = quiet();
    let at_ns = run.zero_ns() + 5;
    let changes = vec![OwnerChange { at_ns, mac: "02:00:00:00:00:01".into() }];
    run.layers[0].owners = Some(Owners { changes, ..Owners::default() });
    assert!(judged("blackout<500ms", &[run]).1);
}

#[test]
fn without_a_trigger_no_outage_is_no_blackout() {
    let run = Run { trigger: None, ..quiet() };
    assert_eq!(judged("blackout=0", &[run]), ("0.000 ms (redis)".to_owned(), true));
}

#[test]
fn an_outage_that_never_ended_counts_until_the_end() {
    let mut run = sample::nat().runs.swap_remove(0);
    run.layers[2].blackout =
        Some(Outage { from_ns: 0, to_ns: None, length_ns: 28_000_000_000, old: None, new: None });
    assert!(!judged("blackout<20s", &[run]).1);
}

#[test]
fn what_was_not_found_out_misses() {
    let mut run = sample::nat().runs.swap_remove(0);
    let redis = run.layers.iter_mut().find(|it| it.name == LayerName::Redis).unwrap();
    redis.writes = Some(Writes { lost: None, ..Writes::default() });
    redis.latency = None;
    assert_eq!(
        judged("lost=0", std::slice::from_ref(&run)),
        ("the writes could not be read back".to_owned(), false)
    );
    assert!(!judged("p99<1s", std::slice::from_ref(&run)).1);
    run.layers.retain(|it| it.name != LayerName::Redis);
    assert_eq!(judged("lost=0", &[run]), ("not measured".to_owned(), false));
    assert_eq!(judged("lost=0", &[]), ("no run".to_owned(), false));
}

#[test]
fn a_layer_that_was_not_asked_for_a_metric_leaves_it_to_the_others() {
    let mut run = sample::nat().runs.swap_remove(0);
    for layer in &mut run.layers {
        match layer.name {
            LayerName::Redis => layer.waiting = None,
            LayerName::Idle => {
                layer.waiting = Some(Waiting { connections: 30, ended: vec![], hung: 30 });
            }
            // It only listens.
            LayerName::Arp => (layer.schedule, layer.latency) = (None, None),
            _ => {}
        }
    }
    assert_eq!(judged("hung=0", std::slice::from_ref(&run)), ("30 (idle)".to_owned(), false));
    assert!(judged("p99<1s", &[run]).1);
}

proptest! {
    #[test]
    fn no_text_is_too_strange_to_be_refused(text in "\\PC*") {
        let _judged_or_refused = text.parse::<Expectations>();
    }

    #[test]
    fn what_is_nearly_right_is_understood_or_refused_with_a_reason(
        text in "(arp|redis|x)?\\.?(blackout|lost|p99|hung)?[<>=]{0,2}[0-9]{0,20}(ms|s|y)?,?"
    ) {
        if let Err(error) = text.parse::<Expectations>() {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
