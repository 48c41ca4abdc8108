use super::*;
use crate::config::Endpoint;
use crate::order::Refusal;

const MASTER: MasterId = MasterId(0);
const GRACE: Duration = Duration::from_millis(30);
const INTERVAL: Duration = Duration::from_secs(60);
/// When the process dies, in milliseconds.
const DEATH: u64 = 10_000;

fn node(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, host], 8000))
}

fn ms(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn settings() -> Settings {
    Settings { grace: GRACE, interval: INTERVAL }
}

fn sentinel() -> Endpoint {
    "198.18.0.101:26379".parse().unwrap()
}

fn served() -> Event {
    let replicas = BTreeSet::from([node(102), node(103)]);
    Event::Served(MASTER, Some(Served { node: node(101), replicas }))
}

fn master_says(answer: Answer) -> Event {
    Event::Node(node(101), answer)
}

fn replica_says(of: Option<u8>) -> Event {
    Event::Node(node(102), Answer::Replica(of.map(node)))
}

/// The machine, and what it has commanded since it was looked at last.
struct Bench {
    machine: FastFail,
    commands: Vec<Command>,
    checks: u64,
}

impl Bench {
    /// Everything is well until 100 ms before [`DEATH`].
    fn well() -> Self {
        let machine = FastFail::new(settings(), [None]);
        let mut bench = Self { machine, commands: Vec::new(), checks: 0 };
        bench.tell(0, Event::Sentinels(Sentinels::Ready));
        bench.tell(0, served());
        bench.routine(DEATH - 100);
        bench
    }

    /// What nodes answer each second while all is well.
    fn routine(&mut self, at: u64) {
        self.tell(at, master_says(Answer::Master));
        self.tell(at, replica_says(Some(101)));
    }

    fn tell(&mut self, at: u64, event: Event) {
        let commands = self.machine.handle(ms(at), event);
        for command in &commands {
            if let Command::Check(_, _, number) = command {
                self.checks = *number;
            }
        }
        self.commands.extend(commands);
    }

    /// The host refuses every 5 ms, and the replica says that it lost its master.
    fn dead(&mut self, from: u64, to: u64) {
        for at in (from..=to).step_by(5) {
            self.tell(at, master_says(Answer::Refused));
            self.tell(at, replica_says(None));
        }
    }

    fn checked(&mut self, at: u64, result: Result<(), Never>) {
        let result = result.map(|()| BTreeSet::new());
        self.tell(at, Event::Checked(MASTER, self.checks, result));
    }

    /// Sentinel may select these.
    fn electable(&mut self, at: u64, replicas: &[u8]) {
        let replicas = replicas.iter().copied().map(node).collect();
        self.tell(at, Event::Checked(MASTER, self.checks, Ok(replicas)));
    }

    /// Dies at that time, with everything as it must be.
    fn dies(&mut self, at: u64) {
        self.dead(at, at + 5);
        self.checked(at + 6, Ok(()));
        self.dead(at + 10, at + 30);
    }

    fn orders(&self) -> usize {
        self.commands.iter().filter(|it| matches!(it, Command::Order(..))).count()
    }

    fn reasons(&self) -> Vec<Never> {
        let given_up = |it: &Command| match it {
            Command::GiveUp(_, never) => Some(never.clone()),
            _ => None,
        };
        self.commands.iter().filter_map(given_up).collect()
    }

    /// Pressed and not released.
    fn pressed(&self) -> BTreeSet<SocketAddr> {
        let mut pressed = BTreeSet::new();
        for command in &self.commands {
            match command {
                Command::Press(node) => pressed.insert(*node),
                Command::Release(node) => pressed.remove(node),
                _ => false,
            };
        }
        pressed
    }
}

#[test]
fn a_process_that_is_provably_gone_is_ordered_once_when_the_grace_is_over() {
    let mut bench = Bench::well();
    assert_eq!(bench.commands, []);
    bench.dead(DEATH, DEATH);
    let (one, two, three) = (node(101), node(102), node(103));
    let begun = [
        Command::Press(one),
        Command::Press(two),
        Command::Press(three),
        Command::Check(MASTER, one, 1),
    ];
    assert_eq!(std::mem::take(&mut bench.commands), begun);
    bench.checked(DEATH + 3, Ok(()));
    bench.dead(DEATH + 5, DEATH + 25);
    assert_eq!(bench.commands, [], "the grace is not over");
    bench.dead(DEATH + 30, DEATH + 30);
    let death = Death { node: one, since: ms(DEATH), until: ms(DEATH + 30), refusals: 7 };
    let done = [
        Command::Release(one),
        Command::Release(two),
        Command::Release(three),
        Command::Order(MASTER, death),
    ];
    assert_eq!(std::mem::take(&mut bench.commands), done);
    bench.tell(DEATH + 31, Event::Asked(MASTER, Ok(())));
    bench.dead(DEATH + 35, DEATH + 20_000);
    assert_eq!(bench.commands, [], "once");
}

#[test]
fn a_check_or_a_replica_that_comes_after_the_grace_is_waited_for() {
    let mut bench = Bench::well();
    for at in (DEATH..DEATH + 100).step_by(5) {
        bench.tell(at, master_says(Answer::Refused));
    }
    bench.tell(DEATH + 100, replica_says(None));
    assert_eq!(bench.orders(), 0);
    bench.checked(DEATH + 101, Ok(()));
    assert_eq!(bench.orders(), 1);
}

/// What differs from [`Bench::dies`], and why nothing is ordered then.
type Story = (&'static str, fn(&mut Bench), Vec<Never>);

#[test]
fn never() {
    let no_quorum = || Never::Refused(Refusal::NoQuorum(sentinel(), "NOQUORUM".into()));
    let stories: Vec<Story> = vec![
        (
            "without quorum",
            |it| {
                it.dead(DEATH, DEATH + 5);
                let no_quorum = Refusal::NoQuorum(sentinel(), "NOQUORUM".into());
                it.checked(DEATH + 6, Err(Never::Refused(no_quorum)));
                it.dead(DEATH + 10, DEATH + 500);
            },
            vec![no_quorum()],
        ),
        (
            "in TILT",
            |it| {
                it.tell(DEATH - 50, Event::Sentinels(Sentinels::Tilt));
                it.dies(DEATH);
                it.dead(DEATH + 35, DEATH + 1500);
            },
            vec![Never::Tilt],
        ),
        (
            "with a minority of the Sentinels",
            |it| {
                it.tell(DEATH - 50, Event::Sentinels(Sentinels::Minority));
                it.dies(DEATH);
                it.dead(DEATH + 35, DEATH + 1500);
            },
            vec![Never::Minority],
        ),
        (
            "without a replica that was connected until the end",
            |it| {
                it.tell(DEATH - 90, replica_says(None));
                // As of 6 s ago it was.
                it.tell(DEATH + 6_000, master_says(Answer::Master));
                it.dies(DEATH + 6_001);
                it.dead(DEATH + 6_035, DEATH + 7_500);
            },
            vec![Never::NoReplica],
        ),
        (
            "without a replica that can be asked now",
            |it| {
                for at in (DEATH..DEATH + 1500).step_by(5) {
                    it.tell(at, master_says(Answer::Refused));
                    it.tell(at, Event::Node(node(102), Answer::Silent));
                }
            },
            vec![Never::NoReplica],
        ),
        (
            "while a replica is still connected: a firewall rejects vipd",
            |it| {
                for at in (DEATH..DEATH + 1500).step_by(5) {
                    it.tell(at, master_says(Answer::Refused));
                    it.tell(at, replica_says(Some(101)));
                    it.tell(at, Event::Node(node(103), Answer::Replica(None)));
                    if at == DEATH + 5 {
                        it.checked(at, Ok(()));
                    }
                }
            },
            vec![Never::Contradicted(node(102))],
        ),
        (
            "while another replica that may be promoted is stale",
            |it| {
                it.tell(DEATH - 8_000, Event::Node(node(103), Answer::Replica(Some(node(101)))));
                it.tell(DEATH - 7_000, Event::Node(node(103), Answer::Replica(None)));
                it.dead(DEATH, DEATH + 5);
                it.electable(DEATH + 6, &[102, 103]);
                it.dead(DEATH + 10, DEATH + 1_500);
            },
            vec![Never::Stale(node(103))],
        ),
        (
            "while another one had lost its link when the master still answered",
            |it| {
                it.tell(DEATH - 2_000, Event::Node(node(103), Answer::Replica(Some(node(101)))));
                it.tell(DEATH - 1_000, Event::Node(node(103), Answer::Replica(None)));
                it.dead(DEATH, DEATH + 5);
                it.electable(DEATH + 6, &[102, 103]);
                it.dead(DEATH + 10, DEATH + 1_500);
            },
            vec![Never::Stale(node(103))],
        ),
        (
            "while another one may be promoted that vipd doesn't know",
            |it| {
                it.dead(DEATH, DEATH + 5);
                it.electable(DEATH + 6, &[102, 104]);
                it.dead(DEATH + 10, DEATH + 1_500);
            },
            vec![Never::Stale(node(104))],
        ),
        (
            "soon after a leader has selected a replica, whatever came of it",
            |it| {
                it.tell(DEATH - 5_000, Event::Begun(MASTER));
                it.dies(DEATH);
                it.dead(DEATH + 35, DEATH + 1_500);
            },
            vec![Never::FailedOver(Duration::from_secs(5))],
        ),
        (
            "when a leader selects a replica within the grace",
            |it| {
                it.dead(DEATH, DEATH + 5);
                it.checked(DEATH + 6, Ok(()));
                it.tell(DEATH + 10, Event::Begun(MASTER));
                it.dead(DEATH + 15, DEATH + 1_500);
            },
            vec![Never::FailedOver(Duration::ZERO)],
        ),
        (
            "soon after another node was served",
            |it| {
                it.tell(DEATH - 6_000, Event::Leads(MASTER, node(103), Epoch(1)));
                it.tell(DEATH - 5_000, Event::Leads(MASTER, node(101), Epoch(1)));
                it.dies(DEATH);
                it.dead(DEATH + 35, DEATH + 1_500);
            },
            vec![Never::FailedOver(Duration::from_secs(5))],
        ),
        (
            "soon after a higher epoch was confirmed",
            |it| {
                it.tell(DEATH - 6_000, Event::Leads(MASTER, node(101), Epoch(1)));
                it.tell(DEATH - 5_000, Event::Leads(MASTER, node(101), Epoch(2)));
                it.dies(DEATH);
                it.dead(DEATH + 35, DEATH + 1_500);
            },
            vec![Never::FailedOver(Duration::from_secs(5))],
        ),
        (
            "while somebody listens on that port",
            |it| {
                it.dead(DEATH, DEATH + 5);
                it.checked(DEATH + 6, Err(Never::Listening(node(101))));
                it.dead(DEATH + 10, DEATH + 500);
            },
            vec![Never::Listening(node(101))],
        ),
        (
            "after a Sentinel has noticed it",
            |it| {
                it.dead(DEATH, DEATH + 5);
                it.checked(DEATH + 6, Ok(()));
                it.tell(DEATH + 10, Event::Noticed(MASTER));
                it.dead(DEATH + 15, DEATH + 5_000);
            },
            vec![Never::Noticed],
        ),
        (
            "after a Sentinel had noticed it: it was silent first",
            |it| {
                it.tell(DEATH, Event::Noticed(MASTER));
                it.dies(DEATH + 10);
                it.dead(DEATH + 45, DEATH + 5_000);
            },
            vec![Never::Noticed],
        ),
        (
            "on silence alone",
            |it| {
                for at in (DEATH..DEATH + 60_000).step_by(250) {
                    it.tell(at, master_says(Answer::Silent));
                    it.tell(at, replica_says(None));
                    it.tell(at, Event::Tick);
                }
            },
            vec![],
        ),
        (
            "when silence interrupts the refusals",
            |it| {
                for at in (DEATH..DEATH + 2_000).step_by(25) {
                    it.dead(at, at + 20);
                    it.checked(at + 21, Ok(()));
                    it.tell(at + 22, master_says(Answer::Silent));
                }
            },
            vec![],
        ),
        (
            "if it is back within the grace",
            |it| {
                it.dead(DEATH, DEATH + 20);
                it.checked(DEATH + 21, Ok(()));
                it.tell(DEATH + 25, master_says(Answer::Present));
                it.tell(DEATH + 30, master_says(Answer::Master));
                it.tell(DEATH + 35, replica_says(None));
                it.tell(DEATH + 1500, Event::Tick);
            },
            vec![],
        ),
        (
            "on two refusals with nothing known of the time between",
            |it| {
                it.dead(DEATH, DEATH);
                it.checked(DEATH + 1, Ok(()));
                it.dead(DEATH + 900, DEATH + 900);
            },
            vec![],
        ),
        (
            "not the witness, or not certainly served",
            |it| {
                it.tell(DEATH - 1, Event::Served(MASTER, None));
                it.dies(DEATH);
                it.dead(DEATH + 35, DEATH + 1500);
            },
            vec![],
        ),
        (
            "no longer certainly served within the grace",
            |it| {
                it.dead(DEATH, DEATH + 20);
                it.checked(DEATH + 21, Ok(()));
                it.tell(DEATH + 22, Event::Served(MASTER, None));
                it.dead(DEATH + 25, DEATH + 1500);
            },
            vec![],
        ),
        (
            "if it was not seen alive just before",
            |it| {
                it.tell(DEATH + 2_950, replica_says(Some(101)));
                it.dies(DEATH + 2_951);
                it.dead(DEATH + 3_000, DEATH + 9_000);
            },
            vec![Never::NotSeen],
        ),
        (
            "for a node that was never seen: the site starts",
            |it| {
                let replicas = BTreeSet::from([node(101)]);
                let other = Served { node: node(102), replicas };
                it.tell(DEATH - 50, Event::Served(MASTER, Some(other)));
                it.tell(DEATH, Event::Node(node(102), Answer::Refused));
                it.tell(DEATH + 40, Event::Node(node(102), Answer::Refused));
            },
            vec![Never::NotSeen],
        ),
    ];
    for (when, story, reasons) in stories {
        let mut bench = Bench::well();
        story(&mut bench);
        assert_eq!(bench.orders(), 0, "{when}");
        assert_eq!(bench.reasons(), reasons, "{when}");
        // The table says something only if nothing else was missing.
        if when != "not the witness, or not certainly served" {
            assert!(!bench.commands.is_empty() || when == "on silence alone", "{when}");
        }
    }
}

#[test]
fn never_twice_within_the_interval() {
    let mut bench = Bench::well();
    bench.dies(DEATH);
    assert_eq!(bench.orders(), 1);
    bench.tell(DEATH + 31, Event::Asked(MASTER, Ok(())));
    // Parked, another node is served, and that one dies as well.
    bench.tell(DEATH + 32, Event::Served(MASTER, None));
    let replicas = BTreeSet::from([node(101), node(103)]);
    bench.tell(DEATH + 300, Event::Served(MASTER, Some(Served { node: node(102), replicas })));
    let other_dies = |bench: &mut Bench, at: u64| {
        bench.tell(at - 10, Event::Node(node(102), Answer::Master));
        bench.tell(at - 10, Event::Node(node(103), Answer::Replica(Some(node(102)))));
        for at in (at..at + 100).step_by(5) {
            bench.tell(at, Event::Node(node(102), Answer::Refused));
            bench.tell(at, Event::Node(node(103), Answer::Replica(None)));
            bench.checked(at, Ok(()));
        }
    };
    other_dies(&mut bench, DEATH + 20_000);
    assert_eq!(bench.orders(), 1);
    assert!(matches!(bench.reasons()[..], [Never::TooSoon(_)]), "{:?}", bench.reasons());
    other_dies(&mut bench, DEATH + 30 + 60_000);
    assert_eq!(bench.orders(), 2, "the interval is over");
}

#[test]
fn never_twice_within_the_interval_after_a_reload_either() {
    let mut bench = Bench::well();
    bench.dies(DEATH);
    let mut reloaded = Bench::well();
    let earlier = std::mem::replace(&mut bench.machine, FastFail::new(settings(), [None]));
    // The master has another number there.
    reloaded.machine.inherit(&earlier, |_| None);
    reloaded.dies(DEATH);
    assert_eq!(reloaded.orders(), 1, "another master's order");
    let mut reloaded = Bench::well();
    reloaded.machine.inherit(&earlier, Some);
    reloaded.dies(DEATH + 100);
    assert_eq!(reloaded.orders(), 0);
    assert!(matches!(reloaded.reasons()[..], [Never::TooSoon(_)]));
}

#[test]
fn a_failover_that_was_seen_before_a_reload_counts_after_it() {
    let mut bench = Bench::well();
    bench.tell(DEATH - 5_000, Event::Begun(MASTER));
    let mut reloaded = Bench::well();
    // The maps are adopted then, as at a restart; and it is none.
    reloaded.machine = FastFail::new(settings(), [Some(ms(DEATH - 1_000))]);
    reloaded.machine.inherit(&bench.machine, Some);
    reloaded.tell(DEATH - 1_000, Event::Sentinels(Sentinels::Ready));
    reloaded.tell(DEATH - 1_000, served());
    reloaded.routine(DEATH - 100);
    reloaded.dies(DEATH);
    assert_eq!(reloaded.reasons(), [Never::FailedOver(Duration::from_secs(5))]);
}

#[test]
fn a_restarted_vipd_orders_nothing_before_it_has_been_up_for_the_interval() {
    let restarted_at = |at| {
        let mut bench = Bench::well();
        bench.machine = FastFail::new(settings(), [Some(ms(at))]);
        bench.tell(at, Event::Sentinels(Sentinels::Ready));
        bench.tell(at, Event::Leads(MASTER, node(101), Epoch(7)));
        bench.tell(at, served());
        bench.routine(80_000 - 100);
        bench.dies(80_000);
        bench
    };
    let bench = restarted_at(75_000);
    assert_eq!(bench.orders(), 0);
    assert_eq!(bench.reasons(), [Never::Restarted(Duration::from_secs(5))]);
    assert_eq!(restarted_at(20_000).orders(), 1, "it has been up for so long");
}

#[test]
fn a_replica_that_cannot_be_promoted_may_be_as_stale_as_it_likes() {
    let mut bench = Bench::well();
    bench.tell(DEATH - 50, Event::Node(node(103), Answer::Replica(None)));
    bench.dead(DEATH, DEATH + 5);
    bench.electable(DEATH + 6, &[102]);
    bench.dead(DEATH + 10, DEATH + 30);
    assert_eq!(bench.orders(), 1);
}

#[test]
fn an_order_that_was_refused_may_be_repeated_and_not_at_once() {
    let mut bench = Bench::well();
    bench.dies(DEATH);
    let refusal = || Never::Refused(Refusal::NoReplica(sentinel(), "NOGOODSLAVE".into()));
    // Parked, refused, and not parked any more.
    bench.tell(DEATH + 31, Event::Served(MASTER, None));
    bench.tell(DEATH + 32, Event::Asked(MASTER, Err(refusal())));
    bench.tell(DEATH + 33, served());
    assert_eq!(bench.reasons(), [refusal()]);
    bench.dead(DEATH + 35, DEATH + 1_000);
    assert_eq!(bench.orders(), 1);
    assert_eq!(bench.pressed(), BTreeSet::new());
    bench.dead(DEATH + 1_035, DEATH + 1_040);
    bench.checked(DEATH + 1_041, Ok(()));
    bench.dead(DEATH + 1_045, DEATH + 1_075);
    assert_eq!(bench.orders(), 2);
}

#[test]
fn a_reason_is_told_once_and_looked_at_again_each_second() {
    let mut bench = Bench::well();
    for at in (DEATH..DEATH + 4_500).step_by(5) {
        bench.dead(at, at);
        let no_quorum = Refusal::NoQuorum(sentinel(), "NOQUORUM".into());
        bench.checked(at, Err(Never::Refused(no_quorum)));
    }
    assert_eq!(bench.reasons().len(), 1);
    assert_eq!(bench.checks, 5);
    // The quorum is back, and Sentinel has not acted yet.
    bench.dead(DEATH + 5_000, DEATH + 5_005);
    bench.checked(DEATH + 5_006, Ok(()));
    bench.dead(DEATH + 5_010, DEATH + 5_040);
    assert_eq!(bench.orders(), 1);
}

#[test]
fn the_answer_to_an_earlier_check_is_ignored() {
    let mut bench = Bench::well();
    bench.dead(DEATH, DEATH + 10);
    let stale = bench.checks;
    bench.routine(DEATH + 20);
    bench.dead(DEATH + 500, DEATH + 510);
    bench.tell(DEATH + 511, Event::Checked(MASTER, stale, Ok(BTreeSet::new())));
    bench.dead(DEATH + 515, DEATH + 600);
    assert_eq!(bench.orders(), 0);
    bench.checked(DEATH + 601, Ok(()));
    assert_eq!(bench.orders(), 1);
}

#[test]
fn a_master_that_dies_as_soon_as_it_is_served_was_seen_before() {
    let mut bench = Bench::well();
    bench.tell(DEATH - 99, Event::Node(node(102), Answer::Master));
    bench.tell(DEATH - 99, Event::Node(node(103), Answer::Replica(Some(node(102)))));
    let served = Served { node: node(102), replicas: BTreeSet::from([node(103)]) };
    bench.tell(DEATH - 1, Event::Served(MASTER, Some(served)));
    for at in (DEATH..DEATH + 50).step_by(5) {
        bench.tell(at, Event::Node(node(102), Answer::Refused));
        bench.tell(at, Event::Node(node(103), Answer::Replica(None)));
        bench.checked(at, Ok(()));
    }
    assert_eq!(bench.orders(), 1);
}

#[test]
fn a_hint_is_a_reason_to_look_and_nothing_else() {
    let mut bench = Bench::well();
    let hint = |bench: &mut Bench, at| {
        let commands = bench.machine.hinted(ms(at), MASTER);
        bench.commands.extend(commands);
    };
    hint(&mut bench, DEATH);
    hint(&mut bench, DEATH + 1);
    assert_eq!(bench.commands, [Command::Press(node(101))]);
    bench.tell(DEATH + 2, master_says(Answer::Master));
    assert_eq!(bench.pressed(), BTreeSet::new());
    hint(&mut bench, DEATH + 3);
    bench.dies(DEATH + 4);
    assert_eq!(bench.orders(), 1);
    assert_eq!(bench.pressed(), BTreeSet::new());
    bench.tell(DEATH + 100, Event::Served(MASTER, None));
    bench.commands.clear();
    hint(&mut bench, DEATH + 101);
    assert_eq!(bench.commands, [], "nobody is served");
}

#[test]
fn whoever_is_pressed_is_released_in_the_end() {
    type End = (&'static str, fn(&mut Bench));
    let endings: [End; 5] = [
        ("it is back", |it| it.tell(DEATH + 20, master_says(Answer::Master))),
        ("silent", |it| it.tell(DEATH + 20, master_says(Answer::Silent))),
        ("not served", |it| it.tell(DEATH + 20, Event::Served(MASTER, None))),
        ("too late", |it| it.tell(DEATH + 1_030, Event::Tick)),
        ("a replica is gone, and then it is back", |it| {
            let replicas = BTreeSet::from([node(103)]);
            let fewer = Served { node: node(101), replicas };
            it.tell(DEATH + 15, Event::Served(MASTER, Some(fewer)));
            assert_eq!(it.pressed(), BTreeSet::from([node(101), node(103)]));
            it.tell(DEATH + 20, master_says(Answer::Master));
        }),
    ];
    for (what, end) in endings {
        let mut bench = Bench::well();
        bench.dead(DEATH, DEATH + 10);
        assert_eq!(bench.pressed().len(), 3, "{what}");
        assert_eq!(bench.machine.deadline(), Some(ms(DEATH) + GRACE + PATIENCE));
        end(&mut bench);
        assert_eq!(bench.pressed(), BTreeSet::new(), "{what}");
        assert_eq!(bench.machine.deadline(), None, "{what}");
    }
}
