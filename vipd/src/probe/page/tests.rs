use super::*;
use crate::probe::report::{Mark, Outage, Source, Span, State, Trigger};

/// No drawing has a place that is no number.
fn drawn(report: &Report) -> String {
    let html = page(report);
    for word in ["NaN", "\"inf", "\"-inf", " inf"] {
        assert!(!html.contains(word), "{word}");
    }
    html
}

#[test]
fn the_page_says_what_the_report_says() {
    let html = drawn(&sample::script());
    for said in [
        "198.18.0.250:8000",
        "2026-11-27T23:26:02Z",
        "ip netns exec vipd-r1 kill -KILL $(cat /tmp/lab/redis1.pid)",
        "1,791.0 ms",
        "lost writes ×14",
        "41.3",
        "✗ missed",
        "+switch-master mymaster",
        "timeout ×12",
        "announcements ×3",
        "9 of 30",
        "02:42:c6:12:00:66",
    ] {
        assert!(html.contains(said), "{said}");
    }
    assert!(!html.contains("All runs"));
    assert!(drawn(&sample::nat()).contains("All runs"));
}

#[test]
fn only_the_first_run_is_open() {
    let html = drawn(&sample::nat());
    assert_eq!(html.matches("<details").count(), 5);
    assert_eq!(html.matches("<details class=\"run\" open").count(), 1);
}

#[test]
fn what_a_server_or_a_user_said_is_never_markup() {
    let evil = "\"'><script>alert(1)</script><b onclick=1 style=x>&";
    let mut report = sample::script();
    report.target = evil.into();
    report.started = evil.into();
    report.version = evil.into();
    for judgement in &mut report.expectations {
        (judgement.expected, judgement.found) = (evil.into(), evil.into());
    }
    for figure in &mut report.summary {
        (figure.name, figure.unit) = (evil.into(), evil.into());
    }
    let mut run = report.runs.remove(0);
    run.notes = vec![evil.into()];
    if let Some(trigger) = &mut run.trigger {
        (trigger.command, trigger.outcome, trigger.succeeded) = (evil.into(), evil.into(), false);
    }
    for mark in &mut run.marks {
        (mark.who, mark.what) = (evil.into(), evil.into());
    }
    for layer in &mut run.layers {
        layer.errors.insert(evil.into(), 1);
        layer.fates.insert(evil.into(), 1);
        for lane in layer.lanes.iter_mut().filter(|it| !it.label.is_empty()) {
            lane.label = evil.into();
        }
        for outage in &mut layer.outages {
            (outage.old, outage.new) = (Some(evil.into()), Some(evil.into()));
        }
        for owner in layer.owners.iter_mut().flat_map(|it| &mut it.announcements) {
            owner.mac = evil.into();
        }
        for ended in layer.waiting.iter_mut().flat_map(|it| &mut it.ended) {
            (ended.how, ended.waiting_in) = (evil.into(), evil.into());
        }
        if let Some(writes) = &mut layer.writes {
            writes.read_back_from = Some(evil.into());
            for lost in &mut writes.lost_sample {
                (lost.connection, lost.by) = (evil.into(), evil.into());
            }
        }
    }
    report.runs = vec![run.clone(), Run { number: 2, ..run }];
    let html = drawn(&report);
    // Quotes end an attribute, the rest a text.
    assert!(!html.contains("<script") && !html.contains("<b "));
    assert!(!html.contains("\"'>") && html.contains("&quot;'&gt;"));
}

#[test]
fn a_report_of_nothing_is_a_page() {
    let empty = Report { runs: vec![], summary: vec![], expectations: vec![], ..sample::nat() };
    assert!(drawn(&empty).contains(&empty.target));
    let bare = Run {
        number: 1,
        origin_ns: 0,
        length_ns: 0,
        interrupted: true,
        trigger: None,
        layers: vec![],
        marks: vec![],
        notes: vec![],
    };
    assert!(drawn(&Report { runs: vec![bare], ..empty }).contains("ended early"));
}

#[test]
fn a_blackout_that_never_ended_is_said_to_have_no_end() {
    let mut report = sample::script();
    let layer = &mut report.runs[0].layers[2];
    let never = Outage {
        from_ns: 2_003_000_000,
        to_ns: None,
        length_ns: 27_997_000_000,
        old: None,
        new: None,
    };
    (layer.blackout, layer.outages) = (Some(never.clone()), vec![never]);
    let html = drawn(&report);
    assert!(html.contains("27,997.0 ms, and no end"));
    assert!(html.contains("had not ended at the end"));
}

#[test]
fn moments_outside_of_their_run_break_nothing() {
    let mut report = sample::nat();
    let run = &mut report.runs[0];
    run.length_ns = 1;
    run.trigger = Some(Trigger {
        command: "true".into(),
        at_ns: u64::MAX,
        ended_ns: None,
        outcome: String::new(),
        succeeded: true,
    });
    run.marks.push(Mark {
        at_ns: u64::MAX,
        source: Source::Vipd,
        who: "vipd".into(),
        what: String::new(),
    });
    run.layers[0].lanes[0].spans = vec![
        Span { from_ns: u64::MAX, to_ns: 0, state: State::Silent },
        Span { from_ns: 0, to_ns: u64::MAX, state: State::Late },
    ];
    drawn(&report);
}

#[test]
fn any_number_of_events_makes_a_page_of_bearable_size() {
    let mut report = sample::nat();
    report.runs.truncate(1);
    let run = &mut report.runs[0];
    let many = (0..2000u64).map(|nth| Mark {
        at_ns: nth * 15_000_000,
        source: Source::Sentinel,
        who: "s".into(),
        what: "+sdown".into(),
    });
    run.marks = many.collect();
    run.layers[2].lanes[0].spans = (0..2000)
        .map(|nth| Span {
            from_ns: nth * 15_000_000,
            to_ns: (nth + 1) * 15_000_000,
            state: if nth % 2 == 0 { State::Good } else { State::Silent },
        })
        .collect();
    assert!(drawn(&report).len() < 4_000_000);
}
